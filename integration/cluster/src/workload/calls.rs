//! Calls of actors in a row: each actor notes every call it handles, so that order and repeats show, over restarts too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use mobula::prelude::*;
use mobula_cluster::report::Account;

use crate::{Finish, Load, count, record};

#[derive(Default)]
pub(crate) struct Done {
    pub(crate) account: Account,
    pub(crate) disorder: Vec<String>,
    pub(crate) call_ms_max: u64,
}

/// Takes numbers that only grow.
pub(crate) struct Ledger {
    number: usize,
    record: PathBuf,
    life: String,
}

#[actor(max_restarts = 1000, restart_period_ms = 10000)]
impl Ledger {
    fn new(number: usize, record: PathBuf) -> Self {
        Ledger { number, record, life: record::run() }
    }

    fn enter(&mut self, entry: u64) -> u64 {
        let line = format!("{entry} {}", self.life);
        record::note(&self.record, &file(self.number), &line).expect("the folder of records takes lines");
        entry
    }

    fn number(&self) -> usize {
        self.number
    }
}

fn file(number: usize) -> String {
    format!("ledger-{number}")
}

/// Calls of one actor that are under way at once: more than one, or there is no order to keep.
const WINDOW: usize = 8;

/// Between two calls of one actor: the tests look at faults, not at speed.
const PAUSE: Duration = Duration::from_millis(2);

/// Starts the actors, before tasks have taken all the room there is.
pub(crate) async fn start(load: &Load) -> Result<Vec<ActorRef<Ledger>>> {
    let mut ledgers = Vec::new();
    for number in 0..load.actors {
        let ledger = Ledger::spawn(number, load.record.clone()).spread_nodes().num_cpus(0.01);
        ledgers.push(if load.named { ledger.name(file(number)).await? } else { ledger.await? });
    }
    Ok(ledgers)
}

/// Which names of actors lead to nobody, or to somebody else.
pub(crate) async fn lost(actors: usize) -> Vec<String> {
    let mut lost = Vec::new();
    for number in 0..actors {
        let found = match mobula::actor::<Ledger>(&file(number)).await {
            Ok(ledger) => ledger.number().await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if found.as_ref() != Ok(&number) {
            lost.push(format!("{} leads to {found:?}", file(number)));
        }
    }
    lost
}

pub(crate) async fn run(load: &Load, ledgers: Vec<ActorRef<Ledger>>, finish: Finish) -> Done {
    let ledgers = ledgers.into_iter().enumerate();
    let ledgers = ledgers.map(|(number, ledger)| keep(number, ledger, load.record.clone(), finish.clone()));
    let mut all = Done::default();
    for done in join_all(ledgers).await {
        all.account.submitted += done.account.submitted;
        all.account.pending += done.account.pending;
        for (outcome, count) in done.account.outcomes {
            *all.account.outcomes.entry(outcome).or_default() += count;
        }
        for (error, count) in done.account.errors {
            *all.account.errors.entry(error).or_default() += count;
        }
        all.disorder.extend(done.disorder);
        all.call_ms_max = all.call_ms_max.max(done.call_ms_max);
    }
    all
}

async fn keep(number: usize, ledger: ActorRef<Ledger>, record: PathBuf, finish: Finish) -> Done {
    let mut done = Done::default();
    let mut under_way = FuturesUnordered::new();
    let mut over = Box::pin(finish.clone().settle_time());
    let mut pace = tokio::time::interval(PAUSE);
    loop {
        if finish.is_ordered() && under_way.is_empty() {
            break;
        }
        let may_call = under_way.len() < WINDOW && !finish.is_ordered();
        tokio::select! {
            _ = pace.tick(), if may_call => {
                let call = ledger.enter(done.account.submitted).into_future();
                let begun = Instant::now();
                under_way.push(async move { (call.await, begun.elapsed()) });
                done.account.submitted += 1;
            }
            Some((result, took)) = under_way.next() => {
                count(&mut done.account, &result);
                done.call_ms_max = done.call_ms_max.max(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            }
            () = &mut over => break,
        }
    }
    done.account.pending = under_way.len() as u64;
    check(&mut done, number, &record::lines(&record, &file(number)));
    done
}

/// Within a life, entries only grow; over all lives, none is there twice (G3).
fn check(done: &mut Done, number: usize, lines: &[String]) {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for line in lines {
        let Some((entry, life)) = line.split_once(' ') else { continue };
        let entry: u64 = entry.parse().unwrap_or(u64::MAX);
        if let Some(before) = last.insert(life, entry)
            && before >= entry
        {
            done.disorder.push(format!("ledger {number}: {entry} after {before}"));
        }
        if !seen.insert(entry) {
            done.disorder.push(format!("ledger {number}: {entry} was handled twice"));
        }
    }
}
