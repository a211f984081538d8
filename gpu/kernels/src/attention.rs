//! Attention of one query token over a paged cache of keys and values.
//!
//! The cache is `f16`: half the memory traffic of `f32` where a long context makes attention wait for memory, and what
//! llama.cpp keeps, whose logits are the reference. Arithmetic is `f32`. Causality is the caller's `len`: a query sees
//! the tokens `0..len` and knows nothing of others, so its result is the same whatever else is in the batch.

use half::{f16, slice::HalfFloatSliceExt};

use crate::{
    Path, plain,
    simd::{self, on_path},
};

/// How many heads there are, and how long they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads, a multiple of `kv_heads`: consecutive ones share a head of keys and values.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head, at most [`AttentionShape::HEAD_DIM_MAX`].
    pub head_dim: usize,
}

impl AttentionShape {
    /// The longest head: that of Gemma, the longest of the models that Mobula serves.
    pub const HEAD_DIM_MAX: usize = 256;
}

/// The keys and values of one sequence in one layer.
///
/// Every block is `[block_tokens, kv_heads, head_dim]`, in the order of the tokens; only the tokens `0..len` are read.
#[derive(Clone, Copy)]
pub struct KvBlocks<'a> {
    /// Blocks of keys, rotated.
    pub keys: &'a [&'a [f16]],
    /// Blocks of values.
    pub values: &'a [&'a [f16]],
    /// Tokens that a block has room for.
    pub block_tokens: usize,
    /// Tokens that the query sees, itself included.
    pub len: usize,
}

