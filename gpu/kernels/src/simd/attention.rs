//! Attention of one query token: scores, softmax, the weighted sum of the values.
//!
//! Lanes run along a head's dimensions. A score is one vector of running sums over its key, summed over the lanes; an
//! output is the sum over the tokens, first to last, resting in `out` between tiles. Neither depends on where blocks or
//! tiles end. A tile of eight tokens is widened to `f32` once for all query heads that share it.

use half::f16;

use super::lanes::Lanes;
use crate::{AttentionShape, KvBlocks, exp::exp, plain};

/// [`crate::attention`] in lanes; shapes are checked there.
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
    let group = heads / kv_heads;
    let group_len = group * head_dim;
    scores.resize(group * scores_stride(kv), 0.0);
    for (kv_head, (q, out)) in q.chunks_exact(group_len).zip(out.chunks_exact_mut(group_len)).enumerate() {
        lanes.run(
            #[inline(always)]
            || {
                let head = Head { kv, stride: kv_heads * head_dim, offset: kv_head * head_dim, head_dim };
                let mut tile = [[lanes.splat(0.0); TILE_TOKENS]; STEPS_MAX];
                score(lanes, head, q, &mut tile, scores);
                for scores in scores.chunks_exact_mut(scores_stride(kv)) {
                    softmax(&mut scores[..kv.len], 1.0 / (head_dim as f32).sqrt());
                }
                weigh(lanes, head, scores, &mut tile, out);
            },
        );
    }
}

/// `scores[head, token] = q[head] · key[token]` for the query heads that share the keys.
#[inline(always)]
fn score<L: Lanes>(lanes: L, head: Head<'_>, q: &[f32], tile: &mut Tile<L>, scores: &mut [f32]) {
    let mut first_token = 0;
    while first_token < head.kv.len {
        let tokens = head.widen(lanes, head.kv.keys, first_token, tile);
        for (q, scores) in q.chunks_exact(head.head_dim).zip(scores.chunks_exact_mut(scores_stride(head.kv))) {
            let mut sums = [lanes.splat(0.0); TILE_TOKENS];
            for (keys, q) in tile.iter().zip(q.chunks_exact(L::WIDTH)) {
                let q = lanes.load(q);
                for (sum, key) in sums.iter_mut().zip(keys) {
                    *sum = lanes.mul_add(*key, q, *sum);
                }
            }
            // Past the last of fewer tokens is room, or what the next tile writes.
            scores[first_token..][..TILE_TOKENS].copy_from_slice(&lanes.sums(sums));
        }
        first_token += tokens;
    }
}

/// `out[head] = Σ_token weights[head, token] · value[token]` for the query heads that share the values.
#[inline(always)]
fn weigh<L: Lanes>(lanes: L, head: Head<'_>, weights: &[f32], tile: &mut Tile<L>, out: &mut [f32]) {
    out.fill(0.0);
    let mut first_token = 0;
    while first_token < head.kv.len {
        let tokens = head.widen(lanes, head.kv.values, first_token, tile);
        for (out, weights) in out.chunks_exact_mut(head.head_dim).zip(weights.chunks_exact(scores_stride(head.kv))) {
            let weights = &weights[first_token..][..tokens];
            let steps = &tile[..out.len() / L::WIDTH];
            let (fours, rest) = steps.as_chunks::<4>();
            let (outs, out_rest) = out.split_at_mut(fours.len() * 4 * L::WIDTH);
            for (values, out) in fours.iter().zip(outs.chunks_exact_mut(4 * L::WIDTH)) {
                add_weighted(lanes, values, weights, out);
            }
            for (values, out) in rest.iter().zip(out_rest.chunks_exact_mut(L::WIDTH)) {
                add_weighted(lanes, &[*values], weights, out);
            }
        }
        first_token += tokens;
    }
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

/// One head of keys and values in all blocks.
#[derive(Clone, Copy)]
struct Head<'a> {
    kv: &'a KvBlocks<'a>,
    /// Elements from token to token.
    stride: usize,
    /// Elements before the head.
    offset: usize,
    head_dim: usize,
}

impl Head<'_> {
    /// Fills the tile with the tokens from `first_token` on, to the end of their block at most; gives how many.
    #[inline(always)]
    fn widen<L: Lanes>(self, lanes: L, blocks: &[&[f16]], first_token: usize, tile: &mut Tile<L>) -> usize {
        let Self { kv, stride, offset, head_dim } = self;
        let (block, first) = (blocks[first_token / kv.block_tokens], first_token % kv.block_tokens);
        let tokens = TILE_TOKENS.min(kv.len - first_token).min(kv.block_tokens - first);
        for t in 0..tokens.min(TILE_TOKENS) {
            let row = &block[(first + t) * stride + offset..][..head_dim];
            // The next tile, where blocks follow one another in memory.
            for line in row.chunks(CACHE_LINE_BYTES / size_of::<f16>()) {
                lanes.prefetch(line.as_ptr().wrapping_add(TILE_TOKENS * stride).cast());
            }
            for (vectors, row) in tile.iter_mut().zip(row.chunks_exact(L::WIDTH)) {
                vectors[t] = read(lanes, row);
            }
        }
        tokens
    }
}

/// A head of keys or values of some tokens: per vector of the head, the tokens' vectors.
type Tile<L> = [[<L as Lanes>::F32; TILE_TOKENS]; STEPS_MAX];

/// Scores of a head, with room for a whole tile after the last token.
#[inline(always)]
fn scores_stride(kv: &KvBlocks<'_>) -> usize {
    kv.len + TILE_TOKENS
}

#[inline(always)]
fn read<L: Lanes>(lanes: L, values: &[f16]) -> L::F32 {
    // SAFETY: an `f16` is two bytes of any value, without padding; the lifetime and the length are the slice's.
    lanes.read_f16(unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) })
}

/// Tokens worked on together: as many running sums as fit the registers of AVX2 with room to spare.
const TILE_TOKENS: usize = 8;

/// Vectors of the longest head in the narrowest lanes.
const STEPS_MAX: usize = AttentionShape::HEAD_DIM_MAX / 8;

const CACHE_LINE_BYTES: usize = 64;
