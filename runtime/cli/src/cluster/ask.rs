//! A question to a node, of this host or of another one: which one, and what it answers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use mobula_net::unix::UnixError;
use mobula_net::{Connection, Incoming, unix};
use mobula_node::attached::{FarNode, FarTool};
use mobula_node::daemon::SOCKET;
use mobula_types::NodeId;
use mobula_wire::local::{FromNode, Hello, ToNode, ToolQuestion, Welcome};
use mobula_wire::{FrameKind, PROTOCOL};

use crate::exit::{self, Usage};

/// Which node is meant.
#[derive(clap::Args, Clone, Default)]
pub(crate) struct Which {
    /// The folder that holds the folders of this host's nodes
    #[arg(long, value_name = "DIR", env = "MOBULA_DIR", global = true)]
    dir: Option<PathBuf>,

    /// The node to ask: the folder of one, or host:port of one, on this host or on another
    #[arg(long, value_name = "ADDRESS", env = "MOBULA_ADDRESS", global = true)]
    address: Option<String>,

    /// For a node of another host, once: what `mobula token create --role viewer` printed, or a file that holds it
    #[arg(long, value_name = "TOKEN", env = "MOBULA_TOKEN", hide_env_values = true, global = true)]
    token: Option<String>,

    /// The port of the node, when several run here
    #[arg(long, value_name = "PORT", global = true, conflicts_with = "address")]
    port: Option<u16>,
}

/// A node takes the connection of a tool in microseconds, even with a full CPU.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A node gathers what it is asked for 2 s at most, and its head answers in milliseconds or is away.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The folder that holds the folders of this host's nodes.
pub(crate) fn base(dir: Option<&Path>) -> Result<PathBuf> {
    let home =
        || std::env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| PathBuf::from(home).join(".mobula"));
    let base = dir.map(Path::to_owned).or_else(home).ok_or_else(|| {
        Usage("neither HOME nor MOBULA_DIR is set: say where nodes keep their files, with --dir".to_owned())
    })?;
    std::path::absolute(&base).with_context(|| format!("find {}", base.display()))
}

/// What is said to whoever asks where nothing runs.
const NONE: &str = "no node runs on this host: start one with `mobula start --head`";

impl Which {
    /// The folder of the node that was named, if one was.
    fn named(&self) -> Result<Option<PathBuf>> {
        let base = || base(self.dir.as_deref());
        if let Some(port) = self.port {
            return Ok(Some(base()?.join(port.to_string())));
        }
        let Some(address) = self.address.as_deref() else { return Ok(None) };
        match address {
            // What programs are told with the same variable.
            "" | "local" | "auto" | "embedded" => Ok(None),
            path if path.starts_with(['/', '.']) => {
                let path = Path::new(path);
                let folder = if path.ends_with(SOCKET) { path.parent().unwrap_or(path) } else { path };
                Ok(Some(folder.to_owned()))
            }
            _ => match port_of(address) {
                Some(port) => Ok(Some(base()?.join(port.to_string()))),
                None => {
                    let why = format!("--address {address}: expected the folder of a node, or host:port of one");
                    Err(Usage(why).into())
                }
            },
        }
    }

    /// The node of another host that is meant: one that was named by host and port and is not here.
    async fn far(&self) -> Result<Option<FarNode>> {
        let address = self.address.as_deref().filter(|address| !address.starts_with(['/', '.']));
        let Some((address, folder)) = address.filter(|address| port_of(address).is_some()).zip(self.named()?) else {
            return Ok(None);
        };
        // The nodes of a cluster mostly have one port: on any of their hosts the node there is asked. Who shows a token may
        // mean another cluster.
        let is_here = is_of_this_host(address).await;
        if is_here && self.token.is_none() || (is_here || self.token.is_none()) && folder.join(SOCKET).exists() {
            return Ok(None);
        }
        let folder = Some(base(self.dir.as_deref())?);
        Ok(Some(FarNode { address: address.to_owned(), token: self.token.clone(), folder }))
    }
}

