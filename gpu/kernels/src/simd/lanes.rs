//! What the kernels ask of an instruction set.
//!
//! LANES-1: a value of an implementation exists only on a machine that has the instructions, so its methods are safe to
//! call; they are also to be inlined into a function compiled for them ([`Lanes::run`]), else every
//! one is a call.

/// Vectors of [`Lanes::WIDTH`] lanes of 32 bits.
///
/// Each lane's arithmetic is exact or rounded once, so that implementations agree bit for bit.
pub(crate) trait Lanes: Copy {
    /// Lanes in a vector, at most [`WIDTH_MAX`].
    const WIDTH: usize;
    /// `f32` per lane.
    type F32: Copy;
    /// Four bytes, or an `i32`, per lane.
    type I32: Copy;
    /// The sum so far of at most [`NIBBLE_STEPS_MAX`] products of four nibbles each, per lane.
    type NibbleSum: Copy;

    /// Runs `f`, compiled for the instructions as far as it is inlined.
    fn run<R>(self, f: impl FnOnce() -> R) -> R;

    /// The same number in every lane.
    fn splat(self, value: f32) -> Self::F32;
    /// The first `WIDTH` of `from`.
    fn load(self, from: &[f32]) -> Self::F32;
    /// The first `WIDTH` of the `f32` that `bytes` hold.
    fn read_f32(self, bytes: &[u8]) -> Self::F32;
    /// The first `WIDTH` of the `f16` that `bytes` hold, widened.
    fn read_f16(self, bytes: &[u8]) -> Self::F32;
    /// The first `WIDTH` of the `bf16` that `bytes` hold, widened.
    fn read_bf16(self, bytes: &[u8]) -> Self::F32;
    /// Writes the first `WIDTH` of `to`.
    fn store(self, value: Self::F32, to: &mut [f32]);
    /// `a · b`.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a · b + c`, rounded once.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The sum over the lanes of each vector: halves are added down to eight lanes, which are added as
    /// `((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))`.
    fn sums(self, values: [Self::F32; 8]) -> [f32; 8];

    /// The same four codes in every lane.
    fn splat_codes(self, codes: &[i8; 4]) -> Self::I32;
    /// The low half of every byte.
    fn low_nibbles(self, bytes: Self::I32) -> Self::I32;
    /// The high half of every byte.
    fn high_nibbles(self, bytes: Self::I32) -> Self::I32;
    /// The low and high halves of every lane, widened from `f16`.
    fn f16_halves(self, pairs: Self::I32) -> [Self::F32; 2];

    /// No products yet.
    fn nibble_sum(self) -> Self::NibbleSum;
    /// Adds the four products of each lane: `w` in 0..=15, `x` any `i8`.
    fn add_nibbles(self, sum: Self::NibbleSum, w: Self::I32, x: Self::I32) -> Self::NibbleSum;
    /// The sum as a number.
    fn nibble_total(self, sum: Self::NibbleSum) -> Self::F32;

    /// No products yet of a block whose codes `x` have the sum `x_sum`.
    fn byte_sum(self, x_sum: i32) -> Self::I32;
    /// Adds the four products of each lane: `w` any `i8`, `x` in -127..=127.
    fn add_bytes(self, sum: Self::I32, w: Self::I32, x: Self::I32) -> Self::I32;
    /// The sum as a number.
    fn byte_total(self, sum: Self::I32) -> Self::F32;

    /// Asks for the cache line at `address`, which need not be readable.
    fn prefetch(self, address: *const u8);

    /// Lane `i` of vector `j` is bytes `at + 4 · j ..` of row `i`, four of them.
    ///
    /// # Safety
    ///
    /// Bytes `at .. at + 16` of the first `WIDTH` rows can be read.
    unsafe fn transpose_16_bytes(self, rows: &Rows, at: usize) -> [Self::I32; 4];
    /// Lane `i` is bytes `at ..` of row `i`, four of them.
    ///
    /// # Safety
    ///
    /// Bytes `at .. at + 4` of the first `WIDTH` rows can be read.
    unsafe fn gather_4_bytes(self, rows: &Rows, at: usize) -> Self::I32;
    /// Lane `i` is the `f16` at byte `at` of row `i`, widened.
    ///
    /// # Safety
    ///
    /// Bytes `at .. at + 2` of the first `WIDTH` rows can be read.
    unsafe fn gather_f16(self, rows: &Rows, at: usize) -> Self::F32;
}

