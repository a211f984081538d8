//! AVX-512 (F, BW, VL) with VNNI: sixteen lanes.
//!
//! Every method is a handful of instructions. `SAFETY: LANES-1` means: a value of [`Avx512`] exists only where the
//! processor has them, and those of AVX2 beside.

use std::arch::x86_64::*;

use super::{
    avx2::Avx2,
    lanes::{Lanes, Rows},
};
use crate::Path;

/// Proof that this machine has AVX-512 F, BW, VL and VNNI, beside all of AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(Avx2);

impl Avx512 {
    /// # Panics
    ///
    /// If this machine lacks the instructions.
    pub(crate) fn new() -> Self {
        assert!(Path::Avx512Vnni.is_available(), "this machine lacks AVX-512 F, BW, VL or VNNI");
        Self(Avx2::new())
    }
}

impl Lanes for Avx512 {
    const WIDTH: usize = 16;
    type F32 = __m512;
    type I32 = __m512i;
    /// Sixteen `i32`.
    type NibbleSum = __m512i;

    #[inline(always)]
    fn run<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
        fn compiled<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: LANES-1.
        unsafe { compiled(f) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: LANES-1.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        // SAFETY: LANES-1; the slice has sixteen.
        unsafe { _mm512_loadu_ps(from[..16].as_ptr()) }
    }

    #[inline(always)]
    fn read_f32(self, bytes: &[u8]) -> __m512 {
        // SAFETY: LANES-1; the slice has 64 bytes, which may lie anywhere.
        unsafe { _mm512_loadu_ps(bytes[..64].as_ptr().cast()) }
    }

    #[inline(always)]
    fn read_f16(self, bytes: &[u8]) -> __m512 {
        // SAFETY: LANES-1; the slice has 32 bytes, which may lie anywhere.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bytes[..32].as_ptr().cast())) }
    }

