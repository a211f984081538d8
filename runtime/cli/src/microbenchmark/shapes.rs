//! Remote functions that need one another: a chain, and tasks that submit tasks.

use std::time::Instant;

use anyhow::{Result, ensure};
use mobula::remote::{Arg, Body, Join, RemoteFn, TaskOptions, submit};
use mobula::{IntoArg, ObjectRef};

use super::within::{a_session, micros};
use super::{Better, Effort, Row};

/// Tasks of a chain, each of which takes the result of the one before.
const CHAIN: u64 = 100;
/// Tasks that submit others.
const OUTER: u64 = 50;
/// Tasks that each of them submits and waits for.
const INNER: u64 = 10;

pub(crate) fn rows(effort: Effort) -> Result<Vec<Row>> {
    a_session(async |_| {
        let (mut chains, mut nests) = (Vec::new(), Vec::new());
        for _ in 0..effort.runs(100) {
            let start = Instant::now();
            let mut last = plus_one(0.into_arg());
            for _ in 1..CHAIN {
                last = plus_one(last.into_arg());
            }
            ensure!(*last.await? == CHAIN, "a chain lost a task");
            chains.push(micros(start) / 1e3);
            let start = Instant::now();
            let outer: Vec<_> = (0..OUTER).map(|_| submit::<Nest>(&Nest::OPTIONS, Arg::Value((INNER,)))).collect();
            for one in outer {
                ensure!(*one.await? == INNER, "a nested task failed");
            }
            nests.push(micros(start) / 1e3);
        }
        Ok(vec![
            Row::of("chain of 100 dependent tasks", "ms", Better::Lower, chains),
            Row::of("nested tasks, 50 x 10", "ms", Better::Lower, nests),
        ])
    })
}

fn plus_one(n: Arg<u64>) -> ObjectRef<u64> {
    submit::<PlusOne>(&PlusOne::OPTIONS, (n,).join())
}

struct PlusOne;

impl RemoteFn for PlusOne {
    type Args = (u64,);
    type Reply = u64;
    type Error = mobula::NoError;
    const NAME: &'static str = "mobula::microbenchmark::plus_one";
    const OPTIONS: TaskOptions = TaskOptions::new();
    const BODY: Body<Self> = Body::Sync(|(n,)| Ok(n + 1));
}

/// Submits as many tasks as it is told, and gives how many succeeded.
struct Nest;

impl RemoteFn for Nest {
    type Args = (u64,);
    type Reply = u64;
    type Error = mobula::NoError;
    const NAME: &'static str = "mobula::microbenchmark::nest";
    const OPTIONS: TaskOptions = TaskOptions::new();
    const BODY: Body<Self> = Body::Sync(|(count,)| {
        let inner: Vec<_> = (0..count).map(|n| plus_one(n.into_arg())).collect();
        Ok(inner.iter().filter(|one| one.wait().is_ok()).count() as u64)
    });
}
