//! Values to bytes and back: the one place that knows the layout.
//!
//! The layout is bincode 1's (`legacy()` in bincode 2): little endian, integers at their full width, lengths as `u64`,
//! enum variants as `u32`, `Option` as one byte, `char` as UTF-8, nothing said twice. It names no fields, so both sides
//! must agree on the type; [`schema`](crate::schema) is how they find out. Types that decide by looking at the data
//! (`#[serde(flatten)]`, `untagged`, `serde_json::Value`) cannot travel so and are refused with a typed error.
//!
//! Writing goes through bincode. Reading is ours (`decoder`), because bincode 2.0.1 takes memory for a string before it
//! knows that the bytes are there, follows a recursive type until the stack ends, and counts to 2⁶⁴ for a `Vec<()>`.

mod decoder;

use std::fmt;

use bincode::enc::write::Writer;
use mobula_types::{NotStarted, Unknown};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use decoder::Decoder;

/// Which layout a payload has; travels in every frame, so that the implementation stays swappable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CodecId(pub u8);

impl CodecId {
    /// The layout of bincode 1, which is `legacy()` in bincode 2.
    pub const BINCODE_LEGACY: Self = Self(1);
}

impl fmt::Display for CodecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "codec-{}", self.0)
    }
}

/// The bytes of one value: larger ones are meant to be objects, which travel as references.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 20;

/// How deep a value may nest: every option, struct, enum, tuple, list and map is a level. A recursive type is the only
/// honest way beyond a few dozen. 128 levels took between 96 and 256 KiB of stack in an unoptimised build, 48 in an
/// optimised one; threads have 2 MiB.
pub const DEPTH_MAX: usize = 128;

/// Elements of one value that take no bytes, such as those of a `Vec<()>`: bytes cannot bound those, so a number does.
/// It is what promises.md allows a collection in a control message.
pub const EMPTY_ELEMENTS_MAX: usize = 65_536;

/// Encodes `value`.
///
/// ```
/// let bytes = mobula_wire::encode(&(7u16, "ray"))?;
/// assert_eq!(bytes, [7, 0, 3, 0, 0, 0, 0, 0, 0, 0, b'r', b'a', b'y']);
/// # Ok::<(), mobula_wire::EncodeError>(())
/// ```
///
/// # Errors
/// [`EncodeError::TooLarge`] above [`PAYLOAD_BYTES_MAX`]; [`EncodeError::Value`] when the value itself refuses, or is a
/// sequence that does not know its length.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, EncodeError> {
    encode_limited(value, PAYLOAD_BYTES_MAX)
}

/// Like [`encode`], for a door that takes at most `max` bytes. What is beyond is counted and not kept.
///
/// # Errors
/// As [`encode`], with `max`.
pub fn encode_limited<T: Serialize + ?Sized>(value: &T, max: usize) -> Result<Vec<u8>, EncodeError> {
    encode_onto(Vec::with_capacity(MESSAGE_BYTES_USUAL), value, max)
}

/// Appends `value` to `bytes`, which may not grow beyond `max`. After an error they are of no use.
///
/// # Errors
/// As [`encode_limited`].
pub fn append<T: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T, max: usize) -> Result<(), EncodeError> {
    *bytes = encode_onto(std::mem::take(bytes), value, max)?;
    Ok(())
}

/// Appends `value` to `bytes`, which may not grow beyond `max`.
pub(crate) fn encode_onto<T: Serialize + ?Sized>(
    bytes: Vec<u8>,
    value: &T,
    max: usize,
) -> Result<Vec<u8>, EncodeError> {
    let mut writer = BoundedWriter { bytes, max, beyond: 0 };
    match bincode::serde::encode_into_writer(value, &mut writer, bincode::config::legacy()) {
        Ok(()) if writer.beyond == 0 => Ok(writer.bytes),
        Ok(()) => Err(EncodeError::TooLarge { bytes: writer.beyond, max }),
        Err(bincode::error::EncodeError::OtherString(message)) => Err(EncodeError::Value { message }),
        Err(error) => Err(EncodeError::Value { message: error.to_string() }),
    }
}

/// Decodes a value that takes all of `bytes`.
///
/// ```
/// use mobula_wire::DecodeError;
/// assert_eq!(mobula_wire::decode::<(u16, bool)>(&[7, 0, 1]), Ok((7, true)));
/// assert_eq!(mobula_wire::decode::<(u16, bool)>(&[7, 0, 2]), Err(DecodeError::Bool { found: 2 }));
/// ```
///
/// # Errors
/// Any [`DecodeError`]; memory taken stays in proportion to `bytes`, and the stack within [`DEPTH_MAX`] levels.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    decode_limited::<T, PAYLOAD_BYTES_MAX>(bytes)
}

