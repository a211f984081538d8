//! A process that a node started: it runs the actors and functions of its job until it is told to end.

use std::process::exit;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mobula_actor::{System, SystemConfig, arbiters};
use mobula_types::PlacementSpec;
use mobula_types::resources::{Amount, Request, Resources};
use mobula_wire::PROTOCOL;
use mobula_wire::local::Hello;

use crate::compute::Pool;
use crate::daemon::workers::guard::{self, Role};
use crate::host::{Host, QueueBounds};
use crate::running;

use super::deliver::Attached;
use super::process::{self, Hooks};

/// How long actors and functions may take to end with the worker; its node ends it after a second.
const PATIENCE: Duration = Duration::from_millis(800);

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
    let system = System::start(&SystemConfig { process: joined.welcome.process, arbiters: cpus });
    system.make_process_default();
    let pool = Pool::new(1, &at_least_one_cpu(Resources::default()));
    let host = Host::of_worker(pool.clone(), QueueBounds::default());
    assert!(system.set_extension(host.clone()), "a new system has no extension");
    let room = pool.clone();
    let hooks = Hooks {
        capacity: Box::new(move |resources| room.resize(&at_least_one_cpu(resources))),
        output: Box::new(|_, _, _| {}),
    };
    let process = joined.begin(&system, hooks);
    let attached = Attached { process: process.clone(), spawns_roots_away: false };
    assert!(system.set_deliver(Arc::new(attached)).is_ok(), "a new system delivers nothing");
    host.seat.set(process.clone()).ok();
    let road = process.clone();
    // What a function or actor starts in turn runs beside it, unless it asks for a place of its own.
    host.run_some_at(
        |options| options.place(true).is_ok_and(|place| asks_for_a_place(&place)),
        Box::new(move |frame, reply| road.submit_task(frame, reply)),
    );
    let cause = process.ended().await;
    tracing::debug!(%cause, "the worker ends");
    let closing = pool.clone();
    tokio::task::spawn_blocking(move || closing.close(PATIENCE)).await.ok();
    system.stop(PATIENCE).await;
    process.leave();
    0
}

/// Whether a place asks for more than a CPU of wherever it is.
fn asks_for_a_place(place: &PlacementSpec) -> bool {
    let plain = PlacementSpec { request: place.request.clone(), ..PlacementSpec::default() };
    let Request { cpus, gpus, others } = &place.request;
    *place != plain || *cpus > Amount::ONE || *gpus > Amount::ZERO || !others.is_empty()
}

/// Actors without a CPU of their own may call functions, and those must run.
fn at_least_one_cpu(resources: Resources) -> Resources {
    Resources { cpus: resources.cpus.max(Amount::ONE), ..resources }
}