fn port_of(address: &str) -> Option<u16> {
    address.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}

/// An address is this host's when a socket can be bound to it.
async fn is_of_this_host(address: &str) -> bool {
    let Ok(mut found) = tokio::net::lookup_host(address).await else { return false };
    found.any(|addr| std::net::UdpSocket::bind((addr.ip(), 0)).is_ok())
}

/// The folders of this host's nodes, those that have ended too.
fn folders(base: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(base).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut folders: Vec<PathBuf> = entries.filter(|folder| folder.join(SOCKET).exists()).collect();
    folders.sort();
    folders
}

/// A way to a node.
pub(crate) struct Node {
    way: Way,
    id: NodeId,
}

enum Way {
    Here { connection: Connection, incoming: Incoming, socket: PathBuf, asked: u64 },
    Far(Box<FarTool>),
}

impl Node {
    /// Goes to the node that is meant: the one that was named, else the only one that answers, else the head.
    pub(crate) async fn of(which: &Which) -> Result<Self> {
        match which.far().await? {
            Some(far) => {
                let tool = FarTool::enter(&far).await.with_context(|| format!("ask the node at {}", far.address))?;
                Ok(Self::far(tool))
            }
            None => Self::here(which).await,
        }
    }

    /// The same to have a program run there, which on another host takes another certificate than to ask.
    pub(crate) async fn to_submit(which: &Which) -> Result<Self> {
        match which.far().await? {
            Some(far) => {
                let tool = FarTool::enter_to_submit(&far).await;
                Ok(Self::far(tool.with_context(|| format!("submit to the node at {}", far.address))?))
            }
            None => Self::here(which).await,
        }
    }

    fn far(tool: FarTool) -> Self {
        Self { id: tool.node(), way: Way::Far(Box::new(tool)) }
    }

