//! Answers computed by the shards alone: one token a step, no batch, no cache of another sequence, no actor.

use std::path::Path;
use std::time::Instant;

use mobula_llm::engine::{Answer, End, Prompt, Request, Usage};
use mobula_llm::generation::{Generation, Options};
use mobula_llm::logic::{BLOCK_TOKENS, BlockId, Rows, SequenceId, SequencePlan, StepPlan};
use mobula_llm::model::{Logits, Model};

use crate::PATIENCE;

/// The answer to `request` by `shards` shards of the model at `path`.
pub(crate) fn answer(path: &Path, shards: usize, request: &Request) -> Answer {
    let model = Model::open(path).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let Prompt::Tokens(mut tokens) = request.prompt.clone() else { panic!("tests ask with tokens") };
    let prompt_tokens = tokens.len();
    let tokens_max = request.tokens_max.map_or(usize::MAX, |max| max + prompt_tokens).min(model.config().context);
    let options = Options {
        sampling: request.sampling,
        stop: request.stop.clone(),
        top_logprobs: request.top_logprobs,
        ignore_end: false,
    };
    let mut generation = Generation::new(options).unwrap();
    let mut text = String::new();
    loop {
        let delta = generation.next(&last_logits(&model, shards, &tokens), &tokenizer).unwrap();
        tokens.push(delta.token);
        text.push_str(&delta.text);
        let stopped = delta.end.is_some();
        if stopped || tokens.len() == tokens_max {
            if !stopped {
                text.push_str(&generation.finish());
            }
            let usage = Usage { prompt_tokens, answer_tokens: tokens.len() - prompt_tokens };
            return Answer { text, end: End { stopped, usage } };
        }
    }
}

/// The logits after the last token, computed from nothing.
fn last_logits(model: &Model, shards: usize, tokens: &[u32]) -> Vec<f32> {
    let blocks: Vec<BlockId> = (0..tokens.len().div_ceil(BLOCK_TOKENS) as u32).map(BlockId).collect();
    let cache = blocks.len();
    let sequence = SequencePlan { id: SequenceId(0), tokens: tokens.to_vec(), start: 0, blocks, rows: Rows::Last };
    let plan = StepPlan { sequences: vec![sequence] };
    let parts = model.split(shards).unwrap();
    // A group of its own: tests run beside one another.
    let group = format!("direct {:?}", std::thread::current().id());
    let compute = |rank: usize| {
        let mut shard = model.shard(&parts[rank], mobula_kernels::Path::detect().unwrap(), cache).unwrap();
        let mut member = mobula_collective::join(&group, rank, shards).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let logits = shard.step(&plan, &mut member, deadline).unwrap();
        // Nobody leaves, and ends the group's name, before all have joined.
        member.barrier(deadline).unwrap();
        member.leave();
        logits
    };
    let parts: Vec<Logits> = std::thread::scope(|threads| {
        let compute = &compute;
        let spawned: Vec<_> = (0..shards).map(|rank| threads.spawn(move || compute(rank))).collect();
        spawned.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    Logits::whole_row(&parts, 0)
}
