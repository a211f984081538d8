//! Every process that this one speaks with over the network: one session each, over connections that come and go.
//!
//! ```text
//! send(to, lane, …) ─► session (logic::session) ─► lanes of a connection ─► QUIC
//! next() ◄── events ◄── session ◄── one reader a lane                    ◄── QUIC
//! ```
//!
//! A peer is a [`ProcessId`]: a node, or a driver on another host. Who may be one is decided by the [`Gate`]; who is dead,
//! by whoever calls [`Mesh::end`]. The mesh only reports that somebody is silent.
//!
//! | module | holds |
//! |---|---|
//! | `accept` | who comes |
//! | `dial` | going to others |
//! | `peer` | one peer: its session, and what its session asks for |
//! | `events` | the bounded queue to whoever acts on all this |
//! | `probe` | asking another host whether a process is there |
//! | `ranges` | memory that a peer reads to where it belongs |

mod accept;
mod dial;
mod events;
mod peer;
mod probe;
mod ranges;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mobula_types::{MemberId, ProcessId, Time};
use mobula_wire::FrameKind;
use parking_lot::{Mutex, RwLock};

use crate::bounced::Bounced;
use crate::certificate::PeerIdentity;
use crate::connection::Frame;
use crate::error::NetError;
use crate::identity::Credentials;
use crate::join::Registrar;
use crate::quic::{self, Port};
use crate::refusal::{Cause, Refusal, Refusals};
use crate::socket::Sockets;

pub use events::MeshEvents;
use events::Queue;
pub use mobula_logic::session::{Counts, Lane};
use peer::Peer;
pub use ranges::{RANGE_WORDS_MAX, RangeComing, RangeError, Ranges};

/// What a mesh must know to begin.
pub struct MeshConfig {
    /// Where to take connections.
    pub addr: SocketAddr,
    /// The certificate to show and the CA to believe.
    pub credentials: Arc<Credentials>,
    /// Who this process is, if it knows: others are let in from then on ([`Mesh::set_process`]).
    pub process: Option<ProcessId>,
    /// What to say to peers that are connected to.
    pub hello: Bytes,
    /// Who redeems join tokens: on the head only.
    pub registrar: Option<Arc<dyn Registrar>>,
    /// What carries datagrams, if it is not to be a UDP socket at `addr`.
    pub sockets: Option<Sockets>,
    /// Whether others may connect to it: a driver's mesh only goes to others, and answers nobody.
    pub takes_connections: bool,
}

impl MeshConfig {
    /// A mesh at `addr` that has nothing to say yet.
    pub fn new(addr: SocketAddr, credentials: Arc<Credentials>) -> Self {
        let hello = Bytes::new();
        Self { addr, credentials, process: None, hello, registrar: None, sockets: None, takes_connections: true }
    }

    /// The mesh of a program that goes to the node at `node` and takes no connections: any port will do.
    pub fn of_driver(node: SocketAddr, credentials: Arc<Credentials>) -> Self {
        Self { takes_connections: false, ..Self::new(quic::any_port(node), credentials) }
    }
}

impl std::fmt::Debug for MeshConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeshConfig").field("addr", &self.addr).field("process", &self.process).finish_non_exhaustive()
    }
}

/// Decides who may come in.
pub trait Gate: Send + Sync + 'static {
    /// Somebody with a good certificate of this cluster says hello for the first time. A peer whose connection was lost
    /// and who comes back to its session is not asked for again.
    fn admit(&self, peer: &PeerIdentity, hello: Bytes) -> BoxFuture<'_, Result<Admitted, Refusal>>;
}

/// Somebody who may come in.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Who it is from now on.
    pub peer: ProcessId,
    /// What to tell it.
    pub welcome: Bytes,
}

