//! A node from its start to its end.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mobula_net::identity::Credentials;
use mobula_net::token::Pin;
use mobula_net::unix::{Listener, UnixError};
use mobula_net::{Authority, Mesh, MeshConfig, MeshEvents};
use mobula_store::Arena;
use mobula_store::arena::Usage;
use mobula_types::state::{ClusterStatus, Listed};
use mobula_types::{NodeId, NodeLoad, Role, Time};
use mobula_wire::cluster::Admission;
use mobula_wire::local::ToolQuestion;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::address::advertised;
use super::ahead;
use super::config::{NodeConfig, Part, StartError};
use super::door::Door;
use super::gate::{self, MeshGate, Relay, Tokens};
use super::hauls::{Counts as HaulCounts, Hauls};
use super::identity;
use super::input::{INPUTS_MAX, Input};
use super::membership::{self, Membership, Registered};
use super::renewal::Renewal;
use super::routes::Routes;
use super::seat::{SEAT_MAX, Seat, ToSeat};
use super::segments;
use super::spill::{self, Spills};
use super::state::{Clock, State};
use super::workers::{Programs, Workers, WorkersConfig};

/// The file name of a node's socket, in its folder.
pub const SOCKET: &str = "node.sock";

/// A node that runs in this process. Dropping it ends its workers.
#[derive(Debug)]
pub struct Node {
    inputs: mpsc::Sender<Input>,
    socket: PathBuf,
    id: NodeId,
    addr: SocketAddr,
    pin: Pin,
    routes: Arc<Routes>,
    arena: Arc<Arena>,
    hauls: Arc<Hauls>,
    state: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
    /// The head's part, when it is this node's.
    seat: Option<(mpsc::Sender<ToSeat>, JoinHandle<()>)>,
}

