//! Panels of quantised rows, one row per lane.
//!
//! A vector of a [`Block`] holds, lane by lane, four codes of each row of the panel; multiplied by the same four
//! activations in every lane it adds to all rows at once, so that no sum ever crosses lanes, and the scales of the rows
//! are a vector too. The transposition from the file's rows happens in registers, per block of 32 columns.

use super::lanes::{Lanes, NIBBLE_STEPS_MAX, Rows};
use crate::{Dtype, Weights, dtype::QUANTISED_BLOCK_LEN};

/// Where the rows of a panel start: as many as there are lanes, the last row repeated past the end of the matrix.
pub(super) struct Panel {
    rows: Rows,
    /// PANEL-1: every row has this many bytes.
    row_bytes: usize,
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
    /// The rows from `first_row` on.
    #[inline(always)]
    pub(super) fn new(w: &Weights<'_>, first_row: usize) -> Self {
        let last_row = w.rows() - 1;
        let rows = std::array::from_fn(
            #[inline(always)]
            |lane| w.row(last_row.min(first_row + lane)).as_ptr(),
        );
        Self { rows, row_bytes: w.row(first_row).len() }
    }

    /// Block `index` of every row.
    #[inline(always)]
    pub(super) fn block<L: Lanes, F: Format>(&self, lanes: L, index: usize) -> Block<L> {
        let at = index * F::DTYPE.block_bytes();
        assert!(at + F::DTYPE.block_bytes() <= self.row_bytes, "a block within the row");
        // SAFETY: PANEL-1 and the line above; the weights outlive the panel, which stays inside one call of `matmul`.
        unsafe { F::load(lanes, &self.rows, at) }
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
        let (low, high) = (|bytes| lanes.low_nibbles(bytes), |bytes| lanes.high_nibbles(bytes));
        Self { scale, min, codes: [low(a), low(b), low(c), low(d), high(a), high(b), high(c), high(d)] }
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
