//! Continuous batching: after every step sequences may come and go (Yu et al., "Orca", OSDI 2022), prompts are computed
//! in chunks beside the decoding of others (Agrawal et al., "Sarathi-Serve", arXiv:2403.02310).
//!
//! **Blocks are taken on demand and the youngest gives way.** Reserving each sequence's worst case would need no
//! preemption, but a chat without `max_tokens` may grow to the whole context, so two of them would fill a cache that
//! holds thirty real conversations. When an older sequence needs a block and none is free, the youngest one gives all
//! of its blocks back and waits at the front of the queue; its tokens are kept and computed again later, with the same
//! logits, because those do not depend on chunks. Nothing deadlocks: a sequence that would not fit the whole cache alone
//! is refused when it is submitted, and the oldest one never gives way, so every step brings it forward.
//!
//! Order is by age everywhere: nobody overtakes, nobody starves.
//!
//! Does not sample, know stop strings, or measure time.

use std::collections::VecDeque;

use super::blocks::{BlockPool, blocks_for};
use super::{BLOCK_TOKENS, BlockId, Rows, SequenceId, SequencePlan, StepPlan};
use crate::tokenizer::Token;

/// The bounds of a batcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sequences that run at once.
    pub running_max: usize,
    /// Sequences that wait; one more is refused.
    pub waiting_max: usize,
    /// Tokens of one step, at least `running_max`. It bounds how long a long prompt holds up the others' next tokens.
    pub step_tokens_max: usize,
    /// Tokens of one sequence, prompt and answer.
    pub context: usize,
    /// Blocks of the cache.
    pub blocks: u32,
}

/// Bounds that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LimitsError(String);

/// Why a sequence is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The queue is full: try again later.
    #[error("{waiting} requests are waiting already")]
    QueueFull {
        /// How many wait.
        waiting: usize,
    },
    /// There is nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {tokens} tokens, but the context is {context} tokens with the answer's")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// Prompt and answer together do not fit the cache, even alone.
    #[error("prompt and answer may have {tokens} tokens, but the cache holds {cache} tokens")]
    CacheTooSmall {
        /// Tokens at most.
        tokens: usize,
        /// Tokens that all blocks hold.
        cache: usize,
    },
}

/// What became of a sequence with its new token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It goes on.
    Runs,
    /// That was the last token it may have: it is gone.
    Full,
    /// It was gone before.
    Gone,
}

/// Decides what every step computes.
///
/// ```
/// use mobula_llm::logic::{Batcher, Limits, Progress, SequenceId};
///
/// let limits = Limits { running_max: 8, waiting_max: 64, step_tokens_max: 16, context: 128, blocks: 8 };
/// let mut batcher = Batcher::new(limits)?;
/// batcher.submit(SequenceId(1), vec![5; 20], 2)?;
/// assert_eq!(batcher.plan().unwrap().tokens(), 16); // The prompt's first chunk.
/// let plan = batcher.plan().unwrap();
/// assert_eq!((plan.tokens(), plan.rows()), (4, 1)); // Its rest, with the logits of the answer's first token.
/// assert_eq!(batcher.advance(SequenceId(1), 7), Progress::Runs);
/// assert_eq!(batcher.plan().unwrap().tokens(), 1);
/// assert_eq!(batcher.advance(SequenceId(1), 8), Progress::Full);
/// assert!(batcher.plan().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Batcher {
    pub(super) limits: Limits,
    pub(super) pool: BlockPool,
    /// From the oldest to the youngest. All are younger than those that run.
    pub(super) waiting: VecDeque<Sequence>,
    /// From the oldest to the youngest.
    pub(super) running: Vec<Sequence>,
    submitted: u64,
    preemptions: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Sequence {
    pub(super) id: SequenceId,
    /// Grows with every submission: the lower, the older.
    pub(super) age: u64,
    /// The prompt and what has been generated.
    pub(super) tokens: Vec<Token>,
    /// Tokens that it may have in all.
    pub(super) tokens_max: usize,
    /// Tokens that are in the cache, once the steps planned so far are done.
    pub(super) computed: usize,
    pub(super) blocks: Vec<BlockId>,
    /// Whether it ran before and had to give its blocks back.
    pub(super) gave_way: bool,
}

