//! A cluster of nodes on this host for the sections that need one; this program is driver and worker, like a user's.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mobula::{Config, Session};

use super::Effort;

/// A node must be there in this time; 200 ms are promised.
const READY: Duration = Duration::from_secs(10);
/// Nodes make memory ahead of use in their first seconds; measuring waits until they have, but no longer than this.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
/// Memory of which the host has had as much for so long is not being made any more.
const SETTLED: Duration = Duration::from_secs(3);

/// Waits until nothing more is made ahead of use.
fn settle() -> Result<()> {
    let begun = Instant::now();
    let (mut since, mut before) = (begun, shared_memory()?);
    while since.elapsed() < SETTLED && begun.elapsed() < SETTLED_WITHIN {
        std::thread::sleep(Duration::from_millis(100));
        let now = shared_memory()?;
        if now != before {
            (since, before) = (Instant::now(), now);
        }
    }
    Ok(())
}

/// What processes of this host share, in the system's words.
fn shared_memory() -> Result<String> {
    let book = std::fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    Ok(book.lines().find(|line| line.starts_with("Shmem:")).context("/proc/meminfo has no Shmem")?.to_owned())
}

/// Nodes that end with it.
pub(super) struct Cluster {
    folder: PathBuf,
    /// The head's own folder in it.
    head: PathBuf,
    /// Where the others join.
    address: String,
    nodes: Vec<Child>,
}

impl Cluster {
    /// A head and another node, in a folder of their own.
    pub(super) fn start(effort: Effort) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("mobula-figures-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let port = free_port()?;
        let address = format!("127.0.0.1:{port}");
        let mut cluster = Self { head: folder.join(port.to_string()), address, folder, nodes: Vec::new() };
        cluster.node(port, &["--head", "--dashboard-port", "0"])?;
        cluster.join()?;
        if !effort.quick {
            settle()?;
        }
        Ok(cluster)
    }

    /// One more node; gives its process.
    pub(super) fn join(&mut self) -> Result<u32> {
        let address = self.address.clone();
        self.node(free_port()?, &["--address", &address])
    }

    /// Ends a node's process by force.
    pub(super) fn kill(&mut self, process: u32) -> Result<()> {
        let node = self.nodes.iter_mut().find(|node| node.id() == process).context("no such node was started here")?;
        node.kill().context("kill a node")?;
        node.wait().context("wait for a node's end")?;
        Ok(())
    }

    fn node(&mut self, port: u16, words: &[&str]) -> Result<u32> {
        let program = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(program);
        command.args(["start", "--block", "--host", "127.0.0.1", "--port", &port.to_string()]).args(words);
        command.arg("--dir").arg(&self.folder);
        command.env_remove("MOBULA_ADDRESS").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let node = command.spawn().context("start a node")?;
        let process = node.id();
        self.nodes.push(node);
        let socket = self.folder.join(port.to_string()).join("node.sock");
        let begun = Instant::now();
        while !socket.exists() {
            if begun.elapsed() > READY {
                bail!("a node was not ready in {READY:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(process)
    }

    /// A session on the first node.
    pub(super) async fn session(&self) -> Result<Session> {
        Ok(mobula::init_with(Config::default().address(self.head.display().to_string())).await?)
    }
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").context("find a free port")?;
    Ok(socket.local_addr()?.port())
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // Gone already, or ended by this.
            node.kill().ok();
            node.wait().ok();
        }
        std::fs::remove_dir_all(&self.folder).ok();
    }
}
