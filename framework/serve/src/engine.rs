//! [`Engine`]: what the HTTP front asks of whatever generates tokens, and the plain data that crosses between them.
//!
//! An engine knows nothing of HTTP: it gets a prompt and how to sample, and gives back a [`TokenStream`]. One call is one
//! sequence; several choices of one request are several calls. Queueing, batching, tokenising and detokenising are the
//! engine's; routes, limits on bytes and OpenAI's words are ours.

use std::sync::Arc;
use std::time::Duration;

use crate::stream::TokenStream;

/// Generates text for one model. Shared by every connection: `Arc<dyn Engine>`.
///
/// No method may block: `generate` puts the sequence into the engine's queue and returns; what goes wrong later arrives
/// as the stream's last item.
///
/// ```
/// use futures_util::StreamExt;
/// use mobula_serve::{ChatMessage, EchoEngine, Engine, Event, GenerateRequest, Role};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), mobula_serve::EngineError> {
/// let engine = EchoEngine::new("echo");
/// let prompt = engine.render_chat(&[ChatMessage::new(Role::User, "say it again")])?;
/// let mut stream = engine.generate(GenerateRequest::new(prompt))?;
/// let mut text = String::new();
/// while let Some(event) = stream.next().await {
///     match event? {
///         Event::Chunk(chunk) => text += &chunk.text,
///         Event::Finish(finish) => assert_eq!(finish.usage.completion_tokens, 3),
///     }
/// }
/// assert_eq!(text, "say it again");
/// # Ok(()) }
/// ```
pub trait Engine: Send + Sync + 'static {
    /// What the model is, fixed for the engine's life.
    fn model(&self) -> &ModelInfo;

    /// Puts a conversation into the form that the model was trained on, with the opening of the assistant's next turn.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] when the model's chat template refuses the conversation.
    fn render_chat(&self, messages: &[ChatMessage]) -> Result<Prompt, EngineError>;

    /// Queues one sequence and returns its stream. Dropping the stream cancels the sequence.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] when the queue is full, [`EngineError::Stopping`] when the engine takes no more, and
    /// whatever is already known to be wrong with the request.
    fn generate(&self, request: GenerateRequest) -> Result<TokenStream, EngineError>;

    /// How busy the engine is now, for `/metrics`. Cheap: it is read at each scrape.
    fn load(&self) -> EngineLoad;
}

/// What a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// The name that requests call it by, such as `smollm2`.
    pub id: String,
    /// When it was made or loaded, in seconds since 1970.
    pub created: u64,
    /// Whom `/v1/models` names as its owner.
    pub owned_by: String,
    /// How many tokens prompt and answer may have together.
    pub context_len: u32,
    /// The longest token, in bytes. A text of more than `context_len × token_bytes_max` bytes cannot fit the context,
    /// whatever it says, so it is refused before it is tokenised.
    pub token_bytes_max: u32,
}

impl ModelInfo {
    /// The longest text in bytes that could fit the context.
    pub fn prompt_bytes_max(&self) -> usize {
        self.context_len as usize * self.token_bytes_max as usize
    }
}

/// Who speaks in a [`ChatMessage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Instructions for the whole conversation (OpenAI's `developer` is the same).
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
    /// What a tool gave back.
    Tool,
}

impl Role {
    /// The name that chat templates know.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl ChatMessage {
    /// One turn.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// What a sequence begins with. Cloning is cheap: the choices of one request share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A chat template's output: control tokens that it spells, such as `<|im_start|>`, are control tokens.
    Rendered(Arc<str>),
    /// A user's own text: a control token spelled in it is only text.
    Text(Arc<str>),
    /// Token ids, fed as they are.
    Tokens(Arc<[u32]>),
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 always takes the likeliest token; 1 samples from the model's own distribution. HTTP allows 0 to 2.
    pub temperature: f32,
    /// Sample only among the likeliest `top_k` tokens.
    pub top_k: Option<u32>,
    /// Sample only among the likeliest tokens that together have this probability, in (0, 1]; 1 is all.
    pub top_p: f32,
    /// The same seed gives the same answer. `None`: the engine draws one.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: None, top_p: 1.0, seed: None }
    }
}

