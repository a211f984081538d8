//! The serving front of Mobula: OpenAI's API over HTTP, before any [`Engine`] that generates tokens.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use mobula_serve::{Config, EchoEngine, Server};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // `EchoEngine` answers with the prompt's words; `mobula_llm::Llm` is an engine with a model.
//! let server = Server::bind(Config { port: 0, ..Config::default() }, Arc::new(EchoEngine::new("echo"))).await?;
//!
//! // Any OpenAI client will do; this one is async-openai.
//! use async_openai::{Client, config::OpenAIConfig};
//! use async_openai::types::chat::{ChatCompletionRequestUserMessage, CreateChatCompletionRequestArgs};
//! let client = Client::with_config(OpenAIConfig::new().with_api_base(format!("{}/v1", server.url())));
//! let request = CreateChatCompletionRequestArgs::default()
//!     .model("echo")
//!     .messages([ChatCompletionRequestUserMessage::from("hello there").into()])
//!     .build()?;
//! let answer = client.chat().create(request).await?;
//! assert_eq!(answer.choices[0].message.content.as_deref(), Some("hello there"));
//!
//! server.stop(Duration::from_secs(30)).await;
//! # Ok(()) }
//! ```
//!
//! # Routes
//!
//! | route | what it does | key |
//! |---|---|---|
//! | `POST /v1/chat/completions` | the assistant's next turn; `stream: true` sends server-sent events | yes |
//! | `POST /v1/completions` | continues a text, token ids, or several of either | yes |
//! | `GET /v1/models`, `GET /v1/models/{id}` | what is served | yes |
//! | `GET /health` | 200, or 503 while stopping | no |
//! | `GET /metrics` | counters for Prometheus | yes |
//!
//! Parameters: `model`, `messages` or `prompt`, `max_tokens` or `max_completion_tokens`, `temperature`, `top_p`, `top_k`,
//! `seed`, `stop`, `n`, `stream`, `stream_options.include_usage`, `logprobs`, `top_logprobs`. Those of OpenAI that would
//! change the answer and are not served (`tools`, `response_format` other than text, `logit_bias`, penalties, `echo`,
//! `best_of`, `suffix` …) are refused by name; unknown ones are ignored, as OpenAI does.
//!
//! # Limits
//!
//! | what | limit | then |
//! |---|---|---|
//! | head of a request | 10 s | 408, or a close from the second on a connection |
//! | pause in a body | 30 s | 408 |
//! | write that nobody reads | 10 s | the connection closes, its sequences are freed |
//! | unread answer in the engine's queue | 8 MiB or 16,384 events | the sequence is freed |
//! | idle connection | 75 s | it closes |
//! | body of chat and completions, of others | 8 MiB, 64 KiB | 413 |
//! | bodies being read, together | 256 MiB | 429 with Retry-After |
//! | requests being served | 1,024 | 429 with Retry-After |
//! | bytes behind a running request | 64 KiB | the connection closes |
//! | connections | 2,048 | more wait to be accepted |
//! | prompt | context × longest token, in bytes | 400, before it is tokenised |
//! | choices | 128, and `n × (prompt + max_tokens)` ≤ 1,048,576 | 400 |
//! | stop texts | 4 of 256 bytes | 400 |
//! | `top_logprobs`, `logprobs` of completions | 20, 5 | 400 |
//! | JSON | 128 levels, 256 fields of an object | 400 |
//!
//! Those on time, size and number are fields of [`Limits`]. Every error is OpenAI's
//! `{"error":{"message","type","param","code"}}`, and its message names the value and what would be right.
//!
//! # Who may call
//!
//! Without a key only this machine: binding another host is refused ([`BindError::KeyNeeded`]). A server on loopback
//! answers only to loopback's own names (421), and no server answers a page of another origin (403), on any route or
//! method. There are no CORS headers and no cookies.
//!
//! # When things fail
//!
//! | what | whole answer | stream |
//! |---|---|---|
//! | a shard fails ([`EngineError::ShardFailed`]) | 503, type `shard_failed` | one error event, no `[DONE]` |
//! | the queue is full ([`EngineError::Overloaded`]) | 429 with Retry-After | the same: nothing is sent before the first token |
//! | the server or engine stops | 503 with Retry-After | the same |
//! | the client goes away, or closes its side | its sequences are freed | its sequences are freed |

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
pub use trust::{Misnamed, check_names};
