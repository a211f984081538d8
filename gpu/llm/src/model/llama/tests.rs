//! The forward pass: the same bits however it is batched, chunked and repeated, on every path and number of shards.

use super::*;
use crate::logic::{BlockId, Rows, SequenceId, SequencePlan};
use crate::model::Model;
use crate::random::SplitMix64;
use crate::tiny::{self, Shape};
use crate::tokenizer::Token;
use std::time::Duration;

/// The shards of a model on plain threads, driven like the engine's.
struct Shards {
    shards: Vec<Shard>,
    group: String,
}

impl Shards {
    fn new(model: &Model, count: usize, path: Path, blocks: usize, group: &str) -> Self {
        let parts = model.split(count).unwrap();
        let shards = parts.iter().map(|part| model.shard(part, path, blocks).unwrap()).collect();
        Shards { shards, group: format!("{group} {count} {path}") }
    }

    /// One step; the logits of its rows over the whole vocabulary.
    fn step(&mut self, sequences: Vec<SequencePlan>) -> Vec<Vec<f32>> {
        let plan = StepPlan { sequences };
        let (size, group) = (self.shards.len(), &self.group);
        let deadline = Instant::now() + Duration::from_secs(60);
        let parts: Vec<Logits> = std::thread::scope(|threads| {
            let run = |shard: &mut Shard| {
                let mut member = mobula_collective::join(group, shard.part.rank, size).unwrap();
                let logits = shard.step(&plan, &mut member, deadline).unwrap();
                member.barrier(deadline).unwrap();
                member.leave();
                logits
            };
            let spawned: Vec<_> = self.shards.iter_mut().map(|shard| threads.spawn(move || run(shard))).collect();
            spawned.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        (0..plan.rows()).map(|row| Logits::whole_row(&parts, row)).collect()
    }
}

fn saved(shape: &Shape, seed: u64) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, shape.model(seed)).unwrap();
    Model::open(path).unwrap()
}

fn plan(id: u64, tokens: &[Token], start: usize, blocks: &[u32], rows: Rows) -> SequencePlan {
    let blocks = blocks[..(start + tokens.len()).div_ceil(BLOCK_TOKENS)].iter().copied().map(BlockId).collect();
    SequencePlan { id: SequenceId(id), tokens: tokens.to_vec(), start, blocks, rows }
}

fn prompt(len: usize, seed: u64) -> Vec<Token> {
    let mut random = SplitMix64::new(seed);
    (0..len).map(|_| random.below(260) as Token).collect()
}

#[test]
fn chunks_and_neighbours_do_not_show() {
    let model = saved(&Shape::default(), 1);
    let (tokens, other) = (prompt(70, 2), prompt(41, 3));
    for path in Path::available() {
        for count in 1..=3 {
            let new = || Shards::new(&model, count, path, 8, "chunks");
            let alone = new().step(vec![plan(0, &tokens, 0, &[0, 1, 2], Rows::All)]);
            for size in [1, 7, 16] {
                let mut shards = new();
                let chunks = tokens.chunks(size).scan(0, |start, chunk| {
                    let here = *start;
                    *start += chunk.len();
                    Some((here, chunk))
                });
                let mut chunked = Vec::new();
                for (start, chunk) in chunks {
                    // Blocks in an odd order, as a long-running engine gives them.
                    chunked.extend(shards.step(vec![plan(0, chunk, start, &[5, 0, 7], Rows::All)]));
                }
                assert_eq!(chunked, alone, "{count} shards, {path}, chunks of {size}");
            }
            // Another sequence before and behind, and the last row alone.
            let mut shards = new();
            let mixed = shards
                .step(vec![plan(1, &other[..20], 0, &[3], Rows::Last), plan(0, &tokens[..33], 0, &[1, 4], Rows::Last)]);
            assert_eq!(mixed[1], alone[32], "{count} shards, {path}");
            let mixed = shards.step(vec![
                plan(0, &tokens[33..], 33, &[1, 4, 2], Rows::Last),
                plan(1, &other[20..], 20, &[3, 0], Rows::None),
            ]);
            assert_eq!(mixed, [alone[69].clone()], "{count} shards, {path}");
        }
    }
}

