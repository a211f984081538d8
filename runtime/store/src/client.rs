//! What one process has of its node's arena: segments that it writes, and segments of others that it reads.
//!
//! ```text
//! room ─► Writing ─► Sealed ─► its place, said to others      (segments are leased as they are needed)
//! room ─► Filling, its place said to the node ─► Sealed        (the node writes what comes from other hosts)
//! place, heard of others ─► View                              (segments are mapped when they are first named)
//! ```
//!
//! Segments of which nothing is in use go back to the node after [`KEPT_EMPTY`], so that what was used in a burst is others'
//! soon and what is used again and again stays warm.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mobula_types::ProcessId;
use mobula_wire::PROTOCOL;
use mobula_wire::plain::SKEW;
use mobula_wire::segments::{Extent, FromStore, NoSegment, PACKET_BYTES_MAX, STORE_SOCKET, SegmentId, ToStore};
use parking_lot::Mutex;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::OpenError;
use crate::pass;
use crate::sys::segment::{Filling, Lent, Segment, View, Writing, needed};

/// The first segment of a process; each further one is twice as long, up to [`SEGMENT_BYTES_USUAL`]. Most processes share
/// little.
const FIRST_SEGMENT_BYTES: u64 = 4 << 20;
/// A segment is not longer than this, unless one value is.
const SEGMENT_BYTES_USUAL: u64 = 64 << 20;
/// A segment for one long value has whole so many bytes.
const SEGMENT_GRAIN: u64 = 2 << 20;

/// For so long a segment that is not in use is kept: freed memory is the node's again within the second of G9.
pub const KEPT_EMPTY: Duration = Duration::from_millis(600);

