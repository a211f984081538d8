//! A process that a node started: it runs the actors and functions of its job until it is told to end.
//!
//! A function that runs here submits others as a driver does, by leases: so they spread over the cluster, are seen, retried
//! and cancelled one by one, and what runs here is never more than what this worker's leases hold. Its own node is
//! preferred, and what comes back to this very process takes no socket: there is no other fast way, because work that
//! a node does not know of would take CPUs that it has given to others. A task that waits gives its CPUs back, so any depth
//! of calls finds a place in the end.

use std::process::exit;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mobula_actor::{System, SystemConfig, arbiters};
use mobula_types::resources::{Amount, Resources};
use mobula_wire::local::{Hello, ToNode};
use mobula_wire::{PAYLOAD_BYTES_MAX, PROTOCOL};

use crate::admission::QueueBounds;
use crate::compute::Pool;
use crate::daemon::workers::guard::{self, Role};
use crate::host::Host;
use crate::running;

use super::deliver::Attached;
use super::driver::{QUEUE, VALUE_BYTES_MAX};
use super::process::{self, Hooks};

/// How long actors and functions may take to end with the worker; its node ends it after a second.
const PATIENCE: Duration = Duration::from_millis(800);

/// How long what was said last may take to be fetched; nearly always nothing is left, and the node does not wait longer.
const LAST_WORDS_MAX: Duration = Duration::from_millis(200);

/// The exit code of a worker that could not begin.
const NOT_BEGUN: i32 = 70;

/// Runs the worker and ends the process with it, when this process was started as one; else comes back at once.
#[expect(
    clippy::disallowed_methods,
    reason = "a worker ends here, with nothing left to drop: its program's main never began"
)]
pub fn run_if_worker() {
    match guard::enter() {
        Ok(None) => {}
        Ok(Some(role)) => {
            let code = arbiters::runtime().block_on(run(role));
            exit(code);
        }
        Err(error) => {
            eprintln!("this worker does not begin: {error}");
            exit(NOT_BEGUN);
        }
    }
}

async fn run(role: Role) -> i32 {
    let Role { process: _, token, socket, isolated: _, slots } = role;
    let joined = match process::join(&socket, &Hello::Worker { protocol: PROTOCOL, token }).await {
        Ok(joined) => joined,
        Err(error) => {
            eprintln!("this worker does not begin: {error}");
            return NOT_BEGUN;
        }
    };
    running::write_to(slots);
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let system = System::start(&SystemConfig {
        process: joined.welcome.process,
        arbiters: cpus,
        value_bytes_max: value_bytes_max(),
    });
    system.make_process_default();
    let pool = Pool::new(1, &at_least_one_cpu(Resources::default()));
    let host = Host::of_worker(pool.clone(), queue_bounds());
    assert!(system.set_extension(host.clone()), "a new system has no extension");
    let room = pool.clone();
    let hooks = Hooks {
        capacity: Box::new(move |resources| room.resize(&at_least_one_cpu(resources))),
        output: Box::new(|_, _, _| {}),
    };
    // Before the first word is read: what comes may run at once, and must find all of this.
    let process = joined.process.clone();
    let attached = Attached { process: process.clone(), spawns_roots_away: false };
    assert!(system.set_deliver(Arc::new(attached)).is_ok(), "a new system delivers nothing");
    host.seat.set(process.clone()).ok();
    let (road, near) = (process.clone(), process.me.node());
    host.run_tasks_at(Box::new(move |frame, reply| road.submit_task(frame, reply, Some(near))));
    let link = process.clone();
    pool.tell_waits(Box::new(move |cpus| link.link.tell(&ToNode::Waiting { cpus })));
    joined.begin(&system, hooks);
    let cause = process.ended().await;
    tracing::debug!(%cause, "the worker ends");
    let closing = pool.clone();
    tokio::task::spawn_blocking(move || closing.close(PATIENCE)).await.ok();
    system.stop(PATIENCE).await;
    // An answer that is promised and not fetched would be lost with this process.
    process.large.fetched(LAST_WORDS_MAX).await;
    process.leave();
    0
}

/// What the job's driver says that a value may be.
fn value_bytes_max() -> usize {
    let said = std::env::var(VALUE_BYTES_MAX).ok().and_then(|said| said.parse().ok());
    said.map_or(PAYLOAD_BYTES_MAX, |said: usize| said.min(PAYLOAD_BYTES_MAX))
}

/// What the job's driver says that a process of it may have submitted.
fn queue_bounds() -> QueueBounds {
    let said = std::env::var(QUEUE).ok().and_then(|said| said.parse().ok());
    said.unwrap_or_default()
}

/// Actors without a CPU of their own may call functions, and those must run.
fn at_least_one_cpu(resources: Resources) -> Resources {
    Resources { cpus: resources.cpus.max(Amount::ONE), ..resources }
}
