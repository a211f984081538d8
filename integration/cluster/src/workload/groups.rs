//! A placement group with an actor in each of its two bundles, until whoever started this says to finish; each life of each
//! actor is said with the process in which it is.

use std::time::Duration;

use mobula::BundleStrategy;
use mobula::prelude::*;
use mobula_cluster::report::{GROUP, READY, life};

use crate::until_told;

/// How long after an answer an actor is asked again where it is.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

struct Tenant;

#[actor(max_restarts = 10)]
impl Tenant {
    fn new() -> Self {
        Tenant
    }

    fn process(&self) -> u32 {
        std::process::id()
    }
}

pub(crate) async fn stand() -> Result<()> {
    let half = |bundle: mobula::BundleSpec| bundle.num_cpus(1.5);
    let group = mobula::placement_group().bundle(half).bundle(half).strategy(BundleStrategy::Spread).create().await?;
    println!("{GROUP}{}", group.id());
    let mut looking = Vec::new();
    for bundle in 0..2 {
        let actor = Tenant::spawn().num_cpus(1.0).in_bundle(&group, bundle).await?;
        looking.push(tokio::spawn(tell_lives(bundle, actor)));
    }
    println!("{READY}{}", std::process::id());
    until_told().await?;
    looking.into_iter().for_each(|looking| looking.abort());
    group.remove().await?;
    Ok(())
}

/// What is asked while it is between two lives is answered by the next, or not at all.
async fn tell_lives(bundle: u32, actor: ActorRef<Tenant>) {
    let (mut lives, mut last) = (0, None);
    loop {
        let process = actor.process().await.ok().filter(|process| last != Some(*process));
        if let Some(process) = process {
            (lives, last) = (lives + 1, Some(process));
            println!("{}{process}", life(bundle, lives));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