    async fn here(which: &Which) -> Result<Self> {
        if let Some(folder) = which.named()? {
            return Self::at(&folder.join(SOCKET)).await;
        }
        let base = base(which.dir.as_deref())?;
        let mut nodes = Vec::new();
        for folder in folders(&base) {
            match Self::reach(&folder.join(SOCKET)).await {
                Ok(node) => nodes.push((folder, node?)),
                // It was killed, and could not remove its socket.
                Err(UnixError::Nobody { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let is_head = |folder: &Path| folder.join(mobula_node::daemon::HEAD_FILE).exists();
        let heads = nodes.iter().filter(|(folder, _)| is_head(folder)).count();
        let ports: Vec<String> =
            nodes.iter().filter_map(|(folder, _)| Some(folder.file_name()?.to_str()?.to_owned())).collect();
        let only = nodes.len() == 1;
        match nodes.into_iter().find(|(folder, _)| only || (heads == 1 && is_head(folder))) {
            Some((_, node)) => Ok(node),
            None if ports.is_empty() => bail!("{NONE} (looked in {})", base.display()),
            None => {
                let why = format!("several nodes run here: say which with --port, one of {}", ports.join(", "));
                Err(Usage(why).into())
            }
        }
    }

    /// Goes to the node at a socket.
    pub(crate) async fn at(socket: &Path) -> Result<Self> {
        match Self::reach(socket).await {
            Ok(node) => node,
            Err(UnixError::Nobody { path }) => {
                bail!("no node listens at {}: start it with `mobula start`", path.display())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn reach(socket: &Path) -> Result<Result<Self>, UnixError> {
        let (connection, incoming) = unix::connect(socket, CONNECT_MAX).await?;
        Ok(Self::greet(socket, connection, incoming).await)
    }

    async fn greet(socket: &Path, connection: Connection, mut incoming: Incoming) -> Result<Self> {
        let hello = mobula_wire::encode(&Hello::Tool { protocol: PROTOCOL })?;
        connection.send(FrameKind::Greeting, hello.into())?;
        match tokio::time::timeout(CONNECT_MAX, next(&mut incoming)).await.context("wait for the node")?? {
            FromNode::Welcome(Welcome { process, .. }) => {
                let way = Way::Here { connection, incoming, socket: socket.to_owned(), asked: 0 };
                Ok(Self { way, id: process.node() })
            }
            FromNode::Refused { message } => Err(anyhow!(message)),
            other => bail!("the node answered {other:?} to the greeting"),
        }
    }

    /// Which node it is.
    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    /// Where it listens, on this host; none for one on another.
    pub(crate) fn socket(&self) -> Option<&Path> {
        match &self.way {
            Way::Here { socket, .. } => Some(socket),
            Way::Far(_) => None,
        }
    }

    /// The way to it, when it is on another host.
    pub(crate) fn as_far(&mut self) -> Option<&mut FarTool> {
        match &mut self.way {
            Way::Here { .. } => None,
            Way::Far(tool) => Some(tool),
        }
    }

    /// Ends the way to it; a node of another host hears that at once, and not by silence.
    pub(crate) async fn leave(self) {
        if let Way::Far(tool) = self.way {
            tool.close().await;
        }
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(&mut self, question: ToolQuestion) -> Result<String> {
        let (connection, incoming, count) = match &mut self.way {
            Way::Here { connection, incoming, asked, .. } => (connection, incoming, asked),
            Way::Far(tool) => return tool.ask(question).await.map_err(|why| anyhow!(why)),
        };
        *count += 1;
        let number = *count;
        let asked = ToNode::Tool { request: number, question };
        connection.send(FrameKind::Local, mobula_wire::encode(&asked)?.into())?;
        let answered = async {
            loop {
                match next(incoming).await? {
                    FromNode::Answer { request, answer } if request == number => {
                        return answer.map_err(|why| anyhow!(why));
                    }
                    _ => {}
                }
            }
        };
        let waited = tokio::time::timeout(ANSWER_MAX, answered).await;
        waited.map_err(|_| {
            let (id, seconds) = (self.id, ANSWER_MAX.as_secs());
            anyhow!(
                "{id} of this host did not answer within {seconds} s: its head may be away, and it tries to reach it"
            )
        })?
    }

    /// Waits until the node has closed the connection.
    pub(crate) async fn closed(&mut self) {
        if let Way::Here { incoming, .. } = &mut self.way {
            while next(incoming).await.is_ok() {}
        }
    }
}

async fn next(incoming: &mut Incoming) -> Result<FromNode> {
    let frame = incoming.next().await?;
    Ok(mobula_wire::decode_limited::<FromNode, { mobula_wire::frame::CONTROL_BYTES_MAX }>(&frame.body)?)
}

/// Asks one question and gives the answer.
pub(crate) fn once(which: &Which, question: ToolQuestion) -> Result<String> {
    exit::until_signal(async {
        let mut node = Node::of(which).await?;
        let answer = node.ask(question).await;
        node.leave().await;
        answer
    })
}

/// Reads records, one a line.
pub(crate) fn records<T: serde::de::DeserializeOwned>(text: &str) -> Result<Vec<T>> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_str(line).context("read the node's answer")).collect()
}

/// Prints rows in columns as wide as what stands in them.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    anstream::println!("{}", line(head.to_vec()));
    for row in rows {
        anstream::println!("{}", line(row.iter().map(String::as_str).collect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(address: &str) -> Result<Option<PathBuf>> {
        Which { dir: Some("/base".into()), address: Some(address.to_owned()), ..Which::default() }.named()
    }

    #[test]
    fn a_node_is_named_by_folder_socket_or_port() {
        for (address, folder) in [
            ("local", None),
            ("/n/1", Some("/n/1")),
            ("/n/1/node.sock", Some("/n/1")),
            ("127.0.0.1:6380", Some("/base/6380")),
            ("[::1]:6380", Some("/base/6380")),
        ] {
            assert_eq!(named(address).unwrap(), folder.map(PathBuf::from), "{address}");
        }
        for wrong in ["somewhere", "host:port", "host:70000"] {
            let error = named(wrong).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().contains("host:port"), "{error}");
        }
    }
}
