//! Programs on other hosts: the mesh of a driver by hand, over a network that can be cut.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mobula_net::identity::{Credentials, Identity};
use mobula_net::{
    Admitted, Authority, Cause, Event, Gate, Lane, Mesh, MeshConfig, MeshEvents, NetError, PeerIdentity, Refusal, join,
};
use mobula_node::daemon::{Node, NodeConfig};
use mobula_types::state::ClusterStatus;
use mobula_types::{JobId, LeaseId, MemberId, PlacementSpec, ProcessId, Role};
use mobula_wire::cluster::{ClusterTalk, DriverWelcome, Greeting, PROGRAM_PART_BYTES, ToHead};
use mobula_wire::local::{FromNode, ToNode, ToolQuestion, Welcome};
use mobula_wire::{FrameKind, Parcel, Talk};
use tokio::net::UdpSocket;

use crate::stage::{ECHO, HANG, Said, ask, cpus, head, member, no_workers, play, task_parcel, until_ended};

/// A bound for a session that is to end soon.
const RESUME_MAX: Duration = Duration::from_millis(1_500);

/// Between two attempts to enter.
const ENTER_STEP: Duration = Duration::from_millis(100);

/// Lets nobody in.
struct Nobody;

impl Gate for Nobody {
    fn admit(&self, _: &PeerIdentity, _: Bytes) -> BoxFuture<'_, Result<Admitted, Refusal>> {
        async { Err(Refusal::new(Cause::WrongRole)) }.boxed()
    }
}

/// A driver on another host by hand.
struct Far {
    mesh: Mesh,
    events: MeshEvents,
    node: ProcessId,
    me: ProcessId,
    program: Vec<u8>,
    hash: [u8; 32],
    /// Parts of its program that the node has asked for.
    parts: usize,
}

fn this_program() -> Vec<u8> {
    std::fs::read("/proc/self/exe").unwrap()
}

async fn identity(head: &Node, role: Role) -> Identity {
    let token = head.token(role).await.unwrap().parse().unwrap();
    join(head.addr(), &token, role, HANG).await.unwrap()
}

fn greeting(program: &[u8]) -> Greeting {
    let hash = *blake3::hash(program).as_bytes();
    Greeting::Driver {
        name: "far".into(),
        env: BTreeMap::new(),
        namespace: None,
        program: hash,
        program_bytes: program.len() as u64,
    }
}

async fn enter(
    addr: SocketAddr,
    identity: &Identity,
    greeting: &Greeting,
) -> Result<(Mesh, MeshEvents, ProcessId, Bytes), NetError> {
    let config = MeshConfig::of_driver(addr, Credentials::new(identity).unwrap());
    let (mesh, events) = Mesh::bind(config, Arc::new(Nobody)).await.unwrap();
    let (node, welcome) = mesh.enter(addr, mobula_wire::encode(greeting).unwrap().into(), HANG).await?;
    Ok((mesh, events, node, welcome))
}

impl Far {
    /// Goes to a node, with a program that may not be what its hash says.
    async fn enter(addr: SocketAddr, identity: &Identity, program: Vec<u8>, said: &Greeting) -> Self {
        let (mesh, events, node, welcome) = enter(addr, identity, said).await.unwrap();
        let DriverWelcome { process: me, .. } = mobula_wire::decode(&welcome).unwrap();
        let Greeting::Driver { program: hash, .. } = *said else { panic!("only drivers are played") };
        Self { mesh, events, node, me, program, hash, parts: 0 }
    }

    async fn attach(addr: SocketAddr, identity: &Identity) -> Self {
        let program = this_program();
        let said = greeting(&program);
        let mut far = Self::enter(addr, identity, program, &said).await;
        let Welcome { process, folder, .. } = far.welcome().await.unwrap();
        assert_eq!((process, folder.as_str()), (far.me, ""), "it reaches nobody on the node's host directly");
        far
    }

    /// The node's first word, when it has what it asks for.
    async fn welcome(&mut self) -> Result<Welcome, String> {
        match self.next().await {
            Some(Said::Node(FromNode::Welcome(welcome))) => Ok(welcome),
            Some(Said::Node(FromNode::Refused { message })) => Err(message),
            other => panic!("{other:?}"),
        }
    }

