//! Panels of quantised rows, one row per lane.
//!
//! A vector of a [`Block`] holds, lane by lane, four codes of each row of the panel; multiplied by the same four
//! activations in every lane it adds to all rows at once, so that no sum ever crosses lanes, and the scales of the rows
//! are a vector too. The transposition from the file's rows happens in registers, per block of 32 columns.

use super::lanes::{Lanes, NIBBLE_STEPS_MAX, Rows, WIDTH_MAX};
use crate::{Dtype, Weights, dtype::QUANTISED_BLOCK_LEN};

/// Where the rows of a panel start: as many as there are lanes, the last row repeated past the end of the matrix.
pub(super) struct Panel {
    rows: Rows,
    /// PANEL-1: every row has this many bytes.
    row_bytes: usize,
    ahead: Ahead,
}

/// Block `index` of every row of a panel: element `i` of a row is `code · scale + min`.
#[derive(Clone, Copy)]
pub(super) struct Block<L: Lanes> {
    pub(super) scale: L::F32,
    pub(super) min: L::F32,
    /// Vector `j` has the codes `4 · j .. 4 · j + 4`.
    codes: [L::I32; STEPS],
}

/// A quantised format, as [`Dtype`] lays it out.
pub(super) trait Format {
    const DTYPE: Dtype;
    /// Whether blocks have a `min` other than zero.
    const HAS_MIN: bool;

    /// # Safety
    ///
    /// The bytes of a block from `at` on can be read in the first `L::WIDTH` rows.
    unsafe fn load<L: Lanes>(lanes: L, rows: &Rows, at: usize) -> Block<L>;

    /// `Σ code · x` of each row: a whole number, below 2²⁴ and so exact.
    fn dot<L: Lanes>(lanes: L, block: &Block<L>, x: &[i8; QUANTISED_BLOCK_LEN], x_sum: i32) -> L::F32;
}

impl Panel {
    /// The rows from `first_row` on, `lanes` of them.
    #[inline(always)]
    pub(super) fn new<L: Lanes>(_lanes: L, w: &Weights<'_>, first_row: usize) -> Self {
        let first = w.row(first_row);
        let (last_lane, stride) = (w.rows() - 1 - first_row, w.row_stride_bytes());
        let mut rows = [first.as_ptr(); WIDTH_MAX];
        for (lane, row) in rows.iter_mut().enumerate().take(L::WIDTH) {
            // By LAYOUT-1 the row lies in the matrix; the sum does not need to know it.
            *row = first.as_ptr().wrapping_add(lane.min(last_lane) * stride);
        }
        Self { rows, row_bytes: first.len(), ahead: Ahead::new(first, PANELS_AHEAD * L::WIDTH * stride, stride) }
    }

    /// Block `index` of every row.
    #[inline(always)]
    pub(super) fn block<L: Lanes, F: Format>(&self, lanes: L, index: usize) -> Block<L> {
        let at = index * F::DTYPE.block_bytes();
        assert!(at + F::DTYPE.block_bytes() <= self.row_bytes, "a block within the row");
        // SAFETY: PANEL-1 and the assertion; the weights outlive the panel, which stays inside one call of `matmul`.
        unsafe { F::load(lanes, &self.rows, at) }
    }

    /// Asks for the next lines of a panel to come, as many as a block of this one has.
    #[inline(always)]
    pub(super) fn fetch_ahead<L: Lanes, F: Format>(&mut self, lanes: L) {
        for _ in 0..(F::DTYPE.block_bytes() * L::WIDTH).div_ceil(CACHE_LINE_BYTES) {
            lanes.prefetch(self.ahead.next());
        }
    }
}

/// The cache lines of a panel to come, row by row.
///
/// In a row's order, a few lines per block, memory delivers 15 to 20 GB/s here; left to the processor, which does not
/// make out eight short streams, 7; asked for line by line from all rows in turn, 8 to 12.
struct Ahead {
    line: *const u8,
    /// To the end of the row that `line` is in; negative just past it.
    left_bytes: isize,
    row_bytes: isize,
    /// From the end of a row to the start of the next.
    gap_bytes: usize,
}

impl Ahead {
    #[inline(always)]
    fn new(row: &[u8], offset: usize, stride: usize) -> Self {
        let row_bytes = row.len() as isize;
        let line = row.as_ptr().wrapping_add(offset);
        Self { line, left_bytes: row_bytes, row_bytes, gap_bytes: stride - row.len() }
    }

    #[inline(always)]
    fn next(&mut self) -> *const u8 {
        let line = self.line;
        let row_ends = self.left_bytes <= CACHE_LINE_BYTES as isize;
        self.line = line.wrapping_add(CACHE_LINE_BYTES + if row_ends { self.gap_bytes } else { 0 });
        self.left_bytes -= CACHE_LINE_BYTES as isize;
        self.left_bytes += if row_ends { self.row_bytes } else { 0 };
        line
    }
}

