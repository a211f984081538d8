//! Tasks: so many are always under way, each knows its number, and each of its runs is noted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mobula::prelude::*;
use mobula_cluster::report::Account;

use crate::{Finish, Load, count, record};

#[derive(Default)]
pub(crate) struct Done {
    pub(crate) account: Account,
    pub(crate) superseded: Vec<String>,
    pub(crate) runs_max: u32,
}

const FILE: &str = "tasks";

/// Notes that it runs, takes its time, and gives back which task and which run it was.
#[remote(max_retries = 3)]
fn step(task: u64, millis: u64, record: PathBuf) -> (u64, String) {
    let attempt = mobula::task_run().map_or(0, |(_, attempt)| attempt.0);
    let run = format!("{attempt} {}", record::run());
    record::note(&record, FILE, &format!("{task} {run}")).expect("the folder of records takes lines");
    std::thread::sleep(Duration::from_millis(millis));
    (task, run)
}

pub(crate) async fn run(load: &Load, finish: Finish) -> Done {
    let mut done = Done::default();
    let mut accepted = BTreeMap::new();
    let mut under_way = FuturesUnordered::new();
    let mut over = Box::pin(finish.clone().settle_time());
    loop {
        while under_way.len() < load.tasks && done.account.submitted < load.tasks_max && !finish.is_ordered() {
            let task = done.account.submitted;
            let result = step::remote(task, load.task_ms, load.record.clone());
            under_way.push(async move { (task, result.await) });
            done.account.submitted += 1;
        }
        let (task, result) = tokio::select! {
            result = under_way.next() => match result {
                Some(result) => result,
                None => break,
            },
            () = &mut over => break,
        };
        count(&mut done.account, &result);
        if let Ok(value) = result {
            accepted.insert(task, value.into_owned());
        }
    }
    done.account.pending = under_way.len() as u64;
    check(&mut done, load, &accepted);
    done
}

/// Holds what was accepted against what ran: the result must be the task's own, and no later attempt of it may have begun.
/// One that was superseded may begin after its successor: it was on its way, through a node that stood still.
fn check(done: &mut Done, load: &Load, accepted: &BTreeMap<u64, (u64, String)>) {
    let mut runs: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for line in record::lines(&load.record, FILE) {
        if let Some((task, run)) = line.split_once(' ') {
            runs.entry(task.parse().unwrap_or(u64::MAX)).or_default().push(run.to_owned());
        }
    }
    done.runs_max = runs.values().map(|runs| u32::try_from(runs.len()).unwrap_or(u32::MAX)).max().unwrap_or(0);
    for (task, (of, run)) in accepted {
        let newest = runs.get(task).and_then(|runs| runs.iter().max_by_key(|run| attempt(run)));
        if of != task || newest.map(|newest| attempt(newest)) != Some(attempt(run)) {
            done.superseded.push(format!("task {task} was answered by run {run} of {of}, its newest is {newest:?}"));
        }
    }
}

fn attempt(run: &str) -> u32 {
    run.split_once(' ').and_then(|(attempt, _)| attempt.parse().ok()).unwrap_or(u32::MAX)
}
