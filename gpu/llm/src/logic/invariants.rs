//! What is always true of a [`Batcher`] and of its plans. The random tests check it after every call.
//!
//! | | |
//! |---|---|
//! | KV-1 | a block is free or belongs to exactly one sequence |
//! | KV-2 | a running sequence has blocks for all tokens that are computed, and at most one step's more |
//! | KV-3 | a waiting sequence has no block and nothing computed |
//! | BATCH-1 | at most `running_max` sequences run; at most `waiting_max` wait beside those that gave way |
//! | BATCH-2 | a plan has at most `step_tokens_max` tokens, each sequence once, and no block twice |
//! | BATCH-3 | sequences are in order of age, all that run before all that wait |
//! | BATCH-4 | logits are asked for exactly when all known tokens are computed |
//! | BATCH-5 | while a sequence is there, a plan is not empty and brings the oldest one forward |

use std::collections::BTreeSet;

use super::{BLOCK_TOKENS, Batcher, Rows, StepPlan};

/// Checks KV-1 to KV-3, BATCH-1 and BATCH-3.
///
/// # Panics
/// With the name of the first that does not hold.
pub fn check(batcher: &Batcher) {
    let limits = &batcher.limits;
    let owned = batcher.running.iter().flat_map(|sequence| &sequence.blocks);
    let mut seen = BTreeSet::new();
    for block in owned.chain(batcher.pool.free_blocks()) {
        assert!(seen.insert(*block), "KV-1: {block:?} is in two places");
    }
    assert_eq!(seen.len(), limits.blocks as usize, "KV-1: a block is lost");
    for sequence in &batcher.running {
        let (room, computed) = (sequence.blocks.len() * BLOCK_TOKENS, sequence.computed);
        assert!(room >= computed, "KV-2: {sequence:?}");
        assert!(room < computed + limits.step_tokens_max + BLOCK_TOKENS, "KV-2: {sequence:?}");
        assert!(sequence.tokens.len() < sequence.tokens_max, "a full sequence is gone: {sequence:?}");
    }
    for sequence in &batcher.waiting {
        assert!(sequence.blocks.is_empty() && sequence.computed == 0, "KV-3: {sequence:?}");
    }
    assert!(batcher.running.len() <= limits.running_max, "BATCH-1");
    let new = batcher.waiting.iter().filter(|sequence| !sequence.gave_way).count();
    assert!(new <= limits.waiting_max, "BATCH-1");
    let ages: Vec<u64> = batcher.running.iter().chain(&batcher.waiting).map(|sequence| sequence.age).collect();
    assert!(ages.is_sorted(), "BATCH-3: {ages:?}");
}

/// Checks BATCH-2, BATCH-4 and BATCH-5 of the plan that the batcher has just made.
///
/// # Panics
/// With the name of the first that does not hold.
pub fn check_plan(batcher: &Batcher, plan: Option<&StepPlan>) {
    let oldest = batcher.running.first().or(batcher.waiting.front());
    let Some(plan) = plan else {
        assert!(oldest.is_none(), "BATCH-5: {oldest:?} waits for ever");
        return;
    };
    assert!((1..=batcher.limits.step_tokens_max).contains(&plan.tokens()), "BATCH-2: {plan:?}");
    let ids: BTreeSet<_> = plan.sequences.iter().map(|sequence| sequence.id).collect();
    assert_eq!(ids.len(), plan.sequences.len(), "BATCH-2: {plan:?}");
    let blocks: Vec<_> = plan.sequences.iter().flat_map(|sequence| &sequence.blocks).collect();
    assert_eq!(blocks.iter().collect::<BTreeSet<_>>().len(), blocks.len(), "BATCH-2: {plan:?}");
    assert_eq!(Some(plan.sequences[0].id), oldest.map(|sequence| sequence.id), "BATCH-5: {plan:?}");
    for planned in &plan.sequences {
        let sequence = batcher.running.iter().find(|sequence| sequence.id == planned.id);
        let sequence = sequence.expect("BATCH-2: what is planned runs");
        assert_eq!(planned.end(), sequence.computed, "BATCH-4: {planned:?}");
        assert_eq!(planned.tokens, sequence.tokens[planned.start..planned.end()], "BATCH-4: {planned:?}");
        assert_eq!(planned.blocks.len(), planned.end().div_ceil(BLOCK_TOKENS), "KV-2: {planned:?}");
        let whole = planned.end() == sequence.tokens.len();
        assert_eq!(planned.rows, if whole { Rows::Last } else { Rows::None }, "BATCH-4: {planned:?}");
    }
}
