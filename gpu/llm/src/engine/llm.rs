//! The actor [`Llm`]: takes requests, plans steps, has the shards compute them, and hands out tokens.
//!
//! One message is one step: between two steps new requests come in and readers that went away are noticed. The actor
//! never waits for a reader; one that falls too far behind loses its answer (G17).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use mobula::{Actor, ActorRef, CallError, ChildSpec, Context, Error, Handler, Message, Mode, Strategy, Supervisor};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::request::{End, Piece, Pieces, Prompt, Request, RequestError, Scored, TokenScore, Usage};
use super::shard::{Hello, ShardActor, ShardArgs, Step as ShardStep};
use super::spawn::{LlmArgs, LlmProxy};
use crate::generation::{Generation, Options};
use crate::logic::{BLOCK_TOKENS, Batcher, Limits, Progress, Refusal, Rows, SequenceId, StepPlan};
use crate::model::{Logits, Model};
use crate::sampler::Logprobs;
use crate::template::Template;
use crate::tokenizer::{Token, Tokenizer};

/// How long the shards may take for one step. A step is bounded in tokens, so even an unoptimised build ends one in
/// seconds; what takes longer hangs.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a step waits for room in a full mailbox.
const STEP_PAUSE: Duration = Duration::from_millis(1);

/// How long after a shard's failure its own cause may arrive behind the complaints of the others.
const CAUSE_TIMEOUT: Duration = Duration::from_millis(200);

/// How long a group may take to start again before the engine itself fails.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two questions whether a shard has started again.
const START_PAUSE: Duration = Duration::from_millis(2);

/// Pieces that wait for one slow reader at most: a whole context of SmolLM2, twice.
const PIECES_MAX: usize = 16_384;

/// An engine that generates text, batching requests over its shards. Made with [`Llm::spawn`].
pub struct Llm {
    described: Arc<Description>,
    batcher: Batcher,
    sequences: HashMap<SequenceId, Sequence>,
    sequences_made: u64,
    group: ActorRef<Supervisor>,
    shards: Vec<ActorRef<ShardActor>>,
    /// The life each shard is in; after a failure all must have begun another.
    lives: Vec<u32>,
    /// Whether a step is on its way to this actor.
    stepping: bool,
}

/// An answer that is being computed.
struct Sequence {
    answer: Generation,
    reader: mpsc::Sender<Result<Piece, RequestError>>,
    usage: Usage,
}

/// What can be known of an engine without asking it: shared with whoever serves it in this process.
#[derive(Debug)]
pub struct Description {
    /// The model file.
    pub path: PathBuf,
    /// The model's own name, else the file's.
    pub name: String,
    /// Tokens of a context, prompt and answer.
    pub context: usize,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The chat template, or why there is none.
    pub template: Result<Template, String>,
    /// How many shards compute it.
    pub shards: usize,
    /// Requests that wait at most.
    pub waiting_max: usize,
    load: Load,
}

#[derive(Debug, Default)]
struct Load {
    waiting: AtomicUsize,
    running: AtomicUsize,
    blocks_used: AtomicUsize,
    blocks: AtomicUsize,
}

impl Description {
    /// Requests that wait, sequences that run, blocks of the cache in use, and all blocks.
    pub fn load(&self) -> [usize; 4] {
        let Load { waiting, running, blocks_used, blocks } = &self.load;
        [waiting, running, blocks_used, blocks].map(|gauge| gauge.load(Ordering::Relaxed))
    }

    /// The tokens of a prompt.
    ///
    /// # Errors
    /// [`RequestError::PromptTooLong`]; from its bytes alone before it is tokenised, when those cannot fit.
    pub fn tokens_of(&self, prompt: Prompt) -> Result<Vec<u32>, RequestError> {
        let context = self.context;
        let tokens = match prompt {
            Prompt::Tokens(tokens) => tokens,
            Prompt::Text(text) => {
                self.check_bytes(text.len())?;
                self.tokenizer.encode_prompt(&text)
            }
        };
        if tokens.len() >= context {
            return Err(RequestError::PromptTooLong { tokens: tokens.len(), context });
        }
        let vocabulary = self.tokenizer.vocabulary_len();
        match tokens.iter().find(|token| **token as usize >= vocabulary) {
            Some(token) => Err(RequestError::Invalid {
                param: "prompt".into(),
                message: format!("token {token} is not in the vocabulary of {vocabulary} tokens"),
            }),
            None => Ok(tokens),
        }
    }

