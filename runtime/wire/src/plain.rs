//! Arrays of numbers: the codec's layout of them is their length and their memory, so they are copied whole and read where
//! they lie.
//!
//! ```text
//! 0        8
//! │ length │ elements, as in memory │
//! ```
//!
//! The bytes are the same as [`codec`] writes, one element after the other, in a hundredth of the time; nobody can tell
//! which of the two has written them. Only values that are such an array themselves are seen here, not those inside others.

use std::any::{Any, TypeId};

use bytemuck::{AnyBitPattern, NoUninit};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, DecodeError, EncodeError};

/// The bytes before the elements.
pub const LENGTH_BYTES: usize = 8;

/// Memory that is to be viewed begins so many bytes behind a multiple of [`ALIGNMENT`]: then the elements begin at one.
pub const SKEW: usize = ALIGNMENT - LENGTH_BYTES;

/// What the elements of a stored array are aligned to: a cache line, and all that vector instructions ask for.
pub const ALIGNMENT: usize = 64;

/// A number whose bytes in memory are its bytes on the wire.
pub trait Plain: AnyBitPattern + NoUninit + Serialize + DeserializeOwned + Send + Sync {}

macro_rules! plain {
    ($($number:ty)*) => {
        $(#[cfg(target_endian = "little")] impl Plain for $number {})*

        /// The elements of `value` if it is an array of numbers, and how many.
        fn elements_of(value: &dyn Any) -> Option<(usize, &[u8])> {
            if cfg!(target_endian = "big") {
                return None;
            }
            $(if let Some(array) = value.downcast_ref::<Vec<$number>>() {
                return Some((array.len(), bytemuck::cast_slice(array)));
            })*
            value.downcast_ref::<Bytes>().map(|bytes| (bytes.len(), &bytes[..]))
        }

        /// The array of numbers of type `T` that `bytes` are.
        fn array_of<T: 'static>(bytes: &Bytes) -> Option<T> {
            if cfg!(target_endian = "big") {
                return None;
            }
            let wanted = TypeId::of::<T>();
            $(if wanted == TypeId::of::<Vec<$number>>() {
                return the(elements::<$number>(bytes).map(bytemuck::pod_collect_to_vec::<u8, $number>));
            })*
            if wanted == TypeId::of::<Bytes>() {
                return the(elements::<u8>(bytes).map(|elements| bytes.slice_ref(elements)));
            }
            None
        }

        /// What tells whether bytes are an array of numbers of type `T`, if `T` is one.
        fn test_of<T: 'static>() -> Option<fn(&[u8]) -> bool> {
            if cfg!(target_endian = "big") {
                return None;
            }
            let wanted = TypeId::of::<T>();
            $(if wanted == TypeId::of::<Vec<$number>>() {
                return Some(|bytes| elements::<$number>(bytes).is_some());
            })*
            None
        }
    };
}

plain!(u8 i8 u16 i16 u32 i32 u64 i64 u128 i128 f32 f64);

/// Whether `T` is an array of numbers and `bytes` are one of it: then they need not be decoded to be read.
pub fn is_array<T: 'static>(bytes: &[u8]) -> bool {
    test_of::<T>().is_some_and(|is_one| is_one(bytes))
}

/// Whether `T` is what is copied whole: an array of numbers, or [`Bytes`].
pub fn is_copied<T: 'static>() -> bool {
    test_of::<T>().is_some() || TypeId::of::<T>() == TypeId::of::<Bytes>()
}

/// `found` as a `T`, which it is.
fn the<F: 'static, T: 'static>(found: Option<F>) -> Option<T> {
    let mut found = found;
    (&mut found as &mut dyn Any).downcast_mut::<Option<T>>()?.take()
}

/// The bytes of the elements, if there are as many as the length says.
fn elements<P: Plain>(bytes: &[u8]) -> Option<&[u8]> {
    let (length, elements) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    (length.checked_mul(size_of::<P>())? == elements.len()).then_some(elements)
}

/// The elements of an encoded array where they lie; `None` when the bytes are no such array or lie askew.
pub fn view<P: Plain>(bytes: &[u8]) -> Option<&[P]> {
    bytemuck::try_cast_slice(elements::<P>(bytes)?).ok()
}

