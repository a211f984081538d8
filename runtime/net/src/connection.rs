//! The two ends of a connection, over any ordered stream of bytes.
//!
//! ```text
//! send ─► queue (frames, bytes) ─► one writer: all that waits, in few system calls ─► …
//!  │  └► a lone frame at once, from its sender's thread (`Pace::Lone`)               ─► …
//!  └────► parts of large payloads: one of them after each time that all else is written
//! next ◄── one reader: large reads, frames cut out of them without copying        ◄── …
//! ```
//!
//! A part of a large payload stands in a queue of its own: what is small waits for one part at most.
//!
//! A sender never waits here: what does not fit is [`SendError::Full`], and credit above this layer keeps that from
//! happening. The writer is a task; it ends when the connection is closed or the stream breaks, and says why to both ends.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, OnceLock};

use bytes::{Buf, Bytes, BytesMut};
use mobula_wire::frame::FRAME_HEAD_BYTES;
use mobula_wire::{FrameHead, FrameKind, HeadError};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use self::socket::{Writer, Written};

mod socket;

/// Frames that may wait to be written: credit bounds what one process sends to one actor, this bounds all of it.
const QUEUED_FRAMES_MAX: usize = 1 << 18;
/// Bytes that may wait to be written. A frame larger than this fits an empty queue.
const QUEUED_BYTES_MAX: usize = 64 << 20;
/// Bytes of parts of large payloads that may wait: twice what one process asks for ahead of what has come to it
/// ([`ASKED_BYTES_MAX`](mobula_logic::intake::ASKED_BYTES_MAX)).
const PARTS_BYTES_MAX: usize = 64 << 20;
/// A body from this size on is written from where it lies; smaller ones are gathered: a copy of 4 KiB costs less than a
/// slice of a vectored write.
const GATHERED_BYTES_MAX: usize = 4 << 10;
/// What one write gathers at most, and one read takes.
const BURST_BYTES: usize = 256 << 10;

/// One frame: its kind and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the body is.
    pub kind: FrameKind,
    /// The body.
    pub body: Bytes,
}

/// How frames follow one another.
///
/// To wake the writer takes longer than the rest of a frame's way, but a system call for each of many frames costs more
/// than few for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Nothing else is under way, as far as the sender knows.
    Lone,
    /// More may follow.
    Burst,
}

/// The sending end of a connection; clones share it.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Wakes the writer.
    filled: Notify,
    /// Wakes who waits for room or for the queue to be written.
    emptied: Notify,
    /// Why the connection is over; set once.
    closed: OnceLock<Closed>,
    /// Wakes who waits for that.
    over: Notify,
}

#[derive(Default)]
struct Queue {
    /// The rest of a frame whose beginning has been written: it goes first.
    rest: Bytes,
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Parts of large payloads.
    parts: VecDeque<Frame>,
    parts_bytes: usize,
    /// The socket, where senders may write to it.
    socket: Option<Writer>,
    /// The writer waits for `filled`, and has nothing in its hands.
    writer_sleeps: bool,
    /// No frame comes after those in the queue; the writer ends when they are written.
    is_finishing: Option<String>,
}

/// Why a frame was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The other end reads too slowly: nothing was queued.
    #[error("{frames} frames with {bytes} bytes wait for the other end to read")]
    Full {
        /// Frames that wait.
        frames: usize,
        /// Bytes that wait.
        bytes: usize,
    },
    /// The body is longer than a frame of its kind may be.
    #[error("a body of {bytes} bytes, where {max} are allowed")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The length allowed.
        max: usize,
    },
    /// The connection is over.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// This end closed it.
    #[error("the connection was closed here: {reason}")]
    Here {
        /// Why.
        reason: String,
    },
    /// The other end closed it, or its process has ended.
    #[error("the other end closed the connection")]
    There,
    /// The stream broke.
    #[error("the connection broke: {message}")]
    Broken {
        /// What the system said.
        message: String,
    },
    /// The other end sent what is no frame.
    #[error(transparent)]
    Protocol(#[from] HeadError),
}

impl Closed {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::There,
            _ => Self::Broken { message: error.to_string() },
        }
    }
}

/// Makes the two ends of a connection over `read` and `write`, which belong to one stream.
///
/// Must be called on a tokio runtime, which runs the writer.
pub fn over<R, W>(read: R, write: W) -> (Connection, Incoming)
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    begin(read, write, None)
}

/// The same over a Unix socket, to which senders may write from their own threads.
///
/// Must be called on a tokio runtime, which runs the writer.
///
/// # Errors
///
/// The system watches no more descriptors.
pub fn over_socket(stream: UnixStream) -> io::Result<(Connection, Incoming)> {
    let (read, write) = socket::split(stream)?;
    Ok(begin(read, write.clone(), Some(write)))
}