/// The node answers within this time: it may have to make a gigabyte of memory. A process does not wait longer for it,
/// and shares nothing meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Why a process has no room, or cannot read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The node says no.
    #[error(transparent)]
    Refused(#[from] NoSegment),
    /// The node does not answer.
    #[error("the node's store does not answer: {0}")]
    Io(#[from] io::Error),
    /// What it gave cannot be mapped.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The segment has no such bytes.
    #[error("segment {segment} has no {bytes} bytes at {offset}")]
    NoSuch {
        /// Which.
        segment: SegmentId,
        /// Where.
        offset: u64,
        /// How many.
        bytes: u64,
    },
}

/// A process's part of the arena.
#[derive(Debug)]
pub struct Client {
    me: ProcessId,
    secret: String,
    socket: PathBuf,
    /// The way to the node, once it was needed. Who holds it may lease.
    line: Mutex<Option<OwnedFd>>,
    /// By the addresses at which they begin.
    written: Mutex<BTreeMap<usize, Written>>,
    lent: Mutex<BTreeMap<usize, Read>>,
}

#[derive(Debug)]
struct Written {
    id: SegmentId,
    segment: Arc<Segment>,
    unused_since: Option<Instant>,
}

#[derive(Debug)]
struct Read {
    id: SegmentId,
    segment: Arc<Lent>,
    unused_since: Option<Instant>,
}

impl Client {
    /// The part of the process `me`, whose node has its sockets in `folder`. Nothing is asked of the node before it is
    /// needed.
    pub fn new(me: ProcessId, folder: &std::path::Path, secret: String) -> Self {
        let socket = folder.join(STORE_SOCKET);
        Self { me, secret, socket, line: Mutex::default(), written: Mutex::default(), lent: Mutex::default() }
    }

    /// Room for a value of `bytes` bytes, which begin so that an array in it can be read where it lies. Blocks while the
    /// node makes a segment, if none has room.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn room(&self, bytes: usize) -> Result<Writing, StoreError> {
        if let Some(room) = self.take(bytes) {
            return Ok(room);
        }
        let mut line = self.line.lock();
        // Another thread may have leased one meanwhile.
        if let Some(room) = self.take(bytes) {
            return Ok(room);
        }
        let wanted = (needed(bytes, SKEW).unwrap_or(usize::MAX) as u64).div_ceil(SEGMENT_GRAIN);
        let usual = FIRST_SEGMENT_BYTES << self.written.lock().len().min(4);
        let least = wanted.saturating_mul(SEGMENT_GRAIN);
        let length = least.max(usual.min(SEGMENT_BYTES_USUAL));
        let (id, file) = match self.ask(&mut line, &ToStore::Lease { bytes: length, least })? {
            (FromStore::Leased { segment }, Some(file)) => (segment, file),
            answer => return Err(unexpected(answer.0)),
        };
        let segment = match Segment::open(&file) {
            Ok(segment) => segment,
            Err(error) => {
                // It is of no use here, and would be missing elsewhere.
                self.ask(&mut line, &ToStore::Return { segment: id })?;
                return Err(error.into());
            }
        };
        let room = segment.take(bytes, SKEW);
        self.written.lock().insert(segment.start(), Written { id, segment, unused_since: None });
        room.ok_or_else(|| {
            NoSegment::System { why: format!("a segment of {length} bytes has no room for {bytes}") }.into()
        })
    }

    fn take(&self, bytes: usize) -> Option<Writing> {
        let mut written = self.written.lock();
        written.values_mut().find_map(|it| {
            let room = it.segment.take(bytes, SKEW)?;
            it.unused_since = None;
            Some(room)
        })
    }

    /// Lets this process's node write a room of its, and says where that is.
    ///
    /// # Errors
    ///
    /// The room, when it is not of this part of the arena.
    pub fn hand_over(&self, room: Writing) -> Result<(Filling, Extent), Writing> {
        match self.place_of(&room) {
            Some(at) => Ok((room.hand_over(), at)),
            None => Err(room),
        }
    }

    /// Where these bytes lie, if that is in a segment: others of the job can read them there, as long as they are kept.
    pub fn place_of(&self, bytes: &[u8]) -> Option<Extent> {
        let at = bytes.as_ptr() as usize;
        let place = |start: usize, len: usize, id: SegmentId| {
            let offset = at.checked_sub(start)?;
            (offset.checked_add(bytes.len())? <= len).then_some(Extent { segment: id, offset: offset as u64 })
        };
        let written = self.written.lock().range(..=at).next_back().map(|(start, it)| (*start, it.segment.len(), it.id));
        if let Some(place) = written.and_then(|(start, len, id)| place(start, len, id)) {
            return Some(place);
        }
        let lent = self.lent.lock().range(..=at).next_back().map(|(start, it)| (*start, it.segment.len(), it.id));
        lent.and_then(|(start, len, id)| place(start, len, id))
    }

    /// Whether these bytes lie in a segment of this process's own.
    pub fn is_own(&self, bytes: &[u8]) -> bool {
        let at = bytes.as_ptr() as usize;
        let written = self.written.lock();
        let own = written.range(..=at).next_back();
        own.is_some_and(|(start, it)| at - start < it.segment.len())
    }

    /// The bytes that another process has said are there, if their segment is mapped already.
    ///
    /// # Errors
    ///
    /// The segment has no such bytes.
    pub fn mapped(&self, Extent { segment, offset }: Extent, bytes: u64) -> Result<Option<View>, StoreError> {
        let mut lent = self.lent.lock();
        match lent.values_mut().find(|it| it.id == segment) {
            Some(it) => {
                it.unused_since = None;
                view(&it.segment, Extent { segment, offset }, bytes).map(Some)
            }
            None => Ok(None),
        }
    }

    /// The bytes that another process has said are there. Blocks while the node is asked for the segment.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn view(&self, at: Extent, bytes: u64) -> Result<View, StoreError> {
        if let Some(view) = self.mapped(at, bytes)? {
            return Ok(view);
        }
        // Held until it is mapped: two readers of one segment share one mapping.
        let mut line = self.line.lock();
        if let Some(view) = self.mapped(at, bytes)? {
            return Ok(view);
        }
        let file = match self.ask(&mut line, &ToStore::Open { segment: at.segment })? {
            (FromStore::Opened, Some(file)) => file,
            answer => return Err(unexpected(answer.0)),
        };
        let segment = Lent::open(&file)?;
        let view = view(&segment, at, bytes);
        self.lent.lock().insert(segment.start(), Read { id: at.segment, segment, unused_since: None });
        view
    }

    /// Gives back what has not been in use for [`KEPT_EMPTY`]. To be called a few times in that time; may block as
    /// [`room`](Self::room) does. False when there is nothing left to give back.
    pub fn sweep(&self, now: Instant) -> bool {
        self.sweep_after(now, KEPT_EMPTY)
    }

    /// Gives back all that is not in use: memory is short.
    pub fn sweep_at_once(&self) {
        self.sweep_after(Instant::now(), Duration::ZERO);
    }

    fn sweep_after(&self, now: Instant, kept_empty: Duration) -> bool {
        let is_due = |unused_since: &mut Option<Instant>, is_unused: bool| {
            let since = is_unused.then(|| *unused_since.get_or_insert(now));
            *unused_since = since;
            since.is_some_and(|since| now.saturating_duration_since(since) >= kept_empty)
        };
        let unmapped: Vec<Read> = {
            let mut lent = self.lent.lock();
            let due = lent.iter_mut().filter_map(|(start, it)| {
                is_due(&mut it.unused_since, Arc::strong_count(&it.segment) == 1).then_some(*start)
            });
            let due: Vec<usize> = due.collect();
            due.iter().filter_map(|start| lent.remove(start)).collect()
        };
        let returned: Vec<Written> = {
            let mut written = self.written.lock();
            let due = written
                .iter_mut()
                .filter_map(|(start, it)| is_due(&mut it.unused_since, it.segment.is_whole()).then_some(*start));
            let due: Vec<usize> = due.collect();
            due.iter().filter_map(|start| written.remove(start)).collect()
        };
        drop(unmapped);
        for Written { id, segment, .. } in returned {
            drop(segment);
            let mut line = self.line.lock();
            // A node that does not hear it takes the segment back at the end of this process.
            if let Err(error) = self.ask(&mut line, &ToStore::Return { segment: id }) {
                tracing::debug!(segment = id, %error, "a segment was not given back");
            }
        }
        self.holds_any()
    }

    /// Whether it has any segment, of its own or of others.
    pub fn holds_any(&self) -> bool {
        !(self.written.lock().is_empty() && self.lent.lock().is_empty())
    }

    /// Bytes of its segments that are in use, and of those that are leased to it.
    pub fn usage(&self) -> (u64, u64) {
        let written = self.written.lock();
        let (taken, leased): (Vec<usize>, Vec<usize>) =
            written.values().map(|it| (it.segment.taken(), it.segment.len())).unzip();
        (taken.iter().sum::<usize>() as u64, leased.iter().sum::<usize>() as u64)
    }

    fn ask(&self, line: &mut Option<OwnedFd>, said: &ToStore) -> Result<(FromStore, Option<OwnedFd>), StoreError> {
        let socket = match line.take() {
            Some(socket) => socket,
            None => self.connect()?,
        };
        let answer = exchange(&socket, said)?;
        // After an error nobody knows whose answer comes next: another socket is made then.
        *line = Some(socket);
        match answer {
            (FromStore::Refused(why), _) => Err(why.into()),
            answer => Ok(answer),
        }
    }

    fn connect(&self) -> Result<OwnedFd, StoreError> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let socket = socket.map_err(io::Error::from)?;
        for timeout in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, timeout, Some(ANSWER_MAX)).map_err(io::Error::from)?;
        }
        connect(&socket, &SocketAddrUnix::new(&self.socket).map_err(io::Error::from)?).map_err(io::Error::from)?;
        let hello = ToStore::Hello { protocol: PROTOCOL, process: self.me, secret: self.secret.clone() };
        match exchange(&socket, &hello)?.0 {
            FromStore::Refused(why) => Err(why.into()),
            _ => Ok(socket),
        }
    }
}

fn view(segment: &Arc<Lent>, Extent { segment: id, offset }: Extent, bytes: u64) -> Result<View, StoreError> {
    let found = usize::try_from(offset).ok().zip(usize::try_from(bytes).ok());
    found.and_then(|(at, len)| segment.view(at, len)).ok_or(StoreError::NoSuch { segment: id, offset, bytes })
}

fn exchange(socket: &OwnedFd, said: &ToStore) -> Result<(FromStore, Option<OwnedFd>), StoreError> {
    let packet = mobula_wire::encode(said).map_err(io::Error::other)?;
    pass::send(socket, &packet, None)?;
    let mut answer = [0; PACKET_BYTES_MAX];
    let (len, file) = pass::receive(socket, &mut answer)?;
    if len == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let answer = mobula_wire::decode(&answer[..len]).map_err(io::Error::other)?;
    Ok((answer, file))
}

fn unexpected(answer: FromStore) -> StoreError {
    io::Error::other(format!("it answers with {answer:?}")).into()
}