/// What happens in a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A peer has sent this.
    Frame {
        /// Which.
        from: ProcessId,
        /// On which lane.
        lane: Lane,
        /// What the body is.
        kind: FrameKind,
        /// The body.
        body: Bytes,
    },
    /// There is a connection to the peer.
    Up {
        /// Which.
        peer: ProcessId,
    },
    /// The connection was lost. The session lives on, and the mesh connects again.
    Down {
        /// Which.
        peer: ProcessId,
        /// What was seen.
        why: String,
    },
    /// Nothing has been heard of the peer. Said again as long as it is so; `refused` when its host says that there is no
    /// such process.
    Silent {
        /// Which.
        peer: ProcessId,
        /// For how long; time in which this process did not run is not counted.
        silent: Duration,
        /// Whether its host says so.
        refused: bool,
    },
    /// The peer does not let this process in; tried again as long as the peer is not ended.
    Refused {
        /// Which.
        peer: ProcessId,
        /// Why.
        refusal: Refusal,
    },
    /// The session is over: it was ended here or there, or the peer has begun anew. What is sent to it from now on goes
    /// to a new session, if the peer is still known.
    Ended {
        /// Which.
        peer: ProcessId,
        /// What is not known to have arrived, in order of each lane.
        undelivered: Vec<(FrameKind, Bytes)>,
    },
}

/// Why a frame was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Nobody has said where that is.
    #[error("process {to} is not known here")]
    Unknown {
        /// Who.
        to: ProcessId,
    },
    /// Too much waits for this peer.
    #[error("{frames} frames with {bytes} bytes wait for process {to}")]
    Full {
        /// Who.
        to: ProcessId,
        /// Frames that wait.
        frames: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// The body is longer than a frame of its kind may be.
    #[error("a body of {bytes} bytes, where {max} are allowed")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The length allowed.
        max: usize,
    },
    /// Only what a peer may say above this layer.
    #[error("greetings and heartbeats are the mesh's own")]
    Kind,
    /// The mesh was closed.
    #[error("this process has closed its network port")]
    Closed,
}

/// All sessions of a process; clones share them.
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

struct Inner {
    port: Port,
    credentials: Arc<Credentials>,
    /// Who decides who comes in; nobody any more once the mesh is closed, so that what they hold is given up with it.
    doors: RwLock<Option<Doors>>,
    process: RwLock<Option<ProcessId>>,
    hello: RwLock<Bytes>,
    peers: RwLock<HashMap<ProcessId, Arc<Peer>>>,
    /// Halves of sessions that were ended here: their owners are told so when they come back.
    ended: Mutex<VecDeque<u64>>,
    events: Arc<Queue>,
    /// Whose ranges peers may ask for; nobody's before that is said and once the mesh is closed.
    ranges: RwLock<Option<Arc<dyn Ranges>>>,
    begun: tokio::time::Instant,
    /// Whether silent peers can be probed.
    probes: bool,
    bounced: Bounced,
    /// Runs what senders on any thread begin.
    runtime: tokio::runtime::Handle,
    is_closed: AtomicBool,
}

#[derive(Clone)]
struct Doors {
    gate: Arc<dyn Gate>,
    registrar: Option<Arc<dyn Registrar>>,
}

/// Halves of ended sessions that are kept: as many as deaths that a node keeps.
const ENDED_MAX: usize = 4096;

/// Closing waits so long for the other sides to be told.
const CLOSE_MAX: Duration = Duration::from_millis(500);

/// And then so long for whoever waits at that moment for room to send: the kernel has some again at once.
const FREE_MAX: Duration = Duration::from_secs(1);

impl Mesh {
    /// Opens the port and takes connections.
    ///
    /// Must be called on a tokio runtime, which runs everything.
    ///
    /// # Errors
    ///
    /// The port cannot be had.
    pub async fn bind(config: MeshConfig, gate: Arc<dyn Gate>) -> Result<(Self, MeshEvents), NetError> {
        let bounced = Bounced::default();
        let sockets = match config.sockets {
            Some(sockets) => sockets,
            None => Sockets::udp_heard(config.addr, &bounced).map_err(NetError::Socket)?,
        };
        let (events, receiver) = events::queue();
        let probes = sockets.is_of_host;
        let inner = Arc::new(Inner {
            port: Port::open(sockets, config.credentials.clone(), config.takes_connections)?,
            credentials: config.credentials,
            doors: RwLock::new(Some(Doors { gate, registrar: config.registrar })),
            process: RwLock::new(config.process),
            hello: RwLock::new(config.hello),
            peers: RwLock::default(),
            ended: Mutex::default(),
            events,
            ranges: RwLock::default(),
            begun: tokio::time::Instant::now(),
            probes,
            bounced,
            runtime: tokio::runtime::Handle::current(),
            is_closed: AtomicBool::new(false),
        });
        if config.takes_connections {
            tokio::spawn(accept::accept_all(inner.clone()));
        }
        Ok((Self { inner }, receiver))
    }

