//! The way of a parcel: to a process of this node by its socket, to another node by the mesh.
//!
//! Every reader forwards what it reads by this table; the task that owns the node's state is not on the way, and only
//! changes the table. Nothing is read of a parcel but its address.
//!
//! | parcel for | goes |
//! |---|---|
//! | a process of this node that is connected | to its socket |
//! | one that has died | back, as the news of its death |
//! | one that starts or ends just now | nowhere: its death is told when it is known |
//! | a process of another node | to that node |
//!
//! What goes nowhere is counted with its cause ([`Losses`]).

use std::collections::{HashMap, VecDeque};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mobula_net::mesh::SendError;
use mobula_net::{Lane, Line, Mesh, Pace};
use mobula_types::{Death, DeathCause, MemberId, NodeId, ProcessId};
use mobula_wire::cluster::ClusterTalk;
use mobula_wire::local::FromNode;
use mobula_wire::{FrameKind, Parcel};
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use crate::losses::{Loss, Losses};

use super::input::Input;

/// Deaths that are kept, for those who send to the dead.
pub(crate) const DEATHS_KEPT: usize = 4_096;

/// A sender is held back so long while another node does not read; by then that node would have been declared dead.
const FULL_WAIT_MAX: Duration = Duration::from_secs(30);
/// Between two looks whether there is room again.
const FULL_LOOK: Duration = Duration::from_millis(1);

/// Who is where. Shared by all readers.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// This node's id; 0 before it has one.
    node: AtomicU64,
    local: RwLock<HashMap<u32, Route>>,
    /// The nodes of the cluster and whose certificates they have.
    members: RwLock<HashMap<NodeId, MemberId>>,
    graves: Mutex<Graves>,
    mesh: OnceLock<Mesh>,
    /// The task that owns the node's state: a node is a process too, and the home of detached actors is asked through it.
    own: OnceLock<mpsc::Sender<Input>>,
    /// What went nowhere.
    pub(crate) losses: Losses,
}

#[derive(Clone, Debug)]
enum Route {
    /// Starts, or ends: parcels wait for nobody.
    Between,
    /// On this host, or on another one from which it is attached here.
    Line(Line),
}

#[derive(Debug, Default)]
struct Graves {
    deaths: HashMap<ProcessId, Death>,
    order: VecDeque<ProcessId>,
}

/// What became of a parcel.
#[derive(Debug, PartialEq)]
pub(crate) enum Forwarded {
    /// It is on its way, or its sender hears of a death later.
    Done,
    /// Whom it was for has died.
    Dead(Death),
    /// Its sender did not say who it is, or says nonsense.
    Wrong,
}

/// There is no room for a parcel now.
struct Full {
    /// Whose; none where it is another node's.
    line: Option<Line>,
    /// Whether there will be.
    may_wait: bool,
}

impl Routes {
    pub(crate) fn set_node(&self, node: NodeId) {
        self.node.store(node.0, Ordering::Release);
    }

    pub(crate) fn node(&self) -> NodeId {
        NodeId(self.node.load(Ordering::Acquire))
    }

    pub(crate) fn set_mesh(&self, mesh: Mesh) {
        self.mesh.set(mesh).expect("a node has one mesh");
    }

    pub(crate) fn mesh(&self) -> Option<&Mesh> {
        self.mesh.get()
    }

    /// The way to the task that owns the node's state, once there is one.
    pub(crate) fn own(&self) -> Option<mpsc::Sender<Input>> {
        self.own.get().cloned()
    }

    pub(crate) fn set_own(&self, own: mpsc::Sender<Input>) {
        self.own.set(own).expect("a node has one state");
    }

    /// A process has its number, and no connection yet or no more.
    pub(crate) fn between(&self, process: ProcessId) {
        self.local.write().insert(process.number(), Route::Between);
    }

    pub(crate) fn connect(&self, process: ProcessId, line: Line) {
        self.local.write().insert(process.number(), Route::Line(line));
    }

    /// A number was given to nobody.
    pub(crate) fn forget(&self, process: ProcessId) {
        self.local.write().remove(&process.number());
    }

    /// A process or node is dead from now on.
    pub(crate) fn bury(&self, death: &Death) {
        self.graves.lock().bury(death);
        if death.process.node() == self.node() {
            self.local.write().remove(&death.process.number());
        }
        if death.process.number() == 0 {
            self.members.write().remove(&death.process.node());
        }
    }

