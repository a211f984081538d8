//! Ranges of memory, asked of a peer and read straight to where they belong: a stream of the bulk connection for each.
//!
//! ```text
//! fetch ── words ─► stream ─► Ranges::range ─► bytes, from where they lie ─► stream ─► sink, chunk by chunk
//!                                 └── no ────► reset (REFUSED)
//! ```
//!
//! What is asked is whoever's words who serves it. They stand outside of the session: a range that is cut off has not come,
//! and asking for it again does no harm. No byte of it is acknowledged but by QUIC, which keeps hold of what it sends until
//! then; what is not wanted any more is dropped with its stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mobula_types::ProcessId;
use quinn::{ReadError, VarInt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Inner, Mesh};

/// The words with which a range is asked for.
pub const RANGE_WORDS_MAX: usize = 256;

/// Ranges that are sent to one peer at once; who asks for more waits. Twice what one asks for
/// ([`RANGES_MAX`](mobula_logic::haul::RANGES_MAX)).
const SERVED_MAX: usize = 2 * mobula_logic::haul::RANGES_MAX;

/// The words of one that asks come in this time.
const WORDS_MAX: Duration = Duration::from_secs(10);
/// A range is taken in this time, or not sent on: what is sent is kept as long. A hundredth of a slow network's speed.
const SENT_MAX: Duration = Duration::from_secs(30);
/// A connection is there within this time: one that is cut comes back at once, or its other end is dead soon.
const LINK_MAX: Duration = Duration::from_secs(3);
/// Something of a range comes in this time: beyond that which a stopped process is given (G11).
const SILENCE_MAX: Duration = Duration::from_secs(6);

/// Chunks that are handed on at once: a megabyte in the largest datagrams.
const CHUNKS_MAX: usize = 64;

/// What a stream is reset or stopped with.
mod code {
    /// There is no such range, for this peer or at all.
    pub(super) const REFUSED: u32 = 1;
    /// It was not taken in time.
    pub(super) const LATE: u32 = 2;
}

/// A range as soon as it is there; none if it never is, or not for who asks.
pub type RangeComing = Pin<Box<dyn Future<Output = Option<Bytes>> + Send>>;

/// Who has ranges.
pub trait Ranges: Send + Sync + 'static {
    /// The range that a peer asks for by these words, if it may have it. It does not change until it is dropped. What is
    /// not there yet is waited for, well within the time in which something of a range must come.
    fn range(&self, by: ProcessId, words: &[u8]) -> RangeComing;
}

/// Why a range did not come.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// The peer has none for who asked.
    #[error("the peer has no such range")]
    Refused,
    /// There is no connection, or it was cut.
    #[error("the connection: {why}")]
    Cut {
        /// What was seen.
        why: String,
    },
    /// It has another length.
    #[error("{came} bytes came and {wanted} were wanted")]
    Length {
        /// How many came; of a longer one at least so many.
        came: u64,
        /// How many were wanted.
        wanted: u64,
    },
    /// It cannot be kept.
    #[error("cannot keep what came: {0}")]
    Kept(#[from] io::Error),
}

impl Mesh {
    /// From now on peers are given what they ask for of `ranges`; before, all of them are refused.
    pub fn serve_ranges(&self, ranges: Arc<dyn Ranges>) {
        *self.inner.ranges.write() = Some(ranges);
    }

    /// Asks a peer for a range of `bytes` bytes and hands it to `keep` as it comes, with the place of each piece.
    ///
    /// # Errors
    ///
    /// [`RangeError`]. Part of the range may have been kept.
    ///
    /// # Cancel safety
    ///
    /// When this is dropped nothing more is kept, and the peer sends no more of it.
    pub async fn fetch_range(
        &self,
        of: ProcessId,
        words: Bytes,
        bytes: u64,
        mut keep: impl FnMut(u64, &[Bytes]) -> io::Result<()> + Send,
    ) -> Result<(), RangeError> {
        let cut = |why: &dyn std::fmt::Display| RangeError::Cut { why: why.to_string() };
        let peer = self.inner.peer(of).ok_or_else(|| cut(&"the peer is not known"))?;
        let link = timeout(LINK_MAX, peer.bulk()).await.ok().flatten();
        let link = link.ok_or_else(|| cut(&"there is none"))?;
        let (mut send, mut recv) = link.open_bi().await.map_err(|error| cut(&error))?;
        send.write_chunk(words).await.map_err(|error| cut(&error))?;
        send.finish().ok();
        let mut chunks = [const { Bytes::new() }; CHUNKS_MAX];
        let mut came = 0;
        loop {
            let read = timeout(SILENCE_MAX, recv.read_chunks(&mut chunks)).await;
            match read.map_err(|_| cut(&"nothing came for too long"))? {
                Ok(Some(count)) => {
                    let chunks = &mut chunks[..count];
                    let more: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
                    if came + more > bytes {
                        return Err(RangeError::Length { came: came + more, wanted: bytes });
                    }
                    keep(came, chunks)?;
                    chunks.fill(Bytes::new());
                    came += more;
                }
                Ok(None) if came == bytes => return Ok(()),
                Ok(None) => return Err(RangeError::Length { came, wanted: bytes }),
                Err(ReadError::Reset(code)) if code == VarInt::from_u32(code::REFUSED) => {
                    return Err(RangeError::Refused);
                }
                Err(error) => return Err(cut(&error)),
            }
        }
    }
}

/// Serves a peer that asks for ranges on a connection, until that is over.
pub(super) async fn serve(inner: Arc<Inner>, by: ProcessId, link: quinn::Connection) {
    let room = Arc::new(Semaphore::new(SERVED_MAX));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let Ok((mut send, mut recv)) = link.accept_bi().await else { return };
        let inner = inner.clone();
        tokio::spawn(async move {
            let words = timeout(WORDS_MAX, recv.read_to_end(RANGE_WORDS_MAX)).await;
            let ranges = inner.ranges.read().clone();
            let range = words.ok().and_then(Result::ok).zip(ranges);
            let coming = range.map(|(words, ranges)| ranges.range(by, &words));
            let range = match coming {
                Some(coming) => coming.await,
                None => None,
            };
            match range {
                // An error says that it is not wanted any more, or cannot be sent.
                Some(range) => match timeout(SENT_MAX, hand_out(&mut send, range)).await {
                    Ok(sent) => drop(sent),
                    Err(_) => drop(send.reset(VarInt::from_u32(code::LATE))),
                },
                None => drop(send.reset(VarInt::from_u32(code::REFUSED))),
            }
            drop(place);
        });
    }
}

/// Sends a range and waits until QUIC keeps nothing of it.
async fn hand_out(send: &mut quinn::SendStream, range: Bytes) -> Result<(), quinn::WriteError> {
    send.write_chunk(range).await?;
    send.finish().ok();
    send.stopped().await.ok();
    Ok(())
}