    /// Says who this process is; from then on others may connect to it.
    pub fn set_process(&self, process: ProcessId) {
        *self.inner.process.write() = Some(process);
    }

    /// Changes what is said to peers that are connected to from now on.
    pub fn set_hello(&self, hello: Bytes) {
        *self.inner.hello.write() = hello;
    }

    /// Goes to a process of which only the address is known, and begins a session with it. One that there was with the
    /// same process is over. Tries until `within` has passed, except when it is refused.
    ///
    /// # Errors
    ///
    /// [`NetError::Refused`], or nobody answered.
    pub async fn enter(
        &self,
        addr: SocketAddr,
        hello: Bytes,
        within: Duration,
    ) -> Result<(ProcessId, Bytes), NetError> {
        dial::enter(&self.inner, addr, hello, within).await
    }

    /// Says where a peer is. It is connected to when something is sent to it.
    pub fn know(&self, peer: ProcessId, addr: SocketAddr, member: MemberId) {
        let known = self.inner.peers.read().get(&peer).cloned();
        let known = known.unwrap_or_else(|| {
            let mut peers = self.inner.peers.write();
            let made = || Peer::begin(&self.inner, peer, Some(addr), Some(member));
            peers.entry(peer).or_insert_with(made).clone()
        });
        known.moved(&self.inner, addr, member);
    }

    /// Sends a frame. It arrives once and in its lane's order, unless the session ends before.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing is sent then.
    pub fn send(&self, to: ProcessId, lane: Lane, kind: FrameKind, body: Bytes) -> Result<(), SendError> {
        if matches!(kind, FrameKind::Greeting | FrameKind::Heartbeat) {
            return Err(SendError::Kind);
        }
        let max = kind.body_bytes_max();
        if body.len() > max {
            return Err(SendError::TooLarge { bytes: body.len(), max });
        }
        if self.inner.is_closed() {
            return Err(SendError::Closed);
        }
        let peer = self.inner.peer(to).ok_or(SendError::Unknown { to })?;
        match peer.send(&self.inner, lane, Frame { kind, body: body.clone() }) {
            // Its session has ended just now; another one may have taken its place.
            Err(SendError::Unknown { to }) => {
                let peer = self.inner.peer(to).ok_or(SendError::Unknown { to })?;
                peer.send(&self.inner, lane, Frame { kind, body })
            }
            sent => sent,
        }
    }

    /// Like [`send`](Self::send), and waits for room instead of saying `Full`.
    ///
    /// # Errors
    ///
    /// [`SendError`], but not `Full`.
    pub async fn send_when_room(
        &self,
        to: ProcessId,
        lane: Lane,
        kind: FrameKind,
        body: Bytes,
    ) -> Result<(), SendError> {
        loop {
            let peer = self.inner.peer(to).ok_or(SendError::Unknown { to })?;
            let room = peer.room();
            match self.send(to, lane, kind, body.clone()) {
                Err(SendError::Full { .. }) => room.await,
                done => return done,
            }
        }
    }

    /// Ends the session with a peer that was declared dead, and forgets it. [`Event::Ended`] says what was not delivered.
    pub fn end(&self, peer: ProcessId) {
        let mut peers = self.inner.peers.write();
        let Some(peer) = peers.remove(&peer) else { return };
        if let Some(theirs) = peer.theirs() {
            self.inner.bury(theirs);
        }
        peer.end(&self.inner);
    }

    /// Ends the session with a peer when all that was sent to it has arrived, or after `within`.
    pub fn end_when_said(&self, peer: ProcessId, within: Duration) {
        let Some(ending) = self.inner.peer(peer) else { return };
        let mesh = self.clone();
        self.inner.runtime.spawn(async move {
            tokio::time::timeout(within, ending.until_said()).await.ok();
            mesh.end(peer);
        });
    }

    /// Waits until there is no session with a peer any more.
    pub async fn ended(&self, peer: ProcessId) {
        if let Some(peer) = self.inner.peer(peer) {
            peer.until_over().await;
        }
    }