    /// The death of a process, or of its node.
    pub(crate) fn death(&self, process: ProcessId) -> Option<Death> {
        let graves = self.graves.lock();
        graves.deaths.get(&process).or_else(|| graves.deaths.get(&process.node().into())).cloned()
    }

    /// A node belongs to the cluster.
    pub(crate) fn member(&self, node: NodeId, member: MemberId) {
        self.members.write().insert(node, member);
    }

    /// Whose certificate a living node has.
    pub(crate) fn member_of(&self, node: NodeId) -> Option<MemberId> {
        self.members.read().get(&node).copied()
    }

    /// Nothing of this node's processes is known any more; what was said to them last still leaves.
    pub(crate) fn clear_local(&self, why: &str) {
        for (_, route) in self.local.write().drain() {
            if let Route::Line(line) = route {
                line.close(why);
            }
        }
    }

    /// Says something to one of this node's processes.
    pub(crate) fn tell(&self, process: ProcessId, said: &FromNode) {
        let route = self.local.read().get(&process.number()).cloned();
        match route {
            Some(Route::Line(line)) => self.say(&line, said),
            Some(Route::Between) => self.lose(Loss::ProcessBetween),
            None => self.lose(Loss::ProcessGone),
        }
    }

    /// Says something to a process; one that does not read, or has gone, is found out by its connection.
    pub(crate) fn say(&self, line: &Line, said: &FromNode) {
        match mobula_wire::encode(said) {
            Ok(body) => match line.send(FrameKind::Local, body.into()) {
                Ok(()) => {}
                Err(mobula_net::SendError::Full { .. }) => {
                    self.lose(Loss::ProcessFull);
                    line.close("it does not read");
                }
                Err(error) => self.lose(Loss::of_own(&error)),
            },
            Err(error) => {
                tracing::error!(%error, "what the node says cannot be encoded");
                self.lose(Loss::TooLarge);
            }
        }
    }

    /// Says something to another node, or to who is attached from another host. One that is gone, or hangs, is found out by
    /// its session.
    pub(crate) fn tell_peer(&self, peer: impl Into<ProcessId>, lane: Lane, said: &ClusterTalk) {
        let (Some(mesh), peer) = (self.mesh(), peer.into()) else { return };
        match mobula_wire::encode(said) {
            Ok(body) => {
                if let Err(error) = mesh.send(peer, lane, FrameKind::Cluster, body.into()) {
                    tracing::debug!(%peer, %error, "not said to another node");
                    self.lose(Loss::of_mesh(&error));
                }
            }
            Err(error) => {
                tracing::error!(%error, "what is said to another node cannot be encoded");
                self.lose(Loss::TooLarge);
            }
        }
    }

    /// Forwards a parcel of a process that is attached here, or a part of a large payload; waits while a process on another
    /// host has no room.
    pub(crate) async fn forward_from(&self, from: ProcessId, kind: FrameKind, body: Bytes) -> Forwarded {
        let Ok((to, said_from)) = Parcel::address(&body) else { return Forwarded::Wrong };
        if said_from != from {
            return Forwarded::Wrong;
        }
        let mut waited = Duration::ZERO;
        loop {
            let sent = if to.node() == self.node() || to == ProcessId::HEAD {
                self.deliver(to, Pace::Burst, kind, body.clone())
            } else {
                self.send_to_node(to, kind, body.clone())
            };
            match sent {
                Ok(forwarded) => return forwarded,
                Err(full) if full.may_wait && waited < FULL_WAIT_MAX => {
                    tokio::time::sleep(FULL_LOOK).await;
                    waited += FULL_LOOK;
                }
                Err(full) => return self.give_up(to, full),
            }
        }
    }

    /// Whether what a process sends leaves this host.
    pub(crate) fn is_for_another_node(&self, body: &[u8]) -> bool {
        Parcel::address(body).is_ok_and(|(to, _)| to.node() != self.node())
    }

    /// Hands on a parcel or a part that came from another node, and tells the sender's node when it is for a dead process.
    pub(crate) fn forward_of_mesh(&self, peer: ProcessId, pace: Pace, kind: FrameKind, body: Bytes) -> Forwarded {
        let Ok((to, from)) = Parcel::address(&body) else { return Forwarded::Wrong };
        if from.node() != peer.node() {
            return Forwarded::Wrong;
        }
        if to.node() == self.node() {
            return self.deliver(to, pace, kind, body).unwrap_or_else(|full| self.give_up(to, full));
        }
        // Nodes send to one another directly.
        self.nowhere(to, Loss::NodeGone)
    }

