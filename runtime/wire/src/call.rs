//! The envelope of a call that leaves its process.
//!
//! Says whom the call is for, what it claims about its types, and how long it may take; the payload stays bytes here.
//! Whether the payload fits the receiver is decided by the receiver, from the message's name and schema.

use std::time::Duration;

use bytes::Bytes;
use mobula_types::{ActorId, Attempt, Incarnation, ObjectId};
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecId, DecodeError, PAYLOAD_BYTES_MAX};

/// The references that one call may carry: promises.md's bound for collections.
pub const REFS_MAX: usize = 65_536;

/// What the receiver's node must know before it looks at the payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallHeader {
    /// Whom the call is for.
    pub target: ActorId,
    /// The only incarnation that may take it; `None` when any may.
    pub incarnation: Option<Incarnation>,
    /// [`name_hash`](crate::name_hash) of the message's registered name.
    pub message: u64,
    /// [`schema_hash`](crate::schema_hash) of the message's type, as the sender knows it.
    pub schema: u64,
    /// The deadline as the time left, because clocks cannot be compared; `None` when there is none.
    pub left: Option<Duration>,
    /// Which run of the call this is.
    pub attempt: Attempt,
    /// How many incarnations have ended by this message (G8: the third time it is a dead letter).
    pub crash_count: u8,
    /// Who sent it: the sequence numbers of one sender are in order.
    pub sender: u64,
    /// The count of the sender's messages to this target (G3: first in, first out).
    pub seq: u64,
    /// The last of them before this one that was not acknowledged when this was sent, 0 when there was none: whoever has
    /// not got it does not take this one (G4).
    pub after: u64,
}

/// A call as it travels.
///
/// ```
/// use mobula_types::{ActorId, Attempt, NodeId, ProcessId};
/// use mobula_wire::{CallFrame, CallHeader, CodecId};
/// let target = ActorId { process: ProcessId::from(NodeId(1)), slot: 2, generation: 0 };
/// let header = CallHeader {
///     target, incarnation: None, message: mobula_wire::name_hash("counter::Add"), schema: 0, left: None,
///     attempt: Attempt::FIRST, crash_count: 0, sender: 9, seq: 1, after: 0,
/// };
/// let frame =
///     CallFrame { header, codec: CodecId::BINCODE_LEGACY, refs: Vec::new(), payload: mobula_wire::encode(&2u64)?.into() };
/// assert_eq!(CallFrame::decode(&frame.encode()?)?, frame);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFrame {
    /// Whom it is for, and what it claims.
    pub header: CallHeader,
    /// The payload's layout.
    pub codec: CodecId,
    /// The objects that the payload refers to, in the open, so that a node counts holders without decoding.
    pub refs: Vec<ObjectId>,
    /// The message.
    pub payload: Bytes,
}

/// A frame's head in the layout of [`codec`]; the payload's bytes follow it as they are, to the end of the frame.
type Head<H, R> = (CodecId, H, R);

impl CallFrame {
    /// The frame's bytes.
    ///
    /// # Errors
    /// [`TooLarge`] when the payload or the list of references is beyond its bound.
    pub fn encode(&self) -> Result<Vec<u8>, TooLarge> {
        TooLarge::check("payload bytes", self.payload.len(), PAYLOAD_BYTES_MAX)?;
        TooLarge::check("references", self.refs.len(), REFS_MAX)?;
        let bytes = Vec::with_capacity(HEAD_BYTES + self.refs.len() * REF_BYTES + self.payload.len());
        let head: Head<&CallHeader, &[ObjectId]> = (self.codec, &self.header, &self.refs);
        let mut bytes = codec::encode_onto(bytes, &head, usize::MAX).expect("a head of numbers has bytes");
        bytes.extend_from_slice(&self.payload);
        Ok(bytes)
    }

    /// Reads what [`encode`](Self::encode) wrote, from bytes that anyone may have sent.
    ///
    /// # Errors
    /// [`FrameError`] when they are no frame, or one beyond the bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let (head, payload) = codec::decode_front(bytes)?;
        let (codec, header, refs): Head<CallHeader, Vec<ObjectId>> = head;
        if codec != CodecId::BINCODE_LEGACY {
            return Err(FrameError::Codec { codec });
        }
        TooLarge::check("payload bytes", payload.len(), PAYLOAD_BYTES_MAX)?;
        TooLarge::check("references", refs.len(), REFS_MAX)?;
        Ok(Self { header, codec, refs, payload: Bytes::copy_from_slice(payload) })
    }
}

