//! The frame that every connection carries, whatever it says: length, version, kind, body.
//!
//! ```text
//! 0        4         5      6
//! │ length │ version │ kind │ body … │      length counts version, kind and body; little endian
//! ```
//!
//! A connection's two ends agree on what may come by the handshake of `net`; here only the outside of a frame is read.

use crate::DecodeError;

/// The version of the language between processes. Both ends of a connection speak the same, or say so and part (G20).
///
/// It is raised with every change of a layout that a release has spoken: `tests/layout.rs` knows the layout of each number,
/// and fails when one changes.
pub const PROTOCOL: u32 = 1;

/// Bytes of a frame before its body: length, version, kind.
pub const FRAME_HEAD_BYTES: usize = 6;

/// A control frame's body is at most this long (promises.md).
pub const CONTROL_BYTES_MAX: usize = 1 << 20;

/// Before the other end has said who it is, a body is at most this long (promises.md).
pub const GREETING_BYTES_MAX: usize = 64 << 10;

/// The body of a frame with a call, a task or a value: a payload that travels inside it, and its head, which is mostly the
/// list of its references and at most an error with its causes.
pub const PARCEL_BYTES_MAX: usize = crate::bulk::INLINE_BYTES_MAX + (2 << 20);

/// What a frame's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// The first words of either end.
    Greeting,
    /// [`Parcel`](crate::Parcel): from one process to another, passed on by nodes without being read.
    Parcel,
    /// A process and its node: [`ToNode`](crate::local::ToNode), [`FromNode`](crate::local::FromNode).
    Local,
    /// Two nodes, or a node and the head.
    Cluster,
    /// That the other end lives.
    Heartbeat,
    /// [`Part`](crate::Part) of a large payload, on the lane of what is large.
    Part,
}

impl FrameKind {
    const fn code(self) -> u8 {
        match self {
            Self::Greeting => 1,
            Self::Parcel => 2,
            Self::Local => 3,
            Self::Cluster => 4,
            Self::Heartbeat => 5,
            Self::Part => 6,
        }
    }

    fn of(code: u8) -> Option<Self> {
        [Self::Greeting, Self::Parcel, Self::Local, Self::Cluster, Self::Heartbeat, Self::Part]
            .into_iter()
            .find(|kind| kind.code() == code)
    }

    /// The longest body of this kind.
    pub const fn body_bytes_max(self) -> usize {
        match self {
            Self::Greeting => GREETING_BYTES_MAX,
            Self::Parcel => PARCEL_BYTES_MAX,
            Self::Local | Self::Cluster => CONTROL_BYTES_MAX,
            Self::Heartbeat => 64,
            Self::Part => crate::bulk::PART_HEAD_BYTES + crate::bulk::PART_BYTES_MAX,
        }
    }
}

/// The head of a frame that is checked: how long its body is and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// What the body is.
    pub kind: FrameKind,
    /// How long it is.
    pub body_bytes: usize,
}

impl FrameHead {
    /// The six bytes before a body.
    ///
    /// ```
    /// use mobula_wire::{FrameHead, FrameKind};
    /// let head = FrameHead { kind: FrameKind::Heartbeat, body_bytes: 3 };
    /// assert_eq!(FrameHead::read(head.bytes()), Ok(head));
    /// ```
    ///
    /// # Panics
    ///
    /// The body is longer than its kind may be: whoever makes a frame checks that before.
    pub fn bytes(self) -> [u8; FRAME_HEAD_BYTES] {
        assert!(self.body_bytes <= self.kind.body_bytes_max(), "a frame's maker checks its length");
        let [a, b, c, d] = (self.body_bytes as u32 + 2).to_le_bytes();
        [a, b, c, d, PROTOCOL as u8, self.kind.code()]
    }

    /// Reads the six bytes before a body, which anyone may have sent.
    ///
    /// # Errors
    ///
    /// [`HeadError`] when no frame of this version begins so, or its body would be too long.
    pub fn read(bytes: [u8; FRAME_HEAD_BYTES]) -> Result<Self, HeadError> {
        let [a, b, c, d, version, kind] = bytes;
        if u32::from(version) != PROTOCOL {
            return Err(HeadError::Version { theirs: u32::from(version) });
        }
        let kind = FrameKind::of(kind).ok_or(HeadError::Kind { found: kind })?;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let body_bytes = length.checked_sub(2).ok_or(HeadError::Length { length, max: kind.body_bytes_max() })?;
        if body_bytes > kind.body_bytes_max() {
            return Err(HeadError::Length { length: body_bytes, max: kind.body_bytes_max() });
        }
        Ok(Self { kind, body_bytes })
    }
}

/// Why bytes do not begin a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The other end speaks another version.
    #[error("the other end speaks protocol {theirs}, this one {PROTOCOL}: run one version of mobula on all nodes")]
    Version {
        /// What it speaks.
        theirs: u32,
    },
    /// No frame is of this kind.
    #[error("{found} is no kind of frame")]
    Kind {
        /// The byte.
        found: u8,
    },
    /// The body is longer than its kind may be, or shorter than a head.
    #[error("a frame of {length} bytes, where {max} are allowed")]
    Length {
        /// What it says.
        length: usize,
        /// What it may say.
        max: usize,
    },
    /// The body is not what its kind says.
    #[error("a frame's body cannot be read: {0}")]
    Body(#[from] DecodeError),
}