    /// Sends a parcel of this node itself, which waits for nobody.
    pub(crate) fn send(&self, parcel: &Parcel) {
        let Ok(body) = parcel.encode() else { return self.lose(Loss::TooLarge) };
        let sent = if parcel.to.node() == self.node() {
            self.deliver(parcel.to, Pace::Burst, FrameKind::Parcel, body.into())
        } else {
            self.send_to_node(parcel.to, FrameKind::Parcel, body.into())
        };
        if let Err(full) = sent {
            self.give_up(parcel.to, full);
        }
    }

    /// To another node.
    fn send_to_node(&self, to: ProcessId, kind: FrameKind, body: Bytes) -> Result<Forwarded, Full> {
        let lane = if kind == FrameKind::Part { Lane::Bulk } else { Lane::Calls };
        let Some(mesh) = self.mesh() else { return Ok(self.nowhere(to, Loss::NodeGone)) };
        match mesh.send(to.node().into(), lane, kind, body) {
            Ok(()) => Ok(Forwarded::Done),
            Err(SendError::Full { .. }) => Err(Full { line: None, may_wait: true }),
            Err(error) => Ok(self.nowhere(to, Loss::of_mesh(&error))),
        }
    }

    /// To a process that is attached here, or to this node itself.
    fn deliver(&self, to: ProcessId, pace: Pace, kind: FrameKind, body: Bytes) -> Result<Forwarded, Full> {
        if to == ProcessId::HEAD || to.number() == 0 {
            // A full queue means that this node hangs; who asks asks again.
            if self.own.get().is_none_or(|own| own.try_send(Input::Parcel { body }).is_err()) {
                self.lose(Loss::NodeBusy);
            }
            return Ok(Forwarded::Done);
        }
        let local = self.local.read();
        match local.get(&to.number()) {
            Some(Route::Line(line)) => {
                match line.send_at(pace, kind, body) {
                    Ok(()) => {}
                    Err(mobula_net::SendError::Full { .. }) => {
                        // Whose connection is lost just now reads again when it is back.
                        let may_wait = matches!(line, Line::Session { .. });
                        return Err(Full { line: Some(line.clone()), may_wait });
                    }
                    Err(error) => self.lose(Loss::of_own(&error)),
                }
                Ok(Forwarded::Done)
            }
            Some(Route::Between) => {
                self.lose(Loss::ProcessBetween);
                Ok(Forwarded::Done)
            }
            None => {
                drop(local);
                Ok(self.nowhere(to, Loss::ProcessGone))
            }
        }
    }

    /// There is no room, and nobody can wait.
    fn give_up(&self, to: ProcessId, full: Full) -> Forwarded {
        match full.line {
            // Credit keeps a process that lives from this: it does not read. What is lost now would be missed for ever, so
            // the connection ends, and with it the process.
            Some(line) => {
                self.lose(Loss::ProcessFull);
                line.close("it does not read");
                Forwarded::Done
            }
            None => self.nowhere(to, Loss::NodeFull),
        }
    }

    fn nowhere(&self, to: ProcessId, loss: Loss) -> Forwarded {
        self.lose(loss);
        // Its death is so long ago that it is forgotten, or it never was.
        Forwarded::Dead(self.death(to).unwrap_or_else(|| Death::of(to, DeathCause::Disconnected)))
    }

    /// Something went nowhere.
    pub(crate) fn lose(&self, loss: Loss) {
        self.losses.count(loss);
    }
}

