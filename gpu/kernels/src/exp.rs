//! `exp` for single precision without branches and without calls, so that loops over it are vectorised.
//!
//! `e^x = 2^n · e^r` with `n` the nearest whole number to `x / ln 2` and a polynomial for `e^r`, after `expf` of Cephes
//! (Moshier); the error is below two units in the last place.

/// `e^x`, for `x` taken into -87..=88: below and above it stays at the least and greatest result.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Comparisons in this form are one instruction each, and let NaN through.
    let x = if x < X_MIN { X_MIN } else { x };
    let x = if x > X_MAX { X_MAX } else { x };
    // Adding 1.5 · 2²³ leaves the nearest whole number in the low bits.
    let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    // ln 2 in two parts, the first short enough that its product with n is exact.
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5e-1;
    let exp_r = p * r * r + r + 1.0;
    // The exponent's bits of 2ⁿ: all but the low nine bits of `shifted` leave at the top.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    exp_r * power
}

/// Here n is -126, the least that the exponent's bits hold.
const X_MIN: f32 = -87.0;

/// Here n is 127, the greatest that they hold.
const X_MAX: f32 = 88.0;

/// 1.5 · 2²³.
const ROUNDER: f32 = 12_582_912.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_within_two_units_of_double_precision() {
        for step in 0..=1_750_000 {
            let x = -87.0 + step as f32 * 1e-4;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error <= 2.0 * f64::from(f32::EPSILON), "{error:e} at {x}");
        }
    }

    #[test]
    fn it_stays_finite_and_lets_nan_through() {
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
        assert!(exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }
}
