//! Attention, number by number.

use crate::{AttentionShape, KvBlocks};

/// [`crate::attention()`] on [`Path::Plain`](crate::Path::Plain); shapes are checked there.
pub(crate) fn attention(shape: AttentionShape, q: &[f32], kv: &KvBlocks<'_>, scores: &mut Vec<f32>, out: &mut [f32]) {
    let AttentionShape { heads, kv_heads, head_dim } = shape;
    let scale = 1.0 / (head_dim as f32).sqrt();
    out.fill(0.0);
    for head in 0..heads {
        let kv_head = head / (heads / kv_heads);
        let q = &q[head * head_dim..][..head_dim];
        let out = &mut out[head * head_dim..][..head_dim];

        scores.clear();
        for token in 0..kv.len {
            let key = kv.row(kv.keys, token, kv_head, shape);
            scores.push(q.iter().zip(key).map(|(q, k)| q * k.to_f32()).sum::<f32>() * scale);
        }
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        scores.iter_mut().for_each(|score| *score = (*score - max).exp());
        let inverse = 1.0 / scores.iter().sum::<f32>();

        for (token, weight) in scores.iter().enumerate() {
            let value = kv.row(kv.values, token, kv_head, shape);
            for (out, v) in out.iter_mut().zip(value) {
                *out += weight * v.to_f32();
            }
        }
        out.iter_mut().for_each(|out| *out *= inverse);
    }
}
