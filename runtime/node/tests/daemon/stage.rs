//! The parts that processes play: a driver by hand, and a worker that answers every task.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mobula_net::token::Token;
use mobula_net::{Connection, Frame, Incoming, unix};
use mobula_node::daemon::workers::guard::Role;
use mobula_node::daemon::{Node, NodeConfig, Part};
use mobula_types::resources::{Amount, Request, Resources};
use mobula_types::{ActorId, Attempt, Death, Incarnation, Interface, JobId, LeaseId, PlacementSpec, ProcessId, TaskId};
use mobula_wire::local::{FromNode, Hello, ToNode, ToolQuestion, Welcome};
use mobula_wire::parcel::{ReplyHead, TaskSpecWire};
use mobula_wire::{FrameKind, PROTOCOL, Parcel, Talk};

/// Everything here is over in milliseconds; the longest promise is 5 s.
pub(crate) const HANG: Duration = Duration::from_secs(30);

/// No test waits more often than so for anything that takes long.
const TEST_MAX: Duration = Duration::from_secs(120);

/// A function that answers with its arguments.
pub(crate) const ECHO: u64 = 1;
/// A function that ends the process by `abort`.
pub(crate) const ABORT: u64 = 2;

/// Runs a test to its end, on a runtime of its own.
pub(crate) fn play(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(TEST_MAX, test).await.expect("it hangs") });
}

pub(crate) fn cpus(cpus: u64) -> Resources {
    Resources { cpus: Amount::whole(cpus), ..Resources::default() }
}

fn on_loopback(config: NodeConfig, with: u64) -> NodeConfig {
    NodeConfig { bind: SocketAddr::from(([127, 0, 0, 1], 0)), resources: cpus(with), ..config }
}

/// A head with so many CPUs.
pub(crate) async fn head(folder: &Path, with: u64) -> Node {
    Node::start(on_loopback(NodeConfig::head(folder.join("1")), with)).await.unwrap()
}

/// A node that joins the head, with a token.
pub(crate) async fn member(folder: &Path, name: &str, head: &Node, with: u64) -> Node {
    let token: Token = token(head).await;
    let config = NodeConfig::member(folder.join(name), head.addr(), Some(token));
    Node::start(on_loopback(config, with)).await.unwrap()
}

pub(crate) fn member_config(folder: PathBuf, head: SocketAddr, token: Option<Token>) -> NodeConfig {
    let config = on_loopback(NodeConfig::head(folder), 1);
    NodeConfig { part: Part::Member { head, token }, ..config }
}

pub(crate) async fn token(head: &Node) -> Token {
    let question = ToolQuestion::TokenCreate { ttl_s: 60, role: "node".into() };
    let made: serde_json::Value = serde_json::from_str(&ask(head, question).await.unwrap()).unwrap();
    made["token"].as_str().unwrap().parse().unwrap()
}

