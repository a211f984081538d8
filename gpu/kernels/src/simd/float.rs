//! The multiplication of float weights by `f32` activations.
//!
//! Lanes run along the columns: an output is one vector of running sums over its row, a fused multiply-add per step of
//! [`Lanes::WIDTH`] columns (the last filled with zeros), then summed over the lanes ([`Lanes::sums`]). Eight outputs are
//! worked on together, rows of one token or rows and tokens, which changes nothing in any of them (MATMUL-1).

use super::lanes::{Lanes, WIDTH_MAX};
use crate::{Activations, Dtype, Weights};

/// A format without blocks.
pub(super) trait Format {
    const DTYPE: Dtype;

    /// The first [`Lanes::WIDTH`] numbers in `bytes`.
    fn read<L: Lanes>(lanes: L, bytes: &[u8]) -> L::F32;
}

/// [`crate::matmul()`] for the float format `F`.
pub(super) fn matmul<L: Lanes, F: Format>(lanes: L, w: &Weights<'_>, x: &Activations, out: &mut [f32]) {
    if x.tokens() == 1 {
        matmul_tiled::<L, F, 8, 1>(lanes, w, x, out);
    } else {
        matmul_tiled::<L, F, 4, 2>(lanes, w, x, out);
    }
}

/// By tiles of `R` rows and `T` tokens, eight outputs; those past an edge repeat the last and are not written.
fn matmul_tiled<L: Lanes, F: Format, const R: usize, const T: usize>(
    lanes: L,
    w: &Weights<'_>,
    x: &Activations,
    out: &mut [f32],
) {
    for first_row in (0..w.rows()).step_by(R) {
        let mut rows = [&[][..]; R];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = w.row((first_row + r).min(w.rows() - 1));
        }
        for first_token in (0..x.tokens()).step_by(T) {
            let mut tokens = [&[][..]; T];
            for (t, token) in tokens.iter_mut().enumerate() {
                *token = x.row((first_token + t).min(x.tokens() - 1));
            }
            let sums = lanes.run(
                #[inline(always)]
                || tile::<L, F, R, T>(lanes, rows, tokens),
            );
            for (output, sum) in sums.into_iter().enumerate() {
                let (row, token) = (first_row + output % R, first_token + output / R);
                if row < w.rows() && token < x.tokens() {
                    out[token * w.rows() + row] = sum;
                }
            }
        }
    }
}

/// The dot product of row `r` and token `t` at `t · R + r`.
#[inline(always)]
fn tile<L: Lanes, F: Format, const R: usize, const T: usize>(
    lanes: L,
    rows: [&[u8]; R],
    tokens: [&[f32]; T],
) -> [f32; 8] {
    const { assert!(R * T == 8) };
    let (step, step_bytes) = (L::WIDTH, L::WIDTH * F::DTYPE.block_bytes());
    let steps = tokens[0].len() / step;
    let (mut w, mut x, mut sums) = ([lanes.splat(0.0); R], [lanes.splat(0.0); T], [lanes.splat(0.0); 8]);
    for index in 0..steps {
        for (w, row) in w.iter_mut().zip(rows) {
            *w = F::read(lanes, &row[index * step_bytes..][..step_bytes]);
        }
        for (x, token) in x.iter_mut().zip(tokens) {
            *x = lanes.load(&token[index * step..][..step]);
        }
        add_products::<L, R, T>(lanes, w, x, &mut sums);
    }
    if !tokens[0].len().is_multiple_of(step) {
        for (w, row) in w.iter_mut().zip(rows) {
            let (mut padded, tail) = ([0; WIDTH_MAX * 4], &row[steps * step_bytes..]);
            padded[..tail.len()].copy_from_slice(tail);
            *w = F::read(lanes, &padded);
        }
        for (x, token) in x.iter_mut().zip(tokens) {
            let (mut padded, tail) = ([0.0; WIDTH_MAX], &token[steps * step..]);
            padded[..tail.len()].copy_from_slice(tail);
            *x = lanes.load(&padded);
        }
        add_products::<L, R, T>(lanes, w, x, &mut sums);
    }
    lanes.sums(sums)
}

#[inline(always)]
fn add_products<L: Lanes, const R: usize, const T: usize>(
    lanes: L,
    w: [L::F32; R],
    x: [L::F32; T],
    sums: &mut [L::F32; 8],
) {
    for t in 0..T {
        for r in 0..R {
            sums[t * R + r] = lanes.mul_add(w[r], x[t], sums[t * R + r]);
        }
    }
}

/// [`Dtype::F32`].
pub(super) struct F32;

impl Format for F32 {
    const DTYPE: Dtype = Dtype::F32;

    #[inline(always)]
    fn read<L: Lanes>(lanes: L, bytes: &[u8]) -> L::F32 {
        lanes.read_f32(bytes)
    }
}

/// [`Dtype::F16`].
pub(super) struct F16;

impl Format for F16 {
    const DTYPE: Dtype = Dtype::F16;

    #[inline(always)]
    fn read<L: Lanes>(lanes: L, bytes: &[u8]) -> L::F32 {
        lanes.read_f16(bytes)
    }
}

/// [`Dtype::BF16`].
pub(super) struct BF16;

impl Format for BF16 {
    const DTYPE: Dtype = Dtype::BF16;

    #[inline(always)]
    fn read<L: Lanes>(lanes: L, bytes: &[u8]) -> L::F32 {
        lanes.read_bf16(bytes)
    }
}
