//! The serving front of Mobula: OpenAI's API over HTTP, before any [`Engine`] that generates tokens.

#![forbid(unsafe_code)]

mod echo;
mod engine;
mod stream;

pub use echo::EchoEngine;
pub use engine::{
    ChatMessage, Chunk, Engine, EngineError, EngineLoad, Event, Finish, FinishReason, GenerateRequest, ModelInfo,
    Prompt, Role, Sampling, ScoredToken, TokenLogprob, Usage,
};
pub use stream::{QUEUE_BYTES_MAX, QUEUE_EVENTS_MAX, SendError, TokenSender, TokenStream};