    /// Refuses a text that cannot fit the context whatever it says.
    ///
    /// # Errors
    /// [`RequestError::PromptTooLong`] with the fewest tokens it can have.
    pub fn check_bytes(&self, bytes: usize) -> Result<(), RequestError> {
        let longest = self.tokenizer.longest_token_bytes().max(1);
        let tokens = bytes / longest;
        let context = self.context;
        if tokens > context { Err(RequestError::PromptTooLong { tokens, context }) } else { Ok(()) }
    }
}

impl Actor for Llm {
    type Args = LlmArgs;
    type Proxy = LlmProxy;

    async fn start(args: LlmArgs, ctx: &Context<Self>) -> Result<Self, Error> {
        let described = describe(&args).map_err(|error| error.context(args.path.display()))?;
        let described = Arc::new(described);
        let blocks = args.cache_tokens(described.context).div_ceil(BLOCK_TOKENS);
        let limits = Limits {
            running_max: args.running_max,
            waiting_max: args.waiting_max,
            step_tokens_max: args.step_tokens_max.max(args.running_max),
            context: described.context,
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
        };
        let batcher = Batcher::new(limits)?;
        let collective = format!("{}/{}", ctx.id(), ctx.incarnation());
        let mut spec = Supervisor::new(Strategy::OneForAll);
        for rank in 0..args.shards {
            let shard = ShardArgs {
                path: args.path.clone(),
                rank,
                shards: args.shards,
                blocks,
                group: collective.clone(),
                fault: args.fault,
            };
            // A shard computes for milliseconds at a time: it has a thread of its own.
            let child = ChildSpec::with::<ShardActor>(shard_name(rank), shard, |spawn| spawn.dedicated());
            spec = spec.child(child.permanent());
        }
        let group = ctx.spawn::<Supervisor>(spec).await?;
        // A supervisor starts each child once the one before it has loaded, and the question waits for that. One that
        // cannot load fails the supervisor in the end, and the question with it.
        let mut shards = Vec::with_capacity(args.shards);
        for rank in 0..args.shards {
            shards.push(group.child::<ShardActor>(&shard_name(rank)).await?);
        }
        let mut lives = Vec::with_capacity(args.shards);
        for shard in &shards {
            // A shard that cannot load ends with its reason, which is ours then.
            lives.push(shard.ask(Hello).no_timeout().await?);
        }
        let sequences = HashMap::new();
        let llm = Self { described, batcher, sequences, sequences_made: 0, group, shards, lives, stepping: false };
        llm.publish_load();
        Ok(llm)
    }
}

fn shard_name(rank: usize) -> String {
    format!("shard-{rank}")
}

fn describe(args: &LlmArgs) -> Result<Description, Error> {
    let model = Model::open(&args.path)?;
    // Cut here too, although the shards cut for themselves: a wrong number of shards is one error and no restarts.
    model.split(args.shards)?;
    let tokenizer = model.tokenizer()?;
    let template = model.template(&tokenizer).map_err(|error| error.to_string());
    let stem = || args.path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    Ok(Description {
        path: args.path.clone(),
        name: model.name().map_or_else(stem, str::to_owned),
        context: model.config().context,
        tokenizer,
        template,
        shards: args.shards,
        waiting_max: args.waiting_max,
        load: Load::default(),
    })
}

/// What are you? Answered inside the process only: the tokenizer is shared, not sent.
pub(crate) struct Describe;

impl Message for Describe {
    type Reply = Arc<Description>;
}

impl Handler<Describe> for Llm {
    const MODE: Mode = Mode::Sync;

    async fn handle(&mut self, message: Describe, ctx: &Context<Self>) -> Arc<Description> {
        self.handle_sync(message, ctx)
    }

    fn handle_sync(&mut self, _: Describe, _: &Context<Self>) -> Arc<Description> {
        self.described.clone()
    }
}

/// Which shards are there? Their names in the supervision tree, and their ids.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Shards;

impl Message for Shards {
    type Reply = Vec<(String, mobula::ActorId)>;
}

impl Handler<Shards> for Llm {
    async fn handle(&mut self, _: Shards, _: &Context<Self>) -> Vec<(String, mobula::ActorId)> {
        self.shards.iter().enumerate().map(|(rank, shard)| (shard_name(rank), shard.id())).collect()
    }
}

impl Message for Request {
    type Reply = Pieces;

    fn heap_bytes(&self) -> usize {
        let prompt = match &self.prompt {
            Prompt::Text(text) => text.len(),
            Prompt::Tokens(tokens) => size_of_val(&**tokens),
        };
        prompt + self.stop.iter().map(String::len).sum::<usize>()
    }
}

impl Handler<Request> for Llm {
    async fn handle(&mut self, request: Request, ctx: &Context<Self>) -> Pieces {
        let (reader, mut pieces) = mpsc::channel(PIECES_MAX);
        if let Err(error) = self.take(request, &reader) {
            reader.try_send(Err(error)).ok();
        }
        self.publish_load();
        self.keep_stepping(ctx);
        drop(reader);
        ctx.stream(futures_util::stream::poll_fn(move |cx| pieces.poll_recv(cx)))
    }
}

