//! Calls between actors: one at a time, many on the way, on one thread and across threads.
//!
//! Rows that end in `per second` do the work of the row of that name of `ray microbenchmark`; n is the number of CPUs.

use std::future::IntoFuture;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use mobula::{Actor, ActorRef, Address, Call, CallError, Context, Handler, Message, Mode, ObjectRef, Value};

use super::within::{a_session, micros, per_second, thread_cpu_ns};
use super::{Better, Effort, Row};

/// Calls on the way at once; a mailbox takes 1,024.
const PIPELINED: usize = 500;
/// Calls of one run that pipelines them.
const BURST: usize = 100 * PIPELINED;

pub(crate) fn rows(effort: Effort) -> Result<Vec<Row>> {
    a_session(async |_| {
        let mut rows = beside(effort).await?;
        rows.extend(one_to_one(effort).await?);
        rows.extend(to_many(effort).await?);
        Ok(rows)
    })
}

/// Caller and called on one arbiter.
async fn beside(effort: Effort) -> Result<Vec<Row>> {
    let client = mobula::spawn::<Client>(Vec::new()).await?;
    client.ask(Latencies(10_000)).await?.context("warm up")?;
    let latencies = client.ask(Latencies(effort.runs(200_000))).no_timeout().await??;
    let (mut asks, mut tells) = (Vec::new(), Vec::new());
    for _ in 0..effort.runs(20) {
        asks.push(client.ask(CpuOfAsks).no_timeout().await??);
        tells.push(client.ask(CpuOfTells).no_timeout().await??);
    }
    Ok(vec![
        Row::of("ask, one arbiter", "us", Better::Lower, latencies),
        Row::of("pipelined ask, CPU", "ns", Better::Lower, asks),
        Row::of("tell, CPU", "ns", Better::Lower, tells),
    ])
}

/// The driver and one actor, which lives on another thread.
async fn one_to_one(effort: Effort) -> Result<Vec<Row>> {
    let counter = mobula::spawn::<Counter>(()).await?;
    let to = std::slice::from_ref(&counter);
    let mut latencies = Vec::new();
    for _ in 0..effort.runs(50_000) {
        let start = Instant::now();
        counter.ask(Add(1)).await?;
        latencies.push(micros(start));
    }
    let mut rows = vec![Row::of("ask, across threads", "us", Better::Lower, latencies)];
    rows.push(sync("1:1 actor calls sync per second", effort, &counter, Add).await?);
    rows.push(piped("1:1 actor calls async per second", effort, async || burst(to, Add).await).await?);
    rows.push(piped("1:1 actor calls concurrent per second", effort, async || burst(to, AddBeside).await).await?);
    rows.push(sync("1:1 async-actor calls sync per second", effort, &counter, AddLater).await?);
    rows.push(piped("1:1 async-actor calls async per second", effort, async || burst(to, AddLater).await).await?);
    let with_args = async || burst_with_arg(to).await;
    rows.push(piped("1:1 async-actor calls with args async per second", effort, with_args).await?);
    Ok(rows)
}

/// One caller and as many called as there are CPUs, then as many callers too.
async fn to_many(effort: Effort) -> Result<Vec<Row>> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut counters = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..cpus {
        counters.push(mobula::spawn::<Counter>(()).spread().await?);
    }
    for _ in 0..cpus {
        clients.push(mobula::spawn::<Client>(counters.clone()).spread().await?);
    }
    let mut rows = Vec::new();
    for (name, callers, kind) in [
        ("1:n actor calls async per second", &clients[..1], Kind::Sync),
        ("n:n actor calls async per second", &clients[..], Kind::Sync),
        ("n:n actor calls with arg async per second", &clients[..], Kind::WithArg),
        ("1:n async-actor calls async per second", &clients[..1], Kind::Async),
        ("n:n async-actor calls async per second", &clients[..], Kind::Async),
    ] {
        let bursts = async || {
            let waits: Vec<_> =
                callers.iter().map(|client| client.ask(Burst(kind)).no_timeout().into_future()).collect();
            let mut calls = 0;
            for wait in waits {
                calls += wait.await??;
            }
            Ok(calls)
        };
        rows.push(piped(name, effort, bursts).await?);
    }
    Ok(rows)
}

async fn sync<M: Message<Reply = u64>>(
    name: &str,
    effort: Effort,
    to: &ActorRef<Counter>,
    message: fn(u64) -> M,
) -> Result<Row>
where
    Counter: Handler<M>,
{
    const CALLS: usize = 5_000;
    let mut rates = Vec::new();
    for _ in 0..effort.runs(20) {
        let start = Instant::now();
        for _ in 0..CALLS {
            to.ask(message(1)).await?;
        }
        rates.push(per_second(CALLS, start));
    }
    Ok(Row::of(name, "1/s", Better::Higher, rates))
}

/// A row of the rates of `bursts`, which say how many calls they made.
async fn piped(name: &str, effort: Effort, bursts: impl AsyncFn() -> Result<usize, CallError>) -> Result<Row> {
    bursts().await?;
    let mut rates = Vec::new();
    for _ in 0..effort.runs(20) {
        let start = Instant::now();
        let calls = bursts().await?;
        rates.push(per_second(calls, start));
    }
    Ok(Row::of(name, "1/s", Better::Higher, rates))
}

/// Calls `to` in turn, [`PIPELINED`] on the way at once.
async fn burst<M: Message<Reply = u64>>(to: &[ActorRef<Counter>], message: fn(u64) -> M) -> Result<usize, CallError>
where
    Counter: Handler<M>,
{
    for _ in 0..BURST / PIPELINED {
        let ask = |i: usize| to[i % to.len()].ask(message(1)).into_future();
        let waits: Vec<_> = (0..PIPELINED).map(ask).collect();
        for wait in waits {
            wait.await?;
        }
    }
    Ok(BURST)
}

