//! The serving front of Mobula: OpenAI's API over HTTP, before any [`Engine`] that generates tokens.

#![forbid(unsafe_code)]

mod body;
mod connection;
mod echo;
mod engine;
mod front;
mod generate;
mod limits;
mod metrics;
mod openai;
mod routes;
mod server;
mod stream;
mod trust;

pub use echo::EchoEngine;
pub use engine::{
    ChatMessage, Chunk, Engine, EngineError, EngineLoad, Event, Finish, FinishReason, GenerateRequest, ModelInfo,
    Prompt, Role, Sampling, ScoredToken, TokenLogprob, Usage,
};
pub use limits::Limits;
pub use server::{BindError, Config, RunningServer, Server};
pub use stream::{QUEUE_BYTES_MAX, QUEUE_EVENTS_MAX, SendError, TokenSender, TokenStream};