    /// What is said next, while the node's questions for the program are answered.
    async fn next(&mut self) -> Option<Said> {
        loop {
            match tokio::time::timeout(HANG, self.events.next()).await.expect("nothing comes")? {
                Event::Frame { kind: FrameKind::Parcel, body, .. } => {
                    return Some(Said::Process(Box::new(Parcel::decode(&body).unwrap())));
                }
                Event::Frame { kind: FrameKind::Local, body, .. } => {
                    return Some(Said::Node(mobula_wire::decode(&body).unwrap()));
                }
                Event::Frame { body, .. } => {
                    let Ok(ClusterTalk::ProgramAsk { program, offset }) = mobula_wire::decode(&body) else {
                        panic!("only the program is asked for");
                    };
                    assert_eq!(program, self.hash);
                    self.parts += 1;
                    let from = usize::try_from(offset).unwrap();
                    let bytes = &self.program[from..self.program.len().min(from + PROGRAM_PART_BYTES)];
                    let (total_bytes, bytes) = (self.program.len() as u64, Bytes::copy_from_slice(bytes));
                    self.talk(&ClusterTalk::ProgramPart { program, total_bytes, offset, bytes });
                }
                Event::Ended { .. } => return Some(Said::Over),
                _ => {}
            }
        }
    }

    fn talk(&self, talk: &ClusterTalk) {
        let body = mobula_wire::encode(talk).unwrap().into();
        self.mesh.send(self.node, Lane::Bulk, FrameKind::Cluster, body).unwrap();
    }

    fn say(&self, said: &ToNode) {
        let body = mobula_wire::encode(said).unwrap().into();
        self.mesh.send(self.node, Lane::Calls, FrameKind::Local, body).unwrap();
    }

    async fn until<T>(&mut self, mut is_it: impl FnMut(Said) -> Option<T>) -> T {
        loop {
            let said = self.next().await.expect("the mesh is open");
            assert!(!matches!(said, Said::Over), "the node has ended the session");
            if let Some(found) = is_it(said) {
                return found;
            }
        }
    }

    async fn over(&mut self) {
        while !matches!(self.next().await, Some(Said::Over) | None) {}
    }

    async fn lease(&mut self, request: u64) -> (LeaseId, ProcessId) {
        self.say(&ToNode::Lease { request, spec: PlacementSpec::default(), avoid: Vec::new(), lives_on: false });
        self.until(|said| match said {
            Said::Node(FromNode::Granted { request: of, lease, process }) if of == request => Some((lease, process)),
            Said::Node(FromNode::NoPlace { missing, .. }) => panic!("no place: {missing}"),
            _ => None,
        })
        .await
    }

    fn task(&self, exchange: u64, lease: LeaseId, to: ProcessId) {
        let parcel = task_parcel(self.me, exchange, ECHO, lease, to, b"ray");
        self.mesh.send(self.node, Lane::Calls, FrameKind::Parcel, parcel.encode().unwrap().into()).unwrap();
    }

    async fn reply(&mut self) -> u64 {
        self.until(|said| match said {
            Said::Process(parcel) => match parcel.talk {
                Talk::Reply { exchange, result: Ok(_) } => Some(exchange),
                other => panic!("{other:?}"),
            },
            _ => None,
        })
        .await
    }

    async fn answer(&mut self, question: ToolQuestion) -> Result<String, String> {
        self.say(&ToNode::Tool { request: 7, question });
        self.until(|said| match said {
            Said::Node(FromNode::Answer { request: 7, answer }) => Some(answer),
            _ => None,
        })
        .await
    }
}

/// A head whose far drivers may resume for a short time only.
async fn impatient_head(folder: &Path) -> Node {
    let config =
        NodeConfig { bind: ([127, 0, 0, 1], 0).into(), resources: cpus(2), ..NodeConfig::head(folder.join("1")) };
    Node::start(NodeConfig { resume_max: RESUME_MAX, ..config }).await.unwrap()
}

