//! The language between processes: how a value becomes bytes, what a call looks like, and how types are compared.
//!
//! Nothing here touches a socket; bytes that come in are bounded, and a wrong one is a typed error, never a panic.
//!
//! | module | holds |
//! |---|---|
//! | [`codec`] | values to bytes and back, in one layout named by its [`CodecId`] |
//! | [`plain`] | arrays of numbers, which are copied and not encoded |
//! | [`schema`] | a 64-bit hash of what a type looks like on the wire; the hash of a registered name |
//! | [`bulk`] | payloads that do not fit into a message, in parts |
//! | [`call`] | [`CallFrame`]: the envelope of a call that leaves its process |
//! | [`frame`] | the outside of everything a connection carries |
//! | [`parcel`] | what one process says to another |
//! | [`cluster`] | what nodes and the head say to one another |
//! | [`local`] | what a process and its node say to one another |
//! | [`objects`] | what they, and nodes among themselves, say of objects |
//! | [`segments`] | what they say of shared memory |
#![forbid(unsafe_code)]

pub mod bulk;
pub mod call;
pub mod cluster;
pub mod codec;
pub mod frame;
pub mod groups;
pub mod local;
pub mod objects;
pub mod parcel;
pub mod plain;
pub mod schema;
pub mod segments;

pub use bulk::{INLINE_BYTES_MAX, Part, RangeAsked, RangeOf, TransferId};
pub use call::{CallFrame, CallHeader, FrameError, TooLarge};
pub use codec::{CodecId, DecodeError, EncodeError, PAYLOAD_BYTES_MAX, decode, decode_limited, encode, encode_limited};
pub use frame::{FrameHead, FrameKind, HeadError, PROTOCOL};
pub use parcel::{ExchangeId, Parcel, Talk};
pub use plain::{Encoded, Plain, Viewable};
pub use schema::{name_hash, schema_hash};
pub use segments::Extent;
