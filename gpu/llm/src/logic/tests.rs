//! Tables of what a batcher does, and random runs with every invariant checked after every call.

use std::collections::BTreeMap;

use super::*;
use crate::random::SplitMix64;
use crate::tokenizer::Token;

const LIMITS: Limits = Limits { running_max: 4, waiting_max: 3, step_tokens_max: 64, context: 256, blocks: 8 };

fn batcher(limits: Limits) -> Batcher {
    Batcher::new(limits).unwrap()
}

/// Plans a step, checks it, and gives (sequence, start, tokens, asks for logits) of each.
fn step(batcher: &mut Batcher) -> Vec<(u64, usize, usize, bool)> {
    let plan = batcher.plan();
    invariants::check(batcher);
    invariants::check_plan(batcher, plan.as_ref());
    let each = plan.into_iter().flat_map(|plan| plan.sequences);
    each.map(|s| (s.id.0, s.start, s.tokens.len(), s.rows == Rows::Last)).collect()
}

fn submit(batcher: &mut Batcher, id: u64, prompt: usize, answer: usize) -> Result<(), Refusal> {
    let result = batcher.submit(SequenceId(id), vec![id as Token; prompt], answer);
    invariants::check(batcher);
    result
}

fn advance(batcher: &mut Batcher, id: u64) -> Progress {
    let progress = batcher.advance(SequenceId(id), 0);
    invariants::check(batcher);
    progress
}

#[test]
fn prompts_come_in_chunks_beside_decoding() {
    let mut batcher = batcher(LIMITS);
    submit(&mut batcher, 1, 10, 5).unwrap();
    assert_eq!(step(&mut batcher), [(1, 0, 10, true)]);
    submit(&mut batcher, 2, 100, 5).unwrap();
    assert_eq!(advance(&mut batcher, 1), Progress::Runs);
    assert_eq!(step(&mut batcher), [(1, 10, 1, true), (2, 0, 63, false)]);
    advance(&mut batcher, 1);
    assert_eq!(step(&mut batcher), [(1, 11, 1, true), (2, 63, 37, true)]);
}

#[test]
fn an_answer_ends_at_its_limit_or_the_contexts() {
    let mut batcher = batcher(LIMITS);
    submit(&mut batcher, 1, 10, 2).unwrap();
    step(&mut batcher);
    assert_eq!(advance(&mut batcher, 1), Progress::Runs);
    step(&mut batcher);
    assert_eq!(advance(&mut batcher, 1), Progress::Full);
    assert_eq!(advance(&mut batcher, 1), Progress::Gone);
    submit(&mut batcher, 2, 255, usize::MAX).unwrap();
    for _ in 0..4 {
        step(&mut batcher);
    }
    assert_eq!(advance(&mut batcher, 2), Progress::Full, "the 256th token is told, not computed");
    assert_eq!((step(&mut batcher), batcher.pool().free()), (vec![], 8));
}

#[test]
fn what_cannot_run_is_refused() {
    let mut small = batcher(Limits { blocks: 2, ..LIMITS });
    assert_eq!(submit(&mut small, 1, 0, 1), Err(Refusal::EmptyPrompt));
    assert_eq!(submit(&mut small, 1, 256, 1), Err(Refusal::PromptTooLong { tokens: 256, context: 256 }));
    assert_eq!(submit(&mut small, 1, 60, 6), Err(Refusal::CacheTooSmall { tokens: 66, cache: 64 }));
    assert_eq!(submit(&mut small, 1, 60, 5), Ok(()));
    assert!(Batcher::new(Limits { step_tokens_max: 3, ..LIMITS }).is_err());
    assert!(Batcher::new(Limits { blocks: 0, ..LIMITS }).is_err());
}

#[test]
fn the_queue_is_bounded_and_fair() {
    let mut batcher = batcher(Limits { running_max: 1, ..LIMITS });
    (1..=3).for_each(|id| submit(&mut batcher, id, 4, 1).unwrap());
    assert_eq!(submit(&mut batcher, 4, 4, 1), Err(Refusal::QueueFull { waiting: 3 }));
    assert_eq!(step(&mut batcher), [(1, 0, 4, true)]);
    submit(&mut batcher, 4, 4, 1).unwrap();
    assert!(batcher.remove(SequenceId(3)) && !batcher.remove(SequenceId(3)));
    for id in [1, 2, 4] {
        assert_eq!(advance(&mut batcher, id), Progress::Full);
        step(&mut batcher);
    }
    assert_eq!((batcher.running(), batcher.waiting()), (0, 0));
}

