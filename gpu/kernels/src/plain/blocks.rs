//! Decodes rows of weights: [`Dtype`] says how they are laid out.

use half::{bf16, f16};

use crate::{Dtype, dtype::QUANTISED_BLOCK_LEN};

/// A block of quantised weights: element `i` is `codes[i] · scale + min`.
pub(super) struct Block {
    pub(super) scale: f32,
    pub(super) min: f32,
    pub(super) codes: [i8; QUANTISED_BLOCK_LEN],
}

/// Writes the values of one row.
///
/// # Panics
///
/// If `out` has not as many elements as the row.
pub(crate) fn dequantise_row(dtype: Dtype, row: &[u8], out: &mut [f32]) {
    assert_eq!(dtype.row_bytes(out.len()), Some(row.len()), "dequantise: as many out as the row has");
    if !dtype.is_quantised() {
        for (value, bytes) in out.iter_mut().zip(row.chunks_exact(dtype.block_bytes())) {
            *value = decode_float(dtype, bytes);
        }
        return;
    }
    for (values, bytes) in out.chunks_exact_mut(QUANTISED_BLOCK_LEN).zip(row.chunks_exact(dtype.block_bytes())) {
        let Block { scale, min, codes } = Block::decode(dtype, bytes);
        for (value, code) in values.iter_mut().zip(codes) {
            *value = f32::from(code) * scale + min;
        }
    }
}

/// One number of a format without blocks.
pub(super) fn decode_float(dtype: Dtype, bytes: &[u8]) -> f32 {
    match (dtype, bytes) {
        (Dtype::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (Dtype::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
        (Dtype::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
        _ => unreachable!("{} bytes of {dtype} are no float", bytes.len()),
    }
}

impl Block {
    /// Decodes one block of a quantised format.
    pub(super) fn decode(dtype: Dtype, bytes: &[u8]) -> Self {
        let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
        let scale = half(0);
        match dtype {
            // `(q - 8) · d` as `q · d - 8 · d`, which is the same number: both products are exact.
            Dtype::Q4_0 => Self { scale, min: -8.0 * scale, codes: nibbles(&bytes[2..]) },
            Dtype::Q4_1 => Self { scale, min: half(2), codes: nibbles(&bytes[4..]) },
            Dtype::Q8_0 => Self { scale, min: 0.0, codes: std::array::from_fn(|i| bytes[2 + i] as i8) },
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => unreachable!("{dtype} has no blocks"),
        }
    }
}

fn nibbles(bytes: &[u8]) -> [i8; QUANTISED_BLOCK_LEN] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 } as i8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<const N: usize>(dtype: Dtype, bytes: &[u8], expected: [(usize, f32); N]) {
        let mut out = vec![f32::NAN; bytes.len() / dtype.block_bytes() * dtype.block_len()];
        dequantise_row(dtype, bytes, &mut out);
        for (index, value) in expected {
            assert_eq!(out[index], value, "{dtype}, element {index}");
        }
    }

    #[test]
    fn every_format_is_that_of_ggml() {
        let (half, minus_three) = (f16::from_f32(0.5).to_le_bytes(), f16::from_f32(-3.0).to_le_bytes());
        let mut nibbles = [0x88; 16];
        (nibbles[0], nibbles[15]) = (0xf1, 0x2e);
        let q4_0 = [&half[..], &nibbles].concat();
        check(Dtype::Q4_0, &q4_0, [(0, -3.5), (1, 0.0), (15, 3.0), (16, 3.5), (31, -3.0)]);
        let q4_1 = [&half[..], &minus_three, &nibbles].concat();
        check(Dtype::Q4_1, &q4_1, [(0, -2.5), (1, 1.0), (15, 4.0), (16, 4.5), (31, -2.0)]);
        let mut q8_0 = [&half[..], &[0; 32]].concat();
        (q8_0[2], q8_0[33]) = (0x80, 0x7f);
        check(Dtype::Q8_0, &q8_0, [(0, -64.0), (1, 0.0), (31, 63.5)]);
        check(Dtype::F32, &1.25f32.to_le_bytes(), [(0, 1.25)]);
        check(Dtype::F16, &[half, minus_three].concat(), [(0, 0.5), (1, -3.0)]);
        check(Dtype::BF16, &[0x80, 0x3f, 0x20, 0xc1], [(0, 1.0), (1, -10.0)]);
    }
}
