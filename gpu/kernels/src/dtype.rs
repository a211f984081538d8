//! The number formats of GGUF files that Mobula multiplies.
//!
//! Sizes and layouts only, as `ggml-common.h` of llama.cpp has them; the arithmetic lives with the kernels. A format
//! that is not here (the K formats, say) is refused by whoever reads the file, by its name.
//!
//! | format | block | bytes | what a block holds | value |
//! |---|---|---|---|---|
//! | `F32`, `F16`, `BF16` | 1 | 4, 2, 2 | the number, little endian | itself |
//! | `Q4_0` | 32 | 18 | `d: f16`, 16 bytes of nibbles | `(q - 8) · d` |
//! | `Q4_1` | 32 | 20 | `d: f16`, `m: f16`, 16 bytes of nibbles | `q · d + m` |
//! | `Q8_0` | 32 | 34 | `d: f16`, 32 `i8` | `q · d` |
//!
//! Byte `i` of the nibbles holds element `i` in its low half and element `i + 16` in its high half.

/// The format of a weight matrix.
///
/// ```
/// use mobula_kernels::Dtype;
///
/// assert_eq!(Dtype::Q4_1.row_bytes(576), Some(360));
/// assert_eq!(Dtype::Q4_1.row_bytes(33), None, "a row is whole blocks");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the names that GGUF gives them")]
pub enum Dtype {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an `F32`.
    BF16,
    /// 4-bit numbers around 8 with a scale.
    Q4_0,
    /// 4-bit numbers with a scale and a minimum.
    Q4_1,
    /// 8-bit numbers with a scale.
    Q8_0,
}

impl Dtype {
    /// Every format, in the order of the table above.
    pub const ALL: [Dtype; 6] = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::Q4_0, Dtype::Q4_1, Dtype::Q8_0];

    /// Elements in a block: what a row may be cut at.
    pub const fn block_len(self) -> usize {
        match self {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => 1,
            Dtype::Q4_0 | Dtype::Q4_1 | Dtype::Q8_0 => QUANTISED_BLOCK_LEN,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            Dtype::Q4_0 => 18,
            Dtype::Q4_1 => 20,
            Dtype::Q8_0 => 34,
        }
    }

    /// Bytes of a row of `cols` elements; `None` if that is not whole blocks or overflows.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether blocks share a scale, so that activations are quantised too.
    pub const fn is_quantised(self) -> bool {
        self.block_len() > 1
    }

    /// The name that GGUF tools print.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
            Dtype::Q4_0 => "Q4_0",
            Dtype::Q4_1 => "Q4_1",
            Dtype::Q8_0 => "Q8_0",
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Elements that share a scale, in every quantised format here and in the quantised activations.
pub(crate) const QUANTISED_BLOCK_LEN: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_ggml() {
        let rows = Dtype::ALL.map(|dtype| dtype.row_bytes(64));
        assert_eq!(rows, [Some(256), Some(128), Some(128), Some(36), Some(40), Some(68)]);
    }

    #[test]
    fn a_row_is_whole_blocks_and_does_not_overflow() {
        assert_eq!(Dtype::Q8_0.row_bytes(31), None);
        assert_eq!(Dtype::F32.row_bytes(usize::MAX / 2), None);
        assert_eq!(Dtype::Q8_0.row_bytes(usize::MAX - 31), None);
        assert_eq!(Dtype::Q4_0.row_bytes(0), Some(0));
    }
}