/// Time for the next step: the engine tells itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Step;

impl Message for Step {
    type Reply = ();
}

impl Handler<Step> for Llm {
    async fn handle(&mut self, _: Step, ctx: &Context<Self>) {
        self.stepping = false;
        self.forget_the_gone();
        if let Some(plan) = self.batcher.plan() {
            match self.compute(&plan).await {
                Ok(parts) => self.hand_out(&plan, &parts),
                Err(failure) => self.recover(failure, ctx).await,
            }
            self.publish_load();
            self.keep_stepping(ctx);
        }
        self.publish_load();
    }
}

/// How a step failed.
struct Failure {
    message: String,
    /// Whether a shard has died, so that its supervisor starts the group again unasked.
    died: bool,
}

impl Llm {
    /// Queues a request for its reader.
    fn take(
        &mut self,
        request: Request,
        reader: &mpsc::Sender<Result<Piece, RequestError>>,
    ) -> Result<(), RequestError> {
        let Request { prompt, sampling, tokens_max, stop, top_logprobs } = request;
        let answer = Generation::new(Options { sampling, stop, top_logprobs, ignore_end: false })?;
        let tokens = self.described.tokens_of(prompt)?;
        let usage = Usage { prompt_tokens: tokens.len(), answer_tokens: 0 };
        let id = SequenceId(self.sequences_made);
        self.batcher.submit(id, tokens, tokens_max.unwrap_or(usize::MAX)).map_err(refusal)?;
        self.sequences_made += 1;
        self.sequences.insert(id, Sequence { answer, reader: reader.clone(), usage });
        Ok(())
    }

    /// Has the next step come, unless it is on its way already. It waits for its turn behind the requests that came
    /// before it; a mailbox full of them is asked again in a moment.
    fn keep_stepping(&mut self, ctx: &Context<Self>) {
        let work = self.batcher.running() + self.batcher.waiting() > 0;
        if work && !std::mem::replace(&mut self.stepping, true) && ctx.me().try_send(Step).is_err() {
            ctx.send_after(STEP_PAUSE, Step);
        }
    }

    /// Ends the sequences whose readers have gone.
    fn forget_the_gone(&mut self) {
        let batcher = &mut self.batcher;
        self.sequences.retain(|id, sequence| {
            let here = !sequence.reader.is_closed();
            if !here {
                batcher.remove(*id);
            }
            here
        });
    }

