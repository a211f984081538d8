//! The engine: an actor that batches requests over its shards, which are supervised actors too.
//!
//! ```text
//!   Llm ── asks every shard for each step ──► Shard 0 ┐ one_for_all: partial sums meet in a collective,
//!    └─ Supervisor ─ starts and restarts ───► Shard 1 ┘ so one without the others is worth nothing
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `llm.rs` | the actor [`Llm`]: requests in, steps out, tokens back |
//! | `shard.rs` | the actor of one shard: its thread computes and nothing else |
//! | `request.rs` | what is asked and what comes back, in types that travel |
//! | `spawn.rs` | [`Llm::spawn`] and what can be chosen, the proxy behind an `ActorRef<Llm>` |
//! | `registered.rs` | what of it may be called from another process |
//! | `serving.rs` | the same actor behind `mobula_serve`'s `Engine` |
//!
//! When a shard dies, what ran ends with [`RequestError::ShardFailed`] and its cause, the group starts again, and the
//! engine goes on with the next request. The decisions of a step are the pure [`Batcher`](crate::logic::Batcher)'s.

mod llm;
mod registered;
mod request;
mod serving;
mod shard;
mod spawn;

pub use llm::{Description, Llm};
pub use request::{Answer, End, Piece, Pieces, Prompt, Request, RequestError, Scored, TokenScore, Usage};
pub use serving::LlmEngine;
pub use shard::Fault;
pub use spawn::{Generate, LlmArgs, LlmProxy, LlmSpawn};
