//! A cluster on hosts: node 0 is the head, each other joins it with a token; all are started as a user starts them.
//!
//! Everything lives in one folder with a short name, because the name of a Unix socket has at most 107 bytes:
//! `/tmp/mXXXXXX/n0` is node 0's folder, and the output of every process lies beside it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mobula_types::state::{ClusterStatus, Listed, NodeStatus};
use tempfile::TempDir;

use crate::disk::Disk;
use crate::hosts::{Host, Network};
use crate::oracle;
use crate::process::{Process, until};
use crate::report::{FINISH, READY, REPORT, Report};
use crate::traces;

/// The port of every node: each has a host of its own.
pub const PORT: u16 = 6379;

/// The dashboard's port, on the head.
pub const DASHBOARD_PORT: u16 = 8265;

/// A node must be ready in 200 ms; ten times that means that it hangs, and these builds are not optimised, on a machine
/// with little to spare.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// The longest until a driver's work has begun: its program, which is large when it is not optimised, goes to all nodes.
const BEGUN_WITHIN: Duration = Duration::from_secs(60);

/// The longest that a command line may take.
const TOOL_WITHIN: Duration = Duration::from_secs(20);

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many hosts, each with a node.
    pub nodes: usize,
    /// CPUs that each node says it has; the head's none where its death shall take no work with it.
    pub cpus: u32,
    /// The head's.
    pub head_cpus: u32,
    /// Hosts beside them that have no node; their numbers follow.
    pub bare: usize,
    /// For how long nodes let a driver of another host be away; 30 s is what they do by themselves.
    pub driver_resume_s: u32,
    /// Memory that the processes of each node share; a part of the machine's when it is none.
    pub store_bytes: Option<u64>,
    /// A disk of so many bytes for the values of each node that this has no room for; the test's own when it is none.
    pub disk_bytes: Option<u64>,
}

impl Plan {
    /// Nodes of two CPUs each.
    pub fn of(nodes: usize) -> Self {
        Self { nodes, cpus: 2, head_cpus: 2, bare: 0, driver_resume_s: 30, store_bytes: None, disk_bytes: None }
    }

    /// The same with a head on which nothing of a job runs.
    #[must_use]
    pub fn head_apart(self) -> Self {
        Self { head_cpus: 0, ..self }
    }
}

/// A running cluster. Dropping it kills everything.
pub struct Cluster {
    plan: Plan,
    // Before the network: processes end before their hosts do.
    nodes: Vec<Option<Process>>,
    network: Network,
    // Before the folder in which they are.
    disks: Vec<Disk>,
    folder: TempDir,
}

impl Cluster {
    /// Starts a head and joins the others to it; returns when all are alive. `None` where hosts cannot be made.
    ///
    /// # Errors
    ///
    /// A node did not start or did not join.
    pub fn start(plan: Plan) -> Result<Option<Self>> {
        let Some(network) = Network::of(plan.nodes + plan.bare)? else { return Ok(None) };
        let mut folder = tempfile::Builder::new().prefix("m").tempdir_in("/tmp").context("make a folder")?;
        // For a person who wants to read what the processes said.
        folder.disable_cleanup(std::env::var_os("MOBULA_CLUSTER_KEEP").is_some());
        let disk = |bytes| (0..plan.nodes).map(move |node| (node, bytes));
        let disks = plan.disk_bytes.into_iter().flat_map(disk);
        let disks = disks.map(|(node, bytes)| Disk::mount(&folder.path().join(format!("d{node}")), bytes));
        let disks = disks.collect::<Result<_>>()?;
        let mut cluster = Self { nodes: (0..plan.nodes).map(|_| None).collect(), plan, network, disks, folder };
        for node in 0..cluster.plan.nodes {
            cluster.start_node(node)?;
        }
        cluster.until_alive(cluster.plan.nodes)?;
        Ok(Some(cluster))
    }

    /// The hosts and what is between them.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The host of a node.
    pub fn host(&self, node: usize) -> &Host {
        self.network.host(node)
    }