/// Asks as the command line does.
pub(crate) async fn ask(node: &Node, question: ToolQuestion) -> Result<String, String> {
    let (connection, mut incoming) = greet(node.socket(), &Hello::Tool { protocol: PROTOCOL }).await;
    assert!(matches!(read(&mut incoming).await, Said::Node(FromNode::Welcome(_))));
    let asked = ToNode::Tool { request: 9, question };
    connection.send(FrameKind::Local, mobula_wire::encode(&asked).unwrap().into()).unwrap();
    match read(&mut incoming).await {
        Said::Node(FromNode::Answer { request: 9, answer }) => answer,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn greet(socket: &Path, hello: &Hello) -> (Connection, Incoming) {
    let (connection, incoming) = unix::connect(socket, HANG).await.unwrap();
    connection.send(FrameKind::Greeting, mobula_wire::encode(hello).unwrap().into()).unwrap();
    (connection, incoming)
}

#[derive(Debug)]
pub(crate) enum Said {
    Node(FromNode),
    Process(Box<Parcel>),
    Over,
}

pub(crate) async fn read(incoming: &mut Incoming) -> Said {
    match tokio::time::timeout(HANG, incoming.next()).await.expect("nothing comes") {
        Ok(Frame { kind: FrameKind::Parcel, body }) => Said::Process(Box::new(Parcel::decode(&body).unwrap())),
        Ok(Frame { body, .. }) => Said::Node(mobula_wire::decode(&body).unwrap()),
        Err(_) => Said::Over,
    }
}

/// A driver by hand.
pub(crate) struct Driver {
    pub(crate) connection: Connection,
    pub(crate) incoming: Incoming,
    pub(crate) welcome: Welcome,
}

impl Driver {
    pub(crate) async fn attach(node: &Node) -> Self {
        Self::attach_at(node.socket()).await
    }

    pub(crate) async fn attach_at(socket: &Path) -> Self {
        let hello = Hello::Driver { protocol: PROTOCOL, name: "a test".into(), env: BTreeMap::new(), namespace: None };
        let (connection, mut incoming) = greet(socket, &hello).await;
        match read(&mut incoming).await {
            Said::Node(FromNode::Welcome(welcome)) => Self { connection, incoming, welcome },
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn say(&self, said: &ToNode) {
        self.connection.send(FrameKind::Local, mobula_wire::encode(said).unwrap().into()).unwrap();
    }

    /// Reads until something is what is waited for; what comes before is let go.
    pub(crate) async fn until<T>(&mut self, mut is_it: impl FnMut(Said) -> Option<T>) -> T {
        loop {
            match read(&mut self.incoming).await {
                Said::Over => panic!("the node has closed the connection"),
                said => {
                    if let Some(found) = is_it(said) {
                        return found;
                    }
                }
            }
        }
    }

    pub(crate) fn wish(&self, request: u64, cpus: u64) {
        let request_of = Request { cpus: Amount::whole(cpus), ..Request::default() };
        let spec = PlacementSpec { request: request_of, ..PlacementSpec::default() };
        self.say(&ToNode::Lease { request, spec, avoid: Vec::new(), lives_on: false });
    }

    pub(crate) async fn lease(&mut self, request: u64, cpus: u64) -> (LeaseId, ProcessId) {
        self.wish(request, cpus);
        self.granted(request).await
    }

    pub(crate) async fn granted(&mut self, wanted: u64) -> (LeaseId, ProcessId) {
        self.until(|said| match said {
            Said::Node(FromNode::Granted { request, lease, process }) if request == wanted => Some((lease, process)),
            Said::Node(FromNode::NoPlace { missing, .. }) => panic!("no place: {missing}"),
            _ => None,
        })
        .await
    }

    pub(crate) fn task(&self, exchange: u64, function: u64, lease: LeaseId, to: ProcessId, payload: &'static [u8]) {
        let parcel = task_parcel(self.welcome.process, exchange, function, lease, to, payload);
        self.connection.send(FrameKind::Parcel, parcel.encode().unwrap().into()).unwrap();
    }

    pub(crate) async fn reply(&mut self, wanted: u64) -> Bytes {
        self.until(|said| match said {
            Said::Process(parcel) => match parcel.talk {
                Talk::Reply { exchange, result: Ok(_) } if exchange == wanted => Some(parcel.payload),
                other => panic!("{other:?}"),
            },
            Said::Node(FromNode::Died(death)) => panic!("{death}"),
            Said::Node(_) | Said::Over => None,
        })
        .await
    }

    pub(crate) async fn death(&mut self, of: ProcessId) -> Death {
        self.until(|said| match said {
            Said::Node(FromNode::Died(death)) if death.process == of => Some(death),
            _ => None,
        })
        .await
    }
}

/// A call of a function.
pub(crate) fn task_parcel(
    from: ProcessId,
    exchange: u64,
    function: u64,
    lease: LeaseId,
    to: ProcessId,
    payload: &'static [u8],
) -> Parcel {
    let talk = Talk::Task {
        exchange,
        task: TaskId { process: from, seq: exchange },
        attempt: Attempt::FIRST,
        lease,
        function,
        schema: 0,
        options: TaskSpecWire::default(),
        object: None,
        left: None,
        given: None,
        is_apart: false,
        refs: Vec::new(),
    };
    Parcel { to, from, talk, payload: Bytes::from_static(payload) }
}

/// A worker that answers every task with its arguments.
pub(crate) fn work(role: &Role) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let hello = Hello::Worker { protocol: PROTOCOL, token: role.token.clone() };
        let (connection, mut incoming) = greet(&role.socket, &hello).await;
        loop {
            let Ok(Frame { kind, body }) = incoming.next().await else { return ExitCode::SUCCESS };
            if kind != FrameKind::Parcel {
                let said = mobula_wire::decode::<FromNode>(&body);
                if matches!(said, Ok(FromNode::Stop { .. } | FromNode::Refused { .. })) {
                    return ExitCode::SUCCESS;
                }
                continue;
            }
            let parcel = Parcel::decode(&body).unwrap();
            let Talk::Task { exchange, function, .. } = parcel.talk else { continue };
            if function == ABORT {
                eprintln!("about to abort");
                std::process::abort();
            }
            let talk = Talk::Reply { exchange, result: Ok(ReplyHead::Value { refs: Vec::new() }) };
            let reply = Parcel { to: parcel.from, from: role.process, talk, payload: parcel.payload };
            connection.send(FrameKind::Parcel, reply.encode().unwrap().into()).unwrap();
        }
    })
}

/// Takes a name for an actor in its first life.
pub(crate) fn claim(request: u64, namespace: Option<String>, name: &str, actor: ActorId) -> ToNode {
    let interface = Interface { type_name: name.to_owned(), handlers: vec![(1, 2)] };
    ToNode::ClaimName { request, namespace, name: name.to_owned(), actor, incarnation: Incarnation(1), interface }
}

/// The workers that this process's wardens have started.
pub(crate) fn worker_pids() -> Vec<rustix::process::Pid> {
    let own = std::process::id().to_string();
    let parent = |pid: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().find_map(|line| line.strip_prefix("PPid:").map(|pid| pid.trim().to_owned()))
    };
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().into_string().ok());
    let pids = pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()));
    let is_grandchild = |pid: &String| parent(pid).and_then(|pid| parent(&pid)).is_some_and(|pid| pid == own);
    let number = |pid: String| rustix::process::Pid::from_raw(pid.parse().unwrap());
    pids.filter(is_grandchild).filter_map(number).collect()
}

/// Waits until the job has ended, and gives its line.
pub(crate) async fn until_ended(node: &Node, job: JobId) -> String {
    let begun = Instant::now();
    loop {
        let jobs = ask(node, ToolQuestion::List { kind: "jobs".into() }).await.unwrap();
        let id = format!("\"id\":\"{job}\"");
        let line = jobs.lines().find(|line| line.contains(&id)).unwrap_or_default();
        if line.contains("\"state\":\"ended\"") {
            return line.to_owned();
        }
        assert!(begun.elapsed() < HANG, "{jobs}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until no worker is left.
pub(crate) async fn no_workers() {
    let begun = Instant::now();
    while !worker_pids().is_empty() {
        assert!(begun.elapsed() < HANG, "workers are left: {:?}", worker_pids());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
