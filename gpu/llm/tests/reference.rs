//! The demo model against llama.cpp: tokenizer, template, greedy tokens and logits, on 1, 2 and 3 shards.
//!
//! **How near is near.** The reference multiplies with activations of 8 bits, as we do, and each rounding that falls the
//! other way (by an instruction set, an order of a sum, a number of shards) changes all that follow. What that does to
//! this model was measured against the reference, which llama.cpp's AVX-512 build made:
//!
//! | computed by | equal of the 292 steps | logits of the first prompt, mean and worst difference |
//! |---|---|---|
//! | sums in double precision, activations not rounded at all | 291 | 0.20, 0.72 |
//! | llama.cpp's AVX2 build | 288 to 292 | 0.11 to 0.15, 0.61 to 0.72 |
//! | ours, AVX-512, 1, 2, 3 shards | 289, 291, 289 | 0.16, 0.16, 0.19; 0.79, 0.70, 1.22 |
//! | ours, AVX2 | 290, 292, 291 | 0.17, 0.18, 0.16; 0.93, 0.83, 0.84 |
//! | ours, plain | 289, 288, 287 | 0.16, 0.14, 0.16; 0.79, 0.59, 0.67 |
//! | the same three with scales and sums rounded to `f16` as ggml does | 286 to 291 | 0.14 to 0.17; 0.50 to 0.73 |
//!
//! So the reference itself is 0.7 from the exact result, and misses its best token once: only the same roundings in the
//! same order come nearer. They are not to be had: ggml sums products of `f16` in one order for a prompt and in another
//! for a single token (`tinyBLAS` and `ggml_vec_dot_f16`), and our logits may not depend on how a prompt is chunked, nor
//! can partial sums of several shards be rounded like a whole one. So the best token must be the reference's wherever
//! the gap is above that noise, and nearly everywhere else, on every path; what is exact is tested with the tiny models,
//! in `model/llama/tests.rs`.
//!
//! Without the model file (`mobula pull smollm2`) these tests say that they were skipped; where `CI` is set they fail.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mobula_kernels::Path;
use mobula_llm::catalogue;
use mobula_llm::logic::{BLOCK_TOKENS, BlockId, Rows, SequenceId, SequencePlan, StepPlan};
use mobula_llm::model::{Logits, Model};
use mobula_serve::{ChatMessage, Role};
use serde::Deserialize;

/// Where the two best logits are closer than this, nothing is compared.
const GAP_MIN: f32 = 0.15;
/// Steps of the reference with at least that gap.
const STEPS_COMPARED: usize = 292;
/// From this gap on, no rounding explains another token: the widest that any row of the table missed is 0.38.
const GAP_SURE: f32 = 0.4;
/// Steps below it that may differ; the worst row of the table misses 6.
const STEPS_MISSED_MAX: usize = 6;
/// The mean difference of the reference's logits: that of exact arithmetic and a quarter.
const DIFFERENCE_MEAN_MAX: f32 = 0.25;
/// The largest one; the worst row of the table has 1.22.
const DIFFERENCE_MAX: f32 = 1.5;

#[derive(Deserialize)]
struct Reference {
    raw: Vec<Continuation>,
    chat: Vec<Continuation>,
}

#[derive(Deserialize)]
struct Continuation {
    prompt: String,
    rendered: Option<String>,
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    gap_top1_top2: Vec<f32>,
    text: String,
    #[serde(default)]
    prompt_top10: Vec<Vec<(u32, f32)>>,
    #[serde(default)]
    step_top10: Vec<Vec<(u32, f32)>>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("data/smollm2.json")).expect("the reference is valid")
}

/// The demo model, or a word on why there is nothing to test.
fn model() -> Option<Model> {
    let Some(path) = catalogue::cached("smollm2") else {
        assert!(std::env::var_os("CI").is_none(), "CI must pull the demo model: mobula pull smollm2");
        println!("skipped: the demo model is not there, `mobula pull smollm2` fetches it");
        return None;
    };
    Some(Model::open(path).expect("the demo model opens"))
}

/// The paths to test: the one that `MOBULA_CPU` names, else all vector paths that this machine has. The plain one, which
/// takes a minute for what these do in two seconds, is the kernels' reference and is tested there, and here when named.
fn paths() -> Vec<Path> {
    if std::env::var_os(Path::VARIABLE).is_some() {
        return vec![Path::detect().unwrap()];
    }
    let available = Path::available();
    let vector: Vec<Path> = available.iter().copied().filter(|path| *path != Path::Plain).collect();
    if vector.is_empty() { available } else { vector }
}