/// One sequence to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// What it begins with.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens to generate. `None`: until the context is full.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer; they are not part of it, wherever token borders fall.
    pub stop: Vec<String>,
    /// `Some(k)`: give each token's log probability and the `k` likeliest beside it.
    pub logprobs: Option<u8>,
}

impl GenerateRequest {
    /// Samples by the defaults until the model stops or the context is full.
    pub fn new(prompt: Prompt) -> Self {
        Self { prompt, sampling: Sampling::default(), max_tokens: None, stop: Vec::new(), logprobs: None }
    }
}

/// What a [`TokenStream`] carries: any number of chunks, then one finish.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// More of the answer.
    Chunk(Chunk),
    /// The end; nothing follows.
    Finish(Finish),
}

/// More of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chunk {
    /// Whole characters only. Empty when the new tokens end inside a character or may be the start of a stop text.
    pub text: String,
    /// The tokens sampled since the last chunk; empty unless the request asked for `logprobs`.
    pub tokens: Vec<TokenLogprob>,
}

/// One sampled token and how likely it was.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token itself.
    pub token: ScoredToken,
    /// The likeliest tokens at its place, best first; as many as the request asked for.
    pub top: Vec<ScoredToken>,
}

/// A token with its log probability.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredToken {
    /// Its number in the vocabulary.
    pub id: u32,
    /// The bytes it stands for; a part of a character may be a token.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability, before temperature.
    pub logprob: f32,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finish {
    /// Why it ended.
    pub reason: FinishReason,
    /// What it took.
    pub usage: Usage,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn, or a stop text came.
    Stop,
    /// `max_tokens` were generated, or the context is full.
    Length,
}

/// Tokens of one sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
}

/// How busy an engine is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineLoad {
    /// Sequences that wait for a place in the batch.
    pub queued: usize,
    /// Sequences in the batch.
    pub running: usize,
    /// Blocks of the KV cache in use.
    pub kv_blocks_used: usize,
    /// Blocks of the KV cache in all.
    pub kv_blocks_total: usize,
}

/// Why an engine gives no answer, or no more of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The request can never be served as it is. HTTP 400.
    #[error("{message}")]
    BadRequest {
        /// The field at fault in OpenAI's words, such as `prompt`.
        param: &'static str,
        /// Names the value and what would be right.
        message: String,
    },
    /// The prompt leaves no room for an answer. HTTP 400, code `context_length_exceeded`.
    #[error("the prompt has {tokens} tokens; the model's context holds {max}, the answer included")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that the context holds.
        max: usize,
    },
    /// The queue is full. HTTP 429 with Retry-After.
    #[error("the engine's queue is full; try again in {} s", retry_after.as_secs().max(1))]
    Overloaded {
        /// When a place is likely to be free.
        retry_after: Duration,
    },
    /// A shard of the model died while the sequence ran; the group restarts. HTTP 503, type `shard_failed`.
    #[error("{message}")]
    ShardFailed {
        /// Names the shard and its root cause.
        message: String,
    },
    /// The engine is stopping, or restarting after a failure. HTTP 503 with Retry-After.
    #[error("the engine takes no requests at the moment: {reason}")]
    Stopping {
        /// Why.
        reason: String,
    },
    /// A step of the model did not end by its deadline. HTTP 504.
    #[error("a step of the model did not end within {} ms", after.as_millis())]
    DeadlineExceeded {
        /// The deadline's length.
        after: Duration,
    },
    /// The reader of the stream fell too far behind; see [`TokenStream::channel`].
    #[error("the reader fell {queued_bytes} bytes behind the answer")]
    SlowConsumer {
        /// What waited to be read.
        queued_bytes: usize,
    },
    /// Our own mistake. HTTP 500.
    #[error("{message}")]
    Internal {
        /// What went wrong.
        message: String,
    },
}
