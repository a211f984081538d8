//! The multiplication of activations by a weight matrix: where a model spends its time.
//!
//! Checks shapes and chooses the path. The sum of an output runs over the blocks (or columns) of its row in an order
//! that depends on the path alone:
//!
//! MATMUL-1: `out[token, row]` has the same bits whatever other tokens and rows are in the call.

use crate::{
    Activations, Path, Weights, plain,
    simd::{self, on_path},
};

/// `out[token, row] = Σ_col w[row, col] · x[token, col]`.
///
/// `w`: `[rows, cols]` of any [`Dtype`](crate::Dtype), multiplied as it lies; `x`: `[tokens, cols]`; `out`:
/// `[tokens, rows]`. Quantised weights meet 8-bit activations, floats meet `f32`.
///
/// ```
/// use mobula_kernels::{Activations, Dtype, Path, Weights, matmul};
///
/// let path = Path::detect()?;
/// let bytes: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|w| w.to_le_bytes()).collect();
/// let w = Weights::try_new(Dtype::F32, 2, 2, &bytes, 8)?;
/// let mut x = Activations::new();
/// x.set(path, &[1.0, 10.0], 2);
/// let mut out = [0.0; 2];
/// matmul(path, &w, &x, &mut out);
/// assert_eq!(out, [21.0, 43.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Panics
///
/// If the columns differ, `out` is not `[tokens, rows]`, or this machine lacks `path`.
pub fn matmul(path: Path, w: &Weights<'_>, x: &Activations, out: &mut [f32]) {
    assert_eq!(w.cols(), x.cols(), "matmul: as many columns in the weights as in the activations");
    assert_eq!(out.len(), x.tokens() * w.rows(), "matmul: out is [tokens, rows]");
    on_path!(path, plain: plain::matmul(w, x, out), lanes: |lanes| simd::matmul(lanes, w, x, out));
}