impl Batcher {
    /// One without sequences.
    ///
    /// # Errors
    /// [`LimitsError`] when a bound is 0 or the tokens of a step do not suffice for one each.
    pub fn new(limits: Limits) -> Result<Self, LimitsError> {
        let Limits { running_max, step_tokens_max, context, blocks, .. } = limits;
        if running_max == 0 || context < 2 || blocks == 0 {
            return Err(LimitsError(format!("nothing can run within {limits:?}")));
        }
        if step_tokens_max < running_max {
            let why = format!("steps of {step_tokens_max} tokens, expected one for each of {running_max} sequences");
            return Err(LimitsError(why));
        }
        Ok(Batcher {
            limits,
            pool: BlockPool::new(blocks),
            waiting: VecDeque::new(),
            running: Vec::new(),
            submitted: 0,
            preemptions: 0,
        })
    }

    /// Queues a prompt for up to `answer_max` more tokens (as many as the context allows, at most).
    ///
    /// # Errors
    /// [`Refusal`]; nothing is kept of what is refused.
    pub fn submit(&mut self, id: SequenceId, prompt: Vec<Token>, answer_max: usize) -> Result<(), Refusal> {
        let Limits { context, waiting_max, .. } = self.limits;
        let tokens = prompt.len();
        if tokens == 0 {
            return Err(Refusal::EmptyPrompt);
        }
        if tokens >= context {
            return Err(Refusal::PromptTooLong { tokens, context });
        }
        let tokens_max = tokens.saturating_add(answer_max.max(1)).min(context);
        // The last token is never computed, only told.
        if blocks_for(tokens_max - 1) > self.pool.total() {
            let cache = self.pool.total() * BLOCK_TOKENS;
            return Err(Refusal::CacheTooSmall { tokens: tokens_max, cache });
        }
        // Those that gave way wait too, but were let in before.
        if self.waiting.iter().filter(|waiting| !waiting.gave_way).count() >= waiting_max {
            return Err(Refusal::QueueFull { waiting: self.waiting.len() });
        }
        let age = self.submitted;
        self.submitted += 1;
        let sequence =
            Sequence { id, age, tokens: prompt, tokens_max, computed: 0, blocks: Vec::new(), gave_way: false };
        self.waiting.push_back(sequence);
        Ok(())
    }

    /// The next step; `None` when there is nothing to compute. Its tokens count as computed from now on.
    ///
    /// # Panics
    /// If a sequence whose logits the last plan asked for was neither advanced, finished nor cancelled.
    pub fn plan(&mut self) -> Option<StepPlan> {
        let owing = self.running.iter().find(|sequence| sequence.pending() == 0);
        assert!(owing.is_none(), "{:?} waits for its token: advance, finish or cancel it", owing.map(|s| s.id));
        self.admit();
        let wanted = self.share_the_step();
        let mut sequences = Vec::with_capacity(wanted.len());
        for (index, wanted) in wanted.into_iter().enumerate() {
            // The youngest may have given way meanwhile, and they stand at the end.
            if wanted == 0 || index >= self.running.len() {
                continue;
            }
            let room = self.make_room(index, wanted);
            // Without room it gave way itself.
            let Some(sequence) = self.running.get_mut(index).filter(|_| room > 0) else { continue };
            sequences.push(sequence.take_step(room));
        }
        (!sequences.is_empty()).then_some(StepPlan { sequences })
    }

    /// Adds the token that was chosen for a sequence.
    pub fn advance(&mut self, id: SequenceId, token: Token) -> Progress {
        let Some(sequence) = self.running.iter_mut().find(|sequence| sequence.id == id) else { return Progress::Gone };
        debug_assert_eq!(sequence.pending(), 0, "BATCH-4: {id:?} gets a token it was not asked for");
        sequence.tokens.push(token);
        if sequence.tokens.len() < sequence.tokens_max {
            return Progress::Runs;
        }
        self.remove(id);
        Progress::Full
    }