impl Node {
    /// Starts a node; when this returns, processes of this host can attach.
    ///
    /// Must be called on a tokio runtime, which runs everything.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        make_folder(&config.folder)?;
        let socket = config.folder.join(SOCKET);
        let listener = Listener::bind(&socket).await.map_err(|error| match error {
            UnixError::InUse { .. } => StartError::Running { folder: config.folder.clone() },
            other => other.into(),
        })?;
        let segments = segments::listen_in(&config.folder).map_err(|error| StartError::Kept(error.to_string()))?;
        // No other node is in this folder: what was attached to one that was killed here has nobody to answer.
        remove_peer_sockets(&config.folder);
        super::luggage::clear(&config.folder);
        let programs = Programs::open(&config.folder.join("programs"));
        let programs = programs.map_err(|error| StartError::Kept(error.to_string()))?;
        let workers = Workers::start(WorkersConfig {
            memory_threshold: config.memory_threshold,
            memory_files: config.memory_files.clone(),
            ..WorkersConfig::new(&config.folder, &socket)
        });
        let (workers, events) = workers.map_err(|error| StartError::Kept(error.to_string()))?;
        let routes = Arc::new(Routes::default());
        let (inputs, heard) = mpsc::channel(INPUTS_MAX);
        routes.set_own(inputs.clone());
        let clock = Clock::start();
        let joined = Joined::join(&config, &routes, &inputs, clock).await?;
        let Joined { id, addr, membership, admission, sent, seat, events: mesh_events, pin, credentials } = joined;
        let head_of = seat.as_ref().map(|(seat, _)| seat.clone());
        let folder = config.spill_folder.clone().unwrap_or_else(|| config.folder.join(spill::FOLDER));
        let done = inputs.clone();
        let named = folder.display().to_string();
        let spills = Spills::start(folder, config.spill_bytes_max.unwrap_or(u64::MAX), move |said| {
            // The node may have ended.
            done.blocking_send(Input::Spill(said)).ok();
        });
        let spills =
            spills.map_err(|error| StartError::Kept(format!("cannot write to the spill folder {named}: {error}")))?;
        let (memory, makes_ahead) = (config.memory_files.clone(), config.store_ahead_bytes > 0);
        let mut state = State::new(
            config,
            (membership, Renewal::new(credentials)),
            clock,
            routes.clone(),
            (workers, programs.clone(), spills),
            head_of.clone(),
            inputs.clone(),
        );
        let (arena, hauls) = (state.arena.clone(), state.hauls.clone());
        if let Some(mesh) = routes.mesh() {
            mesh.serve_ranges(hauls.clone());
        }
        let segments = tokio::spawn(segments::open(segments, arena.clone()));
        state.begin(admission, sent);
        state.set_hello();
        let reader = tokio::spawn(gate::read(mesh_events, routes.clone(), inputs.clone(), head_of));
        let state = tokio::spawn(state.run(heard, events));
        let door = Door { inputs: inputs.clone(), routes: routes.clone(), programs, hauls: hauls.clone() };
        let door = tokio::spawn(door.open(listener));
        let mut tasks = vec![door, reader, segments];
        if makes_ahead {
            tasks.push(tokio::spawn(ahead::keep(arena.clone(), memory)));
        }
        Ok(Self { inputs, socket, id, addr, pin, routes, arena, hauls, state, tasks, seat })
    }

    /// Its id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Where processes of this host attach.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where the others reach it.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What a token says of the cluster's CA.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// How much of the memory that its processes may share they have.
    pub fn store_usage(&self) -> Usage {
        self.arena.usage()
    }

    /// What became of large payloads that its processes wanted to have from other hosts.
    pub fn haul_counts(&self) -> HaulCounts {
        self.hauls.counts()
    }

    /// How often it has refused somebody from another host, by cause.
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.routes.mesh().map(|mesh| mesh.refusals().list().collect()).unwrap_or_default()
    }

    /// What `mobula status --json` prints.
    ///
    /// # Errors
    ///
    /// Why the head does not answer.
    pub async fn status(&self) -> Result<ClusterStatus, String> {
        let answer = self.ask(ToolQuestion::Status).await?;
        serde_json::from_str(&answer).map_err(|error| error.to_string())
    }

    /// A new join token, as `mobula token create` makes it.
    ///
    /// # Errors
    ///
    /// Why the head makes none.
    pub async fn token(&self, role: Role) -> Result<String, String> {
        let question = ToolQuestion::TokenCreate { ttl_s: 0, role: role.to_string() };
        let answer = self.ask(question).await?;
        let made: serde_json::Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
        made["token"].as_str().map(str::to_owned).ok_or_else(|| "the head's answer holds no token".to_owned())
    }

    /// What runs and waits, as `mobula list` shows it.
    ///
    /// # Errors
    ///
    /// There is no such kind of things, or the node does not answer.
    pub async fn list(&self, kind: &str) -> Result<Vec<Listed>, String> {
        let answer = self.ask(ToolQuestion::List { kind: kind.to_owned() }).await?;
        answer.lines().map(|line| serde_json::from_str(line).map_err(|error| error.to_string())).collect()
    }

    /// What one of them waits for, as `mobula why` shows it.
    ///
    /// # Errors
    ///
    /// Nothing has that id, or the node does not answer.
    pub async fn why(&self, id: &str) -> Result<Listed, String> {
        let answer = self.ask(ToolQuestion::Why { id: id.to_owned() }).await?;
        serde_json::from_str(&answer).map_err(|error| error.to_string())
    }

    /// Tells a node to leave, as `mobula drain` does, and does not wait for its end.
    ///
    /// # Errors
    ///
    /// The head knows no such node, or does not answer.
    pub async fn drain(&self, node: NodeId) -> Result<(), String> {
        self.ask(ToolQuestion::Drain { node }).await.map(drop)
    }

    /// Asks what the command line asks.
    async fn ask(&self, question: ToolQuestion) -> Result<String, String> {
        crate::attached::ask_node(&self.socket, question).await
    }

    /// Ends all that it runs, and itself.
    pub async fn stop(mut self) {
        let (done, ended) = oneshot::channel();
        if self.inputs.send(Input::Stop { done }).await.is_ok() {
            ended.await.ok();
        }
        self.ended().await;
    }

    /// Waits until it has ended by itself: somebody asked it to.
    pub async fn ended(&mut self) {
        if !self.state.is_finished() {
            (&mut self.state).await.ok();
        }
        self.routes.clear_local("this node has ended");
        if let Some((seat, task)) = self.seat.take() {
            // It has ended already when the head ended first.
            seat.send(ToSeat::Close).await.ok();
            task.await.ok();
        }
        if let Some(mesh) = self.routes.mesh() {
            mesh.close().await;
        }
        // The socket is gone when this returns, so that a node may start in the folder at once.
        for task in self.tasks.drain(..) {
            task.abort();
            task.await.ok();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.state.abort();
    }
}

fn make_folder(folder: &Path) -> Result<(), StartError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| StartError::Folder { folder: folder.to_owned(), source })
}

fn remove_peer_sockets(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix('p'));
        let is_of_a_peer = number.is_some_and(|number| number.parse::<u64>().is_ok());
        if is_of_a_peer && entry.file_type().is_ok_and(|kind| kind.is_socket()) {
            fs::remove_file(entry.path()).ok();
        }
    }
}