fn begin<R, W>(read: R, write: W, socket: Option<Writer>) -> (Connection, Incoming)
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let shared = Arc::new(Shared {
        queue: Mutex::new(Queue { socket, ..Queue::default() }),
        filled: Notify::new(),
        emptied: Notify::new(),
        closed: OnceLock::new(),
        over: Notify::new(),
    });
    tokio::spawn(write_all(shared.clone(), write));
    let incoming = Incoming { read: Box::new(read), buffer: BytesMut::new(), shared: shared.clone() };
    (Connection { shared }, incoming)
}

impl Connection {
    /// Queues a frame; it is written as soon as the stream takes it, after all that were queued before. Parts of large
    /// payloads keep their order among themselves and stand behind all else.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the frame is lost then.
    pub fn send(&self, kind: FrameKind, body: Bytes) -> Result<(), SendError> {
        self.send_at(Pace::Burst, kind, body)
    }

    /// Queues a frame that comes at a pace: a lone one, before which nothing waits, is written from this thread.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the frame is lost then.
    pub fn send_at(&self, pace: Pace, kind: FrameKind, body: Bytes) -> Result<(), SendError> {
        let max = kind.body_bytes_max();
        if body.len() > max {
            return Err(SendError::TooLarge { bytes: body.len(), max });
        }
        let mut queue = self.shared.queue.lock();
        if let Some(closed) = self.shared.closed.get() {
            return Err(closed.clone().into());
        }
        if let Some(reason) = &queue.is_finishing {
            return Err(Closed::Here { reason: reason.clone() }.into());
        }
        if kind == FrameKind::Part {
            if queue.parts_bytes + body.len() > PARTS_BYTES_MAX {
                return Err(SendError::Full { frames: queue.parts.len(), bytes: queue.parts_bytes });
            }
            queue.parts_bytes += body.len();
            queue.parts.push_back(Frame { kind, body });
        } else {
            if queue.is_full_for(body.len()) {
                return Err(SendError::Full { frames: queue.frames.len(), bytes: queue.bytes });
            }
            let frame = Frame { kind, body };
            match if pace == Pace::Lone { queue.write_now(&frame) } else { Written::Nothing } {
                Written::All => return Ok(()),
                Written::Part(rest) => {
                    queue.bytes += rest.len();
                    queue.rest = rest;
                }
                Written::Nothing => {
                    queue.bytes += frame.body.len() + FRAME_HEAD_BYTES;
                    queue.frames.push_back(frame);
                }
            }
        }
        let wakes = std::mem::take(&mut queue.writer_sleeps);
        drop(queue);
        if wakes {
            self.shared.filled.notify_one();
        }
        Ok(())
    }

    /// Like [`send`](Self::send), and waits for room instead of saying `Full`.
    ///
    /// # Errors
    ///
    /// The connection is over, or the body too large.
    pub async fn send_when_room(&self, kind: FrameKind, body: Bytes) -> Result<(), SendError> {
        loop {
            let emptied = self.shared.emptied.notified();
            match self.send(kind, body.clone()) {
                Err(SendError::Full { .. }) => emptied.await,
                done => return done,
            }
        }
    }

    /// Ends the connection after what is queued has been written. The other end sees it closed.
    pub fn close(&self, reason: impl Into<String>) {
        let mut queue = self.shared.queue.lock();
        queue.is_finishing.get_or_insert(reason.into());
        queue.writer_sleeps = false;
        queue.socket = None;
        drop(queue);
        self.shared.filled.notify_one();
    }

    /// Waits until the connection is over, and says why.
    pub async fn closed(&self) -> Closed {
        self.shared.wait_closed().await
    }

    /// Whether the connection is over.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.get().is_some()
    }
}

impl Queue {
    fn is_full_for(&self, bytes: usize) -> bool {
        let beyond = self.bytes + bytes > QUEUED_BYTES_MAX || self.frames.len() >= QUEUED_FRAMES_MAX;
        beyond && !self.frames.is_empty()
    }

    /// Writes a frame from this thread, if nothing waits before it.
    fn write_now(&self, frame: &Frame) -> Written {
        match &self.socket {
            Some(socket) if self.writer_sleeps && self.frames.is_empty() && self.rest.is_empty() => {
                socket.write_now(frame)
            }
            _ => Written::Nothing,
        }
    }
}

impl Shared {
    fn end(&self, closed: Closed) {
        // What was queued is lost with the connection: sessions above know what was not acknowledged.
        self.closed.get_or_init(|| closed);
        let dropped = {
            let mut queue = self.queue.lock();
            (std::mem::take(&mut queue.frames), std::mem::take(&mut queue.parts), queue.socket.take())
        };
        drop(dropped);
        self.filled.notify_one();
        self.emptied.notify_waiters();
        self.over.notify_waiters();
    }

