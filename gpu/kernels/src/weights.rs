//! A weight matrix as it lies in memory, borrowed ([`Weights`]) or held by its file ([`Tensor`]).
//!
//! Both are a [`Layout`] over bytes, and all checks of sizes live there: a layout that exists lies inside its bytes,
//! which is what the kernels' pointer arithmetic rests on. Nothing is copied, nothing is converted.
//!
//! A matrix is `[rows, cols]`, row after row, `row_stride_bytes` apart. The stride exceeds the row's own bytes where a
//! shard takes a range of blocks of every row (a split of the columns); a split of the rows stays contiguous.

use std::ops::Range;

use crate::{Dtype, MappedFile};

/// Why a matrix cannot lie where it is said to lie.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// A matrix has at least one row and one column.
    #[error("a matrix of {rows} rows and {cols} columns holds nothing")]
    Empty {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },
    /// A row must be whole blocks.
    #[error("column {col} is not on a block edge of {dtype}, a multiple of {}", dtype.block_len())]
    Misaligned {
        /// The first or last column, or the count of columns.
        col: usize,
        /// The format of the matrix.
        dtype: Dtype,
    },
    /// Rows may not overlap.
    #[error("rows of {row_bytes} bytes cannot lie {stride} bytes apart")]
    StrideTooSmall {
        /// Bytes of one row.
        row_bytes: usize,
        /// The stride asked for.
        stride: usize,
    },
    /// The matrix ends after the bytes do, or past every address.
    #[error("{rows} × {cols} of {dtype}, rows {stride} bytes apart, from byte {offset} on, do not fit in {len} bytes")]
    OutOfBytes {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
        /// The format of the matrix.
        dtype: Dtype,
        /// Bytes between the starts of two rows.
        stride: usize,
        /// Where the matrix starts.
        offset: usize,
        /// How many bytes there are.
        len: usize,
    },
    /// The slice asks for what the matrix does not have.
    #[error("{start}..{end} is no range within 0..{len}", start = range.start, end = range.end)]
    OutOfRange {
        /// The range asked for.
        range: Range<usize>,
        /// Rows or columns that there are.
        len: usize,
    },
}

/// A borrowed matrix `[rows, cols]` of `dtype`.
///
/// ```
/// use mobula_kernels::{Dtype, Weights};
///
/// let bytes = [0u8; 2 * 2 * 20];
/// let w = Weights::try_new(Dtype::Q4_1, 2, 64, &bytes, 40)?;
/// let half = w.slice_cols(32..64)?;
/// assert_eq!((half.rows(), half.cols(), half.weight_bytes()), (2, 32, 40));
/// assert!(w.slice_cols(0..48).is_err());
/// # Ok::<(), mobula_kernels::WeightsError>(())
/// ```
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    layout: Layout,
    bytes: &'a [u8],
}

impl<'a> Weights<'a> {
    /// A matrix that starts at the first of `bytes`, its rows `row_stride_bytes` apart.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] for every size that does not describe a matrix inside `bytes`.
    pub fn try_new(
        dtype: Dtype,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
        row_stride_bytes: usize,
    ) -> Result<Self, WeightsError> {
        let layout = Layout::try_new(dtype, rows, cols, 0, row_stride_bytes, bytes.len())?;
        Ok(Self { layout, bytes })
    }

    /// The rows `range`, all columns.
    ///
    /// # Errors
    ///
    /// [`WeightsError::OutOfRange`] or [`WeightsError::Empty`].
    pub fn slice_rows(&self, range: Range<usize>) -> Result<Self, WeightsError> {
        Ok(Self { layout: self.layout.slice_rows(range)?, bytes: self.bytes })
    }

    /// The columns `range` of every row.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Misaligned`] when the range cuts a block, else as [`Weights::slice_rows`].
    pub fn slice_cols(&self, range: Range<usize>) -> Result<Self, WeightsError> {
        Ok(Self { layout: self.layout.slice_cols(range)?, bytes: self.bytes })
    }

    /// The bytes of row `row`, without what lies between rows.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &'a [u8] {
        let Layout { rows, offset, stride, .. } = self.layout;
        assert!(row < rows, "row {row} of {rows}");
        &self.bytes[offset + row * stride..][..self.layout.row_bytes()]
    }
}

/// A matrix `[rows, cols]` of `dtype` in a mapped file, which it keeps alive.
///
/// What a model holds: [`Tensor::view`] gives the [`Weights`] for a multiplication. Clones and slices share the mapping.
#[derive(Clone)]
pub struct Tensor {
    layout: Layout,
    file: MappedFile,
}

impl Tensor {
    /// A contiguous matrix that starts at byte `offset` of `file`.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] for every size that does not describe a matrix inside the file.
    pub fn try_new(
        file: MappedFile,
        offset: usize,
        dtype: Dtype,
        rows: usize,
        cols: usize,
    ) -> Result<Self, WeightsError> {
        let misaligned = WeightsError::Misaligned { col: cols, dtype };
        let stride = dtype.row_bytes(cols).ok_or(misaligned)?;
        let layout = Layout::try_new(dtype, rows, cols, offset, stride, file.bytes().len())?;
        Ok(Self { layout, file })
    }

