//! Weights and activations for the tests, each made from a seed.

use half::{bf16, f16};

use crate::Dtype;

/// A contiguous matrix as a file holds it: any codes, scales of the usual size and of either sign.
pub(crate) fn weights(dtype: Dtype, rows: usize, cols: usize, seed: u64) -> Vec<u8> {
    let mut random = SplitMix64(seed);
    let blocks = rows * cols / dtype.block_len();
    let mut bytes = Vec::with_capacity(blocks * dtype.block_bytes());
    for _ in 0..blocks {
        match dtype {
            Dtype::F32 => bytes.extend(random.unit().to_le_bytes()),
            Dtype::F16 => bytes.extend(f16::from_f32(random.unit()).to_le_bytes()),
            Dtype::BF16 => bytes.extend(bf16::from_f32(random.unit()).to_le_bytes()),
            Dtype::Q4_0 | Dtype::Q8_0 => bytes.extend(f16::from_f32(random.unit() * 0.1).to_le_bytes()),
            Dtype::Q4_1 => {
                bytes.extend(f16::from_f32(random.unit() * 0.1).to_le_bytes());
                bytes.extend(f16::from_f32(random.unit()).to_le_bytes());
            }
        }
        while !bytes.len().is_multiple_of(dtype.block_bytes()) {
            bytes.push(random.next() as u8);
        }
    }
    bytes
}

/// Values in -1..1, some of them zero, some blocks far smaller.
pub(crate) fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut random = SplitMix64(seed);
    let mut size = 1.0;
    (0..len)
        .map(|index| {
            if index % 32 == 0 {
                size = if random.next().is_multiple_of(4) { 1e-3 } else { 1.0 };
            }
            if random.next().is_multiple_of(8) { 0.0 } else { random.unit() * size }
        })
        .collect()
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// In -1..1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
