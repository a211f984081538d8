//! The input of a multiplication, prepared once and used by all matrices that share it (q, k and v; gate and up).
//!
//! Quantised weights meet 8-bit activations: each block of 32 gets the scale `max|x| / 127` and whole numbers in
//! -127..=127, rounded to nearest, ties to even, as llama.cpp does for its `Q8_1` (whose scale is rounded to `f16`;
//! ours stays `f32`). Weights that are floats meet the values themselves.

use crate::{Path, dtype::QUANTISED_BLOCK_LEN};

/// Activations `[tokens, cols]` as `f32` and as blocks of 32 `i8`.
///
/// Keeps its buffers: one per call site, set anew for every layer, allocates only while it grows. A row's blocks depend
/// on that row alone, and are the same on every path.
#[derive(Debug, Clone, Default)]
pub struct Activations {
    tokens: usize,
    cols: usize,
    /// `[tokens, cols]`.
    values: Vec<f32>,
    /// `[tokens, blocks, 32]`; the last block of a row is filled with zeros.
    codes: Vec<i8>,
    /// `[tokens, blocks]`.
    scales: Vec<BlockScale>,
}

/// What the 32 codes of a block stand for: `value ≈ code · scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BlockScale {
    /// The value of code 1.
    pub(crate) scale: f32,
    /// The sum of the codes times `scale`: what a weight's minimum is multiplied by.
    pub(crate) scaled_sum: f32,
    /// The sum of the codes.
    pub(crate) sum: i32,
}

impl Activations {
    /// Nothing yet; [`Activations::set`] fills it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes `values: [tokens, cols]` and quantises them.
    ///
    /// A token that holds NaN or infinity gets unspecified results, and only that token.
    ///
    /// # Panics
    ///
    /// If `values` is not whole rows of `cols`, or this machine lacks `path`.
    pub fn set(&mut self, path: Path, values: &[f32], cols: usize) {
        assert!(cols > 0 && values.len().is_multiple_of(cols), "{} values are no rows of {cols}", values.len());
        (self.tokens, self.cols) = (values.len() / cols, cols);
        self.values.clear();
        self.values.extend_from_slice(values);
        let blocks = self.blocks();
        self.codes.resize(self.tokens * blocks * QUANTISED_BLOCK_LEN, 0);
        self.scales.resize(self.tokens * blocks, BlockScale::ZERO);
        path.run(
            #[inline(always)]
            || self.quantise(),
        );
    }

    #[inline(always)]
    fn quantise(&mut self) {
        let (codes, _) = self.codes.as_chunks_mut::<QUANTISED_BLOCK_LEN>();
        let blocks = self.cols.div_ceil(QUANTISED_BLOCK_LEN);
        let rows = self.values.chunks_exact(self.cols);
        for ((row, codes), scales) in rows.zip(codes.chunks_exact_mut(blocks)).zip(self.scales.chunks_exact_mut(blocks))
        {
            let (whole, tail) = row.as_chunks::<QUANTISED_BLOCK_LEN>();
            for ((block, codes), scale) in whole.iter().zip(&mut *codes).zip(&mut *scales) {
                *scale = quantise_block(block, codes);
            }
            if !tail.is_empty() {
                let mut block = [0.0; QUANTISED_BLOCK_LEN];
                block[..tail.len()].copy_from_slice(tail);
                scales[blocks - 1] = quantise_block(&block, &mut codes[blocks - 1]);
            }
        }
    }

    /// Rows: one per token.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns: as many as the weights have.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Blocks of a row, the last perhaps partly filled.
    pub(crate) fn blocks(&self) -> usize {
        self.cols.div_ceil(QUANTISED_BLOCK_LEN)
    }

    /// The values of `token`: `[cols]`.
    pub(crate) fn row(&self, token: usize) -> &[f32] {
        &self.values[token * self.cols..][..self.cols]
    }

    /// The blocks of `token`: codes `[blocks, 32]`, scales `[blocks]`.
    #[inline]
    pub(crate) fn quantised_row(&self, token: usize) -> (&[[i8; QUANTISED_BLOCK_LEN]], &[BlockScale]) {
        let blocks = self.blocks();
        let (codes, _) = self.codes.as_chunks::<QUANTISED_BLOCK_LEN>();
        (&codes[token * blocks..][..blocks], &self.scales[token * blocks..][..blocks])
    }
}