/// Why bytes are not a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A part is beyond its bound.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The payload has a layout that this build does not know.
    #[error("{codec} is unknown here: this build reads {}", CodecId::BINCODE_LEGACY)]
    Codec {
        /// The layout named by the frame.
        codec: CodecId,
    },
    /// The head cannot be read.
    #[error("the head of a call cannot be read: {0}")]
    Head(#[from] DecodeError),
}

/// A part of a frame is beyond its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} {what} are more than the {max} a call may have")]
pub struct TooLarge {
    /// Which part, as a plural with its unit.
    pub what: &'static str,
    /// How much it is.
    pub count: usize,
    /// How much it may be.
    pub max: usize,
}

impl TooLarge {
    pub(crate) fn check(what: &'static str, count: usize, max: usize) -> Result<(), Self> {
        if count > max { Err(Self { what, count, max }) } else { Ok(()) }
    }
}

/// A head without references takes at most this: the fields of [`CallHeader`] at their full width.
const HEAD_BYTES: usize = 88;
/// Owner and sequence number.
const REF_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use mobula_types::{NodeId, ProcessId};

    use super::*;

    fn frame() -> CallFrame {
        CallFrame {
            header: CallHeader {
                target: ActorId { process: ProcessId::new(NodeId(0), 0x0102), slot: 3, generation: 4 },
                incarnation: Some(Incarnation(5)),
                message: 6,
                schema: 7,
                left: Some(Duration::new(8, 9)),
                attempt: Attempt(10),
                crash_count: 11,
                sender: 12,
                seq: 13,
                after: 12,
            },
            codec: CodecId::BINCODE_LEGACY,
            refs: vec![ObjectId { owner: ProcessId::new(NodeId(0), 14), seq: 15 }],
            payload: Bytes::from_static(b"payload"),
        }
    }

    #[test]
    fn bytes_of_a_frame_never_change() {
        let mut expect = vec![1];
        expect.extend(0x0102u64.to_le_bytes());
        expect.extend([3, 0, 0, 0, 4, 0, 0, 0, 1, 5, 0, 0, 0]);
        expect.extend([6u64.to_le_bytes(), 7u64.to_le_bytes()].concat());
        expect.push(1);
        expect.extend(8u64.to_le_bytes());
        expect.extend([9, 0, 0, 0, 10, 0, 0, 0, 11]);
        expect.extend([12u64, 13, 12, 1, 14, 15].map(u64::to_le_bytes).concat());
        expect.extend(b"payload");
        let bytes = frame().encode().unwrap();
        assert_eq!(bytes, expect);
        assert_eq!(bytes.len(), HEAD_BYTES + REF_BYTES + b"payload".len());
        assert_eq!(CallFrame::decode(&bytes).unwrap(), frame());
    }

    #[test]
    fn every_cut_inside_the_head_is_refused() {
        let bytes = frame().encode().unwrap();
        for len in 0..bytes.len() - 7 {
            assert!(matches!(CallFrame::decode(&bytes[..len]), Err(FrameError::Head(_))), "{len} bytes");
        }
    }

    #[test]
    fn unknown_layout_is_named() {
        let mut bytes = frame().encode().unwrap();
        bytes[0] = 9;
        let error = CallFrame::decode(&bytes).unwrap_err();
        assert_eq!(error.to_string(), "codec-9 is unknown here: this build reads codec-1");
    }

    #[test]
    fn bounds_hold_on_both_sides() {
        let many =
            CallFrame { refs: vec![ObjectId { owner: ProcessId::from(NodeId(1)), seq: 1 }; REFS_MAX + 1], ..frame() };
        let error = TooLarge { what: "references", count: REFS_MAX + 1, max: REFS_MAX };
        let head = codec::encode(&(many.codec, &many.header, &many.refs)).unwrap();
        assert_eq!(many.encode(), Err(error));
        assert_eq!(CallFrame::decode(&head), Err(error.into()));
    }

    #[test]
    fn changed_bytes_never_panic() {
        let bytes = frame().encode().unwrap();
        for at in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                if let Ok(read) = CallFrame::decode(&changed) {
                    assert_eq!(CallFrame::decode(&read.encode().unwrap()), Ok(read), "byte {at}, flip {flip:#x}");
                }
            }
        }
    }
}