#[test]
fn the_youngest_gives_way_and_comes_back() {
    let mut batcher = batcher(Limits { blocks: 4, ..LIMITS });
    submit(&mut batcher, 1, 32, 60).unwrap();
    submit(&mut batcher, 2, 31, 60).unwrap();
    assert_eq!(step(&mut batcher), [(1, 0, 32, true), (2, 0, 31, true)]);
    // Each grows by a block, then by another: the fifth is not there.
    let mut steps = 0;
    while batcher.preemptions() == 0 {
        for id in [1, 2] {
            advance(&mut batcher, id);
        }
        step(&mut batcher);
        steps += 1;
    }
    assert_eq!((steps, batcher.running(), batcher.waiting()), (33, 1, 1));
    // 2 keeps its 64 tokens and waits until 1 is done.
    while advance(&mut batcher, 1) == Progress::Runs {
        assert_eq!(step(&mut batcher).len(), 1);
    }
    assert_eq!(step(&mut batcher), [(2, 0, 64, true)]);
}

#[test]
fn clearing_frees_everything() {
    let mut batcher = batcher(LIMITS);
    (1..=3).for_each(|id| submit(&mut batcher, id, 40, 9).unwrap());
    step(&mut batcher);
    assert_eq!(batcher.clear(), [SequenceId(1), SequenceId(2), SequenceId(3)]);
    invariants::check(&batcher);
    assert_eq!((batcher.pool().free(), step(&mut batcher)), (8, vec![]));
}

#[test]
#[should_panic(expected = "waits for its token")]
fn a_forgotten_token_is_noticed() {
    let mut batcher = batcher(LIMITS);
    submit(&mut batcher, 1, 4, 9).unwrap();
    step(&mut batcher);
    step(&mut batcher);
}

/// Sequences come, go and are cancelled at random, in caches that are far too small. Every plan is obeyed by a cache
/// that remembers which token stands where: each plan must find there what its sequence has computed.
#[test]
fn random_runs_keep_every_promise() {
    for seed in 0..300 {
        let mut random = SplitMix64::new(seed);
        let running_max = 1 + random.below(6) as usize;
        let limits = Limits {
            running_max,
            waiting_max: 1 + random.below(5) as usize,
            step_tokens_max: running_max + random.below(80) as usize,
            context: 40 + random.below(200) as usize,
            blocks: 2 + random.below(12) as u32,
        };
        run(limits, &mut random, seed);
    }
}

fn run(limits: Limits, random: &mut SplitMix64, seed: u64) {
    let mut batcher = batcher(limits);
    // Position and token of every slot that was written.
    let mut cache: BTreeMap<(BlockId, usize), (usize, Token)> = BTreeMap::new();
    let mut texts: BTreeMap<SequenceId, Vec<Token>> = BTreeMap::new();
    let (mut submitted, mut ended, mut steps) = (0u64, 0u64, 0);
    while steps < 400 || !texts.is_empty() {
        assert!(steps < 20_000, "seed {seed}: nothing ends any more, {batcher:?}");
        steps += 1;
        if steps < 400 && random.below(3) == 0 {
            let id = SequenceId(submitted);
            let prompt: Vec<Token> = (0..random.below(90)).map(|_| random.below(1000) as Token).collect();
            if batcher.submit(id, prompt.clone(), random.below(120) as usize).is_ok() {
                submitted += 1;
                texts.insert(id, prompt);
            }
            invariants::check(&batcher);
        }
        if random.below(40) == 0
            && let Some(&id) = texts.keys().min()
        {
            assert!(batcher.remove(id), "seed {seed}");
            texts.remove(&id);
            ended += 1;
            invariants::check(&batcher);
        }
        let plan = batcher.plan();
        invariants::check(&batcher);
        invariants::check_plan(&batcher, plan.as_ref());
        for sequence in plan.into_iter().flat_map(|plan| plan.sequences) {
            let text = texts.get_mut(&sequence.id).unwrap_or_else(|| panic!("seed {seed}: {sequence:?} is gone"));
            let slot = |position: usize| (sequence.blocks[position / BLOCK_TOKENS], position % BLOCK_TOKENS);
            for (position, &token) in (sequence.start..).zip(&sequence.tokens) {
                cache.insert(slot(position), (position, token));
            }
            for (position, &token) in text[..sequence.end()].iter().enumerate() {
                assert_eq!(cache[&slot(position)], (position, token), "seed {seed}: {sequence:?}");
            }
            if sequence.rows == Rows::Last {
                let token = random.below(1000) as Token;
                text.push(token);
                let stops = random.below(60) == 0;
                if batcher.advance(sequence.id, token) == Progress::Full || (stops && batcher.remove(sequence.id)) {
                    texts.remove(&sequence.id);
                    ended += 1;
                }
            }
        }
        invariants::check(&batcher);
    }
    assert_eq!((ended, batcher.pool().free()), (submitted, limits.blocks as usize), "seed {seed}");
}