/// How long a node tries to reach its head when it starts.
const JOIN_WITHIN: Duration = Duration::from_secs(10);

/// A node that belongs to its cluster, before it does anything.
struct Joined {
    id: NodeId,
    addr: SocketAddr,
    membership: Membership,
    admission: Admission,
    sent: Time,
    seat: Option<(mpsc::Sender<ToSeat>, JoinHandle<()>)>,
    events: MeshEvents,
    pin: Pin,
    credentials: Arc<Credentials>,
}

impl Joined {
    async fn join(
        config: &NodeConfig,
        routes: &Arc<Routes>,
        inputs: &mpsc::Sender<Input>,
        clock: Clock,
    ) -> Result<Self, StartError> {
        match config.part.clone() {
            Part::Head => Self::found(config, routes, inputs, clock).await,
            Part::Member { head, token } => {
                let identity = identity::of_member(config, head, token.as_ref()).await?;
                let pin = Pin::of(identity.authority());
                let member = identity.peer().member;
                let credentials = Credentials::new(&identity)?;
                let mut mesh_config = MeshConfig::new(config.bind, credentials.clone());
                mesh_config.registrar = Some(Arc::new(Relay { inputs: inputs.clone() }));
                let gate = MeshGate { routes: routes.clone(), inputs: inputs.clone(), seat: None };
                let (mesh, events) = Mesh::bind(mesh_config, Arc::new(gate)).await?;
                let addr = advertised(config.advertise, mesh.local_addr()?, Some(head));
                routes.set_mesh(mesh.clone());
                let membership = Membership::new(member, random(), addr, Some(head), config.fence_after);
                let registration = membership.registration(None, load(config), Vec::new());
                match membership::register(&mesh, head, registration, clock, Some(JOIN_WITHIN)).await {
                    Registered::Admitted { admission, sent, .. } => {
                        let id = admission.node;
                        routes.set_node(id);
                        mesh.set_process(id.into());
                        let (admission, seat) = (*admission, None);
                        Ok(Self { id, addr, membership, admission, sent, seat, events, pin, credentials })
                    }
                    Registered::Fenced => Err(StartError::Kept("the head takes this node for dead".to_owned())),
                    Registered::Refused { why } => Err(StartError::Kept(why)),
                }
            }
        }
    }

    /// Begins a cluster, or goes on with the one in the folder.
    async fn found(
        config: &NodeConfig,
        routes: &Arc<Routes>,
        inputs: &mpsc::Sender<Input>,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let authority = Arc::new(Authority::open(&config.folder, SystemTime::now())?);
        let identity = identity::of_head(&config.folder, &authority)?;
        let member = identity.peer().member;
        let (seat, seat_heard) = mpsc::channel(SEAT_MAX);
        let head = Seat::open(&config.folder, clock, member, authority.clone(), routes.clone(), inputs.clone());
        let head = head.map_err(|error| StartError::Store(error.to_string()))?;
        let credentials = Credentials::new(&identity)?;
        let mut mesh_config = MeshConfig::new(config.bind, credentials.clone());
        mesh_config.registrar = Some(Arc::new(Tokens { seat: seat.clone() }));
        let gate = MeshGate { routes: routes.clone(), inputs: inputs.clone(), seat: Some(seat.clone()) };
        let (mesh, events) = Mesh::bind(mesh_config, Arc::new(gate)).await?;
        let addr = advertised(config.advertise, mesh.local_addr()?, None);
        routes.set_mesh(mesh.clone());
        let task = tokio::spawn(head.run(seat_heard));
        let membership = Membership::new(member, random(), addr, None, config.fence_after);
        let registration = membership.registration(None, load(config), Vec::new());
        let (reply, admitted) = oneshot::channel();
        let sent = clock.now();
        let failed = || StartError::Store("the head ended while it started".to_owned());
        seat.send(ToSeat::Register { registration, reply }).await.map_err(|_| failed())?;
        let admission = admitted.await.map_err(|_| failed())?;
        let admission = admission.map_err(|error| StartError::Store(error.to_string()))?;
        let id = admission.node;
        routes.set_node(id);
        mesh.set_process(id.into());
        let (pin, seat) = (authority.pin(), Some((seat, task)));
        Ok(Self { id, addr, membership, admission, sent, seat, events, pin, credentials })
    }
}

fn load(config: &NodeConfig) -> NodeLoad {
    let (total, free) = (config.resources.clone(), config.resources.clone());
    NodeLoad { total, free, labels: config.labels.clone(), platform: config.platform.clone(), ..NodeLoad::default() }
}

pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system gave random numbers for the certificate's key before");
    u64::from_le_bytes(bytes)
}
