//! Payloads that are too large to travel inside a message: the message goes on its way and names a *transfer*, its receiver
//! asks for the bytes ([`Talk::Pull`](crate::Talk::Pull)) and they come in parts, on a lane of their own.
//!
//! ```text
//! sender                                  receiver
//!   │ Large { transfer, bytes, talk } ─────► │  in the order of all messages
//!   │ ◄───────────────── Pull { offset, … }  │  as far as it has room
//!   │ Part, Part, … ───────────────────────► │  behind nothing and before nothing small
//!   │ ◄───────────────────────────── Taken   │  whole, or not wanted any more
//! ```
//!
//! Where the payload and the room for it lie in memory that processes share, their nodes move it instead of parts, a range
//! ([`RangeAsked`]) after the other.
//!
//! A part's bytes:
//!
//! ```text
//! 0    8      16         24       32
//! │ to │ from │ transfer │ offset │ bytes, to the end │
//! ```

use bytes::Bytes;
use mobula_types::{Digest, ObjectId, ProcessId};
use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError};

/// What a message carries inside it at most; a larger payload is a transfer (design.md §1).
pub const INLINE_BYTES_MAX: usize = 64 << 10;

/// The bytes of one part at most (promises.md: bulk in chunks of 1 MiB).
pub const PART_BYTES_MAX: usize = 1 << 20;

/// Bytes of a part before its own: two addresses, the transfer, the offset.
pub const PART_HEAD_BYTES: usize = 32;

/// Names a payload that its sender keeps until the receiver has it: made by the sender, unique while it lives.
pub type TransferId = u64;

/// What a node asks another one for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeAsked {
    /// Of what.
    pub of: RangeOf,
    /// Where the range begins in it.
    pub offset: u64,
    /// How long it is.
    pub bytes: u32,
}

/// Of what a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RangeOf {
    /// A payload that a process there lends to one here.
    Lent {
        /// To whom it is lent.
        to: ProcessId,
        /// Who lends it.
        from: ProcessId,
        /// Which transfer, of the lender's.
        transfer: TransferId,
    },
    /// An object of which that node has a copy, or makes one: then what is not there yet is waited for.
    Copy {
        /// Which object.
        object: ObjectId,
        /// Which bytes: those of another run are not it.
        digest: Digest,
    },
}

/// A part of a large payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Whom it is for.
    pub to: ProcessId,
    /// Who sent it.
    pub from: ProcessId,
    /// Of which transfer.
    pub transfer: TransferId,
    /// Where it begins in the payload.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

impl Part {
    /// The part's bytes.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use mobula_types::{NodeId, ProcessId};
    /// use mobula_wire::Part;
    /// let (to, from) = (ProcessId::new(NodeId(1), 2), ProcessId::new(NodeId(3), 4));
    /// let part = Part { to, from, transfer: 5, offset: 6, bytes: Bytes::from_static(b"seven") };
    /// assert_eq!(Part::decode(&part.encode().into()), Ok(part));
    /// ```
    pub fn encode(&self) -> Vec<u8> {
        let bytes = Vec::with_capacity(PART_HEAD_BYTES + self.bytes.len());
        let head = (self.to, self.from, self.transfer, self.offset);
        let mut bytes = codec::encode_onto(bytes, &head, usize::MAX).expect("a head of numbers has bytes");
        bytes.extend_from_slice(&self.bytes);
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote, from bytes that anyone may have sent.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when they are no part, or one that is too large.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let ((to, from, transfer, offset), rest) = codec::decode_front(bytes)?;
        if rest.len() > PART_BYTES_MAX {
            return Err(DecodeError::TooLarge { bytes: rest.len(), max: PART_BYTES_MAX });
        }
        let bytes = bytes.slice(bytes.len() - rest.len()..);
        Ok(Self { to, from, transfer, offset, bytes })
    }
}

#[cfg(test)]
mod tests {
    use mobula_types::NodeId;

    use super::*;

    fn part(bytes: Bytes) -> Part {
        let (to, from) = (ProcessId::new(NodeId(1), 2), ProcessId::new(NodeId(3), 4));
        Part { to, from, transfer: 5, offset: 6, bytes }
    }

    #[test]
    fn the_head_is_as_long_as_frames_allow_for() {
        assert_eq!(part(Bytes::new()).encode().len(), PART_HEAD_BYTES);
        let largest = part(vec![0; PART_BYTES_MAX].into());
        assert_eq!(largest.encode().len(), crate::FrameKind::Part.body_bytes_max());
        assert_eq!(crate::Parcel::address(&largest.encode()), Ok((largest.to, largest.from)), "nodes read no more");
    }

    #[test]
    fn what_is_no_part_is_refused() {
        let whole = part(Bytes::new()).encode();
        for len in 0..PART_HEAD_BYTES {
            let cut = Bytes::copy_from_slice(&whole[..len]);
            assert!(matches!(Part::decode(&cut), Err(DecodeError::UnexpectedEnd { .. })), "{len} bytes");
        }
        let beyond = part(vec![0; PART_BYTES_MAX + 1].into()).encode().into();
        assert_eq!(
            Part::decode(&beyond),
            Err(DecodeError::TooLarge { bytes: PART_BYTES_MAX + 1, max: PART_BYTES_MAX })
        );
    }
}
