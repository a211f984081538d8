//! Named actors, started one after the other: what was acknowledged must be there in the end.

use std::time::Duration;

use mobula::prelude::*;
use mobula_cluster::report::{Account, NAMES};

use crate::{Finish, Load, record};

pub(crate) struct Registered {
    pub(crate) account: Account,
    pub(crate) acknowledged: Vec<u64>,
}

struct Bearer {
    number: u64,
}

#[actor(max_restarts = 1000, restart_period_ms = 10000)]
impl Bearer {
    fn new(number: u64) -> Self {
        Bearer { number }
    }

    fn number(&self) -> u64 {
        self.number
    }
}

/// Between two of them.
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) async fn run(load: &Load, finish: Finish) -> Registered {
    let (mut account, mut acknowledged) = (Account::default(), Vec::new());
    let mut over = Box::pin(finish.clone().settle_time());
    while account.submitted < load.names && !finish.is_ordered() {
        let number = account.submitted;
        account.submitted += 1;
        tokio::select! {
            started = spawn(number, load.detached).into_future() => match started {
                Ok(_) => {
                    account.count("ok", None);
                    acknowledged.push(number);
                    record::note(&load.record, NAMES, &name(number)).expect("a name is noted");
                }
                Err(error) => account.count("not_started", Some(error.to_string())),
            },
            () = &mut over => account.pending += 1,
        }
        tokio::time::sleep(PAUSE).await;
    }
    Registered { account, acknowledged }
}

/// Where those are that outlive this program.
const SPACE: &str = "bearers";

fn is_detached(number: u64, detached: bool) -> bool {
    detached && number % 2 == 1
}

fn spawn(number: u64, detached: bool) -> mobula::Spawn<Bearer> {
    let bearer = Bearer::spawn(number).name(name(number));
    if is_detached(number, detached) { bearer.namespace(SPACE).detached() } else { bearer }
}

fn name(number: u64) -> String {
    format!("bearer-{number}")
}

/// Which of them are not found, or are somebody else. Those that would outlive this program are stopped.
pub(crate) async fn lost(acknowledged: &[u64], detached: bool) -> Vec<String> {
    let mut lost = Vec::new();
    for number in acknowledged {
        let is_detached = is_detached(*number, detached);
        let bearer = mobula::actor::<Bearer>(name(*number));
        let bearer = if is_detached { bearer.namespace(SPACE) } else { bearer };
        let found = match bearer.await {
            Ok(bearer) => {
                let found = bearer.number().await.map_err(|error| error.to_string());
                if is_detached {
                    bearer.stop();
                }
                found
            }
            Err(error) => Err(error.to_string()),
        };
        match found {
            Ok(found) if found == *number => {}
            Ok(other) => lost.push(format!("{} leads to {other}", name(*number))),
            Err(error) => lost.push(format!("{}: {error}", name(*number))),
        }
    }
    lost
}