/// A network between a driver and its node: datagrams go through it, unless it is cut.
struct Network {
    addr: SocketAddr,
    is_cut: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Network {
    async fn to(node: SocketAddr) -> Self {
        let (near, far) =
            (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (addr, is_cut) = (near.local_addr().unwrap(), Arc::<AtomicBool>::default());
        let cut = is_cut.clone();
        let task = tokio::spawn(async move {
            let (mut out, mut back) = (vec![0; 65_536], vec![0; 65_536]);
            let mut driver = None;
            loop {
                tokio::select! {
                    Ok((len, from)) = near.recv_from(&mut out) => {
                        driver = Some(from);
                        if !cut.load(Ordering::Relaxed) {
                            far.send_to(&out[..len], node).await.ok();
                        }
                    }
                    Ok((len, _)) = far.recv_from(&mut back) => {
                        if let Some(driver) = driver.filter(|_| !cut.load(Ordering::Relaxed)) {
                            near.send_to(&back[..len], driver).await.ok();
                        }
                    }
                }
            }
        });
        Self { addr, is_cut, task }
    }

    fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn runs() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = head(folder.path(), 2).await;
        let node = member(folder.path(), "2", &head, 2).await;
        // A token is good at any node, and once.
        let token = head.token(Role::Driver).await.unwrap().parse().unwrap();
        let identity = join(node.addr(), &token, Role::Driver, HANG).await.unwrap();
        let again = join(node.addr(), &token, Role::Driver, HANG).await.unwrap_err();
        assert!(matches!(&again, NetError::Refused(refusal) if refusal.cause == Cause::TokenUsed), "{again}");
        let mut far = Far::attach(node.addr(), &identity).await;
        assert_eq!(far.parts, far.program.len().div_ceil(PROGRAM_PART_BYTES), "each part is asked for once");
        let (lease, worker) = far.lease(1).await;
        for exchange in 1..=100 {
            far.task(exchange, lease, worker);
        }
        for exchange in 1..=100 {
            assert_eq!(far.reply().await, exchange, "in the order in which they were sent");
        }
        // The command line sees it, and it may see the state, and change nothing.
        let status = far.answer(ToolQuestion::Status).await.unwrap();
        assert!(status.contains("cluster_id"), "{status}");
        let refused = far.answer(ToolQuestion::TokenCreate { ttl_s: 0, role: "admin".into() }).await.unwrap_err();
        assert!(refused.contains("mobula token create --role admin"), "{refused}");
        let refused = far.answer(ToolQuestion::Stop).await.unwrap_err();
        assert!(refused.contains("on its own host"), "{refused}");
        assert_eq!(node.refusals()["wrong_role"], 2);
        // Who asks any node sees what all of them have refused.
        let status: ClusterStatus = serde_json::from_str(&far.answer(ToolQuestion::Status).await.unwrap()).unwrap();
        assert_eq!(status.counters.refusals, [("wrong_role".into(), 2), ("token_used".into(), 1)].into());
        // Another one with the same program brings nothing.
        let second = Far::attach(node.addr(), &identity).await;
        assert_eq!(second.parts, 0, "the node has the program");
        let programs = std::fs::read_dir(folder.path().join("2/programs")).unwrap().count();
        assert_eq!(programs, 1, "one file, and no part of one");
        second.mesh.end(second.node);
        // It leaves, and its workers with it.
        far.mesh.end(far.node);
        no_workers().await;
        node.stop().await;
        head.stop().await;
    });
}

pub(crate) fn another_program() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = head(folder.path(), 1).await;
        let identity = identity(&head, Role::Driver).await;
        let said = greeting(b"what was said");
        let mut far = Far::enter(head.addr(), &identity, b"what has come".to_vec(), &said).await;
        let refused = far.welcome().await.unwrap_err();
        assert!(refused.contains("is another one"), "{refused}");
        far.over().await;
        let Greeting::Driver { name, env, namespace, program, .. } = greeting(b"x") else { unreachable!() };
        let endless = Greeting::Driver { name, env, namespace, program, program_bytes: u64::MAX };
        let refused = enter(head.addr(), &identity, &endless).await.unwrap_err();
        assert!(refused.to_string().contains(&u64::MAX.to_string()), "{refused}");
        // One that goes while it is asked leaves no part of its program.
        let program = vec![7; 3 * PROGRAM_PART_BYTES];
        let said = greeting(&program);
        let mut gone = Far::enter(head.addr(), &identity, program, &said).await;
        let part = Bytes::from(vec![7; PROGRAM_PART_BYTES]);
        let (program, total_bytes) = (gone.hash, gone.program.len() as u64);
        while !matches!(gone.events.next().await, Some(Event::Frame { .. })) {}
        gone.talk(&ClusterTalk::ProgramPart { program, total_bytes, offset: 0, bytes: part });
        let programs = || std::fs::read_dir(folder.path().join("1/programs")).unwrap().count();
        while programs() == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        gone.mesh.end(gone.node);
        while programs() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        head.stop().await;
    });
}