    /// The rows `range`, all columns.
    ///
    /// # Errors
    ///
    /// As [`Weights::slice_rows`].
    pub fn slice_rows(&self, range: Range<usize>) -> Result<Self, WeightsError> {
        Ok(Self { layout: self.layout.slice_rows(range)?, file: self.file.clone() })
    }

    /// The columns `range` of every row.
    ///
    /// # Errors
    ///
    /// As [`Weights::slice_cols`].
    pub fn slice_cols(&self, range: Range<usize>) -> Result<Self, WeightsError> {
        Ok(Self { layout: self.layout.slice_cols(range)?, file: self.file.clone() })
    }

    /// The matrix, ready to be multiplied.
    pub fn view(&self) -> Weights<'_> {
        Weights { layout: self.layout, bytes: self.file.bytes() }
    }
}

/// The same questions for both.
macro_rules! describe {
    ($($owner:ty),*) => {$(
        impl $owner {
            /// The format.
            pub fn dtype(&self) -> Dtype {
                self.layout.dtype
            }

            /// Rows: outputs of the multiplication.
            pub fn rows(&self) -> usize {
                self.layout.rows
            }

            /// Columns: inputs of the multiplication.
            pub fn cols(&self) -> usize {
                self.layout.cols
            }

            /// Bytes between the starts of two rows.
            pub fn row_stride_bytes(&self) -> usize {
                self.layout.stride
            }

            /// Bytes that a multiplication reads: those of the rows, without what lies between them.
            pub fn weight_bytes(&self) -> usize {
                self.layout.rows * self.layout.row_bytes()
            }
        }

        impl std::fmt::Debug for $owner {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.layout.fmt(f)
            }
        }
    )*};
}
describe!(Weights<'_>, Tensor);

/// Where a matrix lies in some bytes.
///
/// LAYOUT-1: every byte of every row, `offset + row · stride .. + row_bytes`, lies inside the bytes it was checked
/// against, for `row < rows`; slices keep it. The constructors are the only way to make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    dtype: Dtype,
    rows: usize,
    cols: usize,
    offset: usize,
    stride: usize,
}

impl Layout {
    fn try_new(
        dtype: Dtype,
        rows: usize,
        cols: usize,
        offset: usize,
        stride: usize,
        len: usize,
    ) -> Result<Self, WeightsError> {
        if rows == 0 || cols == 0 {
            return Err(WeightsError::Empty { rows, cols });
        }
        if !cols.is_multiple_of(dtype.block_len()) {
            return Err(WeightsError::Misaligned { col: cols, dtype });
        }
        let out_of_bytes = WeightsError::OutOfBytes { rows, cols, dtype, stride, offset, len };
        let Some(row_bytes) = dtype.row_bytes(cols) else {
            return Err(out_of_bytes);
        };
        if stride < row_bytes {
            return Err(WeightsError::StrideTooSmall { row_bytes, stride });
        }
        let end = (rows - 1)
            .checked_mul(stride)
            .and_then(|last_row| last_row.checked_add(row_bytes))
            .and_then(|bytes| bytes.checked_add(offset));
        match end {
            Some(end) if end <= len => Ok(Self { dtype, rows, cols, offset, stride }),
            _ => Err(out_of_bytes),
        }
    }

    fn slice_rows(self, range: Range<usize>) -> Result<Self, WeightsError> {
        let rows = checked_len(&range, self.rows)?;
        if rows == 0 {
            return Err(WeightsError::Empty { rows, cols: self.cols });
        }
        Ok(Self { rows, offset: self.offset + range.start * self.stride, ..self })
    }

    fn slice_cols(self, range: Range<usize>) -> Result<Self, WeightsError> {
        let cols = checked_len(&range, self.cols)?;
        if cols == 0 {
            return Err(WeightsError::Empty { rows: self.rows, cols });
        }
        let Self { dtype, .. } = self;
        for col in [range.start, range.end] {
            if !col.is_multiple_of(dtype.block_len()) {
                return Err(WeightsError::Misaligned { col, dtype });
            }
        }
        let skipped_bytes = range.start / dtype.block_len() * dtype.block_bytes();
        Ok(Self { cols, offset: self.offset + skipped_bytes, ..self })
    }

    fn row_bytes(&self) -> usize {
        self.dtype.row_bytes(self.cols).expect("checked by the constructors")
    }
}