/// The logits after every token of `tokens`, computed in one step by `shards` shards.
fn logits(model: &Model, path: Path, shards: usize, tokens: &[u32]) -> Vec<Vec<f32>> {
    let blocks: Vec<BlockId> = (0..tokens.len().div_ceil(BLOCK_TOKENS) as u32).map(BlockId).collect();
    let sequence = SequencePlan { id: SequenceId(0), tokens: tokens.to_vec(), start: 0, blocks, rows: Rows::All };
    let plan = StepPlan { sequences: vec![sequence] };
    // Tests that run at once compute the same sequences: each time is a group of its own.
    static GROUPS: AtomicU64 = AtomicU64::new(0);
    let group = format!("reference {}", GROUPS.fetch_add(1, Ordering::Relaxed));
    let run = |rank: usize| {
        let part = &model.split(shards).unwrap()[rank];
        let mut shard = model.shard(part, path, plan.sequences[0].blocks.len()).unwrap();
        let mut member = mobula_collective::join(&group, rank, shards).unwrap();
        let deadline = Instant::now() + Duration::from_secs(120);
        let logits = shard.step(&plan, &mut member, deadline).unwrap();
        member.leave();
        logits
    };
    let parts: Vec<Logits> = std::thread::scope(|threads| {
        let run = &run;
        let spawned: Vec<_> = (0..shards).map(|rank| threads.spawn(move || run(rank))).collect();
        spawned.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    (0..tokens.len()).map(|row| Logits::whole_row(&parts, row)).collect()
}

#[test]
fn tokens_and_templates_are_the_references() {
    let Some(model) = model() else { return };
    let tokenizer = model.tokenizer().unwrap();
    let template = model.template(&tokenizer).unwrap();
    let Reference { raw, chat } = reference();
    for case in &raw {
        assert_eq!(tokenizer.encode_prompt(&case.prompt), case.prompt_ids, "{:?}", case.prompt);
    }
    for case in &chat {
        let messages = [ChatMessage::new(Role::User, case.prompt.as_str())];
        let rendered = template.render(&messages, SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(Some(rendered.text()), case.rendered);
        assert_eq!(tokenizer.encode_rendered(&rendered), case.prompt_ids, "{:?}", case.prompt);
    }
    for case in raw.iter().chain(&chat) {
        // The reference writes control tokens out.
        let text: String = case.greedy_ids.iter().map(|&token| tokenizer.text_of(token)).collect();
        assert_eq!(text, case.text);
    }
    assert_eq!((raw.len(), chat.len()), (5, 3));
}

/// Fed with the reference's own prefix, the best token is the reference's at every step whose gap is wide enough.
fn best_tokens_are_the_references(shards: usize) {
    let Some(model) = model() else { return };
    for path in paths() {
        best_tokens_on(&model, path, shards);
    }
}

fn best_tokens_on(model: &Model, path: Path, shards: usize) {
    let Reference { raw, chat } = reference();
    let (mut compared, mut wrong) = (0, Vec::new());
    for case in raw.iter().chain(&chat) {
        let tokens = [&case.prompt_ids[..], &case.greedy_ids].concat();
        // The last token's successor is not in the reference.
        let rows = logits(model, path, shards, &tokens[..tokens.len() - 1]);
        let rows = &rows[case.prompt_ids.len() - 1..];
        assert_eq!(rows.len(), case.greedy_ids.len());
        for (step, (row, gap)) in rows.iter().zip(&case.gap_top1_top2).enumerate() {
            if *gap < GAP_MIN {
                continue;
            }
            compared += 1;
            let best = mobula_kernels::argmax(row) as u32;
            if best != case.greedy_ids[step] {
                wrong.push((case.prompt.clone(), step, best, case.greedy_ids[step], *gap));
            }
        }
    }
    let (ours, theirs) = (compared - wrong.len(), STEPS_COMPARED);
    println!("{path}, {shards} shards: compared {compared} steps with the reference, {ours} of {theirs} are equal");
    println!("others (prompt, step, ours, the reference's, its gap): {wrong:?}");
    assert_eq!(compared, STEPS_COMPARED);
    assert!(wrong.iter().all(|(.., gap)| *gap < GAP_SURE), "a wide gap was missed");
    assert!(wrong.len() <= STEPS_MISSED_MAX, "{} steps were missed", wrong.len());
}

#[test]
fn best_tokens_of_1_shard() {
    best_tokens_are_the_references(1);
}

#[test]
fn best_tokens_of_2_shards() {
    best_tokens_are_the_references(2);
}

#[test]
fn best_tokens_of_3_shards() {
    best_tokens_are_the_references(3);
}

#[test]
fn logits_are_near_the_references() {
    let Some(model) = model() else { return };
    let case = &reference().raw[0];
    let tokens = [&case.prompt_ids[..], &case.greedy_ids].concat();
    // The reference's row for the prompt's last position is also its first step.
    let expected: Vec<_> = case.prompt_top10.iter().chain(&case.step_top10[1..]).collect();
    assert_eq!(expected.len() + 1, tokens.len());
    for (path, shards) in paths().into_iter().flat_map(|path| (1..=3).map(move |shards| (path, shards))) {
        let rows = logits(&model, path, shards, &tokens[..expected.len()]);
        let mut differences = Vec::new();
        for (row, expected) in rows.iter().zip(&expected) {
            assert_eq!(expected.len(), 10);
            differences.extend(expected.iter().map(|(token, logit)| (row[*token as usize] - logit).abs()));
        }
        let mean = differences.iter().sum::<f32>() / differences.len() as f32;
        let worst = differences.iter().copied().fold(0.0, f32::max);
        println!("{path}, {shards} shards: {} rows, differences {mean} in the mean, {worst} at worst", rows.len());
        assert!(mean <= DIFFERENCE_MEAN_MAX && worst <= DIFFERENCE_MAX, "{mean} in the mean, {worst} at worst");
    }
}