/// The same, to be written.
pub fn view_mut<P: Plain>(bytes: &mut [u8]) -> Option<&mut [P]> {
    elements::<P>(bytes)?;
    bytemuck::try_cast_slice_mut(bytes.get_mut(LENGTH_BYTES..)?).ok()
}

/// Begins an encoded array: says how many elements follow. Of fewer bytes nothing is written.
pub fn write_length(bytes: &mut [u8], length: usize) {
    if let Some(head) = bytes.first_chunk_mut::<LENGTH_BYTES>() {
        *head = (length as u64).to_le_bytes();
    }
}

/// A value whose encoded bytes can be read where they lie.
///
/// ```
/// use mobula_wire::Viewable;
/// let bytes = mobula_wire::encode("a ray")?;
/// assert_eq!(String::view(&bytes), Some("a ray"));
/// # Ok::<(), mobula_wire::EncodeError>(())
/// ```
pub trait Viewable: Send + Sync + 'static {
    /// What is read.
    type Target: ?Sized;

    /// The same of a value.
    fn target(&self) -> &Self::Target;

    /// It in encoded bytes; `None` when they are no such value, or lie so that it cannot be read there.
    fn view(bytes: &[u8]) -> Option<&Self::Target>;
}

impl<P: Plain + 'static> Viewable for Vec<P> {
    type Target = [P];

    fn target(&self) -> &[P] {
        self
    }

    fn view(bytes: &[u8]) -> Option<&[P]> {
        view(bytes)
    }
}

impl Viewable for Bytes {
    type Target = [u8];

    fn target(&self) -> &[u8] {
        self
    }

    fn view(bytes: &[u8]) -> Option<&[u8]> {
        view(bytes)
    }
}

impl Viewable for String {
    type Target = str;

    fn target(&self) -> &str {
        self
    }

    fn view(bytes: &[u8]) -> Option<&str> {
        std::str::from_utf8(view(bytes)?).ok()
    }
}

