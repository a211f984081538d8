//! The actor of one shard: a thread that holds a slice of the model and computes its part of every step.
//!
//! It keeps no request state: every step's plan says all. It belongs to a group under a one_for_all supervisor, because
//! the partial sums of all must meet; when one dies, the others' waits are aborted and all start again with empty caches.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mobula::{Actor, Address, Context, Error, Handler, Message, Mode};
use mobula_collective::Member;
use mobula_kernels::Path;
use serde::{Deserialize, Serialize};

use crate::logic::StepPlan;
use crate::model::{Logits, Model, Shard};

/// What a shard is made of; kept for restarts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ShardArgs {
    /// The model file.
    pub(crate) path: PathBuf,
    /// Which part of it.
    pub(crate) rank: usize,
    /// Of how many.
    pub(crate) shards: usize,
    /// Blocks of its cache.
    pub(crate) blocks: usize,
    /// The collective its group meets in.
    pub(crate) group: String,
    /// When to panic, for tests of failure.
    pub(crate) fault: Option<Fault>,
}

/// A failure on purpose: shard `rank` panics when its group computes the `token`-th token of each of its first `lives`
/// lives.
///
/// ```
/// use mobula_llm::Fault;
///
/// assert_eq!("shard:1@token=5".parse(), Ok(Fault { rank: 1, token: 5, lives: 1 }));
/// assert_eq!("shard:0@token=1,lives=3".parse(), Ok(Fault { rank: 0, token: 1, lives: 3 }));
/// assert!("shard:1".parse::<Fault>().unwrap_err().contains("shard:1@token=5"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Which shard.
    pub rank: usize,
    /// At which token, counted over all sequences of a life from 1.
    pub token: usize,
    /// In how many lives of the group.
    pub lives: u32,
}

impl std::str::FromStr for Fault {
    type Err = String;

    /// Reads `shard:1@token=5`, or `shard:1@token=5,lives=3`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let (rank, when) = text.strip_prefix("shard:")?.split_once("@token=")?;
            let (token, lives) = when.split_once(",lives=").unwrap_or((when, "1"));
            Some(Self { rank: rank.parse().ok()?, token: token.parse().ok()?, lives: lives.parse().ok()? })
        };
        parsed().ok_or_else(|| format!("the fault {text:?} is not of the form shard:1@token=5"))
    }
}

/// One shard of a model.
pub(crate) struct ShardActor {
    shard: Shard,
    member: Member,
    /// The token to panic at, and how many were computed.
    fault: Option<usize>,
    tokens: usize,
}

impl Actor for ShardActor {
    type Args = ShardArgs;
    type Proxy = Address<Self>;

    async fn start(args: ShardArgs, ctx: &Context<Self>) -> Result<Self, Error> {
        let ShardArgs { path, rank, shards, blocks, group, fault } = args;
        let model = Model::open(&path)?;
        let parts = model.split(shards)?;
        let shard = model.shard(&parts[rank], Path::detect()?, blocks)?;
        let member = mobula_collective::join(&group, rank, shards)?;
        let hit = |fault: &Fault| fault.rank == rank && ctx.incarnation().0 <= fault.lives;
        let fault = fault.filter(hit).map(|fault| fault.token);
        tracing::debug!(rank, shards, incarnation = %ctx.incarnation(), "a shard is loaded");
        Ok(Self { shard, member, fault, tokens: 0 })
    }
}

/// Compute your part of this step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) plan: StepPlan,
    /// How long the shards wait for one another.
    pub(crate) patience: Duration,
}

impl Message for Step {
    /// The shard's part of the logits, or why the group could not compute them.
    type Reply = Result<Logits, String>;
}

impl Handler<Step> for ShardActor {
    const MODE: Mode = Mode::Sync;

    async fn handle(&mut self, step: Step, ctx: &Context<Self>) -> Result<Logits, String> {
        self.handle_sync(step, ctx)
    }

    fn handle_sync(&mut self, Step { plan, patience }: Step, _: &Context<Self>) -> Result<Logits, String> {
        self.tokens += plan.rows();
        if self.fault.is_some_and(|token| self.tokens >= token) {
            panic!("the fault that was asked for, at token {}", self.tokens);
        }
        let deadline = Instant::now() + patience;
        self.shard.step(&plan, &mut self.member, deadline).map_err(|error| error.to_string())
    }
}

/// Which life is this?
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello;

impl Message for Hello {
    /// The number of the shard's incarnation.
    type Reply = u32;
}

impl Handler<Hello> for ShardActor {
    const MODE: Mode = Mode::Sync;

    async fn handle(&mut self, hello: Hello, ctx: &Context<Self>) -> u32 {
        self.handle_sync(hello, ctx)
    }

    fn handle_sync(&mut self, _: Hello, ctx: &Context<Self>) -> u32 {
        ctx.incarnation().0
    }
}
