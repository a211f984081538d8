//! Reads the layout for serde, bounded in memory, depth and steps by the bytes that are there.
//!
//! Knows no types of ours. Never takes memory for what has only been announced: a list's size hint is at most the bytes
//! left, text and byte strings are handed over as slices of the input.

use std::fmt;

use serde::de::value::U32Deserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::{DEPTH_MAX, DecodeError, EMPTY_ELEMENTS_MAX};

/// What is left to read, and how much nesting and emptiness is left to bear.
pub(super) struct Decoder<'de> {
    bytes: &'de [u8],
    depth_left: usize,
    empty_elements_left: usize,
}

impl<'de> Decoder<'de> {
    pub(super) fn new(bytes: &'de [u8]) -> Self {
        Self { bytes, depth_left: DEPTH_MAX, empty_elements_left: EMPTY_ELEMENTS_MAX }
    }

    /// The bytes not read yet.
    pub(super) fn rest(&self) -> &'de [u8] {
        self.bytes
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some((front, rest)) = self.bytes.split_first_chunk::<N>() else {
            return Err(DecodeError::UnexpectedEnd { wanted: N as u64, left: self.bytes.len() });
        };
        self.bytes = rest;
        Ok(*front)
    }

    /// Byte strings and text: a length, then that many bytes.
    fn take_counted(&mut self) -> Result<&'de [u8], DecodeError> {
        let wanted = u64::from_le_bytes(self.take()?);
        let split = usize::try_from(wanted).ok().and_then(|len| self.bytes.split_at_checked(len));
        let Some((front, rest)) = split else {
            return Err(DecodeError::UnexpectedEnd { wanted, left: self.bytes.len() });
        };
        self.bytes = rest;
        Ok(front)
    }

    fn take_str(&mut self) -> Result<&'de str, DecodeError> {
        str::from_utf8(self.take_counted()?).map_err(|error| DecodeError::Utf8 { valid_bytes: error.valid_up_to() })
    }

    fn take_char(&mut self) -> Result<char, DecodeError> {
        let left = self.bytes.len();
        let &first = self.bytes.first().ok_or(DecodeError::UnexpectedEnd { wanted: 1, left })?;
        // The number of leading ones says how many bytes a character takes in UTF-8.
        let width = first.leading_ones().max(1) as usize;
        let wanted = self.bytes.get(..width).ok_or(DecodeError::UnexpectedEnd { wanted: width as u64, left })?;
        let text = str::from_utf8(wanted).map_err(|_| DecodeError::Utf8 { valid_bytes: 0 })?;
        self.bytes = &self.bytes[width..];
        text.chars().next().ok_or(DecodeError::Utf8 { valid_bytes: 0 })
    }

    /// How many elements follow. Each takes a byte or counts against the empty ones, so no lie makes us count for long.
    fn take_len(&mut self) -> Result<usize, DecodeError> {
        let len = u64::from_le_bytes(self.take()?);
        let most = self.bytes.len() + self.empty_elements_left;
        usize::try_from(len).ok().filter(|&len| len <= most).ok_or(DecodeError::Length { len, left: self.bytes.len() })
    }

    /// Goes one level down. Recursive types come by here at every turn, whatever they are made of.
    #[inline]
    fn nested<R>(&mut self, read: impl FnOnce(&mut Self) -> Result<R, DecodeError>) -> Result<R, DecodeError> {
        self.depth_left = self.depth_left.checked_sub(1).ok_or(DecodeError::Depth { max: DEPTH_MAX })?;
        let result = read(self);
        self.depth_left += 1;
        result
    }

    fn elements<V: Visitor<'de>>(&mut self, len: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.nested(|decoder| visitor.visit_seq(Elements { decoder, left: len }))
    }
}

macro_rules! deserialize_numbers {
    ($($method:ident $visit:ident $number:ty),*) => {
        $(
            #[inline]
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
                visitor.$visit(<$number>::from_le_bytes(self.take()?))
            }
        )*
    };
}

macro_rules! refuse {
    ($($method:ident $asked:literal),*) => {
        $(
            fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, DecodeError> {
                Err(DecodeError::NotSelfDescribing { asked: $asked })
            }
        )*
    };
}

impl<'de> Deserializer<'de> for &mut Decoder<'de> {
    type Error = DecodeError;

    deserialize_numbers! {
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_i128 visit_i128 i128,
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64, deserialize_u128 visit_u128 u128,
        deserialize_f32 visit_f32 f32, deserialize_f64 visit_f64 f64
    }

    refuse! { deserialize_any "any", deserialize_ignored_any "ignored_any", deserialize_identifier "identifier" }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.take()? {
            [0] => visitor.visit_bool(false),
            [1] => visitor.visit_bool(true),
            [found] => Err(DecodeError::Bool { found }),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_char(self.take_char()?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_borrowed_str(self.take_str()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_borrowed_str(self.take_str()?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_borrowed_bytes(self.take_counted()?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_borrowed_bytes(self.take_counted()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.take()? {
            [0] => visitor.visit_none(),
            [1] => self.nested(|decoder| visitor.visit_some(decoder)),
            [found] => Err(DecodeError::OptionTag { found }),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        self.nested(|decoder| visitor.visit_newtype_struct(decoder))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let len = self.take_len()?;
        self.elements(len, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.elements(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.elements(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let len = self.take_len()?;
        self.nested(|decoder| visitor.visit_map(Elements { decoder, left: len }))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.elements(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.nested(|decoder| visitor.visit_enum(decoder))
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The elements of a list or tuple, or the entries of a map, that are still to come.
struct Elements<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    left: usize,
}

impl<'de> Elements<'_, 'de> {
    #[inline]
    fn next<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let before = self.decoder.bytes.len();
        let value = seed.deserialize(&mut *self.decoder)?;
        if self.decoder.bytes.len() == before {
            let left = self.decoder.empty_elements_left.checked_sub(1);
            self.decoder.empty_elements_left = left.ok_or(DecodeError::EmptyElements { max: EMPTY_ELEMENTS_MAX })?;
        }
        Ok(Some(value))
    }

    /// Never more than the bytes left: what was only announced takes no memory.
    fn hint(&self) -> Option<usize> {
        Some(self.left.min(self.decoder.bytes.len()))
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = DecodeError;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        self.next(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> MapAccess<'de> for Elements<'_, 'de> {
    type Error = DecodeError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        self.next(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, DecodeError> {
        seed.deserialize(&mut *self.decoder)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> EnumAccess<'de> for &mut Decoder<'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), DecodeError> {
        let index: U32Deserializer<DecodeError> = u32::from_le_bytes(self.take()?).into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> VariantAccess<'de> for &mut Decoder<'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, DecodeError> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.elements(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.elements(fields.len(), visitor)
    }
}

impl Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let mut message = message.to_string();
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        Self::Value { message }
    }
}

/// What a type says about bytes it refuses may quote them, and those may be the whole payload.
const MESSAGE_BYTES_MAX: usize = 1024;
