//! The actor [`Llm`] behind `mobula_serve`'s trait `Engine`: what `mobula serve` serves.
//!
//! Templates and tokenizers run here, on the thread of the request, so that the engine's own thread only steps.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, StreamExt, stream};
use mobula::{ActorRef, CallError};
use mobula_serve::{
    ChatMessage, Chunk, Engine, EngineError, EngineLoad, Event, Finish, FinishReason, GenerateRequest, ModelInfo,
    Prompt as ServePrompt, ScoredToken, TokenLogprob, TokenStream, Usage,
};

use super::llm::{Description, Llm};
use super::request::{Piece, Prompt, Request, RequestError, Scored};
use crate::sampler::Sampling;

/// What a client is told to wait when the queue is full: about one answer's time.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A running [`Llm`] as an [`Engine`].
pub struct LlmEngine {
    llm: ActorRef<Llm>,
    described: Arc<Description>,
    model: ModelInfo,
}

impl LlmEngine {
    /// Serves `llm` under the name `id`.
    ///
    /// # Errors
    ///
    /// The engine has ended or is in another process.
    pub async fn new(llm: ActorRef<Llm>, id: impl Into<String>) -> Result<Self, CallError> {
        let described = llm.describe().await?;
        let model = ModelInfo {
            id: id.into(),
            created: modified_s(&described.path),
            owned_by: "mobula".into(),
            context_len: u32::try_from(described.context).unwrap_or(u32::MAX),
            token_bytes_max: u32::try_from(described.tokenizer.longest_token_bytes()).unwrap_or(u32::MAX),
        };
        Ok(Self { llm, described, model })
    }
}

impl Engine for LlmEngine {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn render_chat(&self, messages: &[ChatMessage]) -> Result<ServePrompt, EngineError> {
        let bytes = messages.iter().map(|message| message.content.len()).sum();
        self.described.check_bytes(bytes).map_err(engine_error)?;
        let refused = |message: String| EngineError::BadRequest { param: "messages", message };
        let template = self.described.template.as_ref().map_err(|why| refused(why.clone()))?;
        let rendered = template.render(messages, SystemTime::now()).map_err(|error| refused(error.to_string()))?;
        // Tokens, not text: only here is it known which control tokens the template wrote and which a user.
        Ok(ServePrompt::Tokens(self.described.tokenizer.encode_rendered(&rendered).into()))
    }

    fn generate(&self, request: GenerateRequest) -> Result<TokenStream, EngineError> {
        let [waiting, ..] = self.described.load();
        if waiting >= self.described.waiting_max {
            return Err(EngineError::Overloaded { retry_after: RETRY_AFTER });
        }
        let prompt = match request.prompt {
            ServePrompt::Text(text) => Prompt::Text(text.to_string()),
            ServePrompt::Rendered(text) => Prompt::Text(text.to_string()),
            ServePrompt::Tokens(tokens) => Prompt::Tokens(tokens.to_vec()),
        };
        let tokens = self.described.tokens_of(prompt).map_err(engine_error)?;
        let sampling = Sampling {
            temperature: request.sampling.temperature,
            top_k: request.sampling.top_k.map_or(0, |top| top as usize),
            top_p: request.sampling.top_p,
            min_p: 0.0,
            seed: request.sampling.seed.unwrap_or_else(fresh_seed),
        };
        let request = Request {
            prompt: Prompt::Tokens(tokens),
            sampling,
            tokens_max: request.max_tokens.map(|tokens| tokens as usize),
            stop: request.stop,
            top_logprobs: request.logprobs.map(usize::from),
        };
        let llm = self.llm.clone();
        let pieces = stream::once(async move {
            match llm.request(request).stream().await {
                Ok(pieces) => pieces.map(event).left_stream(),
                Err(error) => stream::iter([Err(ended(&error))]).right_stream(),
            }
        });
        Ok(TokenStream::new(flattened(pieces)))
    }

    fn load(&self) -> EngineLoad {
        let [queued, running, kv_blocks_used, kv_blocks_total] = self.described.load();
        EngineLoad { queued, running, kv_blocks_used, kv_blocks_total }
    }
}

fn flattened<S>(streams: impl Stream<Item = S> + Send) -> impl Stream<Item = S::Item> + Send
where
    S: Stream + Send,
{
    streams.flatten()
}

fn event(piece: Result<Result<Piece, RequestError>, CallError>) -> Result<Event, EngineError> {
    match piece.map_err(|error| ended(&error))?.map_err(engine_error)? {
        Piece::More { text, score } => {
            let scored = |Scored { token, bytes, logprob }| ScoredToken { id: token, bytes, logprob };
            let tokens = score.map(|score| TokenLogprob {
                token: scored(score.chosen),
                top: score.top.into_iter().map(scored).collect(),
            });
            Ok(Event::Chunk(Chunk { text, tokens: tokens.into_iter().collect() }))
        }
        Piece::End(end) => {
            let count = |tokens| u32::try_from(tokens).unwrap_or(u32::MAX);
            Ok(Event::Finish(Finish {
                reason: if end.stopped { FinishReason::Stop } else { FinishReason::Length },
                usage: Usage {
                    prompt_tokens: count(end.usage.prompt_tokens),
                    completion_tokens: count(end.usage.answer_tokens),
                },
            }))
        }
    }
}

fn engine_error(error: RequestError) -> EngineError {
    match error {
        RequestError::Invalid { param, message } => {
            // The trait names fields by static words; these are all that a request has.
            let known = ["temperature", "top_p", "top_k", "stop", "top_logprobs", "max_tokens", "prompt"];
            let param = known.into_iter().find(|known| *known == param).unwrap_or("prompt");
            EngineError::BadRequest { param, message }
        }
        RequestError::PromptTooLong { tokens, context } => EngineError::PromptTooLong { tokens, max: context },
        RequestError::QueueFull { .. } => EngineError::Overloaded { retry_after: RETRY_AFTER },
        RequestError::ShardFailed { message } => EngineError::ShardFailed { message },
        RequestError::SlowReader { pieces } => EngineError::Internal { message: format!("{pieces} pieces unread") },
        RequestError::Unreachable(reason) => EngineError::Stopping { reason },
    }
}

/// The engine's actor ended under the answer.
fn ended(error: &CallError) -> EngineError {
    EngineError::ShardFailed { message: format!("the engine failed: {error}") }
}

/// A seed nobody chose. The standard library's hasher is seeded by the system at random.
fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn modified_s(path: &Path) -> u64 {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs())
}