/// The values of row `row`: how a token's embedding is looked up, or a vector of weights read (`rows` = 1).
///
/// # Panics
///
/// If there is no such row, or `out` is not `[cols]`.
pub fn dequantise_row(w: &Weights<'_>, row: usize, out: &mut [f32]) {
    plain::dequantise_row(w.dtype(), w.row(row), out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Dtype, samples, simd::Emulated};

    fn dtypes() -> impl Strategy<Value = Dtype> {
        proptest::sample::select(&Dtype::ALL[..])
    }

    /// Columns: some blocks of the quantised formats, any number of floats.
    fn cols(dtype: Dtype, some: usize) -> usize {
        if dtype.is_quantised() { some.div_ceil(4) * 32 } else { some * 5 + 1 }
    }

    fn multiply(path: Path, w: &Weights<'_>, values: &[f32]) -> Vec<f32> {
        let mut x = Activations::new();
        x.set(path, values, w.cols());
        let mut out = vec![f32::NAN; x.tokens() * w.rows()];
        matmul(path, w, &x, &mut out);
        out
    }

    /// `Σ |w · x|`, which rounding errors are measured by, and `Σ w · x`, in double precision and with the activations
    /// as they are quantised.
    fn exact(w: &Weights<'_>, row: usize, x: &Activations, token: usize) -> (f64, f64) {
        let mut weights = vec![0.0; w.cols()];
        dequantise_row(w, row, &mut weights);
        let (codes, scales) = x.quantised_row(token);
        let products = weights.iter().enumerate().map(|(col, w64)| {
            let x = if w.dtype().is_quantised() {
                f64::from(codes[col / 32][col % 32]) * f64::from(scales[col / 32].scale)
            } else {
                f64::from(x.row(token)[col])
            };
            f64::from(*w64) * x
        });
        products.fold((0.0, 0.0), |(sizes, sum), product| (sizes + product.abs(), sum + product))
    }

    proptest! {
        /// Every path, every format: the sum of the products, up to the rounding of its additions. The products of a
        /// block with a minimum are themselves differences, of numbers up to 31 times as great.
        #[test]
        fn it_is_the_sum_of_the_products(
            dtype in dtypes(), rows in 1..40usize, some in 1..50usize, tokens in 1..8usize, seed: u64,
        ) {
            let cols = cols(dtype, some);
            let bytes = samples::weights(dtype, rows, cols, seed);
            let w = Weights::try_new(dtype, rows, cols, &bytes, dtype.row_bytes(cols).unwrap()).unwrap();
            let values = samples::values(tokens * cols, seed ^ 1);
            let mut x = Activations::new();
            x.set(Path::Plain, &values, cols);
            for path in Path::available() {
                let out = multiply(path, &w, &values);
                for (index, found) in out.into_iter().enumerate() {
                    let (sizes, expected) = exact(&w, index % rows, &x, index / rows);
                    let error = (f64::from(found) - expected).abs();
                    prop_assert!(error <= 2e-5 * sizes + 1e-30, "{path}, {dtype}: {found} for {expected} of {sizes}");
                }
            }
        }

        /// MATMUL-1, and that a slice is multiplied as if it lay alone.
        #[test]
        fn a_result_does_not_depend_on_its_neighbours(
            dtype in dtypes(), rows in 1..40usize, some in 1..80usize, tokens in 2..=17usize, seed: u64,
        ) {
            let cols = cols(dtype, some);
            let bytes = samples::weights(dtype, rows, cols, seed);
            let w = Weights::try_new(dtype, rows, cols, &bytes, dtype.row_bytes(cols).unwrap()).unwrap();
            let values = samples::values(tokens * cols, seed ^ 1);
            let first = seed as usize % rows;
            let some_rows = w.slice_rows(first..rows).unwrap();
            for path in Path::available() {
                let all = multiply(path, &w, &values);
                for token in 0..tokens {
                    let values = &values[token * cols..][..cols];
                    let expected = &all[token * rows..][..rows];
                    prop_assert_eq!(&multiply(path, &w, values), expected, "{} {}", path, dtype);
                    prop_assert_eq!(&multiply(path, &some_rows, values), &expected[first..], "{} {}", path, dtype);
                }
                for count in [2, 3, 4, 5] {
                    let count = count.min(tokens);
                    let part = multiply(path, &w, &values[..count * cols]);
                    prop_assert_eq!(&part, &all[..count * rows], "{} {}", path, dtype);
                }
            }
        }

        /// A range of columns is multiplied where it lies, in rows that are further apart.
        #[test]
        fn a_slice_of_columns_is_a_matrix(dtype in dtypes(), rows in 1..20usize, some in 1..30usize, seed: u64) {
            let (cols, block) = (cols(dtype, some), dtype.block_len());
            let wide = cols + 3 * block;
            let bytes = samples::weights(dtype, rows, wide, seed);
            let w = Weights::try_new(dtype, rows, wide, &bytes, dtype.row_bytes(wide).unwrap()).unwrap();
            let part = w.slice_cols(2 * block..2 * block + cols).unwrap();
            let copy: Vec<u8> = (0..rows).flat_map(|row| part.row(row)).copied().collect();
            let alone = Weights::try_new(dtype, rows, cols, &copy, dtype.row_bytes(cols).unwrap()).unwrap();
            let values = samples::values(3 * cols, seed ^ 1);
            for path in Path::available() {
                prop_assert_eq!(multiply(path, &part, &values), multiply(path, &alone, &values), "{} {}", path, dtype);
            }
        }

        /// The kernel of sixteen lanes, in emulation, gives the bits of the one of eight, and both those of AVX2: what is
        /// generic is right for AVX-512 also where it cannot run. (Floats are summed over lanes, which differ in number.)
        #[test]
        fn lanes_agree_bit_for_bit(
            dtype in dtypes(), rows in 1..40usize, some in 1..80usize, tokens in 1..8usize, seed: u64,
        ) {
            let cols = cols(dtype, some);
            let bytes = samples::weights(dtype, rows, cols, seed);
            let w = Weights::try_new(dtype, rows, cols, &bytes, dtype.row_bytes(cols).unwrap()).unwrap();
            let values = samples::values(tokens * cols, seed ^ 1);
            let mut x = Activations::new();
            x.set(Path::Plain, &values, cols);
            let (mut eight, mut sixteen) = (vec![f32::NAN; tokens * rows], vec![f32::NAN; tokens * rows]);
            simd::matmul(Emulated::<8>, &w, &x, &mut eight);
            simd::matmul(Emulated::<16>, &w, &x, &mut sixteen);
            for (path, expected) in [(Path::Avx2, &eight), (Path::Avx512Vnni, &sixteen)] {
                if path.is_available() {
                    prop_assert_eq!(&multiply(path, &w, &values), expected, "{} {}", path, dtype);
                }
            }
            if dtype.is_quantised() {
                prop_assert_eq!(&eight, &sixteen, "{}", dtype);
            }
            for (index, found) in sixteen.into_iter().enumerate() {
                let (sizes, expected) = exact(&w, index % rows, &x, index / rows);
                prop_assert!((f64::from(found) - expected).abs() <= 2e-5 * sizes + 1e-30, "{} {}", dtype, found);
            }
        }

        /// Whatever the file holds, scales that are infinite or not a number too, is multiplied without a panic.
        #[test]
        fn any_bytes_are_multiplied(dtype in dtypes(), bytes in proptest::collection::vec(any::<u8>(), 3 * 256), bits: [u32; 64]) {
            let w = Weights::try_new(dtype, 3, 64, &bytes, 256).unwrap();
            for path in Path::available() {
                multiply(path, &w, &bits.map(f32::from_bits));
            }
        }
    }

    #[test]
    fn no_tokens_are_no_work() {
        let w = Weights::try_new(Dtype::F32, 1, 1, &[0; 4], 4).unwrap();
        for path in Path::available() {
            assert_eq!(multiply(path, &w, &[]), []);
        }
    }
}
