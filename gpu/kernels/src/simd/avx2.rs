//! AVX2 with FMA and F16C: eight lanes.
//!
//! Every method is a handful of instructions. `SAFETY: LANES-1` means: a value of [`Avx2`] exists only where the
//! processor has them.

use std::arch::x86_64::*;

use super::lanes::{Lanes, Rows};
use crate::Path;

/// Proof that this machine has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Panics
    ///
    /// If this machine lacks the instructions.
    pub(crate) fn new() -> Self {
        assert!(Path::Avx2.is_available(), "this machine lacks AVX2, FMA or F16C");
        Self(())
    }

    /// The sum over the lanes of each vector, as [`Lanes::sums`] orders it.
    #[inline(always)]
    pub(super) fn sums_of_8([a, b, c, d, e, f, g, h]: [__m256; 8], _: Self) -> [f32; 8] {
        let mut out = [0.0; 8];
        // SAFETY: LANES-1; `out` has room for eight.
        unsafe {
            // After two rounds each half of `abcd` holds, per vector, the sum of that half's four lanes.
            let abcd = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            let efgh = _mm256_hadd_ps(_mm256_hadd_ps(e, f), _mm256_hadd_ps(g, h));
            let low = _mm256_permute2f128_ps::<0x20>(abcd, efgh);
            let high = _mm256_permute2f128_ps::<0x31>(abcd, efgh);
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_add_ps(low, high));
        }
        out
    }
}

impl Lanes for Avx2 {
    const WIDTH: usize = 8;
    type F32 = __m256;
    type I32 = __m256i;
    /// Sixteen `i16`.
    type NibbleSum = __m256i;

    #[inline(always)]
    fn run<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: LANES-1.
        unsafe { compiled(f) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: LANES-1.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        // SAFETY: LANES-1; the slice has eight.
        unsafe { _mm256_loadu_ps(from[..8].as_ptr()) }
    }

    #[inline(always)]
    fn read_f32(self, bytes: &[u8]) -> __m256 {
        // SAFETY: LANES-1; the slice has 32 bytes, which may lie anywhere.
        unsafe { _mm256_loadu_ps(bytes[..32].as_ptr().cast()) }
    }

    #[inline(always)]
    fn read_f16(self, bytes: &[u8]) -> __m256 {
        // SAFETY: LANES-1; the slice has 16 bytes, which may lie anywhere.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(bytes[..16].as_ptr().cast())) }
    }

    #[inline(always)]
    fn read_bf16(self, bytes: &[u8]) -> __m256 {
        // SAFETY: LANES-1; the slice has 16 bytes, which may lie anywhere.
        unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(bytes[..16].as_ptr().cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        }
    }

    #[inline(always)]
    fn store(self, value: __m256, to: &mut [f32]) {
        // SAFETY: LANES-1; the slice has eight.
        unsafe { _mm256_storeu_ps(to[..8].as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: LANES-1.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: LANES-1.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn sums(self, values: [__m256; 8]) -> [f32; 8] {
        Self::sums_of_8(values, self)
    }

    #[inline(always)]
    fn splat_codes(self, codes: &[i8; 4]) -> __m256i {
        // SAFETY: LANES-1.
        unsafe { _mm256_set1_epi32(i32::from_le_bytes(codes.map(|code| code as u8))) }
    }

    #[inline(always)]
    fn low_nibbles(self, bytes: __m256i) -> __m256i {
        // SAFETY: LANES-1.
        unsafe { _mm256_and_si256(bytes, _mm256_set1_epi8(15)) }
    }

    #[inline(always)]
    fn high_nibbles(self, bytes: __m256i) -> __m256i {
        // SAFETY: LANES-1.
        unsafe { self.low_nibbles(_mm256_srli_epi16::<4>(bytes)) }
    }

    #[inline(always)]
    fn f16_halves(self, pairs: __m256i) -> [__m256; 2] {
        // SAFETY: LANES-1.
        unsafe {
            let evens_then_odds =
                _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
            let halves = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(pairs, evens_then_odds));
            let (low, high) = (_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
        }
    }

    #[inline(always)]
    fn nibble_sum(self) -> __m256i {
        // SAFETY: LANES-1.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn add_nibbles(self, sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: LANES-1.
        unsafe { _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x)) }
    }

    #[inline(always)]
    fn nibble_total(self, sum: __m256i) -> __m256 {
        // SAFETY: LANES-1.
        unsafe { _mm256_cvtepi32_ps(_mm256_madd_epi16(sum, _mm256_set1_epi16(1))) }
    }

    #[inline(always)]
    fn byte_sum(self, _x_sum: i32) -> __m256i {
        // SAFETY: LANES-1.
        unsafe { _mm256_setzero_si256() }
    }

    /// `maddubs` takes its first bytes unsigned: the sign of `w` moves to `x`. 2 · 128 · 127 fits an `i16`.
    #[inline(always)]
    fn add_bytes(self, sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: LANES-1.
        unsafe {
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    fn byte_total(self, sum: __m256i) -> __m256 {
        // SAFETY: LANES-1.
        unsafe { _mm256_cvtepi32_ps(sum) }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a prefetch reads nothing and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    unsafe fn transpose_16_bytes(self, rows: &Rows, at: usize) -> [__m256i; 4] {
        // SAFETY: LANES-1; the caller vouches for bytes `at .. at + 16` of every row.
        unsafe {
            let (a, b) = (pair(rows[0], rows[4], at), pair(rows[1], rows[5], at));
            let (c, d) = (pair(rows[2], rows[6], at), pair(rows[3], rows[7], at));
            let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            [
                _mm256_unpacklo_epi64(ab_low, cd_low),
                _mm256_unpackhi_epi64(ab_low, cd_low),
                _mm256_unpacklo_epi64(ab_high, cd_high),
                _mm256_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }

    #[inline(always)]
    unsafe fn gather_4_bytes(self, rows: &Rows, at: usize) -> __m256i {
        // SAFETY: LANES-1; the caller vouches for bytes `at .. at + 4` of every row.
        unsafe {
            let row = |i: usize| rows[i].add(at).cast::<i32>().read_unaligned();
            _mm256_setr_epi32(row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7))
        }
    }

    #[inline(always)]
    unsafe fn gather_f16(self, rows: &Rows, at: usize) -> __m256 {
        // SAFETY: LANES-1; the caller vouches for bytes `at .. at + 2` of every row.
        unsafe {
            let row = |i: usize| rows[i].add(at).cast::<i16>().read_unaligned();
            _mm256_cvtph_ps(_mm_setr_epi16(row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)))
        }
    }
}

/// Sixteen bytes of two rows.
///
/// # Safety
///
/// The machine has AVX2; bytes `at .. at + 16` of both rows can be read.
#[inline(always)]
unsafe fn pair(low: *const u8, high: *const u8, at: usize) -> __m256i {
    // SAFETY: the caller's.
    unsafe {
        let (low, high) = (_mm_loadu_si128(low.add(at).cast()), _mm_loadu_si128(high.add(at).cast()));
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
    }
}
