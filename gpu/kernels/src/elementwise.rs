//! What happens between the multiplications: residual sums, norms, gates, and the pick of the best logit.
//!
//! Written once, in plain Rust without branches, and compiled again for each path ([`Path::run`]): the compiler
//! vectorises it and never fuses or reorders, so that every path gives the same bits.

use crate::{Path, exp::exp};

/// `x += y`, element by element: the residual sum.
///
/// ```
/// use mobula_kernels::{Path, add};
///
/// let mut x = [1.0, 2.0];
/// add(Path::detect()?, &mut x, &[0.5, 0.5]);
/// assert_eq!(x, [1.5, 2.5]);
/// # Ok::<(), mobula_kernels::PathError>(())
/// ```
///
/// # Panics
///
/// If the lengths differ, or this machine lacks `path`.
pub fn add(path: Path, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "add: as many on either side");
    path.run(
        #[inline(always)]
        || {
            for (x, y) in x.iter_mut().zip(y) {
                *x += y;
            }
        },
    );
}

/// `out = x / sqrt(mean(x²) + eps) · weight`, row by row.
///
/// `x`, `out`: `[tokens, cols]`; `weight`: `[cols]`. Root mean square layer normalisation, arXiv:1910.07467.
///
/// # Panics
///
/// If `x` is not whole rows of `weight`'s length, `out` is not as long, or this machine lacks `path`.
pub fn rms_norm(path: Path, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "rms_norm: as many out as in");
    assert!(
        !weight.is_empty() && x.len().is_multiple_of(weight.len()),
        "rms_norm: {} values are no rows of {}",
        x.len(),
        weight.len()
    );
    path.run(
        #[inline(always)]
        || {
            for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
                let inverse = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
                for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                    *out = x * inverse * weight;
                }
            }
        },
    );
}

/// `gate = silu(gate) · up`, element by element, with `silu(x) = x / (1 + exp(-x))`.
///
/// The gate of the Llama family's feed-forward, arXiv:2002.05202.
///
/// # Panics
///
/// If the lengths differ, or this machine lacks `path`.
pub fn swiglu(path: Path, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "swiglu: as many on either side");
    path.run(
        #[inline(always)]
        || {
            for (gate, up) in gate.iter_mut().zip(up) {
                *gate = *gate / (1.0 + exp(-*gate)) * up;
            }
        },
    );
}

/// The index of the greatest of `logits`, the lowest of several; NaN is never the greatest.
///
/// # Panics
///
/// If there are none.
pub fn argmax(logits: &[f32]) -> usize {
    assert!(!logits.is_empty(), "argmax of nothing");
    let mut best = (0, f32::NEG_INFINITY);
    for (index, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (index, logit);
        }
    }
    best.0
}

/// The sum of squares in a fixed order: sixteen running sums, the tail added to the first of them.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut sums = [0.0; 16];
    let (chunks, tail) = x.as_chunks::<16>();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x * x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(tail) {
        *sum += x * x;
    }
    sums.into_iter().sum()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn a_norm_is_that_of_double_precision(cols in 1..100usize, tokens in 1..4usize, seed in vec(-9.0..9.0f32, 400)) {
            let (x, weight) = (&seed[..cols * tokens], &seed[300..][..cols]);
            let mut plain = vec![0.0; x.len()];
            rms_norm(Path::Plain, x, weight, 1e-5, &mut plain);
            for (token, row) in x.chunks(cols).enumerate() {
                let squares: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
                let inverse = 1.0 / (squares / cols as f64 + 1e-5).sqrt();
                for col in 0..cols {
                    let expected = f64::from(row[col]) * inverse * f64::from(weight[col]);
                    let found = f64::from(plain[token * cols + col]);
                    prop_assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{} for {}", found, expected);
                }
            }
            for path in Path::available() {
                let mut out = vec![0.0; x.len()];
                rms_norm(path, x, weight, 1e-5, &mut out);
                prop_assert_eq!(&out, &plain, "{}", path);
            }
        }

        #[test]
        fn a_gate_is_that_of_double_precision(gate in vec(-120.0..120.0f32, 1..70), scale in -3.0..3.0f32) {
            let up = vec![scale; gate.len()];
            let mut plain = gate.clone();
            swiglu(Path::Plain, &mut plain, &up);
            for (found, gate) in plain.iter().zip(&gate) {
                let gate = f64::from(*gate);
                let expected = gate / (1.0 + (-gate).exp()) * f64::from(scale);
                prop_assert!((f64::from(*found) - expected).abs() <= 1e-6 * expected.abs() + 1e-35, "{} {}", found, expected);
            }
            for path in Path::available() {
                let mut out = gate.clone();
                swiglu(path, &mut out, &up);
                prop_assert_eq!(&out, &plain, "{}", path);
            }
        }

        #[test]
        fn a_sum_is_the_same_on_every_path(x in vec(-9.0..9.0f32, 1..70)) {
            for path in Path::available() {
                let mut out = x.clone();
                add(path, &mut out, &x);
                prop_assert_eq!(&out, &x.iter().map(|x| x + x).collect::<Vec<_>>(), "{}", path);
            }
        }
    }

    #[test]
    fn the_best_is_the_first_of_equals_and_never_nan() {
        assert_eq!(argmax(&[1.0, 3.0, f32::NAN, 3.0]), 1);
        assert_eq!(argmax(&[f32::NAN, -1e38]), 1);
        assert_eq!(argmax(&[f32::NAN]), 0);
    }
}