/// The bytes of a value, as far as they had to be made: those of an array of numbers are its own memory.
pub enum Encoded<'a> {
    /// An array of numbers: its length, and its memory.
    Plain([u8; LENGTH_BYTES], &'a [u8]),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl<'a> Encoded<'a> {
    /// Encodes `value` into at most `max` bytes.
    ///
    /// ```
    /// use mobula_wire::Encoded;
    /// let array = vec![1f32; 3];
    /// let encoded = Encoded::of(&array, 64)?;
    /// assert!(matches!(encoded, Encoded::Plain(..)));
    /// assert_eq!(encoded.into_vec(), mobula_wire::encode(&array)?);
    /// # Ok::<(), mobula_wire::EncodeError>(())
    /// ```
    ///
    /// # Errors
    /// As [`encode_limited`](crate::encode_limited).
    pub fn of<T: Serialize + 'static>(value: &'a T, max: usize) -> Result<Self, EncodeError> {
        let Some((length, elements)) = elements_of(value) else {
            return codec::encode_limited(value, max).map(Self::Bytes);
        };
        let bytes = LENGTH_BYTES + elements.len();
        if bytes > max {
            return Err(EncodeError::TooLarge { bytes, max });
        }
        Ok(Self::Plain((length as u64).to_le_bytes(), elements))
    }

    /// How many bytes there are.
    #[expect(clippy::len_without_is_empty, reason = "a value that takes no bytes is not empty")]
    pub fn len(&self) -> usize {
        match self {
            Self::Plain(_, elements) => LENGTH_BYTES + elements.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Copies them to `to`, which has as many.
    pub fn write(&self, to: &mut [u8]) {
        match self {
            Self::Plain(length, elements) => {
                let (head, rest) = to.split_at_mut(LENGTH_BYTES);
                head.copy_from_slice(length);
                rest.copy_from_slice(elements);
            }
            Self::Bytes(bytes) => to.copy_from_slice(bytes),
        }
    }

    /// The bytes.
    pub fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Plain(length, elements) => [&length, elements].concat(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// Encodes `value` into at most `max` bytes, an array of numbers at the memory's speed.
///
/// # Errors
/// As [`encode_limited`](crate::encode_limited).
pub fn encode<T: Serialize + 'static>(value: &T, max: usize) -> Result<Vec<u8>, EncodeError> {
    Encoded::of(value, max).map(Encoded::into_vec)
}

/// Decodes a value that takes all of `bytes`: an array of numbers at the memory's speed, [`Bytes`] without a copy.
///
/// # Errors
/// As [`decode`](crate::decode).
pub fn decode<T: DeserializeOwned + 'static>(bytes: &Bytes) -> Result<T, DecodeError> {
    array_of(bytes).map_or_else(|| codec::decode(bytes), Ok)
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    fn is_the_same<T: Serialize + DeserializeOwned + PartialEq + Debug + 'static>(value: T) {
        let bytes = encode(&value, usize::MAX).unwrap();
        assert_eq!(bytes, codec::encode(&value).unwrap(), "{value:?}");
        let mut written = vec![0; bytes.len()];
        Encoded::of(&value, usize::MAX).unwrap().write(&mut written);
        assert_eq!(written, bytes);
        assert_eq!(decode::<T>(&bytes.into()).unwrap(), value);
    }

    #[test]
    fn nobody_can_tell_who_has_written_it() {
        is_the_same(vec![0u8, 1, 255]);
        is_the_same(vec![-1i8, 1]);
        is_the_same(vec![1u16, u16::MAX]);
        is_the_same(vec![i16::MIN]);
        is_the_same(vec![1u32, 2, 3]);
        is_the_same(vec![i32::MIN, 7]);
        is_the_same(vec![u64::MAX]);
        is_the_same(vec![i64::MIN, 0]);
        is_the_same(vec![u128::MAX, 1]);
        is_the_same(vec![i128::MIN]);
        is_the_same(vec![1.5f32, -0.0]);
        is_the_same(vec![f64::MIN_POSITIVE]);
        is_the_same(Vec::<f32>::new());
        is_the_same(Bytes::from_static(b"bytes"));
        is_the_same("text".to_owned());
        is_the_same(vec![true, false]);
        is_the_same(vec!["a".to_owned()]);
        is_the_same(7u32);
    }

    #[test]
    fn bytes_are_not_copied() {
        let encoded = Bytes::from(encode(&Bytes::from(vec![7; 100]), 1000).unwrap());
        let decoded: Bytes = decode(&encoded).unwrap();
        assert_eq!(decoded.as_ptr(), encoded[LENGTH_BYTES..].as_ptr());
    }

    #[test]
    fn what_is_no_such_array_is_refused() {
        let mut bytes = encode(&vec![1u32, 2], 100).unwrap();
        assert_eq!(view::<u32>(&bytes[..bytes.len() - 1]), None, "cut");
        assert!(decode::<Vec<u32>>(&Bytes::copy_from_slice(&bytes[..7])).is_err());
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(view::<u32>(&bytes), None, "longer than memory");
        assert!(decode::<Vec<u32>>(&bytes.into()).is_err());
        assert_eq!(view::<u8>(&[]), None);
        assert_eq!(String::view(&encode(&vec![0xFFu8], 100).unwrap()), None, "no text");
    }

    #[test]
    fn a_limit_is_kept() {
        assert_eq!(encode(&vec![0f32; 4], 23), Err(EncodeError::TooLarge { bytes: 24, max: 23 }));
        assert_eq!(encode(&vec![0f32; 4], 24).unwrap().len(), 24);
    }

    #[test]
    fn elements_are_read_where_they_lie_if_they_lie_straight() {
        let bytes = encode(&vec![1u64, 2], 100).unwrap();
        // Somewhere in 16 bytes the elements are aligned, and somewhere they are not.
        let mut padded = vec![0; bytes.len() + 16];
        let straight: Vec<bool> = (0..16)
            .map(|skew| {
                padded[skew..skew + bytes.len()].copy_from_slice(&bytes);
                match view::<u64>(&padded[skew..skew + bytes.len()]) {
                    Some(seen) => seen == [1, 2],
                    None => false,
                }
            })
            .collect();
        assert_eq!(straight.iter().filter(|straight| **straight).count(), 16 / align_of::<u64>());
    }
}