/// Every format as the only one, tied and untied heads: shards compute what one shard computes, up to the rounding of
/// sums, and with quantised weights up to that of activations, which follows it.
#[test]
fn shards_together_compute_the_model() {
    for (seed, dtype) in (0..).zip(mobula_kernels::Dtype::ALL) {
        let shape = Shape { dtype: Some(dtype), untied_head: seed % 2 == 0, ..Shape::default() };
        let model = saved(&shape, seed);
        let tokens = prompt(40, seed);
        let whole = |count| {
            let mut shards = Shards::new(&model, count, Path::Plain, 2, &format!("whole {dtype}"));
            shards.step(vec![plan(0, &tokens, 0, &[0, 1], Rows::All)])
        };
        let one = whole(1);
        assert!(one.iter().flatten().all(|logit| logit.is_finite()));
        let spread = one.iter().flatten().fold(0f32, |max, logit| max.max(logit.abs()));
        assert!(spread > 0.1, "{dtype}: the model computes something, {spread}");
        let tolerance = spread * if dtype.is_quantised() { 0.02 } else { 1e-4 };
        for count in [2, 3] {
            for (a, b) in one.iter().flatten().zip(whole(count).iter().flatten()) {
                assert!((a - b).abs() < tolerance, "{dtype}, {count} shards: {a} and {b} of {spread}");
            }
        }
    }
}

/// The whole pass against a few lines of plain mathematics on dequantised weights, without any kernel or cache.
#[test]
fn computes_what_the_papers_say() {
    let shape = Shape { dtype: Some(mobula_kernels::Dtype::F32), ..Shape::default() };
    let model = saved(&shape, 11);
    let tokens = prompt(37, 12);
    let computed = Shards::new(&model, 1, Path::Plain, 2, "papers").step(vec![plan(0, &tokens, 0, &[0, 1], Rows::All)]);
    let expected = by_the_book(&model, &tokens);
    for (position, (found, expected)) in computed.iter().zip(&expected).enumerate() {
        for (found, expected) in found.iter().zip(expected) {
            // Keys and values are kept as f16: 11 bits.
            assert!((f64::from(*found) - expected).abs() < 5e-3, "position {position}: {found} for {expected}");
        }
    }
}

fn by_the_book(model: &Model, tokens: &[Token]) -> Vec<Vec<f64>> {
    let (file, config) = (model.file(), model.config());
    let weights = |name: &str| -> Vec<f64> { file.floats_of(name).unwrap().into_iter().map(f64::from).collect() };
    let multiply = |w: &[f64], x: &[f64]| -> Vec<f64> {
        w.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    };
    let norm = |x: &[f64], w: &[f64]| -> Vec<f64> {
        let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        x.iter().zip(w).map(|(v, w)| v / (mean + f64::from(config.norm_epsilon)).sqrt() * w).collect()
    };
    let rope = |x: &mut [f64], position: usize| {
        for head in x.chunks_exact_mut(config.head_dim) {
            for pair in 0..config.head_dim / 2 {
                let angle =
                    position as f64 * f64::from(config.rope_base).powf(-2.0 * pair as f64 / config.head_dim as f64);
                let (a, b) = (head[2 * pair], head[2 * pair + 1]);
                head[2 * pair] = a * angle.cos() - b * angle.sin();
                head[2 * pair + 1] = a * angle.sin() + b * angle.cos();
            }
        }
    };
    let embedding = weights("token_embd.weight");
    let mut x: Vec<Vec<f64>> =
        tokens.iter().map(|&token| embedding[token as usize * config.width..][..config.width].to_vec()).collect();
    for layer in 0..config.layers {
        let w = |role: &str| weights(&format!("blk.{layer}.{role}.weight"));
        let normed: Vec<_> = x.iter().map(|x| norm(x, &w("attn_norm"))).collect();
        let turned = |role: &str| -> Vec<Vec<f64>> {
            let w = w(role);
            let turn = |(position, x): (usize, &Vec<f64>)| {
                let mut y = multiply(&w, x);
                rope(&mut y, position);
                y
            };
            normed.iter().enumerate().map(turn).collect()
        };
        let (q, k) = (turned("attn_q"), turned("attn_k"));
        let v: Vec<_> = normed.iter().map(|x| multiply(&w("attn_v"), x)).collect();
        let dim = config.head_dim;
        for position in 0..x.len() {
            let mut attended = Vec::new();
            for head in 0..config.heads {
                let group = head / config.heads_per_group();
                let q = &q[position][head * dim..][..dim];
                let score = |k: &Vec<f64>| multiply(q, &k[group * dim..][..dim])[0] / (dim as f64).sqrt();
                let scores: Vec<f64> = k[..=position].iter().map(score).map(f64::exp).collect();
                let sum: f64 = scores.iter().sum();
                let value = |i: usize| scores.iter().zip(&v).map(|(s, v)| s / sum * v[group * dim + i]).sum::<f64>();
                attended.extend((0..dim).map(value));
            }
            let out = multiply(&w("attn_output"), &attended);
            x[position].iter_mut().zip(out).for_each(|(x, y)| *x += y);
        }
        for x in &mut x {
            let normed = norm(x, &w("ffn_norm"));
            let (gate, up) = (multiply(&w("ffn_gate"), &normed), multiply(&w("ffn_up"), &normed));
            let hidden: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            x.iter_mut().zip(multiply(&w("ffn_down"), &hidden)).for_each(|(x, y)| *x += y);
        }
    }
    x.iter().map(|x| multiply(&embedding, &norm(x, &weights("output_norm.weight")))).collect()
}