/// The widest vectors: those of AVX-512.
pub(crate) const WIDTH_MAX: usize = 16;

/// Where each lane's row starts; lanes past the width are unused.
pub(crate) type Rows = [*const u8; WIDTH_MAX];

/// Steps of four products that a [`Lanes::NibbleSum`] holds: those of a block, in each of its `i16` of AVX2 eight pairs
/// of at most 15 · 128, 30720 together.
pub(crate) const NIBBLE_STEPS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::{array, prelude::*};

    use super::*;
    use crate::{Path, simd::Emulated};

    /// Calls `check` with every instruction set that this machine has.
    macro_rules! on_every_machine {
        ($check:ident($($arg:expr),*)) => {{
            #[cfg(target_arch = "x86_64")]
            {
                if Path::Avx2.is_available() {
                    $check::<_, 8>(crate::simd::Avx2::new(), $($arg),*)?;
                }
                if Path::Avx512Vnni.is_available() {
                    $check::<_, 16>(crate::simd::Avx512::new(), $($arg),*)?;
                }
            }
        }};
    }

    /// Each instruction against its emulation, on the same bits.
    fn check<L: Lanes, const N: usize>(
        lanes: L,
        floats: &[f32; 128],
        bytes: &[[u8; 16]; 16],
        codes: &[i8; 4],
    ) -> Result<(), TestCaseError> {
        let twin = Emulated::<N>;
        let read = |value: L::F32| {
            let mut out = [0.0; N];
            lanes.store(value, &mut out);
            out.map(f32::to_bits)
        };
        let twin_bits = |value: [f32; N]| value.map(f32::to_bits);

        let [a, b, c] = [0, 1, 2].map(|i| lanes.load(&floats[i * 16..]));
        let [a2, b2, c2] = [0, 1, 2].map(|i| twin.load(&floats[i * 16..]));
        prop_assert_eq!(read(lanes.splat(floats[0])), twin_bits(twin.splat(floats[0])));
        prop_assert_eq!(read(a), twin_bits(a2));
        prop_assert_eq!(read(lanes.mul(a, b)), twin_bits(twin.mul(a2, b2)));
        prop_assert_eq!(read(lanes.mul_add(a, b, c)), twin_bits(twin.mul_add(a2, b2, c2)));
        let file = bytes.as_flattened();
        prop_assert_eq!(read(lanes.read_f16(file)), twin_bits(twin.read_f16(file)));
        prop_assert_eq!(read(lanes.read_bf16(file)), twin_bits(twin.read_bf16(file)));
        prop_assert_eq!(read(lanes.read_f32(file)), twin_bits(twin.read_f32(file)));
        let vectors: [usize; 8] = std::array::from_fn(|i| i * 16);
        let sums = lanes.sums(vectors.map(|at| lanes.load(&floats[at..])));
        prop_assert_eq!(sums, twin.sums(vectors.map(|at| twin.load(&floats[at..]))));

        let rows: Rows = bytes.each_ref().map(|row| row.as_ptr());
        // SAFETY: every row has 16 bytes.
        let (ours, theirs) = unsafe {
            prop_assert_eq!(read(lanes.gather_f16(&rows, 14)), twin_bits(twin.gather_f16(&rows, 14)));
            let (pairs, twins) = (lanes.gather_4_bytes(&rows, 12), twin.gather_4_bytes(&rows, 12));
            let (pairs, twins) = (lanes.f16_halves(pairs), twin.f16_halves(twins));
            prop_assert_eq!(pairs.map(read), twins.map(twin_bits));
            (lanes.transpose_16_bytes(&rows, 0), twin.transpose_16_bytes(&rows, 0))
        };

        let (x, x2) = (lanes.splat_codes(codes), twin.splat_codes(codes));
        let x_sum = codes.iter().map(|&code| i32::from(code)).sum::<i32>();
        let (mut nibbles, mut nibbles2) = (lanes.nibble_sum(), twin.nibble_sum());
        for (w, w2) in ours.into_iter().zip(theirs) {
            nibbles = lanes.add_nibbles(nibbles, lanes.low_nibbles(w), x);
            nibbles = lanes.add_nibbles(nibbles, lanes.high_nibbles(w), x);
            nibbles2 = twin.add_nibbles(nibbles2, twin.low_nibbles(w2), x2);
            nibbles2 = twin.add_nibbles(nibbles2, twin.high_nibbles(w2), x2);
        }
        prop_assert_eq!(read(lanes.nibble_total(nibbles)), twin_bits(twin.nibble_total(nibbles2)));

        let (mut sum, mut sum2) = (lanes.byte_sum(4 * x_sum), twin.byte_sum(4 * x_sum));
        for (w, w2) in ours.into_iter().zip(theirs) {
            sum = lanes.add_bytes(sum, w, x);
            sum2 = twin.add_bytes(sum2, w2, x2);
        }
        prop_assert_eq!(read(lanes.byte_total(sum)), twin_bits(twin.byte_total(sum2)));
        Ok(())
    }

    /// Bits of numbers that are neither infinite nor NaN, whose payloads instructions are free to choose.
    fn finite_halves() -> impl Strategy<Value = [u16; 16]> {
        array::uniform16(any::<u16>().prop_map(|bits| if bits & 0x7c00 == 0x7c00 { bits & 0x83ff } else { bits }))
    }

    proptest! {
        #[test]
        fn every_instruction_is_its_emulation(
            floats in proptest::collection::vec(-1e6..1e6f32, 128),
            rows in array::uniform16(finite_halves()), codes in array::uniform4(-127..=127i8),
        ) {
            let floats = floats.try_into().unwrap();
            // Rows whose every two bytes are a finite `f16`, so that any of them may be read as one.
            let bytes = rows.map(|row| std::array::from_fn(|i| row[i / 2].to_le_bytes()[i % 2]));
            on_every_machine!(check(&floats, &bytes, &codes));
        }
    }

    #[test]
    fn the_greatest_products_do_not_saturate() -> Result<(), TestCaseError> {
        for x in [-128, 127] {
            on_every_machine!(check_nibbles(15, x));
        }
        for (w, x) in [(i8::MIN, 127), (i8::MIN, -127), (127, -127)] {
            on_every_machine!(check_bytes(w, x));
        }
        Ok(())
    }

    fn check_nibbles<L: Lanes, const N: usize>(lanes: L, w: u8, x: i8) -> Result<(), TestCaseError> {
        let (weights, codes) = (lanes.splat_codes(&[w as i8; 4]), lanes.splat_codes(&[x; 4]));
        let sum = (0..NIBBLE_STEPS_MAX).fold(lanes.nibble_sum(), |sum, _| lanes.add_nibbles(sum, weights, codes));
        let mut out = [0.0; N];
        lanes.store(lanes.nibble_total(sum), &mut out);
        prop_assert_eq!(out, [32.0 * f32::from(w) * f32::from(x); N]);
        Ok(())
    }

    fn check_bytes<L: Lanes, const N: usize>(lanes: L, w: i8, x: i8) -> Result<(), TestCaseError> {
        let (weights, codes) = (lanes.splat_codes(&[w; 4]), lanes.splat_codes(&[x; 4]));
        let sum = (0..8).fold(lanes.byte_sum(32 * i32::from(x)), |sum, _| lanes.add_bytes(sum, weights, codes));
        let mut out = [0.0; N];
        lanes.store(lanes.byte_total(sum), &mut out);
        prop_assert_eq!(out, [32.0 * f32::from(w) * f32::from(x); N]);
        Ok(())
    }
}