/// The length of `range` if it lies within `0..len`.
fn checked_len(range: &Range<usize>, len: usize) -> Result<usize, WeightsError> {
    if range.start > range.end || range.end > len {
        return Err(WeightsError::OutOfRange { range: range.clone(), len });
    }
    Ok(range.end - range.start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dtypes() -> impl Strategy<Value = Dtype> {
        proptest::sample::select(&Dtype::ALL[..])
    }

    /// Small sizes, sizes about a block, and sizes that overflow.
    fn sizes() -> impl Strategy<Value = usize> {
        prop_oneof![
            0..200usize,
            Just(usize::MAX),
            Just(usize::MAX - 31),
            Just(usize::MAX / 2),
            Just(1 << 32),
            any::<usize>()
        ]
    }

    #[test]
    fn slices_are_the_bytes_of_their_rows() {
        let bytes: Vec<u8> = (0..=255).cycle().take(3 * 60 + 7).collect();
        let w = Weights::try_new(Dtype::Q4_1, 3, 96, &bytes, 60).unwrap();
        assert_eq!(w.row(1), &bytes[60..120]);
        let part = w.slice_rows(1..3).unwrap().slice_cols(32..64).unwrap();
        assert_eq!(part.row(0), &bytes[80..100]);
        assert_eq!(part.row(1), &bytes[140..160]);
        assert_eq!((part.weight_bytes(), part.row_stride_bytes()), (40, 60));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let bytes = [0; 80];
        let matrix = |rows, cols, stride| Weights::try_new(Dtype::Q4_1, rows, cols, &bytes, stride);
        let w = matrix(2, 64, 40).unwrap();
        let message = |e: WeightsError| e.to_string();
        assert_eq!(message(matrix(0, 64, 40).unwrap_err()), "a matrix of 0 rows and 64 columns holds nothing");
        assert_eq!(
            message(matrix(2, 48, 40).unwrap_err()),
            "column 48 is not on a block edge of Q4_1, a multiple of 32"
        );
        assert_eq!(message(matrix(2, 64, 39).unwrap_err()), "rows of 40 bytes cannot lie 39 bytes apart");
        assert_eq!(
            message(matrix(3, 64, 40).unwrap_err()),
            "3 × 64 of Q4_1, rows 40 bytes apart, from byte 0 on, do not fit in 80 bytes"
        );
        assert_eq!(message(w.slice_rows(1..3).unwrap_err()), "1..3 is no range within 0..2");
        #[allow(clippy::reversed_empty_ranges, reason = "that is the test")]
        let reversed = w.slice_rows(2..1).unwrap_err();
        assert!(matches!(reversed, WeightsError::OutOfRange { .. }));
        assert!(matches!(w.slice_rows(1..1), Err(WeightsError::Empty { .. })));
        assert!(matches!(w.slice_cols(0..16), Err(WeightsError::Misaligned { col: 16, .. })));
    }

    #[test]
    fn a_tensor_keeps_its_file_mapped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = MappedFile::open(&path).unwrap();
        let tensor = Tensor::try_new(file.clone(), 100, Dtype::Q8_0, 4, 64).unwrap();
        let part = tensor.slice_rows(1..2).unwrap().slice_cols(32..64).unwrap();
        drop((file, tensor));
        assert_eq!(part.view().row(0), &bytes[100 + 68 + 34..][..34]);
    }

    proptest! {
        /// Sizes may lie: whatever is said, either there is an error or every row can be read.
        #[test]
        fn no_size_reads_out_of_bounds(
            dtype in dtypes(), rows in sizes(), cols in sizes(), stride in sizes(), len in 0..2000usize,
            row_range in (sizes(), sizes()), col_range in (sizes(), sizes()),
        ) {
            let bytes = vec![0; len];
            let Ok(w) = Weights::try_new(dtype, rows, cols, &bytes, stride) else { return Ok(()) };
            prop_assert_eq!((0..rows).map(|row| w.row(row).len()).sum::<usize>(), w.weight_bytes());
            let Ok(part) = w.slice_rows(row_range.0..row_range.1) else { return Ok(()) };
            let Ok(part) = part.slice_cols(col_range.0..col_range.1) else { return Ok(()) };
            prop_assert_eq!((0..part.rows()).map(|row| part.row(row).len()).sum::<usize>(), part.weight_bytes());
        }

        /// The same for a tensor, whose offset may lie too.
        #[test]
        fn no_offset_reads_out_of_bounds(dtype in dtypes(), rows in sizes(), cols in sizes(), offset in sizes()) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("weights");
            std::fs::write(&path, [0; 1000]).unwrap();
            let file = MappedFile::open(&path).unwrap();
            if let Ok(tensor) = Tensor::try_new(file, offset, dtype, rows, cols) {
                prop_assert!(offset + tensor.weight_bytes() <= 1000);
                tensor.view().row(rows - 1);
            }
        }

        /// Aligned parts of a matrix cover exactly its bytes.
        #[test]
        fn column_slices_cover_every_byte_once(dtype in dtypes(), rows in 1..5usize, blocks in 2..7usize, cut in 1..6usize) {
            let cols = blocks * dtype.block_len();
            let stride = dtype.row_bytes(cols).unwrap();
            let bytes: Vec<u8> = (0..rows * stride).map(|i| i as u8).collect();
            let w = Weights::try_new(dtype, rows, cols, &bytes, stride).unwrap();
            let edge = (cut % (blocks - 1) + 1) * dtype.block_len();
            let (left, right) = (w.slice_cols(0..edge).unwrap(), w.slice_cols(edge..cols).unwrap());
            for row in 0..rows {
                prop_assert_eq!([left.row(row), right.row(row)].concat(), w.row(row));
            }
        }
    }
}
