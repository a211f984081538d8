//! GGUF, the file format of llama.cpp's models: metadata, then a table of tensors, then their bytes.
//!
//! ```text
//! "GGUF" version:u32 tensors:u64 keys:u64
//! (key:string kind:u32 value)*  (name:string dims:u32 dim:u64* format:u32 offset:u64)*
//! padding to general.alignment, then the tensors' bytes, each at its offset from here
//! ```
//!
//! Specification: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>; versions 2 and 3, little endian.
//!
//! Every length in a file may lie. So all arithmetic is checked, nothing is allocated that the file's own bytes do not
//! pay for, tensors must lie inside the file and apart from each other, and whatever is wrong is an [`Error`] that
//! names the value. After [`Gguf::open`] a tensor's bytes can be taken without a further check.
//!
//! This module knows nothing of any architecture: what the keys mean is said in [`crate::config`].

mod cursor;
mod value;
mod write;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use cursor::Cursor;
use mobula_kernels::{Dtype, MapError, MappedFile};
pub use value::{Array, Kind, Value};
pub use write::Writer;

/// Tensors and keys at most: the largest models of 2026 have some 3,000 tensors, so this is a bound on nonsense.
pub const ENTRIES_MAX: u64 = 65_536;
/// Dimensions of one tensor at most; ggml itself knows 4.
pub const DIMENSIONS_MAX: u32 = 8;
/// Bytes of one string at most. Chat templates are the longest and reach some 20 KiB.
pub const STRING_BYTES_MAX: u64 = 1 << 20;
/// Where tensors start when `general.alignment` is absent.
const ALIGNMENT_DEFAULT: u64 = 32;
/// A larger alignment than a huge page's small sister would only waste the file.
const ALIGNMENT_MAX: u64 = 65_536;

/// A model file, its directory read and checked.
///
/// ```
/// use mobula_kernels::Dtype;
/// use mobula_llm::gguf::{Gguf, Value, Writer};
///
/// let bytes = Writer::new()
///     .key("general.architecture", Value::String("llama".into()))
///     .tensor("output_norm.weight", &[2], Dtype::F32, vec![0, 0, 128, 63, 0, 0, 0, 64])
///     .finish();
/// let file = Gguf::from_bytes(bytes)?;
/// assert_eq!(file.string("general.architecture")?, "llama");
/// assert_eq!(file.floats_of("output_norm.weight")?, [1.0, 2.0]);
/// # Ok::<(), mobula_llm::gguf::Error>(())
/// ```
#[derive(Debug)]
pub struct Gguf {
    source: Source,
    directory: Directory,
}

/// One tensor of the file's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Elements per dimension, the contiguous one first: a weight `[columns, rows]`.
    pub dims: Vec<u64>,
    /// How its elements are stored.
    pub dtype: Dtype,
    /// Its bytes in the file, proven to lie inside it.
    pub range: Range<usize>,
}

impl Tensor {
    /// Elements of one row: the contiguous dimension.
    pub fn columns(&self) -> usize {
        self.dims[0] as usize
    }

    /// Rows: the product of all dimensions but the contiguous one.
    pub fn rows(&self) -> usize {
        self.dims[1..].iter().product::<u64>() as usize
    }
}

/// What is wrong with a model file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be opened or mapped.
    #[error(transparent)]
    Open(#[from] MapError),
    /// A model in memory was asked for its weights, which stay mapped.
    #[error("the weights of a model in memory cannot be multiplied, expected one opened from a file")]
    InMemory,
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file: it starts with the bytes {0:02x?}, expected 47 47 55 46 (\"GGUF\")")]
    Magic([u8; 4]),
    /// A version this reader does not know.
    #[error("GGUF version {0} is not supported, expected 2 or 3 in little endian")]
    Version(u32),
    /// The file ends before what it announces.
    #[error("{what} at byte {at} needs {need} bytes, but the file has only {left} left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where in the file.
        at: usize,
        /// Bytes it claims.
        need: u64,
        /// Bytes the file has from there on.
        left: usize,
    },
    /// A count or length beyond its limit.
    #[error("{what} is {value}, the limit is {limit}")]
    Limit {
        /// Which count.
        what: String,
        /// What the file says.
        value: u64,
        /// The most that is accepted.
        limit: u64,
    },
    /// Something in the file contradicts the format.
    #[error("{what}: {why}")]
    Malformed {
        /// Which key, tensor or field.
        what: String,
        /// What is wrong with it and what would be right.
        why: String,
    },
    /// A tensor's format cannot be multiplied here.
    #[error("tensor {tensor:?} has format {format}, supported: {supported}", supported = supported())]
    Format {
        /// The tensor.
        tensor: String,
        /// The format's name, or its number where it is unknown.
        format: String,
    },
    /// A key that is needed is absent.
    #[error("key {0:?} is missing")]
    MissingKey(String),
    /// A key holds another kind of value.
    #[error("key {key:?} is {found}, expected {expected}")]
    KeyKind {
        /// The key.
        key: String,
        /// What it holds.
        found: String,
        /// What was asked for.
        expected: &'static str,
    },
    /// A tensor that is needed is absent.
    #[error("tensor {0:?} is missing")]
    MissingTensor(String),
    /// A tensor has another shape than its role asks for.
    #[error("tensor {tensor:?} has dimensions {found:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its dimensions, contiguous first.
        found: Vec<u64>,
        /// What its role asks for.
        expected: Vec<u64>,
    },
}

