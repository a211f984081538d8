//! Attention of one query token over a paged cache of keys and values.
//!
//! The cache is `f16`: half the memory traffic of `f32` where a long context makes attention wait for memory, and what
//! llama.cpp keeps, whose logits are the reference. Arithmetic is `f32`. Causality is the caller's `len`: a query sees
//! the tokens `0..len` and knows nothing of others, so its result is the same whatever else is in the batch.

use half::{f16, slice::HalfFloatSliceExt};

use crate::{Path, Scratch, plain};

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
    pub(crate) fn row(
        &self,
        blocks: &[&'a [f16]],
        token: usize,
        kv_head: usize,
        shape: AttentionShape,
    ) -> &'a [f16] {
        let AttentionShape {
            kv_heads, head_dim, ..
        } = shape;
        let block = blocks[token / self.block_tokens];
        &block[(token % self.block_tokens * kv_heads + kv_head) * head_dim..][..head_dim]
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
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
    } = shape;
    assert!(
        kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads),
        "attention: {heads} heads over {kv_heads}"
    );
    assert!(
        (1..=AttentionShape::HEAD_DIM_MAX).contains(&head_dim),
        "attention: heads of {head_dim}"
    );
    assert_eq!(
        (q.len(), out.len()),
        (heads * head_dim, heads * head_dim),
        "attention: [heads, head_dim]"
    );
    assert!(kv.len > 0 && kv.block_tokens > 0, "attention: over nothing");
    let block_len = kv.block_tokens * kv_heads * head_dim;
    for blocks in [kv.keys, kv.values] {
        assert!(
            blocks.len() >= kv.len.div_ceil(kv.block_tokens),
            "attention: {} tokens in fewer blocks",
            kv.len
        );
        assert!(
            blocks.iter().all(|block| block.len() == block_len),
            "attention: blocks of {block_len}"
        );
    }
    let _ = path;
    plain::attention(shape, q, kv, &mut scratch.scores, out);
}

/// Rounds `values` to nearest into the cache; what is too great becomes infinite.
///
/// # Panics
///
/// If the lengths differ.
pub fn store_f16(values: &[f32], out: &mut [f16]) {
    out.convert_from_f32_slice(values);
}