    /// Where everything lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of a node.
    pub fn node_folder(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("n{node}"))
    }

    /// The disk of a node's own, where the plan says so.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn disk(&self, node: usize) -> &Disk {
        &self.disks[node]
    }

    /// The head's address.
    pub fn address(&self) -> String {
        format!("{}:{PORT}", self.host(0).ip())
    }

    /// A node's process.
    ///
    /// # Errors
    ///
    /// It was killed.
    pub fn node(&mut self, node: usize) -> Result<&mut Process> {
        self.nodes[node].as_mut().with_context(|| format!("node {node} was killed"))
    }

    /// The processes of all nodes that were not killed.
    pub fn node_pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.nodes.iter().flatten().map(Process::pid)
    }

    /// Whether a process is a node, or the warden below it, which is the parent of its workers.
    pub fn is_of_node(&self, pid: u32) -> bool {
        let is_node = |pid| self.node_pids().any(|node| node == pid);
        is_node(pid) || traces::parent(pid).is_some_and(is_node)
    }

    /// The worker processes on a node's host.
    pub fn workers(&self, node: usize) -> Vec<u32> {
        let mut pids = self.host(node).pids();
        pids.retain(|pid| !self.is_of_node(*pid) && traces::parent(*pid).is_some_and(|parent| self.is_of_node(parent)));
        pids
    }

    /// Starts a node, for the first time or again; its folder is what it was.
    ///
    /// # Errors
    ///
    /// It ended, or was not ready in time.
    pub fn start_node(&mut self, node: usize) -> Result<()> {
        let mut command = self.mobula(node, &["start", "--block"]);
        command.args(["--port", &PORT.to_string(), "--driver-resume-s", &self.plan.driver_resume_s.to_string()]);
        // Dozens of nodes share this host's memory.
        command.args(["--object-store-ahead", "0"]);
        if let Some(bytes) = self.plan.store_bytes {
            command.args(["--object-store-memory", &bytes.to_string()]);
        }
        if let Some(disk) = self.disks.get(node) {
            command.arg("--spill-dir").arg(disk.path());
        }
        if node == 0 {
            command.args(["--head", "--num-cpus", &self.plan.head_cpus.to_string()]);
            command.args(["--dashboard-port", &DASHBOARD_PORT.to_string()]);
        } else {
            command.args(["--address", &self.address(), "--num-cpus", &self.plan.cpus.to_string()]);
            // A node that has joined before comes back with the certificate it got then.
            if !self.has_joined(node) {
                command.args(["--token", &self.token("node")?]);
            }
        }
        self.nodes[node] = Some(Process::start(&format!("node{node}"), self.folder(), &mut command)?);
        let what = format!("node {node} to be ready");
        let ready = until(&what, READY_WITHIN, || {
            let process = self.node(node)?;
            if let Some(status) = process.status()? {
                bail!("it ended with {status}");
            }
            Ok(self.status(node).ok())
        });
        match ready {
            Ok(_) => Ok(()),
            Err(error) => {
                let why = self.status(node).err().map_or(String::new(), |error| format!("\nstatus says: {error:#}"));
                let words = self.node(node)?.last_words();
                Err(error.context(format!("{words}{why}")))
            }
        }
    }

    fn has_joined(&self, node: usize) -> bool {
        self.node_folder(node).join(PORT.to_string()).join("identity.pem").exists()
    }

    /// Kills a node with SIGKILL.
    ///
    /// # Errors
    ///
    /// It had ended before.
    pub fn kill_node(&mut self, node: usize) -> Result<()> {
        self.node(node)?.kill()?;
        self.nodes[node] = None;
        Ok(())
    }

    /// Says that a node has ended by other hands.
    pub fn forget_node(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    /// A new join token of a role.
    ///
    /// # Errors
    ///
    /// The head did not make one.
    pub fn token(&self, role: &str) -> Result<String> {
        let said = self.ask(0, &["token", "create", "--role", role])?;
        let token = said.lines().next_back().map(str::trim).unwrap_or_default().to_owned();
        ensure!(token.matches('.').count() == 2, "a token has three parts, found `{said}`");
        Ok(token)
    }

    /// What a node says of the cluster.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn status(&self, node: usize) -> Result<ClusterStatus> {
        let said = self.ask(node, &["status", "--json"])?;
        serde_json::from_str(&said).with_context(|| format!("read the status `{said}`"))
    }

    /// Everything of one kind, as a node lists it.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn list(&self, node: usize, kind: &str) -> Result<Vec<Listed>> {
        let said = self.ask(node, &["list", kind, "--json"])?;
        said.lines().map(|line| serde_json::from_str(line).with_context(|| format!("read `{line}`"))).collect()
    }

    /// Waits until the head counts so many nodes that are alive.
    ///
    /// # Errors
    ///
    /// It did not in time.
    pub fn until_alive(&self, count: usize) -> Result<Vec<NodeStatus>> {
        let mut last = String::new();
        let alive = until(&format!("{count} nodes alive"), READY_WITHIN, || {
            let nodes = self.status(0)?.nodes;
            last = nodes.iter().map(|node| format!("{} {}; ", node.node_id, node.state)).collect();
            let alive: Vec<_> = nodes.into_iter().filter(|node| node.state == "alive").collect();
            Ok((alive.len() == count).then_some(alive))
        });
        alive.with_context(|| format!("the head says: {last}"))
    }

    /// A command of the command line on a node's host.
    pub fn mobula(&self, node: usize, words: &[&str]) -> Command {
        let mut command = self.program(node, &built("mobula"));
        command.args(words);
        command
    }

    /// A program on a node's host, which finds the node by itself.
    pub fn program(&self, node: usize, program: &Path) -> Command {
        let mut command = self.host(node).command(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MOBULA_") {
                command.env_remove(name);
            }
        }
        if let Some(log) = std::env::var_os("MOBULA_CLUSTER_LOG") {
            command.env("MOBULA_LOG", log);
        }
        command.env("MOBULA_DIR", self.node_folder(node)).env("HOME", self.folder()).current_dir(self.folder());
        command
    }

    /// Runs the command line to its end on a node's host, and gives what it says.
    ///
    /// # Errors
    ///
    /// What it says is wrong, when it ends badly.
    pub fn ask(&self, node: usize, words: &[&str]) -> Result<String> {
        let Output { status, stdout, stderr } = run(self.mobula(node, words), TOOL_WITHIN)?;
        let said = String::from_utf8_lossy(&stdout).trim().to_owned();
        if !status.success() {
            bail!(
                "`mobula {}` ended with {status}: {said}{}",
                words.join(" "),
                String::from_utf8_lossy(&stderr).trim()
            );
        }
        Ok(said)
    }

    /// Starts a program on a node's host under a name.
    ///
    /// # Errors
    ///
    /// It could not be started.
    pub fn start_program(&self, node: usize, name: &str, program: &str, words: &[&str]) -> Result<Process> {
        let mut command = self.program(node, &built(program));
        command.args(words).env("MOBULA_ADDRESS", "local");
        Process::start(name, self.folder(), &mut command)
    }

    /// Starts the driver program with this work, and waits until it has begun it.
    ///
    /// # Errors
    ///
    /// It did not join.
    pub fn drive(&self, node: usize, name: &str, words: &[&str]) -> Result<Driver> {
        let mut process = self.start_program(node, name, "mobula-workload", words)?;
        process.line(READY, BEGUN_WITHIN)?;
        Ok(Driver { process })
    }
}