impl Gguf {
    /// Maps a file and reads its directory.
    ///
    /// # Errors
    /// [`Error`] names what is wrong; nothing that a file holds makes this panic or allocate more than a small
    /// multiple of the file's directory.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = MappedFile::open(path)?;
        let directory = Directory::read(&file)?;
        Ok(Gguf { source: Source::Mapped(file), directory })
    }

    /// Reads a file that is already in memory, as tests make them.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, Error> {
        let directory = Directory::read(&bytes)?;
        Ok(Gguf { source: Source::Memory(bytes), directory })
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        match &self.source {
            Source::Mapped(file) => file,
            Source::Memory(bytes) => bytes,
        }
    }

    /// The value of a key, if the file has it.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.directory.values.get(key)
    }

    /// A key that holds a string.
    ///
    /// # Errors
    /// [`Error::MissingKey`] or [`Error::KeyKind`], as for all accessors of keys.
    pub fn string(&self, key: &str) -> Result<&str, Error> {
        match self.need(key)? {
            Value::String(s) => Ok(s),
            other => Err(kind_error(key, other, "a string")),
        }
    }

    /// A key that holds a whole number that is not negative, of any width.
    ///
    /// # Errors
    /// As [`Gguf::string`].
    pub fn unsigned(&self, key: &str) -> Result<u64, Error> {
        let value = self.need(key)?;
        match *value {
            Value::Unsigned(n) => Ok(n),
            Value::Signed(n) => u64::try_from(n).map_err(|_| kind_error(key, value, "a number that is not negative")),
            _ => Err(kind_error(key, value, "a whole number")),
        }
    }

    /// A key that holds a number with a point; whole numbers are taken too.
    ///
    /// # Errors
    /// As [`Gguf::string`].
    pub fn float(&self, key: &str) -> Result<f64, Error> {
        match self.need(key)? {
            Value::Float(x) => Ok(*x),
            Value::Unsigned(n) => Ok(*n as f64),
            Value::Signed(n) => Ok(*n as f64),
            other => Err(kind_error(key, other, "a number")),
        }
    }

    /// A key that holds true or false.
    ///
    /// # Errors
    /// As [`Gguf::string`].
    pub fn boolean(&self, key: &str) -> Result<bool, Error> {
        match self.need(key)? {
            Value::Bool(b) => Ok(*b),
            other => Err(kind_error(key, other, "true or false")),
        }
    }

    /// A key that holds a list of strings, borrowed from the file.
    ///
    /// # Errors
    /// As [`Gguf::string`], and [`Error::Malformed`] when one is not UTF-8.
    pub fn strings(&self, key: &str) -> Result<Vec<&str>, Error> {
        self.array(key, "a list of strings")?.strings(key, self.bytes())
    }

    /// A key that holds a list of whole numbers.
    ///
    /// # Errors
    /// As [`Gguf::string`].
    pub fn integers(&self, key: &str) -> Result<Vec<i64>, Error> {
        self.array(key, "a list of whole numbers")?.integers(key, self.bytes())
    }

    /// A key that holds a list of 32-bit floats.
    ///
    /// # Errors
    /// As [`Gguf::string`].
    pub fn floats(&self, key: &str) -> Result<Vec<f32>, Error> {
        self.array(key, "a list of 32-bit floats")?.floats(key, self.bytes())
    }

    /// All tensors in the order of the file's table.
    pub fn tensors(&self) -> &[Tensor] {
        &self.directory.tensors
    }

    /// The tensor of a name.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<&Tensor, Error> {
        let index = self.directory.index.get(name);
        index.map(|&i| &self.directory.tensors[i]).ok_or_else(|| Error::MissingTensor(name.to_owned()))
    }

    /// The tensor of a name, which must have these dimensions, the contiguous one first.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::Shape`].
    pub fn shaped(&self, name: &str, dims: &[u64]) -> Result<&Tensor, Error> {
        let tensor = self.tensor(name)?;
        if tensor.dims != dims {
            return Err(Error::Shape { tensor: name.to_owned(), found: tensor.dims.clone(), expected: dims.to_vec() });
        }
        Ok(tensor)
    }

    /// The matrix of a name, `[columns, rows]` as the file writes it, where it lies in the mapping.
    ///
    /// # Errors
    /// As [`Gguf::shaped`], and [`Error::InMemory`].
    pub fn matrix(&self, name: &str, columns: usize, rows: usize) -> Result<mobula_kernels::Tensor, Error> {
        let tensor = self.shaped(name, &[columns as u64, rows as u64])?;
        let Source::Mapped(file) = &self.source else {
            return Err(Error::InMemory);
        };
        mobula_kernels::Tensor::try_new(file.clone(), tensor.range.start, tensor.dtype, rows, columns)
            .map_err(|error| malformed(format!("tensor {name:?}"), &error.to_string()))
    }

    /// A tensor of F32, as numbers: norms and other small vectors.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], or [`Error::Malformed`] when it has another format.
    pub fn floats_of(&self, name: &str) -> Result<Vec<f32>, Error> {
        let tensor = self.tensor(name)?;
        if tensor.dtype != Dtype::F32 {
            let why = format!("has format {}, expected F32 for a vector of this role", tensor.dtype);
            return Err(Error::Malformed { what: format!("tensor {name:?}"), why });
        }
        let bytes = &self.bytes()[tensor.range.clone()];
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    fn need(&self, key: &str) -> Result<&Value, Error> {
        self.value(key).ok_or_else(|| Error::MissingKey(key.to_owned()))
    }

    fn array(&self, key: &str, expected: &'static str) -> Result<&Array, Error> {
        match self.need(key)? {
            Value::Array(array) => Ok(array),
            other => Err(kind_error(key, other, expected)),
        }
    }
}

