//! The multiplication, number by number.

use super::blocks::{Block, decode_float};
use crate::{Activations, Weights};

/// [`crate::matmul()`] on [`Path::Plain`](crate::Path::Plain); shapes are checked there.
pub(crate) fn matmul(w: &Weights<'_>, x: &Activations, out: &mut [f32]) {
    out.fill(0.0);
    for row in 0..w.rows() {
        if w.dtype().is_quantised() { quantised_row(w, row, x, out) } else { float_row(w, row, x, out) }
    }
}

/// Each block of the row is decoded once, and the blocks of a token are summed in their order.
fn quantised_row(w: &Weights<'_>, row: usize, x: &Activations, out: &mut [f32]) {
    for (index, bytes) in w.row(row).chunks_exact(w.dtype().block_bytes()).enumerate() {
        let block = Block::decode(w.dtype(), bytes);
        for token in 0..x.tokens() {
            let (codes, scales) = x.quantised_row(token);
            let product = |(w, x): (&i8, &i8)| i32::from(*w) * i32::from(*x);
            let dot: i32 = block.codes.iter().zip(&codes[index]).map(product).sum();
            let x = scales[index];
            out[token * w.rows() + row] += dot as f32 * block.scale * x.scale + block.min * x.scaled_sum;
        }
    }
}

fn float_row(w: &Weights<'_>, row: usize, x: &Activations, out: &mut [f32]) {
    for (col, bytes) in w.row(row).chunks_exact(w.dtype().block_bytes()).enumerate() {
        let weight = decode_float(w.dtype(), bytes);
        for token in 0..x.tokens() {
            out[token * w.rows() + row] += weight * x.row(token)[col];
        }
    }
}