/// A driver program at work.
pub struct Driver {
    /// Its process.
    pub process: Process,
}

impl Driver {
    /// Lets it finish, and holds its report against what must always hold.
    ///
    /// # Errors
    ///
    /// It did not finish, or something does not hold.
    pub fn finish(mut self) -> Result<Report> {
        self.process.tell(FINISH)?;
        // What the driver itself allows to settle, what it needs to look things up, and to end.
        let line = self.process.line(REPORT, oracle::SETTLED * 3)?;
        let report: Report = serde_json::from_str(&line).with_context(|| format!("read the report `{line}`"))?;
        let findings = oracle::findings(&report);
        ensure!(findings.is_empty(), "{}\n{report:#?}{}", findings.join("\n"), self.process.last_words());
        self.process.succeed(oracle::SETTLED)?;
        Ok(report)
    }
}

/// Runs a command to its end.
///
/// # Errors
///
/// It took longer.
pub fn run(mut command: Command, within: Duration) -> Result<Output> {
    use std::process::Stdio;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Read meanwhile: what a command says may be more than a pipe holds.
    let said = [child.stdout.take().map(read_on), child.stderr.take().map(read_on)];
    let ended = until("the end of a command", within, || Ok(child.try_wait()?));
    if ended.is_err() {
        child.kill().ok();
    }
    let status = child.wait()?;
    let [stdout, stderr] = said.map(|reader| reader.and_then(|reader| reader.join().ok()).unwrap_or_default());
    ended.with_context(|| format!("it said: {}", String::from_utf8_lossy(&stderr)))?;
    Ok(Output { status, stdout, stderr })
}

/// All of what comes, read by a thread of its own.
fn read_on(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut said = Vec::new();
        // What came before an error is of use.
        from.read_to_end(&mut said).ok();
        said
    })
}

/// A program that was built beside this test: in the folder above its own.
///
/// # Panics
///
/// When it is not there, with the command that makes it.
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the kernel names the program that runs");
    let target = test.parent().and_then(Path::parent).expect("cargo puts tests into <target>/<profile>/deps");
    let places = [target.join(name), target.join("examples").join(name)];
    let found = places.iter().find(|place| place.exists());
    found.cloned().unwrap_or_else(|| panic!("`{name}` is not built: run `cargo build --workspace --bins --examples`"))
}
