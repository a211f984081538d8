//! What one step computes: all that shards are told, and all they need to know of requests.

use serde::{Deserialize, Serialize};

use crate::tokenizer::Token;

/// Tokens of one block of the cache. Of the demo model a block is 720 KiB, and a sequence wastes half of one.
pub const BLOCK_TOKENS: usize = 32;

/// Names a sequence: one continuation of one prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SequenceId(pub u64);

/// Names a block of the cache. Every shard keeps its heads' part of the same block under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockId(pub u32);

/// One step: every sequence at most once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepPlan {
    /// What it computes, in the order of its rows of logits.
    pub sequences: Vec<SequencePlan>,
}

/// One sequence's part of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequencePlan {
    /// Whose it is.
    pub id: SequenceId,
    /// The tokens to compute, not empty.
    pub tokens: Vec<Token>,
    /// The position of the first of them: so many are in the cache already.
    pub start: usize,
    /// The blocks of the positions from 0 to the last of `tokens`, in order.
    pub blocks: Vec<BlockId>,
    /// After which tokens the next one is asked for.
    pub rows: Rows,
}

/// The tokens of a plan whose logits are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rows {
    /// None: more of the prompt comes.
    None,
    /// The last.
    Last,
    /// All of them.
    All,
}

impl StepPlan {
    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.tokens.len()).sum()
    }

    /// Rows of logits of all sequences.
    pub fn rows(&self) -> usize {
        self.sequences.iter().map(SequencePlan::row_count).sum()
    }
}

impl SequencePlan {
    /// Rows of logits of this sequence.
    pub fn row_count(&self) -> usize {
        match self.rows {
            Rows::None => 0,
            Rows::Last => 1,
            Rows::All => self.tokens.len(),
        }
    }

    /// Tokens in the cache after the step.
    pub fn end(&self) -> usize {
        self.start + self.tokens.len()
    }
}