impl<'a> KvBlocks<'a> {
    /// The head `kv_head` of `token`: `[head_dim]`.
    pub(crate) fn row(&self, blocks: &[&'a [f16]], token: usize, kv_head: usize, shape: AttentionShape) -> &'a [f16] {
        let AttentionShape { kv_heads, head_dim, .. } = shape;
        let block = blocks[token / self.block_tokens];
        &block[(token % self.block_tokens * kv_heads + kv_head) * head_dim..][..head_dim]
    }
}

/// Buffers that [`attention()`] reuses from call to call; one per shard.
///
/// Grows to the scores of all heads over the longest context attended to, and stays there.
#[derive(Debug, Default)]
pub struct Scratch {
    scores: Vec<f32>,
}

impl Scratch {
    /// Empty buffers.
    pub fn new() -> Self {
        Self::default()
    }
}

/// `out = softmax(q · keysᵀ / sqrt(head_dim)) · values` for every head of one query token.
///
/// `q`, `out`: `[heads, head_dim]`. A result depends on `q` and the cached tokens alone, not on where blocks end.
///
/// ```
/// use mobula_kernels::{AttentionShape, KvBlocks, Path, Scratch, attention, store_f16};
/// use mobula_kernels::f16;
///
/// let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 2 };
/// let mut values = [f16::ZERO; 4];
/// store_f16(&[1.0, 3.0, 5.0, 7.0], &mut values);
/// let kv = KvBlocks { keys: &[&[f16::ZERO; 4]], values: &[&values], block_tokens: 2, len: 2 };
/// let mut out = [0.0; 4];
/// attention(Path::detect()?, shape, &[1.0; 4], &kv, &mut Scratch::new(), &mut out);
/// assert_eq!(out, [3.0, 5.0, 3.0, 5.0], "equal keys: the mean of the values");
/// # Ok::<(), mobula_kernels::PathError>(())
/// ```
///
/// # Panics
///
/// If the lengths do not fit the shape, `len` is 0 or more than the blocks hold, a head is longer than
/// [`AttentionShape::HEAD_DIM_MAX`], or this machine lacks `path`.
pub fn attention(
    path: Path,
    shape: AttentionShape,
    q: &[f32],
    kv: &KvBlocks<'_>,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let AttentionShape { heads, kv_heads, head_dim } = shape;
    assert!(kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads), "attention: {heads} heads over {kv_heads}");
    assert!((1..=AttentionShape::HEAD_DIM_MAX).contains(&head_dim), "attention: heads of {head_dim}");
    assert_eq!((q.len(), out.len()), (heads * head_dim, heads * head_dim), "attention: [heads, head_dim]");
    assert!(kv.len > 0 && kv.block_tokens > 0, "attention: over nothing");
    let block_len = kv.block_tokens * kv_heads * head_dim;
    for blocks in [kv.keys, kv.values] {
        assert!(blocks.len() >= kv.len.div_ceil(kv.block_tokens), "attention: {} tokens in fewer blocks", kv.len);
        assert!(blocks.iter().all(|block| block.len() == block_len), "attention: blocks of {block_len}");
    }
    let scores = &mut scratch.scores;
    on_path!(path,
        plain: plain::attention(shape, q, kv, scores, out),
        lanes: |lanes| simd::attention(lanes, shape, q, kv, scores, out)
    );
}

/// Rounds `values` to nearest into the cache; what is too great becomes infinite.
///
/// # Panics
///
/// If the lengths differ.
pub fn store_f16(values: &[f32], out: &mut [f16]) {
    out.convert_from_f32_slice(values);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{samples, simd::Emulated};

    fn shapes() -> impl Strategy<Value = AttentionShape> {
        let head_dims = proptest::sample::select(vec![1, 7, 16, 32, 48, 64, 80, 96, 100, 112, 128, 240, 256]);
        (1..4usize, 1..4usize, head_dims).prop_map(|(kv_heads, group, head_dim)| AttentionShape {
            heads: kv_heads * group,
            kv_heads,
            head_dim,
        })
    }

    /// The cache of a sequence: `len` tokens, `[len, kv_heads, head_dim]`.
    struct Sequence {
        shape: AttentionShape,
        keys: Vec<f16>,
        values: Vec<f16>,
    }

    impl Sequence {
        fn new(shape: AttentionShape, len: usize, seed: u64) -> Self {
            let elements = len * shape.kv_heads * shape.head_dim;
            let cache = |seed, factor: f32| {
                let mut cache = vec![f16::ZERO; elements];
                let values: Vec<f32> = samples::values(elements, seed).iter().map(|x| x * factor).collect();
                store_f16(&values, &mut cache);
                cache
            };
            Self { shape, keys: cache(seed, 3.0), values: cache(seed ^ 1, 1.0) }
        }

        /// Gives the cache in blocks to `call`; what is past the last token is NaN.
        fn with_blocks<R>(&self, block_tokens: usize, len: usize, call: impl FnOnce(&KvBlocks<'_>) -> R) -> R {
            let block_len = block_tokens * self.shape.kv_heads * self.shape.head_dim;
            let [keys, values] = [&self.keys, &self.values].map(|cache| {
                let mut padded = cache.clone();
                padded.resize(cache.len().next_multiple_of(block_len), f16::NAN);
                padded
            });
            let keys: Vec<&[f16]> = keys.chunks(block_len).collect();
            let values: Vec<&[f16]> = values.chunks(block_len).collect();
            call(&KvBlocks { keys: &keys, values: &values, block_tokens, len })
        }

        fn attend(&self, path: Path, q: &[f32], block_tokens: usize, len: usize) -> Vec<f32> {
            self.with_blocks(block_tokens, len, |kv| {
                let mut out = vec![f32::NAN; q.len()];
                attention(path, self.shape, q, kv, &mut Scratch::new(), &mut out);
                out
            })
        }
    }

    proptest! {
        /// Every path is the plain one, up to rounding, and no path depends on where blocks end or on later tokens.
        #[test]
        fn it_depends_on_the_tokens_seen_alone(
            shape in shapes(), len in 1..70usize, later in 0..20usize, block_tokens in 1..40usize, seed: u64,
        ) {
            let q = samples::values(shape.heads * shape.head_dim, seed ^ 2);
            let alone = Sequence::new(shape, len, seed);
            let mut longer = Sequence::new(shape, len, seed);
            let others = Sequence::new(shape, later, seed ^ 3);
            longer.keys.extend(others.keys);
            longer.values.extend(others.values);
            let plain = alone.attend(Path::Plain, &q, len, len);
            for path in Path::available() {
                let expected = alone.attend(path, &q, len, len);
                for (found, plain) in expected.iter().zip(&plain) {
                    prop_assert!((found - plain).abs() <= 1e-5, "{}: {} for {}", path, found, plain);
                }
                prop_assert_eq!(&longer.attend(path, &q, block_tokens, len), &expected, "{}", path);
            }
        }

        /// As for the multiplication: sixteen lanes in emulation are right, eight are those of AVX2.
        #[test]
        fn lanes_agree(shape in shapes(), len in 1..70usize, block_tokens in 1..40usize, seed: u64) {
            let q = samples::values(shape.heads * shape.head_dim, seed ^ 2);
            let sequence = Sequence::new(shape, len, seed);
            let (mut eight, mut sixteen) = (vec![f32::NAN; q.len()], vec![f32::NAN; q.len()]);
            sequence.with_blocks(block_tokens, len, |kv| {
                simd::attention(Emulated::<8>, shape, &q, kv, &mut Vec::new(), &mut eight);
                simd::attention(Emulated::<16>, shape, &q, kv, &mut Vec::new(), &mut sixteen);
            });
            for (path, expected) in [(Path::Avx2, &eight), (Path::Avx512Vnni, &sixteen)] {
                if path.is_available() {
                    prop_assert_eq!(&sequence.attend(path, &q, block_tokens, len), expected, "{}", path);
                }
            }
            for (found, plain) in sixteen.iter().zip(sequence.attend(Path::Plain, &q, len, len)) {
                prop_assert!((found - plain).abs() <= 1e-5, "{} for {}", found, plain);
            }
        }
    }
}