    #[inline(always)]
    fn read_bf16(self, bytes: &[u8]) -> __m512 {
        // SAFETY: LANES-1; the slice has 32 bytes, which may lie anywhere.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bytes[..32].as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }

    #[inline(always)]
    fn store(self, value: __m512, to: &mut [f32]) {
        // SAFETY: LANES-1; the slice has sixteen.
        unsafe { _mm512_storeu_ps(to[..16].as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: LANES-1.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: LANES-1.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn sums(self, values: [__m512; 8]) -> [f32; 8] {
        let [a, b, c, d, e, f, g, h] = values;
        // SAFETY: LANES-1.
        let halved = unsafe { [halve(a), halve(b), halve(c), halve(d), halve(e), halve(f), halve(g), halve(h)] };
        Avx2::sums_of_8(halved, self.0)
    }

    #[inline(always)]
    fn splat_codes(self, codes: &[i8; 4]) -> __m512i {
        // SAFETY: LANES-1.
        unsafe { _mm512_set1_epi32(i32::from_le_bytes(codes.map(|code| code as u8))) }
    }

    #[inline(always)]
    fn low_nibbles(self, bytes: __m512i) -> __m512i {
        // SAFETY: LANES-1.
        unsafe { _mm512_and_si512(bytes, _mm512_set1_epi8(15)) }
    }

    #[inline(always)]
    fn high_nibbles(self, bytes: __m512i) -> __m512i {
        // SAFETY: LANES-1.
        unsafe { self.low_nibbles(_mm512_srli_epi16::<4>(bytes)) }
    }

    #[inline(always)]
    fn f16_halves(self, pairs: __m512i) -> [__m512; 2] {
        // SAFETY: LANES-1.
        unsafe {
            let (low, high) = (_mm512_cvtepi32_epi16(pairs), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(pairs)));
            [_mm512_cvtph_ps(low), _mm512_cvtph_ps(high)]
        }
    }

    #[inline(always)]
    fn nibble_sum(self) -> __m512i {
        // SAFETY: LANES-1.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn add_nibbles(self, sum: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: LANES-1.
        unsafe { _mm512_dpbusd_epi32(sum, w, x) }
    }

    #[inline(always)]
    fn nibble_total(self, sum: __m512i) -> __m512 {
        // SAFETY: LANES-1.
        unsafe { _mm512_cvtepi32_ps(sum) }
    }

    /// What [`Lanes::add_bytes`] adds too much, taken off before.
    #[inline(always)]
    fn byte_sum(self, x_sum: i32) -> __m512i {
        // SAFETY: LANES-1.
        unsafe { _mm512_set1_epi32(-128 * x_sum) }
    }

    /// `dpbusd` takes its first bytes unsigned: `w + 128`, which is `w` with the top bit turned over.
    #[inline(always)]
    fn add_bytes(self, sum: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: LANES-1.
        unsafe { _mm512_dpbusd_epi32(sum, _mm512_xor_si512(w, _mm512_set1_epi8(-128)), x) }
    }

    #[inline(always)]
    fn byte_total(self, sum: __m512i) -> __m512 {
        // SAFETY: LANES-1.
        unsafe { _mm512_cvtepi32_ps(sum) }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a prefetch reads nothing and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    unsafe fn transpose_16_bytes(self, rows: &Rows, at: usize) -> [__m512i; 4] {
        // SAFETY: LANES-1; the caller vouches for bytes `at .. at + 16` of every row.
        unsafe {
            let (a, b) = (every_fourth(rows, 0, at), every_fourth(rows, 1, at));
            let (c, d) = (every_fourth(rows, 2, at), every_fourth(rows, 3, at));
            let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab_low, cd_low),
                _mm512_unpackhi_epi64(ab_low, cd_low),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }

    #[inline(always)]
    unsafe fn gather_4_bytes(self, rows: &Rows, at: usize) -> __m512i {
        let (low, high) = halves(rows);
        // SAFETY: LANES-1; the caller vouches for bytes `at .. at + 4` of every row, of which each call reads eight.
        unsafe {
            let (low, high) = (self.0.gather_4_bytes(&low, at), self.0.gather_4_bytes(&high, at));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
    }

    #[inline(always)]
    unsafe fn gather_f16(self, rows: &Rows, at: usize) -> __m512 {
        let (low, high) = halves(rows);
        // SAFETY: LANES-1; the caller vouches for bytes `at .. at + 2` of every row, of which each call reads eight.
        unsafe {
            let low = _mm256_castps_pd(self.0.gather_f16(&low, at));
            let high = _mm256_castps_pd(self.0.gather_f16(&high, at));
            _mm512_castpd_ps(_mm512_insertf64x4::<1>(_mm512_castpd256_pd512(low), high))
        }
    }
}

/// The first and the last eight rows, each in the places of the first.
#[inline(always)]
fn halves(rows: &Rows) -> (Rows, Rows) {
    (*rows, std::array::from_fn(|i| rows[(i + 8) % 16]))
}

/// The upper eight lanes added to the lower.
///
/// # Safety
///
/// The machine has AVX-512 F.
#[inline(always)]
unsafe fn halve(value: __m512) -> __m256 {
    // SAFETY: the caller's.
    unsafe {
        let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(value));
        _mm256_add_ps(_mm512_castps512_ps256(value), _mm256_castpd_ps(high))
    }
}

/// Sixteen bytes of rows `first`, `first + 4`, `first + 8`, `first + 12`.
///
/// # Safety
///
/// The machine has AVX-512 F; bytes `at .. at + 16` of the rows can be read.
#[inline(always)]
unsafe fn every_fourth(rows: &Rows, first: usize, at: usize) -> __m512i {
    let row = |i: usize| rows[first + i].wrapping_add(at).cast::<__m128i>();
    // SAFETY: the caller's.
    unsafe {
        let (a, b) = (_mm_loadu_si128(row(0)), _mm_loadu_si128(row(4)));
        let (c, d) = (_mm_loadu_si128(row(8)), _mm_loadu_si128(row(12)));
        let ab = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
        _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(ab, c), d)
    }
}