pub(crate) fn roles() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = head(folder.path(), 1).await;
        let authority = Authority::open(&folder.path().join("1"), SystemTime::now()).unwrap();
        let of = |role| Identity::issue(&authority, MemberId([9; 16]), role, SystemTime::now()).unwrap();
        let driver = greeting(&this_program());
        let cases = [
            (Role::Node, &driver, "mobula token create --role driver"),
            (Role::Viewer, &driver, "mobula token create --role driver"),
            (Role::Node, &Greeting::Tool, "mobula token create --role viewer"),
            (Role::Driver, &Greeting::Node { node: head.id(), head: Default::default() }, "--role node"),
            (Role::Admin, &Greeting::Node { node: head.id(), head: Default::default() }, "--role node"),
        ];
        let mut counted = 0;
        for (role, greeting, says) in &cases {
            let begun = Instant::now();
            let refused = enter(head.addr(), &of(*role), greeting).await.unwrap_err();
            // The promise is a second; ten of them mean that it hangs.
            assert!(begun.elapsed() < Duration::from_secs(10), "{role}: refused after {:?}", begun.elapsed());
            assert!(refused.to_string().contains(says), "{role}: {refused}");
            // Whoever does not hear the refusal comes again, and is counted again.
            let counted_again = head.refusals()["wrong_role"] - counted;
            let times_max = 1 + (begun.elapsed().as_millis() / ENTER_STEP.as_millis()) as u64;
            assert!((1..=times_max).contains(&counted_again), "each is counted by its cause: {counted_again}");
            counted += counted_again;
        }
        // A token of another role says which would be right, and how to make it.
        let token = head.token(Role::Viewer).await.unwrap().parse().unwrap();
        let refused = join(head.addr(), &token, Role::Driver, HANG).await.unwrap_err();
        assert!(refused.to_string().contains("mobula token create --role driver"), "{refused}");
        // A driver says nothing that only nodes say: neither to the head, nor in the name of others.
        let identity = of(Role::Driver);
        let said = ClusterTalk::ToHead(ToHead::JobEnd { job: JobId(1), cause: mobula_types::DeathCause::JobStopped });
        let mut far = Far::attach(head.addr(), &identity).await;
        let before = head.refusals()["wrong_role"];
        far.talk(&said);
        far.over().await;
        assert_eq!(head.refusals()["wrong_role"], before + 1);
        let mut far = Far::attach(head.addr(), &identity).await;
        let parcel = task_parcel(head.id().into(), 1, ECHO, LeaseId(1), far.me, b"");
        far.mesh.send(far.node, Lane::Calls, FrameKind::Parcel, parcel.encode().unwrap().into()).unwrap();
        far.over().await;
        assert_eq!(head.refusals()["another"], 1);
        let status: ClusterStatus = serde_json::from_str(&ask(&head, ToolQuestion::Status).await.unwrap()).unwrap();
        let shown = head.refusals().into_iter().filter(|(_, count)| *count > 0);
        assert_eq!(status.counters.refusals, shown.map(|(word, count)| (word.to_owned(), count)).collect());
        head.stop().await;
    });
}

pub(crate) fn cut_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = head(folder.path(), 2).await;
        let identity = identity(&head, Role::Driver).await;
        let network = Network::to(head.addr()).await;
        let mut far = Far::attach(network.addr, &identity).await;
        let (lease, worker) = far.lease(1).await;
        let (mut sent, mut heard) = (0, 0);
        for round in 0..3 {
            network.cut(true);
            for _ in 0..50 {
                sent += 1;
                far.task(sent, lease, worker);
            }
            if round == 2 {
                // Long enough that both sides give the connection up.
                while far.mesh.is_up(far.node) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            network.cut(false);
            while heard < sent {
                heard += 1;
                assert_eq!(far.reply().await, heard, "nothing is lost, and nothing comes twice");
            }
        }
        far.mesh.end(far.node);
        no_workers().await;
        head.stop().await;
    });
}

pub(crate) fn cut_for_good() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = impatient_head(folder.path()).await;
        let identity = identity(&head, Role::Driver).await;
        let network = Network::to(head.addr()).await;
        let program = this_program();
        let said = greeting(&program);
        let mut far = Far::enter(network.addr, &identity, program, &said).await;
        let job = far.welcome().await.unwrap().job;
        far.lease(1).await;
        network.cut(true);
        let line = until_ended(&head, job).await;
        assert!(line.contains("lost its connection, and did not come back within"), "{line}");
        no_workers().await;
        // Who comes back then is told that it is too late.
        network.cut(false);
        far.over().await;
        head.stop().await;
    });
}

