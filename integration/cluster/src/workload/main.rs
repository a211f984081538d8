//! The driver program of the tests: a user's program that keeps count of everything it asks for.
//!
//! It knows nothing of the cluster beside what `mobula::init` finds. What it did and what became of it is the last line
//! of its output, a `Report`. Actors and functions note what they do in files of the folder given by `--record`, which
//! all hosts share: so the driver sees runs whose results never came.

#![forbid(unsafe_code)]

mod calls;
mod deaths;
mod groups;
mod lack;
mod lineage;
mod names;
mod record;
mod reduce;
mod sleep;
mod store;
mod streams;
mod tasks;
mod tree;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use mobula::prelude::*;
use mobula_cluster::report::{Account, FINISH, READY, REPORT, Report};
use tokio::sync::watch;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    work: Work,
}

#[derive(Subcommand)]
enum Work {
    /// Tasks, calls and named actors until told to finish.
    Load(Load),
    /// Processes of every kind that wait to be killed.
    Tree(tree::Args),
    /// An actor that dies as it is told.
    Death(deaths::Args),
    /// Tasks and an actor that wait.
    Lack,
    /// Actors in the bundles of a placement group.
    Groups,
    /// Values on another node, wanted when it is gone.
    Lineage(lineage::Args),
    /// A tree of additions.
    Reduce(reduce::Args),
    /// Tasks of a second that only sleep.
    Sleep(sleep::Args),
    /// Producers of values, under orders.
    Store(store::Args),
    /// Streams that take a while, of a task and of an actor.
    Streams,
}

/// How much of what is always under way; nothing of a kind when it is 0.
#[derive(clap::Args)]
struct Load {
    /// Where runs are noted.
    #[arg(long)]
    record: PathBuf,
    /// Tasks under way.
    #[arg(long, default_value_t = 0)]
    tasks: usize,
    /// Ends tasks after so many; else they go on until told to finish.
    #[arg(long, default_value_t = u64::MAX)]
    tasks_max: u64,
    /// How long a task takes.
    #[arg(long, default_value_t = 1)]
    task_ms: u64,
    /// Actors that are called in order.
    #[arg(long, default_value_t = 0)]
    actors: usize,
    /// Gives those actors names, which must lead to them in the end.
    #[arg(long)]
    named: bool,
    /// Starts named actors one after the other, at most so many.
    #[arg(long, default_value_t = 0)]
    names: u64,
    /// Every other of them outlives the program, until it is stopped at the end.
    #[arg(long)]
    detached: bool,
}

#[mobula::main]
async fn main() -> Result<()> {
    let session = mobula::init().await?;
    match Args::parse().work {
        Work::Load(load) => report(load, session).await,
        Work::Tree(args) => tree::stand(args).await,
        Work::Death(args) => deaths::show(args).await,
        Work::Groups => groups::stand().await,
        Work::Lack => lack::stand().await,
        Work::Lineage(args) => lineage::show(args).await,
        Work::Reduce(args) => reduce::sum(args).await,
        Work::Sleep(args) => sleep::stand(args).await,
        Work::Store(args) => store::stand(args).await,
        Work::Streams => streams::read().await,
    }
}

/// Waits for the order to finish, or for the end of whoever could give it.
async fn until_told() -> Result<()> {
    // Blocks in the read, on a thread of its own.
    tokio::task::spawn_blocking(is_told).await?;
    Ok(())
}

/// Blocks until the order to finish has come; `false` when nobody is there to give it.
fn is_told() -> bool {
    std::io::stdin().lines().map_while(Result::ok).any(|line| line == FINISH)
}

/// What may go on after the order to finish; the oracle's bound.
const SETTLE: Duration = mobula_cluster::oracle::SETTLED;

async fn report(load: Load, session: Session) -> Result<()> {
    std::fs::create_dir_all(&load.record)?;
    let (order, finish) = watch::channel(None);
    let ledgers = calls::start(&load).await?;
    println!("{READY}{}", std::process::id());
    // On a thread of its own, which blocks in the read; it ends with the process.
    std::thread::spawn(move || {
        if !is_told() {
            eprintln!("nobody is there to say `{FINISH}`: finishing");
        }
        order.send_replace(Some(Instant::now()));
    });
    let (tasks, calls, names) = tokio::join!(
        tasks::run(&load, Finish(finish.clone())),
        calls::run(&load, ledgers, Finish(finish.clone())),
        names::run(&load, Finish(finish.clone())),
    );
    let settled = Finish(finish).ordered_at().await.elapsed();
    let names::Registered { account, acknowledged } = names;
    let mut names_lost = names::lost(&acknowledged, load.detached).await;
    if load.named {
        names_lost.extend(calls::lost(load.actors).await);
    }
    let counters = session.counters();
    let session = Account {
        submitted: counters.of(mobula::Count::Submitted),
        outcomes: mobula::Outcome::ALL
            .into_iter()
            .map(|outcome| (outcome.name().to_owned(), counters.outcomes(outcome)))
            .collect(),
        pending: counters.pending(),
        ..Account::default()
    };
    let report = Report {
        superseded: tasks.superseded,
        disorder: calls.disorder,
        names_lost,
        runs_max: tasks.runs_max,
        settled_ms: u64::try_from(settled.as_millis()).unwrap_or(u64::MAX),
        call_ms_max: calls.call_ms_max,
        tasks: tasks.account,
        calls: calls.account,
        names: account,
        session,
    };
    println!("{REPORT}{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Whether the order to finish has come.
#[derive(Clone)]
struct Finish(watch::Receiver<Option<Instant>>);

impl Finish {
    fn is_ordered(&self) -> bool {
        self.0.borrow().is_some()
    }

    async fn ordered_at(&mut self) -> Instant {
        match self.0.wait_for(Option::is_some).await {
            Ok(at) => at.unwrap_or_else(Instant::now),
            Err(_) => Instant::now(),
        }
    }

    /// Ready when what is under way has had its time since the order.
    async fn settle_time(mut self) {
        let left = SETTLE.saturating_sub(self.ordered_at().await.elapsed());
        tokio::time::sleep(left).await;
    }
}

/// Counts how one of a kind ended.
fn count<T, E: std::fmt::Display>(account: &mut Account, result: &Result<T, CallError<E>>) {
    match result {
        Ok(_) => account.count("ok", None),
        Err(error) => account.count(error.outcome().name(), Some(error.to_string())),
    }
}