impl BlockScale {
    const ZERO: Self = Self { scale: 0.0, scaled_sum: 0.0, sum: 0 };
}

/// Quantises one block; free of branches, so that the compiler makes it as wide as the path allows.
#[inline(always)]
fn quantise_block(values: &[f32; QUANTISED_BLOCK_LEN], codes: &mut [i8; QUANTISED_BLOCK_LEN]) -> BlockScale {
    // Eight running maxima: one alone is a chain of 32 dependent steps.
    let mut maxima = [0.0f32; 8];
    for chunk in values.as_chunks::<8>().0 {
        for (max, value) in maxima.iter_mut().zip(chunk) {
            let magnitude = value.abs();
            *max = if magnitude > *max { magnitude } else { *max };
        }
    }
    let max = maxima.into_iter().fold(0.0, |max: f32, lane| if lane > max { lane } else { max });
    let inverse = if max > MAGNITUDE_MIN { 127.0 / max } else { 0.0 };
    let scale = max / 127.0;
    let mut sum = 0;
    for (code, value) in codes.iter_mut().zip(values) {
        // Adding 1.5 · 2²³ leaves the nearest whole number, ties to even, in the low bits.
        let rounded = (value * inverse + ROUNDER).to_bits().wrapping_sub(ROUNDER.to_bits());
        *code = rounded as i8;
        sum += i32::from(*code);
    }
    BlockScale { scale, scaled_sum: scale * sum as f32, sum }
}

/// Blocks below this are zero: `127 / max` must stay finite.
const MAGNITUDE_MIN: f32 = 1e-36;

/// 1.5 · 2²³.
const ROUNDER: f32 = 12_582_912.0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_block_keeps_its_extremes_and_rounds_ties_to_even() {
        let mut values = [0.0; 32];
        values[..6].copy_from_slice(&[254.0, -254.0, 1.0, 3.0, -1.0, -5.0]);
        let mut x = Activations::new();
        x.set(Path::Plain, &values, 32);
        let (codes, scales) = x.quantised_row(0);
        assert_eq!(codes[0][..6], [127, -127, 0, 2, 0, -2]);
        assert_eq!(scales, [BlockScale { scale: 2.0, scaled_sum: 0.0, sum: 0 }]);
    }

    #[test]
    fn zeros_and_specks_are_zero() {
        let mut x = Activations::new();
        x.set(Path::Plain, &[0.0, 1e-40, f32::MIN_POSITIVE], 3);
        assert_eq!(x.quantised_row(0).0, [[0; 32]]);
        assert_eq!(x.quantised_row(0).1[0].sum, 0);
    }

    proptest! {
        /// On every path the same blocks, whatever the row is among, each value within half a step.
        #[test]
        fn blocks_depend_on_their_row_alone(
            values in proptest::collection::vec(-1e3..1e3f32, 1..400), cols in 1..100usize,
        ) {
            prop_assume!(values.len() >= cols);
            let tokens = values.len() / cols;
            let values = &values[..tokens * cols];
            let mut all = Activations::new();
            all.set(Path::Plain, values, cols);
            for path in Path::available() {
                let mut alone = Activations::new();
                for token in 0..tokens {
                    let row = &values[token * cols..][..cols];
                    alone.set(path, row, cols);
                    prop_assert_eq!(alone.quantised_row(0), all.quantised_row(token));
                    let (codes, scales) = alone.quantised_row(0);
                    for (col, value) in row.iter().enumerate() {
                        let scale = scales[col / 32].scale;
                        let back = f32::from(codes[col / 32][col % 32]) * scale;
                        prop_assert!((back - value).abs() <= scale * 0.5001, "{} for {}", back, value);
                    }
                }
            }
        }

        /// Nothing that a model may produce panics.
        #[test]
        fn any_bits_are_taken(bits in proptest::collection::vec(any::<u32>(), 64)) {
            let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            for path in Path::available() {
                Activations::new().set(path, &values, 64);
            }
        }
    }
}
