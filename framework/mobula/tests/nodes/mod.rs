//! A cluster of two nodes on this host, for test programs whose executable is driver, worker and the nodes' warden.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs};

use mobula_node::attached::run_if_worker;
use mobula_node::daemon::workers::{MemoryFiles, warden};
use mobula_node::daemon::{HaulCounts, Node, NodeConfig};
use mobula_types::resources::Amount;
use mobula_types::state::Listed;
use mobula_types::{NodeId, Role};

/// Serves as warden or worker, if a node has started this process as one. Comes first in `main`.
pub(crate) fn serve_a_node() -> Option<ExitCode> {
    let code = warden::run_if_warden();
    if code.is_none() {
        run_if_worker();
    }
    code
}

/// Memory that the processes of each node share: nine values of the tests' usual size do not fit.
#[allow(dead_code, reason = "not each program with these nodes is about that memory")]
pub(crate) const STORE_BYTES: u64 = 400 << 20;

/// What processes that have ended had is reclaimed in 2 s (G9).
const EMPTIED: Duration = Duration::from_secs(2);

/// A head, and a node in zone `b`. They run in this process, and speak to each other as on two hosts.
pub(crate) struct Nodes {
    head: Node,
    other: Node,
    meminfo: PathBuf,
    folder: Folder,
}

/// A folder that is gone with this, whether its test passes or not.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

impl Nodes {
    /// Starts both, in a folder of their own, with so many CPUs.
    pub(crate) async fn start(head_cpus: u64, other_cpus: u64) -> Self {
        Self::start_with_gpus(head_cpus, other_cpus, 0).await
    }

    /// The same; the one that is not the head says that it has so many GPUs, too.
    pub(crate) async fn start_with_gpus(head_cpus: u64, other_cpus: u64, gpus: u64) -> Self {
        Self::start_as((head_cpus, other_cpus), gpus, |_| {}).await
    }

    /// The same; both are told more.
    pub(crate) async fn start_as(
        (head_cpus, other_cpus): (u64, u64),
        gpus: u64,
        tell: impl Fn(&mut NodeConfig) + Sync,
    ) -> Self {
        static CLUSTERS: AtomicU32 = AtomicU32::new(0);
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let folder = Folder(env::temp_dir().join(format!("mobula-nodes-{}-{number}", std::process::id())));
        fs::create_dir_all(&folder.0).expect("a folder is made");
        let meminfo = folder.0.join("meminfo");
        write_memory(&meminfo, 600);
        let head = start_head(&folder.0, head_cpus, &meminfo, &tell).await;
        let other = start_member(folder.0.join("other"), &head, (other_cpus, gpus), &meminfo, &tell).await;
        Self { head, other, meminfo, folder }
    }

    /// Another node takes the place of the one in zone `b`, which is told to leave, and is given back.
    #[allow(dead_code, reason = "not each program with these nodes has them leave")]
    pub(crate) async fn replace(&mut self, cpus: u64) -> Node {
        let new = start_member(self.folder.0.join("new"), &self.head, (cpus, 0), &self.meminfo, &|_| {}).await;
        self.head.drain(self.other.id()).await.expect("the head knows it");
        std::mem::replace(&mut self.other, new)
    }

    /// One more node in zone `b`, beside these.
    #[allow(dead_code, reason = "not each program with these nodes needs more of them")]
    pub(crate) async fn more(&self, number: u32, cpus: u64) -> Node {
        start_member(self.folder.0.join(format!("more-{number}")), &self.head, (cpus, 0), &self.meminfo, &|_| {}).await
    }

    /// Where drivers attach: the head.
    pub(crate) fn address(&self) -> String {
        self.head.socket().display().to_string()
    }

    /// Where programs of other hosts attach, at the node that is not the head, and the token with which one may.
    #[allow(dead_code, reason = "not each program with these nodes has drivers elsewhere")]
    pub(crate) async fn far(&self) -> (String, String) {
        let token = self.head.token(Role::Driver).await.expect("a token is made");
        (self.other.addr().to_string(), token)
    }

    /// So many thousandths of their host's memory are free from now on: tests do not fill the real one.
    #[allow(dead_code, reason = "not each program with these nodes is about memory")]
    pub(crate) fn say_memory(&self, available: u32) {
        write_memory(&self.meminfo, available);
    }

    /// What the files of the head's node hold, as `mobula list` and the disk say it.
    #[allow(dead_code, reason = "not each program with these nodes is about files")]
    pub(crate) fn spilled(&self) -> usize {
        let folder = self.head.socket().parent().expect("it is in a folder").join("spill");
        fs::read_dir(folder).map_or(0, Iterator::count)
    }

    /// Whether the head says of a node that its disk has no room for more values.
    #[allow(dead_code, reason = "not each program with these nodes is about files")]
    pub(crate) async fn is_disk_full(&self, node: NodeId) -> bool {
        let status = self.head.status().await.expect("the head answers");
        status.nodes.iter().any(|found| found.node_id == node.to_string() && found.is_disk_full)
    }