    async fn wait_closed(&self) -> Closed {
        loop {
            let over = self.over.notified();
            if let Some(closed) = self.closed.get() {
                return closed.clone();
            }
            over.await;
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("closed", &self.shared.closed.get()).finish_non_exhaustive()
    }
}

/// The writer: takes all that waits and writes it in few system calls.
async fn write_all(shared: Arc<Shared>, mut write: impl AsyncWrite + Unpin) {
    let mut batch = VecDeque::new();
    let mut gathered = BytesMut::new();
    loop {
        let finishing = {
            let mut queue = shared.queue.lock();
            std::mem::swap(&mut batch, &mut queue.frames);
            gathered.extend_from_slice(&std::mem::take(&mut queue.rest));
            queue.bytes = 0;
            if let Some(part) = queue.parts.pop_front() {
                queue.parts_bytes -= part.body.len();
                batch.push_back(part);
            }
            queue.writer_sleeps = batch.is_empty() && gathered.is_empty();
            queue.is_finishing.clone()
        };
        if shared.closed.get().is_some() {
            return;
        }
        if !(batch.is_empty() && gathered.is_empty()) {
            shared.emptied.notify_waiters();
            let written = tokio::select! {
                written = write_batch(&mut write, &mut batch, &mut gathered) => written,
                _ = shared.wait_closed() => return,
            };
            if let Err(error) = written {
                return shared.end(Closed::of(&error));
            }
        } else if let Some(reason) = finishing {
            // An error says that the other end has gone already.
            write.shutdown().await.ok();
            return shared.end(Closed::Here { reason });
        } else {
            shared.filled.notified().await;
        }
    }
}

async fn write_batch(
    write: &mut (impl AsyncWrite + Unpin),
    batch: &mut VecDeque<Frame>,
    gathered: &mut BytesMut,
) -> io::Result<()> {
    while let Some(Frame { kind, body }) = batch.pop_front() {
        gathered.extend_from_slice(&FrameHead { kind, body_bytes: body.len() }.bytes());
        if body.len() <= GATHERED_BYTES_MAX {
            gathered.extend_from_slice(&body);
            if gathered.len() < BURST_BYTES && !batch.is_empty() {
                continue;
            }
            write.write_all(gathered).await?;
        } else {
            write_both(write, gathered, body).await?;
        }
        gathered.clear();
    }
    // The rest of a frame, behind which nothing came.
    write.write_all(gathered).await?;
    gathered.clear();
    write.flush().await
}

/// What was gathered and a large body behind it, in one write as far as the stream takes them.
async fn write_both(write: &mut (impl AsyncWrite + Unpin), gathered: &[u8], mut body: Bytes) -> io::Result<()> {
    let mut head = gathered;
    while !head.is_empty() {
        let written = write.write_vectored(&[IoSlice::new(head), IoSlice::new(&body)]).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let of_head = written.min(head.len());
        head = &head[of_head..];
        body.advance(written - of_head);
    }
    write.write_all(&body).await
}

/// The receiving end of a connection.
pub struct Incoming {
    read: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    shared: Arc<Shared>,
}

impl Incoming {
    /// The next frame.
    ///
    /// # Errors
    ///
    /// Why there is none and will be none.
    ///
    /// # Cancel safety
    ///
    /// A wait that is dropped loses nothing: what was read of a frame is kept.
    pub async fn next(&mut self) -> Result<Frame, Closed> {
        loop {
            match self.take() {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(error) => return Err(self.end(error.into())),
            }
            let shared = self.shared.clone();
            let read = tokio::select! {
                read = self.read.read_buf(&mut self.buffer) => read,
                closed = shared.wait_closed() => return Err(closed),
            };
            match read {
                Ok(0) => return Err(self.end(Closed::There)),
                Ok(_) => {}
                Err(error) => return Err(self.end(Closed::of(&error))),
            }
        }
    }

    /// The next frame, if it has been read already: for those that take all that is there before they act.
    ///
    /// # Errors
    ///
    /// What was read is no frame.
    pub fn try_next(&mut self) -> Result<Option<Frame>, Closed> {
        self.take().map_err(|error| self.end(error.into()))
    }

    /// Cuts a frame out of what was read, or makes room for the rest of it.
    fn take(&mut self) -> Result<Option<Frame>, HeadError> {
        let Some(head) = self.buffer.first_chunk::<FRAME_HEAD_BYTES>() else {
            self.buffer.reserve(BURST_BYTES);
            return Ok(None);
        };
        let FrameHead { kind, body_bytes } = FrameHead::read(*head)?;
        let whole = FRAME_HEAD_BYTES + body_bytes;
        if self.buffer.len() < whole {
            // Memory grows with what has come, not with what was announced.
            let wanted = whole - self.buffer.len();
            self.buffer.reserve(wanted.min(BURST_BYTES.max(self.buffer.len())));
            return Ok(None);
        }
        self.buffer.advance(FRAME_HEAD_BYTES);
        Ok(Some(Frame { kind, body: self.buffer.split_to(body_bytes).freeze() }))
    }

    fn end(&self, closed: Closed) -> Closed {
        self.shared.end(closed.clone());
        closed
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Nobody reads any more: the other end must see that.
        self.shared.end(Closed::Here { reason: "nobody reads it any more".into() });
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("buffered_bytes", &self.buffer.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