    /// Has all shards compute a step; the parts come in the order of ranks.
    async fn compute(&self, plan: &StepPlan) -> Result<Vec<Logits>, Failure> {
        let mut parts: Vec<Option<Logits>> = self.shards.iter().map(|_| None).collect();
        let mut failure: Option<Failure> = None;
        let mut asked: FuturesUnordered<_> = self
            .shards
            .iter()
            .enumerate()
            .map(|(rank, shard)| {
                let step = ShardStep { plan: plan.clone(), patience: STEP_TIMEOUT };
                let asked = shard.ask(step).timeout(STEP_TIMEOUT * 2).into_future();
                async move { (rank, asked.await) }
            })
            .collect();
        loop {
            let next = match &failure {
                None => asked.next().await,
                // The first complaint is often of a shard that waited for the one that died: that one's cause is better.
                Some(_) => tokio::time::timeout(CAUSE_TIMEOUT, asked.next()).await.unwrap_or(None),
            };
            let Some((rank, reply)) = next else { break };
            match reply {
                Ok(Ok(part)) => parts[rank] = Some(part),
                Ok(Err(complaint)) => {
                    let message = format!("{}: {complaint}", shard_name(rank));
                    failure.get_or_insert(Failure { message, died: false });
                }
                Err(error) => {
                    let died = !matches!(error, CallError::DeadlineExceeded { .. });
                    let message = format!("{}: {error}", shard_name(rank));
                    if died || failure.is_none() {
                        failure = Some(Failure { message, died });
                    }
                    if died {
                        break;
                    }
                }
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None => Ok(parts.into_iter().flatten().collect()),
        }
    }

    /// Gives every sequence of a step its next token.
    fn hand_out(&mut self, plan: &StepPlan, parts: &[Logits]) {
        let mut row = 0;
        for planned in &plan.sequences {
            let count = planned.row_count();
            if planned.rows == Rows::Last {
                let logits = Logits::whole_row(parts, row);
                self.advance(planned.id, &logits);
            }
            row += count;
        }
    }

    fn advance(&mut self, id: SequenceId, logits: &[f32]) {
        let tokenizer = &self.described.tokenizer;
        let Some(sequence) = self.sequences.get_mut(&id) else {
            self.batcher.remove(id);
            return;
        };
        let delta = match sequence.answer.next(logits, tokenizer) {
            Ok(delta) => delta,
            Err(error) => {
                self.finish(id, Err(error.into()));
                return;
            }
        };
        sequence.usage.answer_tokens += 1;
        let score = delta.logprobs.map(|logprobs| score(delta.token, &logprobs, tokenizer));
        let mut text = delta.text;
        let ended = delta.end.is_some();
        let full = !ended && self.batcher.advance(id, delta.token) != Progress::Runs;
        if full {
            text.push_str(&sequence.answer.finish());
        }
        let usage = sequence.usage;
        let behind = sequence.reader.try_send(Ok(Piece::More { text, score })).is_err();
        if behind {
            self.finish(id, Err(RequestError::SlowReader { pieces: PIECES_MAX }));
        } else if ended || full {
            self.finish(id, Ok(Piece::End(End { stopped: ended, usage })));
        }
    }

    /// Says the last word of a sequence and forgets it.
    fn finish(&mut self, id: SequenceId, last: Result<Piece, RequestError>) {
        self.batcher.remove(id);
        if let Some(sequence) = self.sequences.remove(&id) {
            // A reader whose queue is full learns by the end of the stream that something is missing.
            sequence.reader.try_send(last).ok();
        }
    }

    /// After a failure: whoever was being answered is told, and the next step waits until all shards live anew.
    async fn recover(&mut self, failure: Failure, ctx: &Context<Self>) {
        let Failure { message, died } = failure;
        tracing::warn!(%message, "a step failed; the shards start again");
        for id in self.batcher.clear() {
            self.finish(id, Err(RequestError::ShardFailed { message: message.clone() }));
        }
        self.publish_load();
        if !died {
            // Nobody has died, but the caches differ now: one death restarts all.
            self.shards[0].kill();
        }
        match tokio::time::timeout(RECOVERY_TIMEOUT, self.new_lives()).await {
            Ok(Ok(lives)) => self.lives = lives,
            // Its supervisor knows the first cause; a shard only knows that it was stopped.
            Ok(Err(error)) => {
                let cause = self.group.children().await.err().unwrap_or_else(|| Error::msg(error));
                ctx.fail(cause.context("the shards did not start again"));
            }
            Err(_) => ctx.fail(Error::msg(format!("the shards did not start again within {RECOVERY_TIMEOUT:?}"))),
        }
    }

    async fn new_lives(&self) -> Result<Vec<u32>, String> {
        let mut lives = self.lives.clone();
        for ((shard, life), before) in self.shards.iter().zip(&mut lives).zip(&self.lives) {
            loop {
                match shard.ask(Hello).await {
                    Ok(now) if now > *before => {
                        *life = now;
                        break;
                    }
                    // Still the old life, which is about to end.
                    Ok(_) => tokio::time::sleep(START_PAUSE).await,
                    Err(error @ CallError::NotStarted(_)) => return Err(error.to_string()),
                    // The question died with the old life.
                    Err(_) => tokio::time::sleep(START_PAUSE).await,
                }
            }
        }
        Ok(lives)
    }

    fn publish_load(&self) {
        let Load { waiting, running, blocks_used, blocks } = &self.described.load;
        let pool = self.batcher.pool();
        waiting.store(self.batcher.waiting(), Ordering::Relaxed);
        running.store(self.batcher.running(), Ordering::Relaxed);
        blocks_used.store(pool.total() - pool.free(), Ordering::Relaxed);
        blocks.store(pool.total(), Ordering::Relaxed);
    }
}

fn refusal(refusal: Refusal) -> RequestError {
    match refusal {
        Refusal::QueueFull { waiting } => RequestError::QueueFull { waiting },
        Refusal::PromptTooLong { tokens, context } => RequestError::PromptTooLong { tokens, context },
        other @ (Refusal::EmptyPrompt | Refusal::CacheTooSmall { .. }) => {
            let param = if other == Refusal::EmptyPrompt { "prompt" } else { "max_tokens" };
            RequestError::Invalid { param: param.into(), message: other.to_string() }
        }
    }
}

fn score(token: Token, logprobs: &Logprobs, tokenizer: &Tokenizer) -> TokenScore {
    let scored = |token, logprob| Scored { token, bytes: tokenizer.bytes_of(token).to_vec(), logprob };
    let top = logprobs.top.iter().map(|&(token, logprob)| scored(token, logprob)).collect();
    TokenScore { chosen: scored(token, logprobs.chosen), top }
}
