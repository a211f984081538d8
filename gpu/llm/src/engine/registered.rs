//! What may be spawned and called from another process, by name.
//!
//! [`Llm`] itself, its requests and its list of shards; and its own step, because under `encode_all` an actor's own
//! reference leads through the codec, too. The shards are their engine's alone, and
//! [`Description`](super::Description) is shared, not sent: both stay in the engine's process.

use mobula::__private::{ActorEntry, HandlerEntry, inventory};

use super::llm::{Llm, Shards, Step};
use super::request::{Piece, Request, RequestError};

inventory::submit! { ActorEntry::of::<Llm>("mobula_llm::Llm") }
inventory::submit! { HandlerEntry::stream::<Llm, Request, Result<Piece, RequestError>>("mobula_llm::Llm::generate") }
inventory::submit! { HandlerEntry::value::<Llm, Shards>("mobula_llm::Llm::shards") }
inventory::submit! { HandlerEntry::value::<Llm, Step>("mobula_llm::Llm::step") }
