//! One of each that a job can leave behind: workers on all nodes, and children that user code started in them.

use std::process::{Command, Stdio};

use mobula::prelude::*;
use mobula_cluster::report::READY;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Actors, each of which starts a child.
    #[arg(long, default_value_t = 4)]
    actors: usize,
}

/// Starts a child and lets it be, as user code does that forgets one.
struct Careless {
    pid: u32,
}

#[actor]
impl Careless {
    fn new() -> Result<Self> {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Careless { pid: command.spawn()?.id() })
    }

    fn pids(&self) -> (u32, u32) {
        (std::process::id(), self.pid)
    }
}

pub(crate) async fn stand(args: Args) -> Result<()> {
    // By name: the driver's node may have heard of the others only so far as to know that they come.
    let nodes = mobula::nodes().await?;
    let mut actors = Vec::new();
    for node in nodes.iter().cycle().take(args.actors) {
        actors.push(Careless::spawn().on_node(node.id).num_cpus(0.1).await?);
    }
    for actor in &actors {
        let (worker, child) = actor.pids().await?;
        println!("worker {worker} child {child}");
    }
    println!("{READY}{}", std::process::id());
    // Until it is killed.
    std::future::pending().await
}
