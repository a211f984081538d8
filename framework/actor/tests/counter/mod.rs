//! The actor most tests use, and a system to run it in.

use std::sync::Arc;
use std::time::Duration;

use mobula_actor::{Actor, Address, Context, Handler, Message, Mode, System, SystemConfig, arbiters};
use mobula_types::{Error, NodeId, ProcessId};
use tokio::sync::oneshot;

pub(crate) struct Counter(usize);

#[derive(Debug)]
pub(crate) struct Add(pub(crate) usize);
pub(crate) struct Boom;
pub(crate) struct Hold(pub(crate) oneshot::Receiver<()>);
#[allow(dead_code, reason = "not every test file holds a handler")]
pub(crate) struct HoldBegun(pub(crate) oneshot::Sender<()>, pub(crate) oneshot::Receiver<()>);

#[allow(dead_code, reason = "not every test file hashes")]
pub(crate) struct Hash(pub(crate) fn() -> u64);

macro_rules! replies {
    ($($message:ty => $reply:ty),*) => {$(impl Message for $message { type Reply = $reply; })*};
}
replies!(Add => usize, Boom => (), Hold => (), HoldBegun => (), Hash => u64);

impl Actor for Counter {
    type Args = usize;
    type Proxy = Address<Self>;

    async fn start(start: usize, _: &Context<Self>) -> Result<Self, Error> {
        if start == usize::MAX {
            return Err(Error::msg("too large"));
        }
        Ok(Self(start))
    }
}

impl Handler<Add> for Counter {
    const MODE: Mode = Mode::Sync;

    async fn handle(&mut self, message: Add, ctx: &Context<Self>) -> usize {
        self.handle_sync(message, ctx)
    }

    fn handle_sync(&mut self, Add(n): Add, _: &Context<Self>) -> usize {
        self.0 += n;
        self.0
    }
}

impl Handler<Boom> for Counter {
    async fn handle(&mut self, _: Boom, _: &Context<Self>) {
        panic!("boom");
    }
}

impl Handler<Hold> for Counter {
    async fn handle(&mut self, Hold(gate): Hold, _: &Context<Self>) {
        gate.await.ok();
    }
}

impl Handler<HoldBegun> for Counter {
    async fn handle(&mut self, HoldBegun(began, gate): HoldBegun, _: &Context<Self>) {
        began.send(()).ok();
        gate.await.ok();
    }
}

impl Handler<Hash> for Counter {
    async fn handle(&mut self, Hash(hash): Hash, _: &Context<Self>) -> u64 {
        hash()
    }
}

/// Runs `test` in a system of its own, and checks after it that every call had exactly one outcome.
pub(crate) fn with_system(test: impl AsyncFnOnce(&Arc<System>)) {
    let system = System::start(&SystemConfig {
        process: ProcessId::from(NodeId(1)),
        arbiters: 2,
        value_bytes_max: mobula_wire::PAYLOAD_BYTES_MAX,
    });
    arbiters::runtime().block_on(async {
        test(&system).await;
        system.stop(Duration::from_secs(5)).await;
    });
    assert_eq!(system.counters().pending(), 0, "submitted = outcomes (G21)");
}
