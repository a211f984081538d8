//! Reads little-endian fields off a slice, and never past its end.

use super::{Error, STRING_BYTES_MAX, malformed};

/// A place in the file.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    /// The next byte's index.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: u64, what: &'static str) -> Result<&'a [u8], Error> {
        let left = self.bytes.len() - self.at;
        if len > left as u64 {
            return Err(Error::Truncated { what, at: self.at, need: len, left });
        }
        let taken = &self.bytes[self.at..self.at + len as usize];
        self.at += len as usize;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Error> {
        let bytes = self.take(N as u64, what)?;
        Ok(bytes.try_into().expect("take gives exactly N bytes"))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, Error> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, Error> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A string: its length as u64, then its bytes.
    pub(super) fn string_bytes(&mut self, what: &'static str) -> Result<&'a [u8], Error> {
        let len = self.u64(what)?;
        if len > STRING_BYTES_MAX {
            let what = format!("the length of {what} at byte {}", self.at);
            return Err(Error::Limit { what, value: len, limit: STRING_BYTES_MAX });
        }
        self.take(len, what)
    }

    pub(super) fn string(&mut self, what: &'static str) -> Result<&'a str, Error> {
        let at = self.at;
        let bytes = self.string_bytes(what)?;
        std::str::from_utf8(bytes)
            .map_err(|error| malformed(format!("{what} at byte {at}"), &format!("is not UTF-8: {error}")))
    }
}
