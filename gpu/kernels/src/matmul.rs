//! The multiplication of activations by a weight matrix: where a model spends its time.
//!
//! Checks shapes and chooses the path. The sum of an output runs over the blocks (or columns) of its row in an order
//! that depends on the path alone:
//!
//! MATMUL-1: `out[token, row]` has the same bits whatever other tokens and rows are in the call.

use crate::{Activations, Path, Weights, plain};

/// Buffers that the kernels reuse from call to call; one per shard.
///
/// Grows to the greatest panel of rows multiplied (16 rows) and the longest context attended to, and stays there.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Attention weights: `[len]`.
    pub(crate) scores: Vec<f32>,
}

impl Scratch {
    /// Empty buffers.
    pub fn new() -> Self {
        Self::default()
    }
}

/// `out[token, row] = Σ_col w[row, col] · x[token, col]`.
///
/// `w`: `[rows, cols]` of any [`Dtype`](crate::Dtype), multiplied as it lies; `x`: `[tokens, cols]`; `out`:
/// `[tokens, rows]`. Quantised weights meet 8-bit activations, floats meet `f32`.
///
/// ```
/// use mobula_kernels::{Activations, Dtype, Path, Scratch, Weights, matmul};
///
/// let path = Path::detect()?;
/// let bytes: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|w| w.to_le_bytes()).collect();
/// let w = Weights::try_new(Dtype::F32, 2, 2, &bytes, 8)?;
/// let mut x = Activations::new();
/// x.set(path, &[1.0, 10.0], 2);
/// let mut out = [0.0; 2];
/// matmul(path, &w, &x, &mut Scratch::new(), &mut out);
/// assert_eq!(out, [21.0, 43.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Panics
///
/// If the columns differ, `out` is not `[tokens, rows]`, or this machine lacks `path`.
pub fn matmul(
    path: Path,
    w: &Weights<'_>,
    x: &Activations,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    assert_eq!(
        w.cols(),
        x.cols(),
        "matmul: as many columns in the weights as in the activations"
    );
    assert_eq!(
        out.len(),
        x.tokens() * w.rows(),
        "matmul: out is [tokens, rows]"
    );
    let _ = (path, scratch);
    plain::matmul(w, x, out);
}

/// The values of row `row`: how a token's embedding is looked up, or a vector of weights read (`rows` = 1).
///
/// # Panics
///
/// If there is no such row, or `out` is not `[cols]`.
pub fn dequantise_row(w: &Weights<'_>, row: usize, out: &mut [f32]) {
    plain::dequantise_row(w.dtype(), w.row(row), out);
}