/// Turns a missing key into `None`; every other error stays one.
///
/// # Errors
/// Whatever `found` holds besides [`Error::MissingKey`].
pub fn optional<T>(found: Result<T, Error>) -> Result<Option<T>, Error> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(Error::MissingKey(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn kind_error(key: &str, found: &Value, expected: &'static str) -> Error {
    Error::KeyKind { key: key.to_owned(), found: found.to_string(), expected }
}

/// Where the bytes are.
#[derive(Debug)]
enum Source {
    Mapped(MappedFile),
    Memory(Vec<u8>),
}

/// Keys and tensors of a file, apart from the file.
#[derive(Debug)]
struct Directory {
    values: HashMap<String, Value>,
    tensors: Vec<Tensor>,
    index: HashMap<String, usize>,
}

impl Directory {
    fn read(bytes: &[u8]) -> Result<Self, Error> {
        let mut cursor = Cursor::new(bytes);
        let magic: [u8; 4] = cursor.array("the magic number")?;
        if &magic != b"GGUF" {
            return Err(Error::Magic(magic));
        }
        let version = cursor.u32("the version")?;
        if !matches!(version, 2 | 3) {
            return Err(Error::Version(version));
        }
        let tensor_count = limited("the count of tensors", cursor.u64("the count of tensors")?, ENTRIES_MAX)?;
        let key_count = limited("the count of keys", cursor.u64("the count of keys")?, ENTRIES_MAX)?;

        let mut values = HashMap::new();
        for _ in 0..key_count {
            let key = cursor.string("a key")?.to_owned();
            let value = Value::read(&mut cursor, &key)?;
            if values.insert(key.clone(), value).is_some() {
                return Err(malformed(format!("key {key:?}"), "appears twice"));
            }
        }
        let alignment = match values.get("general.alignment") {
            None => ALIGNMENT_DEFAULT,
            Some(Value::Unsigned(n)) if n.is_power_of_two() && (8..=ALIGNMENT_MAX).contains(n) => *n,
            Some(other) => {
                let why = format!("is {other}, expected a power of two from 8 to {ALIGNMENT_MAX}");
                return Err(malformed("key \"general.alignment\"".into(), &why));
            }
        };

        let mut tensors = Vec::new();
        let mut index = HashMap::new();
        for i in 0..tensor_count as usize {
            let tensor = read_tensor(&mut cursor)?;
            if index.insert(tensor.name.clone(), i).is_some() {
                return Err(malformed(format!("tensor {:?}", tensor.name), "appears twice"));
            }
            tensors.push(tensor);
        }
        // The directory may end exactly at the file's end when there are no tensors, without its padding.
        let data_start = (cursor.at() as u64).next_multiple_of(alignment);
        for tensor in &mut tensors {
            place(tensor, data_start, alignment, bytes.len())?;
        }
        refuse_overlap(&tensors)?;
        Ok(Directory { values, tensors, index })
    }
}

/// Reads one entry of the table. Its range is still relative to the start of the data.
fn read_tensor(cursor: &mut Cursor<'_>) -> Result<Tensor, Error> {
    let name = cursor.string("a tensor's name")?.to_owned();
    let what = || format!("tensor {name:?}");
    let dim_count = cursor.u32("a tensor's count of dimensions")?;
    if !(1..=DIMENSIONS_MAX).contains(&dim_count) {
        return Err(malformed(what(), &format!("has {dim_count} dimensions, expected 1 to {DIMENSIONS_MAX}")));
    }
    let dims: Vec<u64> = (0..dim_count).map(|_| cursor.u64("a tensor's dimension")).collect::<Result<_, _>>()?;
    let number = cursor.u32("a tensor's format")?;
    let dtype = dtype_of(number).map_err(|format| Error::Format { tensor: name.clone(), format })?;
    let offset = cursor.u64("a tensor's offset")?;

    if dims[0] == 0 || !dims[0].is_multiple_of(dtype.block_len() as u64) {
        let why = format!("has rows of {} elements, expected a multiple of {} for {dtype}", dims[0], dtype.block_len());
        return Err(malformed(what(), &why));
    }
    let bytes = dims[1..]
        .iter()
        .try_fold(dims[0] / dtype.block_len() as u64, |n, &dim| n.checked_mul(dim))
        .filter(|&blocks| blocks > 0)
        .and_then(|blocks| blocks.checked_mul(dtype.block_bytes() as u64))
        .ok_or_else(|| malformed(what(), &format!("has impossible dimensions {dims:?}")))?;
    let end = offset.checked_add(bytes).filter(|&end| usize::try_from(end).is_ok());
    let end = end.ok_or_else(|| malformed(what(), &format!("has an impossible offset {offset}")))?;
    Ok(Tensor { name, dims, dtype, range: offset as usize..end as usize })
}

/// Moves a tensor's range from the start of the data to the start of the file, and proves it inside.
fn place(tensor: &mut Tensor, data_start: u64, alignment: u64, file_len: usize) -> Result<(), Error> {
    let Range { start, end } = tensor.range;
    if !(start as u64).is_multiple_of(alignment) {
        let why = format!("starts at offset {start}, expected a multiple of {alignment}");
        return Err(malformed(format!("tensor {:?}", tensor.name), &why));
    }
    let moved = |at: usize| (at as u64).checked_add(data_start).filter(|&at| at <= file_len as u64);
    match (moved(start), moved(end)) {
        (Some(start), Some(end)) => {
            tensor.range = start as usize..end as usize;
            Ok(())
        }
        _ => {
            let why = format!(
                "ends {end} bytes after the start of the data at {data_start}, but the file has {file_len} bytes"
            );
            Err(malformed(format!("tensor {:?}", tensor.name), &why))
        }
    }
}

fn refuse_overlap(tensors: &[Tensor]) -> Result<(), Error> {
    let mut sorted: Vec<&Tensor> = tensors.iter().collect();
    sorted.sort_by_key(|t| t.range.start);
    for pair in sorted.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            let why = format!("overlaps tensor {:?}", pair[0].name);
            return Err(malformed(format!("tensor {:?}", pair[1].name), &why));
        }
    }
    Ok(())
}

