//! Writes small GGUF files of version 3, for tests and demos: all of it in memory, nothing checked.

use mobula_kernels::Dtype;

use super::{ALIGNMENT_DEFAULT, Kind, Value, number_of};

/// Collects keys and tensors, then lays the file out.
///
/// What it writes is what it was given, also nonsense: the reader's tests need lying files.
#[derive(Debug, Default, Clone)]
pub struct Writer {
    keys: Vec<u8>,
    key_count: u64,
    tensors: Vec<(String, Vec<u64>, Dtype, Vec<u8>)>,
}

impl Writer {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key with one value.
    ///
    /// # Panics
    /// On a [`Value::Array`], which only names a place in a file: lists have methods of their own.
    pub fn key(mut self, key: &str, value: Value) -> Self {
        let (kind, bytes) = match value {
            Value::Unsigned(n) if n <= u32::MAX.into() => (Kind::U32, (n as u32).to_le_bytes().to_vec()),
            Value::Unsigned(n) => (Kind::U64, n.to_le_bytes().to_vec()),
            Value::Signed(n) => (Kind::I64, n.to_le_bytes().to_vec()),
            Value::Float(x) => (Kind::F32, (x as f32).to_le_bytes().to_vec()),
            Value::Bool(b) => (Kind::Bool, vec![b.into()]),
            Value::String(s) => (Kind::String, string(&s)),
            Value::Array(_) => panic!("write a list with Writer::strings or Writer::integers"),
        };
        self.head(key, kind);
        self.keys.extend(bytes);
        self
    }

    /// Adds a key with a list of strings.
    pub fn strings<S: AsRef<str>>(mut self, key: &str, values: &[S]) -> Self {
        self.list(key, Kind::String, values.len());
        values.iter().for_each(|s| self.keys.extend(string(s.as_ref())));
        self
    }

    /// Adds a key with a list of 32-bit whole numbers.
    pub fn integers(mut self, key: &str, values: &[i32]) -> Self {
        self.list(key, Kind::I32, values.len());
        values.iter().for_each(|n| self.keys.extend(n.to_le_bytes()));
        self
    }

    /// Adds a tensor of `dims` (the contiguous one first) with the bytes of its elements.
    pub fn tensor(mut self, name: &str, dims: &[u64], dtype: Dtype, bytes: Vec<u8>) -> Self {
        self.tensors.push((name.to_owned(), dims.to_vec(), dtype, bytes));
        self
    }

    /// The file's bytes.
    pub fn finish(self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend(self.key_count.to_le_bytes());
        file.extend(self.keys);
        let mut data = Vec::new();
        for (name, dims, dtype, bytes) in self.tensors {
            pad(&mut data);
            file.extend(string(&name));
            file.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|dim| file.extend(dim.to_le_bytes()));
            file.extend(number_of(dtype).to_le_bytes());
            file.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
        }
        pad(&mut file);
        file.extend(data);
        file
    }

    fn list(&mut self, key: &str, kind: Kind, len: usize) {
        self.head(key, Kind::Array);
        self.keys.extend((kind as u32).to_le_bytes());
        self.keys.extend((len as u64).to_le_bytes());
    }

    fn head(&mut self, key: &str, kind: Kind) {
        self.key_count += 1;
        self.keys.extend(string(key));
        self.keys.extend((kind as u32).to_le_bytes());
    }
}

fn string(s: &str) -> Vec<u8> {
    let mut bytes = (s.len() as u64).to_le_bytes().to_vec();
    bytes.extend(s.as_bytes());
    bytes
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT_DEFAULT as usize), 0);
}
