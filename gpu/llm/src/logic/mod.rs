//! The engine's decisions: which tokens of which sequences a step computes, and in which blocks of the cache.
//!
//! Pure: no clock, thread, file or random number. The engine actor drives it, the shards obey its plans.
//!
//! ```text
//!            submit                 plan: blocks are free            finish, cancel, token limit
//! request ──────────► waiting ─────────────────────────► running ─────────────────────────► gone
//!                        ▲                                  │ no block is free for an older one:
//!                        └──────────────────────────────────┘ the youngest gives its blocks back
//! ```

mod batcher;
mod blocks;
pub mod invariants;
mod plan;

pub use batcher::{Batcher, Limits, LimitsError, Progress, Refusal};
pub use blocks::BlockPool;
pub use plan::{BLOCK_TOKENS, BlockId, Rows, SequenceId, SequencePlan, StepPlan};

#[cfg(test)]
mod tests;