/// The same with a reference for an argument, which the sender resolves.
async fn burst_with_arg(to: &[ActorRef<Counter>]) -> Result<usize, CallError> {
    let one = mobula::put(1)?;
    for _ in 0..BURST / PIPELINED {
        let ask = |i: usize| {
            let one: ObjectRef<u64> = one.clone();
            let message = Box::pin(async move { one.await.map(|one: Value<u64>| AddLater(*one)) });
            Call::<_, _>::resolving(to[i % to.len()].address(), message, Ok).into_future()
        };
        let waits: Vec<_> = (0..PIPELINED).map(ask).collect();
        for wait in waits {
            wait.await?;
        }
    }
    Ok(BURST)
}

/// The actor that is called.
pub(super) struct Counter(u64);

impl Actor for Counter {
    type Args = ();
    type Proxy = Address<Self>;
    /// As many as Ray's row has.
    const CONCURRENCY: usize = 16;

    async fn start((): (), _: &Context<Self>) -> Result<Self, mobula::Error> {
        Ok(Self(0))
    }
}

/// Handled at once.
pub(super) struct Add(pub(super) u64);

/// Handled by a future, alone.
struct AddLater(u64);

/// Handled by a future, beside others.
struct AddBeside(u64);

impl Message for Add {
    type Reply = u64;
}

impl Message for AddLater {
    type Reply = u64;
}

impl Message for AddBeside {
    type Reply = u64;
}

impl Handler<Add> for Counter {
    const MODE: Mode = Mode::Sync;

    async fn handle(&mut self, add: Add, ctx: &Context<Self>) -> u64 {
        self.handle_sync(add, ctx)
    }

    fn handle_sync(&mut self, Add(n): Add, _: &Context<Self>) -> u64 {
        self.0 += n;
        self.0
    }
}

impl Handler<AddLater> for Counter {
    async fn handle(&mut self, AddLater(n): AddLater, _: &Context<Self>) -> u64 {
        self.0 += n;
        self.0
    }
}

impl Handler<AddBeside> for Counter {
    const MODE: Mode = Mode::Shared;

    async fn handle(&mut self, add: AddBeside, ctx: &Context<Self>) -> u64 {
        self.handle_shared(add, ctx).await
    }

    async fn handle_shared(&self, AddBeside(n): AddBeside, _: &Context<Self>) -> u64 {
        self.0 + n
    }
}

/// The actor that calls.
struct Client {
    to: Vec<ActorRef<Counter>>,
}

impl Actor for Client {
    /// Whom it calls; nobody stands for a child of its own, which lives beside it.
    type Args = Vec<ActorRef<Counter>>;
    type Proxy = Address<Self>;

    async fn start(mut to: Self::Args, ctx: &Context<Self>) -> Result<Self, mobula::Error> {
        if to.is_empty() {
            to.push(ctx.spawn::<Counter>(()).await?);
        }
        Ok(Self { to })
    }
}

/// How a burst is handled.
#[derive(Clone, Copy)]
enum Kind {
    Sync,
    Async,
    WithArg,
}

struct Burst(Kind);

/// That many asks one after another, each in microseconds.
struct Latencies(usize);

/// Nanoseconds of CPU for one ask of many on the way, both sides together.
struct CpuOfAsks;

/// Nanoseconds of CPU for one tell, both sides together.
struct CpuOfTells;

impl Message for Burst {
    type Reply = Result<usize, CallError>;
}

impl Message for Latencies {
    type Reply = Result<Vec<f64>>;
}

impl Message for CpuOfAsks {
    type Reply = Result<f64>;
}

impl Message for CpuOfTells {
    type Reply = Result<f64>;
}

impl Handler<Burst> for Client {
    async fn handle(&mut self, Burst(kind): Burst, _: &Context<Self>) -> Result<usize, CallError> {
        match kind {
            Kind::Sync => burst(&self.to, Add).await,
            Kind::Async => burst(&self.to, AddLater).await,
            Kind::WithArg => burst_with_arg(&self.to).await,
        }
    }
}

impl Handler<Latencies> for Client {
    async fn handle(&mut self, Latencies(asks): Latencies, _: &Context<Self>) -> Result<Vec<f64>> {
        let mut latencies = Vec::with_capacity(asks);
        for _ in 0..asks {
            let start = Instant::now();
            self.to[0].ask(Add(1)).await?;
            latencies.push(micros(start));
        }
        Ok(latencies)
    }
}

impl Handler<CpuOfAsks> for Client {
    async fn handle(&mut self, _: CpuOfAsks, _: &Context<Self>) -> Result<f64> {
        let start = thread_cpu_ns()?;
        burst(&self.to, Add).await?;
        Ok((thread_cpu_ns()? - start) / BURST as f64)
    }
}

impl Handler<CpuOfTells> for Client {
    async fn handle(&mut self, _: CpuOfTells, _: &Context<Self>) -> Result<f64> {
        let start = thread_cpu_ns()?;
        for _ in 0..BURST / PIPELINED {
            for _ in 0..PIPELINED {
                self.to[0].try_send(Add(1)).map_err(|error| anyhow!("tell: {error}"))?;
            }
            // Answered when all before it are handled.
            self.to[0].ask(Add(0)).await?;
        }
        Ok((thread_cpu_ns()? - start) / BURST as f64)
    }
}