pub(crate) fn killed() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = head(folder.path(), 2).await;
        let identity = identity(&head, Role::Driver).await;
        let network = Network::to(head.addr()).await;
        let program = this_program();
        let said = greeting(&program);
        let mut far = Far::enter(network.addr, &identity, program, &said).await;
        let job = far.welcome().await.unwrap().job;
        far.lease(1).await;
        let begun = Instant::now();
        // Nobody has the port any more from which it came.
        drop(network);
        let line = until_ended(&head, job).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "known only after {:?}", begun.elapsed());
        assert!(line.contains("lost its connection and did not come back"), "{line}");
        no_workers().await;
        head.stop().await;
    });
}

pub(crate) fn tool() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        use mobula_node::attached::{FarNode, FarTool};
        let head = head(folder.path(), 1).await;
        let node = member(folder.path(), "2", &head, 1).await;
        let at = |token: Option<String>, name: &str| FarNode {
            address: node.addr().to_string(),
            token,
            folder: Some(folder.path().join(name)),
        };
        for (role, may_drain) in [(Role::Viewer, false), (Role::Driver, false), (Role::Admin, true)] {
            let name = role.to_string();
            let token = head.token(role).await.unwrap();
            // The second time the certificate is enough.
            for token in [Some(token), None] {
                let mut tool = FarTool::enter(&at(token, &name)).await.unwrap();
                assert_eq!(tool.node(), node.id());
                let nodes = tool.ask(ToolQuestion::List { kind: "nodes".into() }).await.unwrap();
                assert_eq!(nodes.lines().count(), 2, "{nodes}");
                let drained = tool.ask(ToolQuestion::Drain { node: mobula_types::NodeId(99) }).await.unwrap_err();
                assert_eq!(drained.contains("no such node"), may_drain, "{role}: {drained}");
                assert_eq!(drained.contains("--role admin"), !may_drain, "{role}: {drained}");
                tool.close().await;
            }
        }
        let error = FarTool::enter(&at(None, "nobody")).await.unwrap_err().to_string();
        assert!(error.contains("mobula token create --role viewer"), "{error}");
        let error =
            FarTool::enter(&at(Some(head.token(Role::Node).await.unwrap()), "n")).await.unwrap_err().to_string();
        assert!(error.contains("for a node") && error.contains("--role viewer"), "{error}");
        node.stop().await;
        head.stop().await;
    });
}

/// A certificate of a driver that has joined five days ago: two of seven days are left.
pub(crate) fn renewed() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let folder = tempfile::tempdir().unwrap();
    play(async {
        use mobula_node::attached::{FarNode, FarTool};
        let head = head(folder.path(), 1).await;
        // Through a node that has no CA: the head believes the owner's signature.
        let node = member(folder.path(), "2", &head, 1).await;
        let authority = Authority::open(&folder.path().join("1"), SystemTime::now()).unwrap();
        let place = folder.path().join("user/far").join(node.addr().to_string().replace(':', "_")).join("tool");
        std::fs::create_dir_all(&place).unwrap();
        let old = Identity::issue(&authority, MemberId([9; 16]), Role::Driver, SystemTime::now() - 5 * DAY).unwrap();
        old.store(&place).unwrap();
        let at = FarNode { address: node.addr().to_string(), token: None, folder: Some(folder.path().join("user")) };
        let mut tool = FarTool::enter(&at).await.unwrap();
        let new = loop {
            // What is said by the node is heard while it is asked.
            tool.ask(ToolQuestion::Status).await.unwrap();
            let kept = Identity::load(&place).unwrap().expect("it is never gone");
            if kept.not_after() > SystemTime::now() + 6 * DAY {
                break kept;
            }
        };
        assert_eq!(new.peer(), old.peer(), "the same member in the same role");
        tool.close().await;
        // The new one opens the door, and so does the old one while it is good.
        let mut again = FarTool::enter(&at).await.unwrap();
        again.ask(ToolQuestion::Status).await.unwrap();
        again.close().await;
        let kept = Identity::load(&place).unwrap().unwrap();
        assert_eq!(kept.certificate(), new.certificate(), "a new one is not renewed");
        assert!(enter(node.addr(), &old, &Greeting::Tool).await.is_ok());
        node.stop().await;
        head.stop().await;
    });
}
