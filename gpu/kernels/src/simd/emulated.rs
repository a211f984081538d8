//! Lanes in plain Rust: what each instruction means, for the tests.

use half::{bf16, f16};

use super::lanes::{Lanes, Rows};

/// `N` lanes.
#[derive(Clone, Copy)]
pub(crate) struct Emulated<const N: usize>;

impl<const N: usize> Lanes for Emulated<N> {
    const WIDTH: usize = N;
    type F32 = [f32; N];
    type I32 = [i32; N];
    type NibbleSum = [i32; N];

    fn run<R>(self, f: impl FnOnce() -> R) -> R {
        f()
    }

    fn splat(self, value: f32) -> [f32; N] {
        [value; N]
    }

    fn load(self, from: &[f32]) -> [f32; N] {
        std::array::from_fn(|i| from[i])
    }

    fn read_f32(self, bytes: &[u8]) -> [f32; N] {
        let (numbers, _) = bytes.as_chunks();
        std::array::from_fn(|i| f32::from_le_bytes(numbers[i]))
    }

    fn read_f16(self, bytes: &[u8]) -> [f32; N] {
        let (numbers, _) = bytes.as_chunks();
        std::array::from_fn(|i| f16::from_le_bytes(numbers[i]).to_f32())
    }

    fn read_bf16(self, bytes: &[u8]) -> [f32; N] {
        let (numbers, _) = bytes.as_chunks();
        std::array::from_fn(|i| bf16::from_le_bytes(numbers[i]).to_f32())
    }

    fn store(self, value: [f32; N], to: &mut [f32]) {
        to[..N].copy_from_slice(&value);
    }

    fn mul(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    fn mul_add(self, a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    fn sums(self, values: [[f32; N]; 8]) -> [f32; 8] {
        values.map(|lanes| {
            let v: [f32; 8] = if N == 8 {
                std::array::from_fn(|i| lanes[i])
            } else {
                std::array::from_fn(|i| lanes[i] + lanes[i + 8])
            };
            ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]))
        })
    }

    fn splat_codes(self, codes: &[i8; 4]) -> [i32; N] {
        [i32::from_le_bytes(codes.map(|code| code as u8)); N]
    }

    fn low_nibbles(self, bytes: [i32; N]) -> [i32; N] {
        bytes.map(|bytes| bytes & 0x0f0f_0f0f)
    }

    fn high_nibbles(self, bytes: [i32; N]) -> [i32; N] {
        bytes.map(|bytes| bytes >> 4 & 0x0f0f_0f0f)
    }

    fn f16_halves(self, pairs: [i32; N]) -> [[f32; N]; 2] {
        [0, 16].map(|shift| pairs.map(|pair| f16::from_bits((pair >> shift) as u16).to_f32()))
    }

    fn nibble_sum(self) -> [i32; N] {
        [0; N]
    }

    fn add_nibbles(self, sum: [i32; N], w: [i32; N], x: [i32; N]) -> [i32; N] {
        std::array::from_fn(|i| {
            let products = w[i].to_le_bytes().into_iter().zip(x[i].to_le_bytes());
            sum[i] + products.map(|(w, x)| i32::from(w) * i32::from(x as i8)).sum::<i32>()
        })
    }

    fn nibble_total(self, sum: [i32; N]) -> [f32; N] {
        sum.map(|sum| sum as f32)
    }

    fn byte_sum(self, _x_sum: i32) -> [i32; N] {
        [0; N]
    }

    fn add_bytes(self, sum: [i32; N], w: [i32; N], x: [i32; N]) -> [i32; N] {
        std::array::from_fn(|i| {
            let products = w[i].to_le_bytes().into_iter().zip(x[i].to_le_bytes());
            sum[i] + products.map(|(w, x)| i32::from(w as i8) * i32::from(x as i8)).sum::<i32>()
        })
    }

    fn byte_total(self, sum: [i32; N]) -> [f32; N] {
        sum.map(|sum| sum as f32)
    }

    fn prefetch(self, _address: *const u8) {}

    unsafe fn transpose_16_bytes(self, rows: &Rows, at: usize) -> [[i32; N]; 4] {
        // SAFETY: the caller vouches for bytes `at .. at + 16` of every row.
        std::array::from_fn(|i| unsafe { self.gather_4_bytes(rows, at + 4 * i) })
    }

    unsafe fn gather_4_bytes(self, rows: &Rows, at: usize) -> [i32; N] {
        // SAFETY: the caller vouches for bytes `at .. at + 4` of every row.
        std::array::from_fn(|i| unsafe { rows[i].add(at).cast::<i32>().read_unaligned() })
    }

    unsafe fn gather_f16(self, rows: &Rows, at: usize) -> [f32; N] {
        // SAFETY: the caller vouches for bytes `at .. at + 2` of every row.
        std::array::from_fn(|i| f16::from_bits(unsafe { rows[i].add(at).cast::<u16>().read_unaligned() }).to_f32())
    }
}