    /// Ends the session with a peer that did what it may not, and counts that.
    pub fn turn_away(&self, peer: ProcessId, refusal: &Refusal) {
        tracing::warn!(%peer, cause = refusal.cause.word(), "turned away: {refusal}");
        self.inner.port.refusals.count(refusal.cause);
        self.end(peer);
    }

    /// Reads nothing more of what a peer says until it is to go on, but that it lives. So the peer is held back like one
    /// on this host that is not read: what it has read for it is little, and then its own queue is full.
    pub fn hold_back(&self, peer: ProcessId, is_held: bool) {
        if let Some(peer) = self.inner.peer(peer) {
            peer.hold_back(is_held);
        }
    }

    /// Gives up the connections to a peer for new ones, for which the certificate in use now is shown. Nothing is lost.
    pub fn reconnect(&self, peer: ProcessId) {
        if let Some(peer) = self.inner.peer(peer) {
            peer.reconnect();
        }
    }

    /// Whether a connection with a peer stands now. The end of a session may be told when the next one is up already.
    pub fn is_up(&self, peer: ProcessId) -> bool {
        self.inner.peers.read().get(&peer).is_some_and(|peer| peer.is_up())
    }

    /// For how long nothing has been heard of a peer that is known; time in which this process did not run is not counted.
    pub fn silent(&self, peer: ProcessId) -> Option<Duration> {
        self.inner.peer(peer).map(|peer| peer.silent(&self.inner))
    }

    /// Where it takes connections.
    ///
    /// # Errors
    ///
    /// The socket is gone.
    pub fn local_addr(&self) -> Result<SocketAddr, NetError> {
        self.inner.port.local_addr()
    }

    /// What was refused here, by cause.
    pub fn refusals(&self) -> &Refusals {
        &self.inner.port.refusals
    }

    /// What has happened to the sessions with all peers that are known now.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for peer in self.inner.peers.read().values() {
            let Counts { connections, resent, repeats } = peer.counts();
            sum.connections += connections;
            sum.resent += resent;
            sum.repeats += repeats;
        }
        sum
    }

    /// The address at which a peer is: as it was told, or from which it came.
    pub fn addr(&self, peer: ProcessId) -> Option<SocketAddr> {
        self.inner.peer(peer)?.addr()
    }

    /// Closes the port and every connection. Sessions end where they stand, without events. The port is free when this
    /// returns, so that who starts again has it at once.
    pub async fn close(&self) {
        self.inner.is_closed.store(true, Ordering::Release);
        self.inner.port.close();
        // Whoever is not told finds out by silence.
        tokio::time::timeout(CLOSE_MAX, self.inner.port.wait_idle()).await.ok();
        self.inner.peers.write().drain().for_each(|(_, peer)| peer.stop());
        self.inner.doors.write().take();
        self.inner.ranges.write().take();
        self.inner.events.close();
        self.inner.bounced.close().await;
        self.inner.port.free(FREE_MAX).await;
    }
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh").field("process", &*self.inner.process.read()).finish_non_exhaustive()
    }
}

impl Inner {
    fn now(&self) -> Time {
        Time::from_nanos(u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn instant(&self, at: Time) -> tokio::time::Instant {
        self.begun + at.since(Time::ZERO)
    }

    fn peer(&self, id: ProcessId) -> Option<Arc<Peer>> {
        self.peers.read().get(&id).cloned()
    }

    fn doors(&self) -> Result<Doors, Refusal> {
        self.doors.read().clone().ok_or_else(|| Refusal::new(Cause::Failed))
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Puts a peer in place of the one with its id, whose session is over then.
    fn replace(self: &Arc<Self>, peer: Arc<Peer>) {
        let mut peers = self.peers.write();
        if let Some(old) = peers.get(&peer.id()) {
            old.end(self);
        }
        peers.insert(peer.id(), peer);
    }

    /// Remembers that a session was ended here.
    fn bury(&self, half: u64) {
        let mut ended = self.ended.lock();
        if ended.len() == ENDED_MAX {
            ended.pop_front();
        }
        ended.push_back(half);
    }

    fn is_buried(&self, half: u64) -> bool {
        self.ended.lock().contains(&half)
    }
}

/// A half of a session: random, so that no two are the same.
fn half() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system gave random numbers for the certificate's key before");
    u64::from_le_bytes(bytes)
}
