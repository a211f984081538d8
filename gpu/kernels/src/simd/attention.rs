//! Attention of one query token: scores, softmax, the weighted sum of the values.
//!
//! Lanes run along a head's dimensions. A score is one vector of running sums over its key, summed over the lanes; an
//! output is the sum over the tokens, first to last, resting in `out` between tiles. Neither depends on where blocks or
//! tiles end. A tile of eight tokens is widened to `f32` once for all query heads that share it.

use half::f16;

use super::lanes::Lanes;
use crate::{AttentionShape, KvBlocks, exp::exp, plain};

/// [`crate::attention()`] in lanes; shapes are checked there.
pub(crate) fn attention<L: Lanes>(
    lanes: L,
    shape: AttentionShape,
    q: &[f32],
    kv: &KvBlocks<'_>,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let AttentionShape { heads, kv_heads, head_dim } = shape;
    // Heads of models that are in use are whole vectors of sixteen; for others the plain kernel is good enough.
    if !head_dim.is_multiple_of(L::WIDTH) {
        return plain::attention(shape, q, kv, scores, out);
    }
    let cache = Cache { kv, kv_heads, group: heads / kv_heads, head_dim };
    scores.resize(heads * cache.scores_stride(), 0.0);
    lanes.run(
        #[inline(always)]
        || {
            score(lanes, cache, q, scores);
            for scores in scores.chunks_exact_mut(cache.scores_stride()) {
                softmax(&mut scores[..kv.len], 1.0 / (head_dim as f32).sqrt());
            }
            weigh(lanes, cache, scores, out);
        },
    );
}

/// `scores[head, token] = q[head] · key[token]`.
#[inline(always)]
fn score<L: Lanes>(lanes: L, cache: Cache<'_>, q: &[f32], scores: &mut [f32]) {
    let Cache { group, head_dim, .. } = cache;
    let mut keys = [[lanes.splat(0.0); TILE_TOKENS]; STEPS_MAX];
    cache.for_each_tile(
        cache.kv.keys,
        #[inline(always)]
        |rows, first_token| {
            let groups = q.chunks_exact(group * head_dim).zip(scores.chunks_exact_mut(group * cache.scores_stride()));
            for (kv_head, (q, scores)) in groups.enumerate() {
                rows.widen(lanes, kv_head, &mut keys);
                for (q, scores) in q.chunks_exact(head_dim).zip(scores.chunks_exact_mut(cache.scores_stride())) {
                    let mut sums = [lanes.splat(0.0); TILE_TOKENS];
                    for (keys, q) in keys.iter().zip(q.chunks_exact(L::WIDTH)) {
                        let q = lanes.load(q);
                        for (sum, key) in sums.iter_mut().zip(keys) {
                            *sum = lanes.mul_add(*key, q, *sum);
                        }
                    }
                    // Past the last of fewer tokens is room, or what the next tile writes.
                    scores[first_token..][..TILE_TOKENS].copy_from_slice(&lanes.sums(sums));
                }
            }
        },
    );
}

/// `out[head] = Σ_token weights[head, token] · value[token]`.
#[inline(always)]
fn weigh<L: Lanes>(lanes: L, cache: Cache<'_>, weights: &[f32], out: &mut [f32]) {
    let Cache { group, head_dim, .. } = cache;
    let mut values = [[lanes.splat(0.0); TILE_TOKENS]; STEPS_MAX];
    out.fill(0.0);
    cache.for_each_tile(
        cache.kv.values,
        #[inline(always)]
        |rows, first_token| {
            let groups =
                out.chunks_exact_mut(group * head_dim).zip(weights.chunks_exact(group * cache.scores_stride()));
            for (kv_head, (out, weights)) in groups.enumerate() {
                rows.widen(lanes, kv_head, &mut values);
                let (fours, rest) = values[..head_dim / L::WIDTH].as_chunks::<4>();
                for (out, weights) in out.chunks_exact_mut(head_dim).zip(weights.chunks_exact(cache.scores_stride())) {
                    let weights = &weights[first_token..][..rows.tokens];
                    let (out, out_rest) = out.split_at_mut(fours.len() * 4 * L::WIDTH);
                    for (values, out) in fours.iter().zip(out.chunks_exact_mut(4 * L::WIDTH)) {
                        add_weighted(lanes, values, weights, out);
                    }
                    for (values, out) in rest.iter().zip(out_rest.chunks_exact_mut(L::WIDTH)) {
                        add_weighted(lanes, &[*values], weights, out);
                    }
                }
            }
        },
    );
}

