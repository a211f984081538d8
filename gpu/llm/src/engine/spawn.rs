//! Starting an engine, and what an `ActorRef<Llm>` offers.

use std::future::{Future, IntoFuture};
use std::ops::Deref;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mobula::{ActorId, ActorRef, Address, CallError, Error, Proxy, Spawn};
use serde::{Deserialize, Serialize};

use super::llm::{Describe, Description, Llm, Shards};
use super::request::{Answer, Piece, Pieces, Prompt, Request, RequestError};
use super::shard::Fault;
use crate::sampler::Sampling;

/// What an engine is made of; kept for restarts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LlmArgs {
    /// The model file.
    pub path: PathBuf,
    /// Tensor-parallel shards.
    pub shards: usize,
    /// Tokens that the KV cache holds over all sequences; `None` for two contexts.
    pub cache_tokens: Option<usize>,
    /// Sequences that run at once.
    pub running_max: usize,
    /// Requests that wait; one more is refused (G14).
    pub waiting_max: usize,
    /// Tokens of one step.
    pub step_tokens_max: usize,
    /// A failure on purpose, for tests.
    pub fault: Option<Fault>,
}

impl LlmArgs {
    /// One shard of the model at `path`, with room for two whole contexts and 1,024 requests that wait.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            shards: 1,
            cache_tokens: None,
            running_max: 32,
            waiting_max: 1024,
            // About 100 ms of one core with the demo model: so long a prompt holds up the others' next tokens.
            step_tokens_max: 64,
            fault: None,
        }
    }

    pub(crate) fn cache_tokens(&self, context: usize) -> usize {
        self.cache_tokens.unwrap_or(context.saturating_mul(2))
    }
}

/// An engine about to be started. Await it for the reference once the model is loaded.
#[must_use = "an engine is not started until this is awaited"]
pub struct LlmSpawn {
    args: LlmArgs,
    name: Option<String>,
}

impl Llm {
    /// Prepares an engine for the GGUF file at `path`.
    ///
    /// # Errors
    ///
    /// Awaiting it tells what is wrong with the file, or that the model cannot be cut into so many shards.
    pub fn spawn(path: impl Into<PathBuf>) -> LlmSpawn {
        LlmSpawn { args: LlmArgs::new(path), name: None }
    }

    /// Prepares an engine from all that can be chosen.
    pub fn spawn_with(args: LlmArgs) -> LlmSpawn {
        LlmSpawn { args, name: None }
    }
}

impl LlmSpawn {
    /// Cuts the model into `shards` tensor-parallel shards, each with a thread of its own.
    pub fn shards(mut self, shards: usize) -> Self {
        self.args.shards = shards;
        self
    }

    /// Gives the engine a name by which others find it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Bounds the KV cache, in tokens over all sequences.
    pub fn cache_tokens(mut self, tokens: usize) -> Self {
        self.args.cache_tokens = Some(tokens);
        self
    }
}

impl IntoFuture for LlmSpawn {
    type Output = Result<ActorRef<Llm>, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let mut spawn = Spawn::<Llm>::here(self.args).spread();
        if let Some(name) = self.name {
            spawn = spawn.name(name);
        }
        Box::pin(async move { Ok(spawn.await?) })
    }
}

/// What an `ActorRef<Llm>` derefs to.
#[derive(Clone)]
pub struct LlmProxy(Address<Llm>);

impl Proxy<Llm> for LlmProxy {
    fn new(address: Address<Llm>) -> Self {
        Self(address)
    }

    fn address(&self) -> &Address<Llm> {
        &self.0
    }
}

impl Deref for LlmProxy {
    type Target = Address<Llm>;

    fn deref(&self) -> &Address<Llm> {
        &self.0
    }
}

impl LlmProxy {
    /// Prepares the continuation of a text: await it for the whole answer, or [`stream`](Generate::stream) it. There is
    /// no deadline unless one is set.
    pub fn generate(&self, prompt: impl Into<String>) -> Generate<'_> {
        self.request(Request::new(Prompt::Text(prompt.into())))
    }

    /// The same for a request of which everything was chosen.
    pub fn request(&self, request: Request) -> Generate<'_> {
        Generate { llm: &self.0, request, item_timeout: None }
    }

    /// What the engine is; only inside its process.
    ///
    /// # Errors
    ///
    /// The engine has ended or is elsewhere.
    pub async fn describe(&self) -> Result<Arc<Description>, CallError> {
        self.0.ask(Describe).await
    }

    /// The shards' names in the supervision tree, and their ids, by rank.
    ///
    /// # Errors
    ///
    /// The engine has ended or is elsewhere.
    pub async fn shards(&self) -> Result<Vec<(String, ActorId)>, CallError> {
        self.0.ask(Shards).await
    }
}

/// A prepared request.
#[must_use = "nothing is generated until this is awaited or streamed"]
pub struct Generate<'a> {
    llm: &'a Address<Llm>,
    request: Request,
    item_timeout: Option<Duration>,
}

impl Generate<'_> {
    /// Ends the answer after so many tokens.
    pub fn tokens_max(mut self, tokens: usize) -> Self {
        self.request.tokens_max = Some(tokens);
        self
    }

    /// Chooses how tokens are chosen; greedy by default.
    pub fn sampling(mut self, sampling: Sampling) -> Self {
        self.request.sampling = sampling;
        self
    }

    /// Ends the answer before `text`, once it would appear.
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.request.stop.push(text.into());
        self
    }

    /// Gives up when one piece takes longer than `timeout` to come.
    pub fn item_timeout(mut self, timeout: Duration) -> Self {
        self.item_timeout = Some(timeout);
        self
    }

    /// The answer as it grows.
    ///
    /// # Errors
    ///
    /// The engine has ended. What is wrong with the request is the stream's first item.
    pub async fn stream(self) -> Result<Pieces, CallError> {
        let pieces = self.llm.ask(self.request).no_timeout().await?;
        Ok(pieces.item_timeout(self.item_timeout))
    }
}

impl<'a> IntoFuture for Generate<'a> {
    type Output = Result<Answer, RequestError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let unreachable = |error: CallError| RequestError::Unreachable(error.to_string());
            let mut pieces = self.stream().await.map_err(unreachable)?;
            let mut text = String::new();
            while let Some(piece) = pieces.next().await {
                match piece.map_err(unreachable)?? {
                    Piece::More { text: more, .. } => text.push_str(&more),
                    Piece::End(end) => return Ok(Answer { text, end }),
                }
            }
            Err(RequestError::Unreachable("the answer broke off".into()))
        })
    }
}