/// ggml's numbers and names (`enum ggml_type` in ggml.h), so that what is refused is refused by name.
const GGML_TYPES: [(u32, &str); 32] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (8, "Q8_0"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (30, "BF16"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// The format of ggml's number, or the name of one that is not supported.
fn dtype_of(number: u32) -> Result<Dtype, String> {
    let Some((_, name)) = GGML_TYPES.iter().find(|(n, _)| *n == number) else {
        return Err(format!("number {number}"));
    };
    Dtype::ALL.into_iter().find(|dtype| dtype.name() == *name).ok_or_else(|| (*name).to_owned())
}

/// ggml's number of a format.
fn number_of(dtype: Dtype) -> u32 {
    let entry = GGML_TYPES.iter().find(|(_, name)| *name == dtype.name());
    entry.map(|(number, _)| *number).expect("every format is in the table")
}

fn supported() -> String {
    Dtype::ALL.map(Dtype::name).join(", ")
}

fn limited(what: &str, value: u64, limit: u64) -> Result<u64, Error> {
    if value > limit {
        return Err(Error::Limit { what: what.to_owned(), value, limit });
    }
    Ok(value)
}

fn malformed(what: String, why: &str) -> Error {
    Error::Malformed { what, why: why.to_owned() }
}

#[cfg(test)]
mod tests;