#[test]
fn a_step_reads_each_weight_once() {
    let cached = crate::catalogue::cached("smollm2").map(|path| Model::open(path).unwrap());
    for model in [Some(saved(&Shape { feed_forward: 1024, ..Shape::default() }, 5)), cached].into_iter().flatten() {
        let total = model.sizes().unwrap().total_bytes() as f64;
        for count in 1..=3 {
            let mut shards = Shards::new(&model, count, Path::detect().unwrap(), 1, "bytes");
            shards.step(vec![plan(0, &[1, 2, 3], 0, &[0], Rows::Last)]);
            let read: Vec<f64> = shards.shards.iter().map(|shard| shard.weight_bytes_read() as f64).collect();
            let sum: f64 = read.iter().sum();
            println!("{count} shards of {total} bytes read {read:?}");
            // Norms and embedding rows are read by every shard: little, in a model of any size.
            assert!((total..=1.02 * total).contains(&sum), "{count} shards read {sum} of {total} bytes");
            assert!(read.iter().all(|read| *read <= 1.2 * total / count as f64), "{count} shards read {read:?}");
        }
    }
}

#[test]
fn impossible_plans_are_refused() {
    let model = saved(&Shape::default(), 1);
    let part = model.split(1).unwrap().remove(0);
    let mut shard = model.shard(&part, Path::Plain, 2).unwrap();
    let mut member = mobula_collective::join("refused", 0, 1).unwrap();
    let mut refused = |sequence: SequencePlan, words: &str| {
        let plan = StepPlan { sequences: vec![sequence] };
        let error = shard.step(&plan, &mut member, Instant::now()).unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    };
    refused(plan(7, &[], 0, &[], Rows::Last), "sequence 7: no tokens");
    refused(plan(0, &[9999], 0, &[0], Rows::Last), "token 9999 of a vocabulary of");
    refused(plan(0, &[1], 256, &[0; 9], Rows::Last), "position 256 in a context of 256");
    refused(plan(0, &[1], 0, &[2], Rows::Last), "block 2 of 2");
    refused(plan(0, &[1], 40, &[0, 1], Rows::Last), "block 0 was never written");
    let mut short = plan(0, &[1; 33], 0, &[0, 1], Rows::Last);
    short.blocks.pop();
    refused(short, "1 blocks of 32 for 33 tokens");
    short = plan(0, &[1], 0, &[0], Rows::Last);
    short.start = usize::MAX;
    refused(short, "in a context of");
}

#[test]
fn unknown_tensors_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("biased.gguf");
    // The same length, so that nothing else moves.
    let mut bytes = tiny::model(1);
    let at = bytes.windows(20).position(|w| w == b"blk.1.attn_v.weight\x02").unwrap();
    bytes[at..at + 19].copy_from_slice(b"blk.1.attn_v.biased");
    std::fs::write(&path, bytes).unwrap();
    let error = Model::open(&path).unwrap_err().to_string();
    assert_eq!(error, "tensor \"blk.1.attn_v.biased\" is no part of architecture llama as it is implemented");
}
