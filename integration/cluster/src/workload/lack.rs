//! Tasks and actors that wait, each for something else and two for each other, until whoever started this says to finish.

use std::time::Duration;

use mobula::prelude::*;
use mobula_cluster::report::READY;

use crate::until_told;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);

/// Keeps a CPU.
#[remote]
fn keep() {
    // It ends with its job.
    std::thread::sleep(LONG);
}

#[remote(num_cpus = 99)]
fn needs_many() {}

struct Needy;

#[actor]
impl Needy {
    fn new() -> Self {
        Needy
    }
}

struct Stuck;

#[actor]
impl Stuck {
    fn new() -> Self {
        Stuck
    }

    /// Has the last of `others` ask the rest.
    async fn ask(&mut self, mut others: Vec<ActorRef<Stuck>>) {
        if let Some(other) = others.pop() {
            other.ask(others).no_timeout().await.ok();
        }
    }
}

/// As many as two CPUs and what is sent ahead to them do not take.
const KEEPERS: usize = 200;

pub(crate) async fn stand() -> Result<()> {
    let keepers: Vec<_> = (0..KEEPERS).map(|_| keep::remote()).collect();
    let many = needs_many::remote();
    let needy = Needy::spawn().num_cpus(77.0).now()?;
    let (one, two) = (Stuck::spawn().await?, Stuck::spawn().await?);
    let stuck = one.ask(vec![one.clone(), two]).submit();
    println!("{READY}{}", std::process::id());
    until_told().await?;
    drop((keepers, many, needy, stuck));
    Ok(())
}