/// Adds the weighted values of a tile to `V` vectors of the output.
#[inline(always)]
fn add_weighted<L: Lanes, const V: usize>(
    lanes: L,
    values: &[[L::F32; TILE_TOKENS]; V],
    weights: &[f32],
    out: &mut [f32],
) {
    let mut sums = [lanes.splat(0.0); V];
    for (sum, out) in sums.iter_mut().zip(out.chunks_exact(L::WIDTH)) {
        *sum = lanes.load(out);
    }
    for (t, weight) in weights.iter().enumerate().take(TILE_TOKENS) {
        let weight = lanes.splat(*weight);
        for (sum, values) in sums.iter_mut().zip(values) {
            *sum = lanes.mul_add(values[t], weight, *sum);
        }
    }
    for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(L::WIDTH)) {
        lanes.store(sum, out);
    }
}

/// `scores = exp((scores - max) · scale) / sum`, the sum in a fixed order: sixteen running sums.
#[inline(always)]
fn softmax(scores: &mut [f32], scale: f32) {
    let greater = |a: f32, b: f32| if a > b { a } else { b };
    let (mut maxima, mut sums) = ([f32::NEG_INFINITY; 16], [0.0; 16]);
    let (chunks, tail) = scores.as_chunks_mut::<16>();
    for chunk in &*chunks {
        for (max, score) in maxima.iter_mut().zip(chunk) {
            *max = greater(*score, *max);
        }
    }
    let max = maxima.iter().chain(&*tail).copied().fold(f32::NEG_INFINITY, greater);
    for chunk in chunks {
        for (sum, score) in sums.iter_mut().zip(chunk) {
            *score = exp((*score - max) * scale);
            *sum += *score;
        }
    }
    for (sum, score) in sums.iter_mut().zip(tail) {
        *score = exp((*score - max) * scale);
        *sum += *score;
    }
    let inverse = 1.0 / sums.into_iter().sum::<f32>();
    for score in scores {
        *score *= inverse;
    }
}

/// What is attended to, and by how many heads.
#[derive(Clone, Copy)]
struct Cache<'a> {
    kv: &'a KvBlocks<'a>,
    kv_heads: usize,
    /// Query heads that share a head of keys and values.
    group: usize,
    head_dim: usize,
}

impl<'a> Cache<'a> {
    /// Scores of a head, with room for a whole tile after the last token.
    #[inline(always)]
    fn scores_stride(&self) -> usize {
        self.kv.len + TILE_TOKENS
    }

    /// Calls `visit` with the tokens in order, some at a time, and the first of them: all heads of a token lie together
    /// and are read together, which memory is fastest at.
    #[inline(always)]
    fn for_each_tile(&self, blocks: &[&'a [f16]], mut visit: impl FnMut(TileRows<'a>, usize)) {
        let stride = self.kv_heads * self.head_dim;
        let mut first_token = 0;
        for block in blocks {
            for rows in block.chunks(TILE_TOKENS * stride) {
                if first_token >= self.kv.len {
                    return;
                }
                let tokens = (rows.len() / stride).min(self.kv.len - first_token);
                visit(TileRows { rows, tokens, stride, head_dim: self.head_dim }, first_token);
                first_token += tokens;
            }
        }
    }
}

/// Keys or values of at most [`TILE_TOKENS`] tokens in one block: `[tokens, kv_heads, head_dim]`.
#[derive(Clone, Copy)]
struct TileRows<'a> {
    rows: &'a [f16],
    tokens: usize,
    /// Elements from token to token.
    stride: usize,
    head_dim: usize,
}

impl TileRows<'_> {
    /// Fills the tile with one head; what it holds of tokens past the last stays.
    #[inline(always)]
    fn widen<L: Lanes>(&self, lanes: L, kv_head: usize, tile: &mut Tile<L>) {
        for (t, row) in self.rows.chunks_exact(self.stride).take(self.tokens.min(TILE_TOKENS)).enumerate() {
            let row = &row[kv_head * self.head_dim..][..self.head_dim];
            for (vectors, row) in tile.iter_mut().zip(row.chunks_exact(L::WIDTH)) {
                vectors[t] = read(lanes, row);
            }
        }
    }
}

/// A head of keys or values of some tokens: per vector of the head, the tokens' vectors.
type Tile<L> = [[<L as Lanes>::F32; TILE_TOKENS]; STEPS_MAX];

#[inline(always)]
fn read<L: Lanes>(lanes: L, values: &[f16]) -> L::F32 {
    // SAFETY: an `f16` is two bytes of any value, without padding; the lifetime and the length are the slice's.
    lanes.read_f16(unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) })
}

/// Tokens worked on together: as many running sums as fit the registers of AVX2 with room to spare.
const TILE_TOKENS: usize = 8;

/// Vectors of the longest head in the narrowest lanes.
const STEPS_MAX: usize = AttentionShape::HEAD_DIM_MAX / 8;