    /// Bytes of the memory that the processes of the head's host share.
    #[allow(dead_code, reason = "not each program with these nodes is about that memory")]
    pub(crate) fn leased(&self) -> u64 {
        self.head.store_usage().leased
    }

    /// Waits until no process has any of the memory that its host shares.
    #[allow(dead_code, reason = "not each program with these nodes is about that memory")]
    pub(crate) async fn store_is_empty(&self, after: &str) {
        let until = Instant::now() + EMPTIED;
        while [&self.head, &self.other].iter().any(|node| node.store_usage().leased > 0) {
            assert!(
                Instant::now() < until,
                "{after}: of its store {} has {:?}",
                self.head.id(),
                self.head.store_usage()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What became of payloads that processes of the head's host and of the other's wanted to have moved.
    #[allow(dead_code, reason = "not each program with these nodes moves large values")]
    pub(crate) fn haul_counts(&self) -> [HaulCounts; 2] {
        [self.head.haul_counts(), self.other.haul_counts()]
    }

    /// The head's id, and the other's.
    #[allow(dead_code, reason = "not each program with these nodes names them")]
    pub(crate) fn ids(&self) -> (NodeId, NodeId) {
        (self.head.id(), self.other.id())
    }

    /// Tells the node that is not the head to leave.
    #[allow(dead_code, reason = "not each program with these nodes drains one")]
    pub(crate) async fn drain_other(&self) {
        self.head.drain(self.other.id()).await.expect("the head knows it");
    }

    /// Waits until it has left.
    #[allow(dead_code, reason = "not each program with these nodes drains one")]
    pub(crate) async fn other_ended(&mut self) {
        self.other.ended().await;
    }

    /// What went nowhere in the cluster, by cause, as `mobula status --json` shows it.
    #[allow(dead_code, reason = "not each program with these nodes is about losses")]
    pub(crate) async fn losses(&self) -> BTreeMap<String, u64> {
        self.head.status().await.expect("the head answers").counters.losses
    }

    /// What of this kind runs and waits in the cluster, as `mobula list --json` shows it.
    #[allow(dead_code, reason = "not each program with these nodes looks at what waits")]
    pub(crate) async fn list(&self, kind: &str) -> Vec<Listed> {
        self.other.list(kind).await.expect("the node answers")
    }

    /// What `mobula why` says of one of them.
    #[allow(dead_code, reason = "not each program with these nodes looks at what waits")]
    pub(crate) async fn why(&self, id: impl std::fmt::Display) -> Option<String> {
        self.other.why(&id.to_string()).await.ok().and_then(|item| item.why)
    }

    pub(crate) async fn stop(self) {
        self.other.stop().await;
        self.head.stop().await;
    }
}

fn write_memory(meminfo: &Path, available: u32) {
    // Renamed, since it may be read just now.
    let new = meminfo.with_extension("new");
    fs::write(&new, format!("MemTotal: 1000 kB\nMemAvailable: {available} kB\n")).expect("there is a disk");
    fs::rename(new, meminfo).expect("there is a disk");
}

/// Changes how a node is started.
type Tell<'a> = &'a (dyn Fn(&mut NodeConfig) + Sync);

async fn start_member(folder: PathBuf, head: &Node, (cpus, gpus): (u64, u64), meminfo: &Path, tell: Tell<'_>) -> Node {
    let mut config = NodeConfig::member(folder, head.addr(), None);
    config.bind.set_port(0);
    config.resources.cpus = Amount::whole(cpus);
    config.resources.gpus = Amount::whole(gpus);
    config.labels.insert("zone".into(), "b".into());
    config.memory_files = MemoryFiles::only(meminfo.to_owned());
    config.store_bytes = STORE_BYTES;
    tell(&mut config);
    Node::start(config).await.expect("a node joins")
}

/// A port that is free may be somebody else's a moment later, but not each time.
const PORTS_TRIED: usize = 10;

async fn start_head(folder: &Path, cpus: u64, meminfo: &Path, tell: Tell<'_>) -> Node {
    for _ in 0..PORTS_TRIED {
        // A folder named by the head's port is where others of this host look for a token.
        let probe = UdpSocket::bind(("127.0.0.1", 0)).expect("a port is free");
        let port = probe.local_addr().expect("it has an address").port();
        drop(probe);
        let mut config = NodeConfig::head(folder.join(port.to_string()));
        config.bind.set_port(port);
        config.resources.cpus = Amount::whole(cpus);
        config.memory_files = MemoryFiles::only(meminfo.to_owned());
        config.store_bytes = STORE_BYTES;
        tell(&mut config);
        match Node::start(config).await {
            Ok(head) => return head,
            Err(error) if format!("{error:?}").contains("AddrInUse") => {}
            Err(error) => panic!("a head starts: {error}"),
        }
    }
    panic!("{PORTS_TRIED} free ports were somebody else's a moment later")
}