    /// Ends a sequence, running or waiting, and frees its blocks; false when it was gone before. Between steps or
    /// during one: whoever gets its blocks writes them in a later step.
    pub fn remove(&mut self, id: SequenceId) -> bool {
        if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
            let sequence = self.running.remove(index);
            sequence.blocks.into_iter().for_each(|block| self.pool.give_back(block));
            return true;
        }
        let before = self.waiting.len();
        self.waiting.retain(|sequence| sequence.id != id);
        self.waiting.len() < before
    }

    /// Ends all sequences, the oldest first, and gives their names: the shards' cache is lost.
    pub fn clear(&mut self) -> Vec<SequenceId> {
        let ids: Vec<SequenceId> = self.running.iter().chain(&self.waiting).map(|sequence| sequence.id).collect();
        ids.iter().for_each(|&id| {
            self.remove(id);
        });
        ids
    }

    /// Sequences that run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The cache's blocks.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// How often a sequence gave its blocks back.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Lets those in that wait, the oldest first, while there is room for all of their tokens and one block for each
    /// that runs to grow into: to let one in that must give way at once would only compute its prompt in vain.
    fn admit(&mut self) {
        while let Some(next) = self.waiting.front() {
            let free = self.pool.free();
            let promised: usize = self.running.iter().map(Sequence::blocks_missing).sum();
            let growth = self.running.len();
            let alone = self.running.is_empty();
            let fits = alone || promised + growth + blocks_for(next.tokens.len()) <= free;
            if !fits || self.running.len() == self.limits.running_max {
                return;
            }
            let next = self.waiting.pop_front().expect("it was looked at");
            debug_assert!(self.running.last().is_none_or(|last| last.age < next.age), "BATCH-3");
            self.running.push(next);
        }
    }

    /// How many tokens each that runs may compute: one for each that decodes, then the prompts by age.
    fn share_the_step(&self) -> Vec<usize> {
        let decoding = self.running.iter().filter(|sequence| sequence.pending() == 1).count();
        let mut left = self.limits.step_tokens_max - decoding;
        let share = |sequence: &Sequence| match sequence.pending() {
            1 => 1,
            pending => {
                let share = pending.min(left);
                left -= share;
                share
            }
        };
        self.running.iter().map(share).collect()
    }

    /// Takes blocks for up to `wanted` more tokens of the sequence at `index` and gives for how many there is room: at
    /// least one, if need be by making the youngest give way. None when it was the youngest itself.
    fn make_room(&mut self, index: usize, wanted: usize) -> usize {
        loop {
            let sequence = &mut self.running[index];
            while sequence.blocks.len() < blocks_for(sequence.computed + wanted)
                && let Some(block) = self.pool.take()
            {
                sequence.blocks.push(block);
            }
            let room = (sequence.blocks.len() * BLOCK_TOKENS - sequence.computed).min(wanted);
            if room > 0 {
                return room;
            }
            self.preempt_the_youngest();
            if index >= self.running.len() {
                return 0;
            }
        }
    }

    fn preempt_the_youngest(&mut self) {
        let mut youngest = self.running.pop().expect("somebody needs a block, so somebody runs");
        youngest.blocks.drain(..).for_each(|block| self.pool.give_back(block));
        (youngest.computed, youngest.gave_way) = (0, true);
        self.preemptions += 1;
        self.waiting.push_front(youngest);
    }
}

impl Sequence {
    /// Tokens that are not in the cache yet.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Blocks that its known tokens still need.
    fn blocks_missing(&self) -> usize {
        blocks_for(self.tokens.len()).saturating_sub(self.blocks.len())
    }

    fn take_step(&mut self, count: usize) -> SequencePlan {
        let start = self.computed;
        self.computed += count;
        let rows = if self.pending() == 0 { Rows::Last } else { Rows::None };
        let blocks = self.blocks[..blocks_for(self.computed)].to_vec();
        SequencePlan { id: self.id, tokens: self.tokens[start..self.computed].to_vec(), start, blocks, rows }
    }
}
