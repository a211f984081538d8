//! Remote functions that do nothing, one at a time and many at once, and streamed results.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt;
use futures_util::stream::{self, LocalBoxStream};
use mobula::remote::{Arg, Body, RemoteFn, RemoteStream, TaskOptions, submit, submit_stream};
use mobula::{Actor, Address, Context, Handler, Message, ObjectRef};

use super::within::{a_session, micros, per_second};
use super::{Better, Effort, Row};

/// Tasks submitted at once by the rows that submit many.
const BATCH: usize = 1_000;
/// Batches of one run.
const BATCHES: usize = 20;
/// Items of one streamed run.
const ITEMS: usize = 50_000;

pub(crate) fn rows(effort: Effort) -> Result<Vec<Row>> {
    a_session(async |_| {
        let mut latencies = Vec::new();
        for _ in 0..effort.runs(20_000) {
            let start = Instant::now();
            nothing(0).await?;
            latencies.push(micros(start));
        }
        let (mut sync, mut batches, mut waits, mut pipelined) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..effort.runs(20) {
            let start = Instant::now();
            for n in 0..BATCH {
                nothing(n as u64).await?;
            }
            sync.push(per_second(BATCH, start));
            let start = Instant::now();
            mobula::get((0..BATCH as u64).map(nothing).collect::<Vec<_>>()).await?;
            batches.push(per_second(1, start));
            let start = Instant::now();
            let mut rest: Vec<_> = (0..BATCH as u64).map(nothing).collect();
            while !rest.is_empty() {
                rest = mobula::wait(&rest).await?.1;
            }
            waits.push(per_second(1, start));
            pipelined.push(many().await?);
        }
        Ok(vec![
            Row::of("task, one at a time", "us", Better::Lower, latencies),
            Row::of("single client tasks sync per second", "1/s", Better::Higher, sync),
            Row::of("single client tasks and get batch per second", "1/s", Better::Higher, batches),
            Row::of("single client tasks async per second", "1/s", Better::Higher, pipelined),
            Row::of("single client wait 1k refs per second", "1/s", Better::Higher, waits),
            multi_client(effort).await?,
            streamed(effort).await?,
        ])
    })
}

async fn many() -> Result<f64> {
    let start = Instant::now();
    for _ in 0..BATCHES {
        mobula::get((0..BATCH as u64).map(nothing).collect::<Vec<_>>()).await?;
    }
    Ok(per_second(BATCH * BATCHES, start))
}

/// As many submitters as there are CPUs, each an actor.
async fn multi_client(effort: Effort) -> Result<Row> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut clients = Vec::new();
    for _ in 0..cpus {
        clients.push(mobula::spawn::<Submitter>(()).spread().await?);
    }
    let mut rates = Vec::new();
    for _ in 0..effort.runs(20) {
        let start = Instant::now();
        let waits: Vec<_> = clients.iter().map(|client| client.ask(Submit).no_timeout().submit()).collect();
        for wait in waits {
            ensure!(*wait.await?, "a submitter's tasks failed");
        }
        rates.push(per_second(cpus * BATCH * BATCHES, start));
    }
    Ok(Row::of("multi client tasks async per second", "1/s", Better::Higher, rates))
}

async fn streamed(effort: Effort) -> Result<Row> {
    let mut rates = Vec::new();
    for _ in 0..effort.runs(20) {
        let start = Instant::now();
        let mut numbers = submit_stream::<Numbers>(&Numbers::OPTIONS, Arg::Value((ITEMS as u64,)));
        let mut items = 0;
        while let Some(item) = numbers.next().await {
            item.context("read a streamed item")?;
            items += 1;
        }
        ensure!(items == ITEMS, "{items} of {ITEMS} streamed items came");
        rates.push(per_second(ITEMS, start));
    }
    Ok(Row::of("streamed items", "1/s", Better::Higher, rates))
}

fn nothing(n: u64) -> ObjectRef<u64> {
    submit::<Nothing>(&Nothing::OPTIONS, Arg::Value((n,)))
}

struct Nothing;

impl RemoteFn for Nothing {
    type Args = (u64,);
    type Reply = u64;
    type Error = mobula::NoError;
    const NAME: &'static str = "mobula::microbenchmark::nothing";
    const OPTIONS: TaskOptions = TaskOptions::new();
    const BODY: Body<Self> = Body::Sync(|(n,)| Ok(n));
}

struct Numbers;

impl RemoteStream for Numbers {
    type Args = (u64,);
    type Item = u64;
    const NAME: &'static str = "mobula::microbenchmark::numbers";
    const OPTIONS: TaskOptions = TaskOptions::new();

    fn open((count,): (u64,)) -> LocalBoxStream<'static, u64> {
        stream::iter(0..count).boxed_local()
    }
}

/// An actor that submits tasks.
struct Submitter;

impl Actor for Submitter {
    type Args = ();
    type Proxy = Address<Self>;

    async fn start((): (), _: &Context<Self>) -> Result<Self, mobula::Error> {
        Ok(Self)
    }
}

/// Answered with whether all tasks gave a value.
struct Submit;

impl Message for Submit {
    type Reply = bool;
}

impl Handler<Submit> for Submitter {
    async fn handle(&mut self, _: Submit, _: &Context<Self>) -> bool {
        many().await.is_ok()
    }
}
