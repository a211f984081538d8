//! Attention of one query token, head by head: scores, softmax, the weighted sum of the values.
//!
//! Lanes run along a head's dimensions. A score is one vector of running sums over its key, summed over the lanes; eight
//! keys are worked on together. An output is the sum over the tokens, first to last. Neither depends on where blocks end.

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
    scores.resize(kv.len, 0.0);
    for (head, (q, out)) in q.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)).enumerate() {
        let stride = kv_heads * head_dim;
        let offset = head / (heads / kv_heads) * head_dim;
        for (keys, scores) in kv.keys.iter().zip(scores.chunks_mut(kv.block_tokens)) {
            let keys = Heads { block: keys, stride, offset };
            lanes.run(
                #[inline(always)]
                || score(lanes, q, keys, scores),
            );
        }
        let sum = lanes.run(
            #[inline(always)]
            || exponentials(scores),
        );
        lanes.run(
            #[inline(always)]
            || weighted_sum(lanes, Cache { kv, stride, offset }, scores, 1.0 / sum, out),
        );
    }
}

/// `scores[token] = q · key / sqrt(head_dim)` for the tokens of one block.
#[inline(always)]
fn score<L: Lanes>(lanes: L, q: &[f32], keys: Heads<'_>, scores: &mut [f32]) {
    let scale = 1.0 / (q.len() as f32).sqrt();
    for first_token in (0..scores.len()).step_by(8) {
        let last_token = scores.len() - 1;
        let mut rows = [&[][..]; 8];
        for (t, row) in rows.iter_mut().enumerate() {
            *row = keys.row(last_token.min(first_token + t), q.len());
        }
        let mut sums = [lanes.splat(0.0); 8];
        for at in (0..q.len()).step_by(L::WIDTH) {
            let x = lanes.load(&q[at..][..L::WIDTH]);
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum = lanes.mul_add(read(lanes, &row[at..][..L::WIDTH]), x, *sum);
            }
        }
        for (score, sum) in scores[first_token..].iter_mut().zip(lanes.sums(sums)) {
            *score = sum * scale;
        }
    }
}

/// `scores = exp(scores - max)`; gives their sum, in a fixed order: sixteen running sums.
#[inline(always)]
fn exponentials(scores: &mut [f32]) -> f32 {
    let greater = |a: f32, b: f32| if a > b { a } else { b };
    let (mut maxima, mut sums) = ([f32::NEG_INFINITY; 16], [0.0; 16]);
    for chunk in scores.chunks(16) {
        for (max, score) in maxima.iter_mut().zip(chunk) {
            *max = greater(*score, *max);
        }
    }
    let max = maxima.into_iter().fold(f32::NEG_INFINITY, greater);
    let (chunks, tail) = scores.as_chunks_mut::<16>();
    for chunk in chunks {
        for (sum, score) in sums.iter_mut().zip(chunk) {
            *score = exp(*score - max);
            *sum += *score;
        }
    }
    for (sum, score) in sums.iter_mut().zip(tail) {
        *score = exp(*score - max);
        *sum += *score;
    }
    sums.into_iter().sum()
}

/// `out = Σ_token weights[token] · value · inverse`, as many vectors of it at a time as registers hold.
#[inline(always)]
fn weighted_sum<L: Lanes>(lanes: L, cache: Cache<'_>, weights: &[f32], inverse: f32, out: &mut [f32]) {
    let mut rest = out;
    let mut cache = cache;
    while !rest.is_empty() {
        let len = match rest.len() / L::WIDTH {
            8.. => weighted_sum_tile::<L, 8>(lanes, cache, weights, inverse, rest),
            4.. => weighted_sum_tile::<L, 4>(lanes, cache, weights, inverse, rest),
            2.. => weighted_sum_tile::<L, 2>(lanes, cache, weights, inverse, rest),
            _ => weighted_sum_tile::<L, 1>(lanes, cache, weights, inverse, rest),
        };
        rest = &mut rest[len..];
        cache.offset += len;
    }
}

/// The first `V` vectors of the output; gives how many dimensions that is.
#[inline(always)]
fn weighted_sum_tile<L: Lanes, const V: usize>(
    lanes: L,
    Cache { kv, stride, offset }: Cache<'_>,
    weights: &[f32],
    inverse: f32,
    out: &mut [f32],
) -> usize {
    let mut sums = [lanes.splat(0.0); V];
    for (block, weights) in kv.values.iter().zip(weights.chunks(kv.block_tokens)) {
        let values = Heads { block, stride, offset };
        for (token, weight) in weights.iter().enumerate() {
            let (row, weight) = (values.row(token, V * L::WIDTH), lanes.splat(*weight));
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = lanes.mul_add(read(lanes, &row[v * L::WIDTH..][..L::WIDTH]), weight, *sum);
            }
        }
    }
    for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(L::WIDTH)) {
        lanes.store(lanes.mul(sum, lanes.splat(inverse)), out);
    }
    V * L::WIDTH
}

/// One head of keys or values in one block.
#[derive(Clone, Copy)]
struct Heads<'a> {
    block: &'a [f16],
    /// Elements from token to token.
    stride: usize,
    /// Elements before the head.
    offset: usize,
}

impl<'a> Heads<'a> {
    #[inline(always)]
    fn row(&self, token: usize, len: usize) -> &'a [f16] {
        &self.block[token * self.stride + self.offset..][..len]
    }
}

/// One head in all blocks.
#[derive(Clone, Copy)]
struct Cache<'a> {
    kv: &'a KvBlocks<'a>,
    stride: usize,
    offset: usize,
}

#[inline(always)]
fn read<L: Lanes>(lanes: L, values: &[f16]) -> L::F32 {
    // SAFETY: an `f16` is two bytes of any value, without padding; the lifetime and the length are the slice's.
    lanes.read_f16(unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) })
}
