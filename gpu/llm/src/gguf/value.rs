//! Values of the metadata. Scalars are read at once; lists stay in the file and are read when asked for, so that a
//! vocabulary of 150,000 strings costs nothing until the tokenizer wants it.

use std::fmt;
use std::ops::Range;

use super::cursor::Cursor;
use super::{Error, kind_error, malformed};

/// The value of a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number written as u8, u16, u32 or u64.
    Unsigned(u64),
    /// A whole number written as i8, i16, i32 or i64.
    Signed(i64),
    /// A number written as f32 or f64.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// UTF-8 text of at most 1 MiB.
    String(String),
    /// A list, still in the file.
    Array(Array),
}

/// A list of values of one kind: where it lies in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    pub(super) kind: Kind,
    pub(super) len: usize,
    pub(super) range: Range<usize>,
}

/// The kinds of value as they are written, with GGUF's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)] // The names are Rust's own.
pub enum Kind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl Value {
    /// Reads the kind and the value of `key`, whose name is for errors only.
    pub(super) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, Error> {
        let kind = Kind::read(cursor, key)?;
        if kind != Kind::Array {
            return Self::scalar(cursor, kind, key);
        }
        let kind = Kind::read(cursor, key)?;
        let len = cursor.u64("the length of a list")?;
        let start = cursor.at();
        match kind.bytes() {
            Some(width) => {
                let bytes = len.saturating_mul(width);
                cursor.take(bytes, "a list")?;
            }
            None if kind == Kind::String => {
                // Every string takes at least its length of 8 bytes, so a lying count ends at the file's end.
                for _ in 0..len {
                    cursor.string_bytes("a string of a list")?;
                }
            }
            None => {
                return Err(malformed(format!("key {key:?}"), "is a list of lists, which no known model uses"));
            }
        }
        Ok(Value::Array(Array { kind, len: len as usize, range: start..cursor.at() }))
    }

    fn scalar(cursor: &mut Cursor<'_>, kind: Kind, key: &str) -> Result<Self, Error> {
        const WHAT: &str = "a value";
        Ok(match kind {
            Kind::U8 => Value::Unsigned(u8::from_le_bytes(cursor.array(WHAT)?).into()),
            Kind::I8 => Value::Signed(i8::from_le_bytes(cursor.array(WHAT)?).into()),
            Kind::U16 => Value::Unsigned(u16::from_le_bytes(cursor.array(WHAT)?).into()),
            Kind::I16 => Value::Signed(i16::from_le_bytes(cursor.array(WHAT)?).into()),
            Kind::U32 => Value::Unsigned(u32::from_le_bytes(cursor.array(WHAT)?).into()),
            Kind::I32 => Value::Signed(i32::from_le_bytes(cursor.array(WHAT)?).into()),
            Kind::U64 => Value::Unsigned(u64::from_le_bytes(cursor.array(WHAT)?)),
            Kind::I64 => Value::Signed(i64::from_le_bytes(cursor.array(WHAT)?)),
            Kind::F32 => Value::Float(f32::from_le_bytes(cursor.array(WHAT)?).into()),
            Kind::F64 => Value::Float(f64::from_le_bytes(cursor.array(WHAT)?)),
            Kind::Bool => match cursor.array(WHAT)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => {
                    return Err(malformed(
                        format!("key {key:?}"),
                        &format!("is the truth value {other}, expected 0 or 1"),
                    ));
                }
            },
            Kind::String => Value::String(cursor.string("a value")?.to_owned()),
            Kind::Array => unreachable!("lists are read by Value::read"),
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Unsigned(n) => write!(f, "the number {n}"),
            Value::Signed(n) => write!(f, "the number {n}"),
            Value::Float(x) => write!(f, "the number {x}"),
            Value::Bool(b) => write!(f, "{b}"),
            // Enough to recognise it; a template would fill the terminal.
            Value::String(s) => {
                write!(f, "the string {:?}", s.chars().take(64).collect::<String>())
            }
            Value::Array(a) => write!(f, "a list of {} values of {:?}", a.len, a.kind),
        }
    }
}

impl Array {
    /// Reads the strings off `file`.
    pub(super) fn strings<'a>(&self, key: &str, file: &'a [u8]) -> Result<Vec<&'a str>, Error> {
        if self.kind != Kind::String {
            return Err(kind_error(key, &Value::Array(self.clone()), "a list of strings"));
        }
        let mut cursor = Cursor::new(&file[self.range.clone()]);
        (0..self.len).map(|_| cursor.string("a string of a list")).collect()
    }

    /// Reads whole numbers of any width.
    pub(super) fn integers(&self, key: &str, file: &[u8]) -> Result<Vec<i64>, Error> {
        let mut cursor = Cursor::new(&file[self.range.clone()]);
        let number = |_| match Value::scalar(&mut cursor, self.kind, key)? {
            Value::Signed(n) => Ok(n),
            Value::Unsigned(n) => i64::try_from(n)
                .map_err(|_| malformed(format!("key {key:?}"), &format!("holds {n}, which is too large"))),
            _ => Err(kind_error(key, &Value::Array(self.clone()), "a list of whole numbers")),
        };
        (0..self.len).map(number).collect()
    }

    /// Reads 32-bit floats.
    pub(super) fn floats(&self, key: &str, file: &[u8]) -> Result<Vec<f32>, Error> {
        if self.kind != Kind::F32 {
            return Err(kind_error(key, &Value::Array(self.clone()), "a list of 32-bit floats"));
        }
        let bytes = &file[self.range.clone()];
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}

impl Kind {
    fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, Error> {
        let number = cursor.u32("the kind of a value")?;
        Self::ALL.iter().copied().find(|&kind| kind as u32 == number).ok_or_else(|| {
            malformed(format!("key {key:?}"), &format!("has a value of kind {number}, expected 0 to 12"))
        })
    }

    const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::String,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    /// Bytes of one value, where they do not depend on the value.
    fn bytes(self) -> Option<u64> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::String | Kind::Array => None,
        }
    }
}