impl Graves {
    fn bury(&mut self, death: &Death) {
        if self.deaths.insert(death.process, death.clone()).is_none() {
            self.order.push_back(death.process);
        }
        if self.order.len() > DEATHS_KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.deaths.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mobula_net::unix::{self, Listener};
    use mobula_wire::Talk;

    use super::*;

    fn parcel(from: ProcessId, to: ProcessId) -> Bytes {
        let talk = Talk::Cancel { exchange: 1 };
        Parcel { to, from, talk, payload: Bytes::new() }.encode().unwrap().into()
    }

    #[tokio::test]
    async fn parcels_for_the_dead_come_back_with_the_cause() {
        let routes = Routes::default();
        routes.set_node(NodeId(3));
        let (a, b) = (ProcessId::new(NodeId(3), 1), ProcessId::new(NodeId(3), 2));
        routes.between(b);
        assert_eq!(
            routes.forward_from(a, FrameKind::Parcel, parcel(a, b)).await,
            Forwarded::Done,
            "it starts just now"
        );
        let death = Death::of(b, DeathCause::Aborted);
        routes.bury(&death);
        assert_eq!(routes.forward_from(a, FrameKind::Parcel, parcel(a, b)).await, Forwarded::Dead(death));
        let far = ProcessId::new(NodeId(4), 2);
        let node = Death::of(NodeId(4).into(), DeathCause::NodeKilled);
        routes.bury(&node);
        assert_eq!(routes.forward_from(a, FrameKind::Parcel, parcel(a, far)).await, Forwarded::Dead(node));
    }

    #[tokio::test]
    async fn nobody_speaks_in_the_name_of_another() {
        let routes = Routes::default();
        routes.set_node(NodeId(3));
        let (a, b) = (ProcessId::new(NodeId(3), 1), ProcessId::new(NodeId(3), 2));
        assert_eq!(routes.forward_from(a, FrameKind::Parcel, parcel(b, a)).await, Forwarded::Wrong);
        assert_eq!(routes.forward_from(a, FrameKind::Parcel, Bytes::from_static(b"short")).await, Forwarded::Wrong);
        assert_eq!(
            routes.forward_of_mesh(NodeId(4).into(), Pace::Burst, FrameKind::Parcel, parcel(b, a)),
            Forwarded::Wrong
        );
    }

    fn losses<const N: usize>(expected: [(Loss, u64); N]) -> BTreeMap<String, u64> {
        expected.map(|(loss, count)| (loss.word().to_owned(), count)).into()
    }

    #[tokio::test]
    async fn what_goes_nowhere_is_counted_with_its_cause() {
        let routes = Routes::default();
        routes.set_node(NodeId(3));
        let (own, _heard) = mpsc::channel(1);
        routes.set_own(own);
        let process = |number| ProcessId::new(NodeId(3), number);
        let (begins, never, elsewhere) = (process(2), process(9), ProcessId::new(NodeId(4), 2));
        let word = FromNode::Stop { cause: DeathCause::Drained };
        routes.between(begins);
        routes.tell(begins, &word);
        for to in [begins, never, elsewhere, process(0), process(0)] {
            routes.forward_from(process(1), FrameKind::Parcel, parcel(process(1), to)).await;
        }
        routes.tell(never, &word);
        let expected = [
            (Loss::ProcessBetween, 2),
            (Loss::ProcessGone, 2),
            (Loss::NodeGone, 1),
            // The first of two fills the queue.
            (Loss::NodeBusy, 1),
        ];
        assert_eq!(routes.losses.listed(), losses(expected));
    }

    #[tokio::test]
    async fn a_process_that_does_not_read_is_given_up_and_what_it_misses_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("p");
        let listener = Listener::bind(&socket).await.unwrap();
        let (connection, _unread) = unix::connect(&socket, FULL_WAIT_MAX).await.unwrap();
        let _other_end = listener.accept().await.unwrap();
        let routes = Routes::default();
        routes.set_node(NodeId(3));
        let deaf = ProcessId::new(NodeId(3), 1);
        routes.connect(deaf, connection.into());
        let lines = vec!["x".repeat(1 << 16); 8];
        let word = FromNode::Output { process: deaf, is_stderr: false, lines };
        // More than any queue holds; what does not fit ends the connection, and what follows finds none.
        const WORDS: u64 = 400;
        (0..WORDS).for_each(|_| routes.tell(deaf, &word));
        let over = routes.losses.listed()[Loss::ConnectionOver.word()];
        assert!((1..WORDS).contains(&over), "{over} words found no connection");
        assert_eq!(routes.losses.listed(), losses([(Loss::ProcessFull, 1), (Loss::ConnectionOver, over)]));
    }

    #[test]
    fn the_oldest_deaths_are_forgotten() {
        let routes = Routes::default();
        for number in 0..=DEATHS_KEPT as u64 {
            routes.bury(&Death::of(ProcessId::new(NodeId(9 + number), 1), DeathCause::Aborted));
        }
        assert!(routes.death(ProcessId::new(NodeId(9), 1)).is_none());
        assert!(routes.death(ProcessId::new(NodeId(10), 1)).is_some());
    }
}