/// Like [`decode`], for a door that takes at most `LIMIT` bytes.
///
/// # Errors
/// As [`decode`], and [`DecodeError::TooLarge`] above `LIMIT`.
pub fn decode_limited<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > LIMIT {
        return Err(DecodeError::TooLarge { bytes: bytes.len(), max: LIMIT });
    }
    match decode_front(bytes)? {
        (value, []) => Ok(value),
        (_, rest) => Err(DecodeError::Trailing { bytes: rest.len() }),
    }
}

/// Decodes a value that `bytes` begin with, and says what follows it.
///
/// # Errors
/// As [`decode`], but for what follows.
pub fn decode_front<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), DecodeError> {
    let mut decoder = Decoder::new(bytes);
    let value = T::deserialize(&mut decoder)?;
    Ok((value, decoder.rest()))
}

/// Why a value has no bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It is larger than may travel inside a message.
    #[error(
        "the value's {bytes} bytes are more than the {max} allowed: divide it, or put its parts and send references"
    )]
    TooLarge {
        /// The bytes it takes.
        bytes: usize,
        /// The bytes allowed.
        max: usize,
    },
    /// The value cannot be encoded.
    #[error("the value cannot be encoded: {message}")]
    Value {
        /// What its `Serialize` said.
        message: String,
    },
}

impl From<EncodeError> for NotStarted {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::TooLarge { bytes, max } => Self::TooLarge { bytes, max },
            EncodeError::Value { .. } => Self::Codec { message: error.to_string() },
        }
    }
}

impl From<EncodeError> for Unknown {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::TooLarge { bytes, max } => Self::TooLarge { bytes, max },
            EncodeError::Value { .. } => Self::Codec { message: error.to_string() },
        }
    }
}

/// Why bytes are not a value of the wanted type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// More bytes than this door takes.
    #[error("{bytes} bytes are more than the {max} allowed")]
    TooLarge {
        /// The bytes that came.
        bytes: usize,
        /// The bytes allowed.
        max: usize,
    },
    /// The bytes end inside the value.
    #[error("the value needs {wanted} more bytes where {left} are left")]
    UnexpectedEnd {
        /// What the next part takes.
        wanted: u64,
        /// What is there.
        left: usize,
    },
    /// Bytes follow the value.
    #[error("{bytes} bytes follow the value")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A list or map says that it has more elements than its bytes can hold.
    #[error("a list says it has {len} elements where {left} bytes are left")]
    Length {
        /// The elements announced.
        len: u64,
        /// The bytes there.
        left: usize,
    },
    /// Too many elements that take no bytes.
    #[error("more than {max} elements take no bytes")]
    EmptyElements {
        /// The elements allowed.
        max: usize,
    },
    /// The value nests too deep.
    #[error("the value nests deeper than {max} levels")]
    Depth {
        /// The levels allowed.
        max: usize,
    },
    /// A `bool` is neither 0 nor 1.
    #[error("a bool is 0 or 1, found {found}")]
    Bool {
        /// The byte.
        found: u8,
    },
    /// An `Option` starts with neither 0 nor 1.
    #[error("an option starts with 0 or 1, found {found}")]
    OptionTag {
        /// The byte.
        found: u8,
    },
    /// Text is not UTF-8.
    #[error("text is not UTF-8 after its first {valid_bytes} bytes")]
    Utf8 {
        /// How much of it is.
        valid_bytes: usize,
    },
    /// The type asks the bytes what they are, which this layout cannot say.
    #[error("a type that decides by {asked} cannot travel: this layout does not describe itself")]
    NotSelfDescribing {
        /// What the type asked for, in serde's words.
        asked: &'static str,
    },
    /// The type refused what it read.
    #[error("{message}")]
    Value {
        /// What its `Deserialize` said.
        message: String,
    },
}

/// Room for most messages at once: growing to 41 bytes took 340 of the 490 ns that encoding did.
const MESSAGE_BYTES_USUAL: usize = 128;

/// Collects bytes up to a bound; beyond it they are let go and only counted, so that the error can say how many they are.
struct BoundedWriter {
    bytes: Vec<u8>,
    max: usize,
    /// What all of them are, once they are too many.
    beyond: usize,
}

impl Writer for BoundedWriter {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        if self.beyond == 0 && bytes.len() <= self.max.saturating_sub(self.bytes.len()) {
            self.bytes.extend_from_slice(bytes);
        } else {
            let before = if self.beyond == 0 { std::mem::take(&mut self.bytes).len() } else { self.beyond };
            self.beyond = before.saturating_add(bytes.len());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
