//! The demo model against llama.cpp: tokenizer, template, greedy tokens and logits, on 1, 2 and 3 shards.
//!
//! **How near is near.** The reference multiplies with activations of 8 bits, as we do, and each rounding that falls the
//! other way (by an instruction set, an order of a sum, a number of shards) changes all that follow: the noise in this
//! model's logits is 0.15 in the mean and 0.7 at worst. The same llama.cpp, built for AVX2 instead of AVX-512 and fed
//! with the reference's own tokens, misses the reference's best token at 0 to 4 of the 292 steps whose gap is at least
//! 0.15 (the widest of these gaps is 0.34), and its logits by 0.11 to 0.15 in the mean and 0.61 to 0.72 at worst; with
//! exact activations 1 step is missed. So the best token must be the reference's wherever the gap is above that noise,
//! and nearly everywhere else; what is exact is tested with the tiny models, in `model/llama/tests.rs`.
//!
//! Without the model file (`mobula pull smollm2`) these tests say that they were skipped; where `CI` is set they fail.

use std::time::{Duration, Instant, SystemTime};

use mobula_kernels::Path;
use mobula_llm::catalogue;
use mobula_llm::logic::{BLOCK_TOKENS, BlockId, Rows, SequenceId, SequencePlan, StepPlan};
use mobula_llm::model::{Logits, Model};
use mobula_llm::template::{ChatMessage, Role};
use serde::Deserialize;

/// Where the two best logits are closer than this, nothing is compared.
const GAP_MIN: f32 = 0.15;
/// Steps of the reference with at least that gap.
const STEPS_COMPARED: usize = 292;
/// From this gap on, no rounding explains another token.
const GAP_SURE: f32 = 0.5;
/// Steps below it that may differ: twice what llama.cpp itself does.
const STEPS_MISSED_MAX: usize = 8;
/// The mean difference of the reference's logits, of which llama.cpp itself has up to 0.15.
const DIFFERENCE_MEAN_MAX: f32 = 0.25;
/// The largest one; llama.cpp's is up to 0.72.
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

/// The logits after every token of `tokens`, computed in one step by `shards` shards.
fn logits(model: &Model, shards: usize, tokens: &[u32]) -> Vec<Vec<f32>> {
    let path = Path::detect().unwrap();
    let blocks: Vec<BlockId> = (0..tokens.len().div_ceil(BLOCK_TOKENS) as u32).map(BlockId).collect();
    let sequence = SequencePlan { id: SequenceId(0), tokens: tokens.to_vec(), start: 0, blocks, rows: Rows::All };
    let plan = StepPlan { sequences: vec![sequence] };
    let group = format!("reference {shards} {tokens:?}");
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
    let Reference { raw, chat } = reference();
    let (mut compared, mut wrong) = (0, Vec::new());
    for case in raw.iter().chain(&chat) {
        let tokens = [&case.prompt_ids[..], &case.greedy_ids].concat();
        // The last token's successor is not in the reference.
        let rows = logits(&model, shards, &tokens[..tokens.len() - 1]);
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
    println!("{shards} shards: compared {compared} steps with the reference, {ours} of {theirs} are equal");
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
    for shards in 1..=3 {
        let rows = logits(&model, shards, &tokens[..expected.len()]);
        let mut differences = Vec::new();
        for (row, expected) in rows.iter().zip(&expected) {
            assert_eq!(expected.len(), 10);
            differences.extend(expected.iter().map(|(token, logit)| (row[*token as usize] - logit).abs()));
        }
        let mean = differences.iter().sum::<f32>() / differences.len() as f32;
        let worst = differences.iter().copied().fold(0.0, f32::max);
        println!("{shards} shards: {} rows, differences {mean} in the mean, {worst} at worst", rows.len());
        assert!(mean <= DIFFERENCE_MEAN_MAX && worst <= DIFFERENCE_MAX, "{mean} in the mean, {worst} at worst");
    }
}