impl<L: Lanes> Block<L> {
    /// All zeros.
    #[inline(always)]
    pub(super) fn zero(lanes: L) -> Self {
        Self { scale: lanes.splat(0.0), min: lanes.splat(0.0), codes: [lanes.byte_sum(0); STEPS] }
    }

    /// Eight vectors of nibbles from four of bytes: the low halves are the first 16 elements, the high halves the others.
    #[inline(always)]
    fn of_nibbles(lanes: L, scale: L::F32, min: L::F32, bytes: [L::I32; 4]) -> Self {
        let [a, b, c, d] = bytes;
        let low = [lanes.low_nibbles(a), lanes.low_nibbles(b), lanes.low_nibbles(c), lanes.low_nibbles(d)];
        let high = [lanes.high_nibbles(a), lanes.high_nibbles(b), lanes.high_nibbles(c), lanes.high_nibbles(d)];
        Self { scale, min, codes: [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]] }
    }

    #[inline(always)]
    fn dot_nibbles(&self, lanes: L, x: &[i8; QUANTISED_BLOCK_LEN]) -> L::F32 {
        const { assert!(STEPS <= NIBBLE_STEPS_MAX) };
        let mut sum = lanes.nibble_sum();
        for (codes, x) in self.codes.iter().zip(x.as_chunks().0) {
            sum = lanes.add_nibbles(sum, *codes, lanes.splat_codes(x));
        }
        lanes.nibble_total(sum)
    }
}

/// [`Dtype::Q4_0`].
pub(super) struct Q4_0;

impl Format for Q4_0 {
    const DTYPE: Dtype = Dtype::Q4_0;
    const HAS_MIN: bool = true;

    #[inline(always)]
    unsafe fn load<L: Lanes>(lanes: L, rows: &Rows, at: usize) -> Block<L> {
        // SAFETY: 2 + 16 bytes of the block.
        let (scale, nibbles) = unsafe { (lanes.gather_f16(rows, at), lanes.transpose_16_bytes(rows, at + 2)) };
        // `(q - 8) · d` as `q · d - 8 · d`: both products are exact.
        Block::of_nibbles(lanes, scale, lanes.mul(scale, lanes.splat(-8.0)), nibbles)
    }

    #[inline(always)]
    fn dot<L: Lanes>(lanes: L, block: &Block<L>, x: &[i8; QUANTISED_BLOCK_LEN], _x_sum: i32) -> L::F32 {
        block.dot_nibbles(lanes, x)
    }
}

/// [`Dtype::Q4_1`].
pub(super) struct Q4_1;

impl Format for Q4_1 {
    const DTYPE: Dtype = Dtype::Q4_1;
    const HAS_MIN: bool = true;

    #[inline(always)]
    unsafe fn load<L: Lanes>(lanes: L, rows: &Rows, at: usize) -> Block<L> {
        // SAFETY: 4 + 16 bytes of the block.
        let (pairs, nibbles) = unsafe { (lanes.gather_4_bytes(rows, at), lanes.transpose_16_bytes(rows, at + 4)) };
        let [scale, min] = lanes.f16_halves(pairs);
        Block::of_nibbles(lanes, scale, min, nibbles)
    }

    #[inline(always)]
    fn dot<L: Lanes>(lanes: L, block: &Block<L>, x: &[i8; QUANTISED_BLOCK_LEN], _x_sum: i32) -> L::F32 {
        block.dot_nibbles(lanes, x)
    }
}

/// [`Dtype::Q8_0`].
pub(super) struct Q8_0;

impl Format for Q8_0 {
    const DTYPE: Dtype = Dtype::Q8_0;
    const HAS_MIN: bool = false;

    #[inline(always)]
    unsafe fn load<L: Lanes>(lanes: L, rows: &Rows, at: usize) -> Block<L> {
        // SAFETY: 2 + 16 + 16 bytes of the block.
        let (scale, [a, b, c, d], [e, f, g, h]) = unsafe {
            (
                lanes.gather_f16(rows, at),
                lanes.transpose_16_bytes(rows, at + 2),
                lanes.transpose_16_bytes(rows, at + 18),
            )
        };
        Block { scale, min: lanes.splat(0.0), codes: [a, b, c, d, e, f, g, h] }
    }

    #[inline(always)]
    fn dot<L: Lanes>(lanes: L, block: &Block<L>, x: &[i8; QUANTISED_BLOCK_LEN], x_sum: i32) -> L::F32 {
        let mut sum = lanes.byte_sum(x_sum);
        for (codes, x) in block.codes.iter().zip(x.as_chunks().0) {
            sum = lanes.add_bytes(sum, *codes, lanes.splat_codes(x));
        }
        lanes.byte_total(sum)
    }
}

/// Steps of four codes in a block.
const STEPS: usize = QUANTISED_BLOCK_LEN / 4;

/// Panels that are fetched ahead; one is too late for the memory, more do not help.
const PANELS_AHEAD: usize = 2;

const CACHE_LINE_BYTES: usize = 64;
