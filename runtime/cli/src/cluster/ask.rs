//! A question to the node of this host: which one, and what it answers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use mobula_net::unix::UnixError;
use mobula_net::{Connection, Incoming, unix};
use mobula_node::daemon::{SOCKET, config};
use mobula_wire::local::{FromNode, Hello, ToNode, ToolQuestion};
use mobula_wire::{FrameKind, PROTOCOL};

use crate::exit::{self, Usage};

/// Which node is meant.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Which {
    /// The folder that holds the folders of this host's nodes
    #[arg(long, value_name = "DIR", env = "MOBULA_DIR", global = true)]
    dir: Option<PathBuf>,

    /// The port of the node; needed when several run here
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
}

/// A node takes the connection of a tool in microseconds, even with a full CPU.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A node asks its head, and all nodes their processes: each has some seconds, then it answers with what there is.
const ANSWER_MAX: Duration = Duration::from_secs(35);

/// The folder that holds the folders of this host's nodes.
pub(crate) fn base(dir: Option<&Path>) -> Result<PathBuf> {
    let home = || std::env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| PathBuf::from(home).join(".mobula"));
    let base = dir.map(Path::to_owned).or_else(home).ok_or_else(|| {
        Usage("neither HOME nor MOBULA_DIR is set: say where nodes keep their files, with --dir".to_owned())
    })?;
    std::path::absolute(&base).with_context(|| format!("find {}", base.display()))
}

impl Which {
    /// The sockets of the nodes that may be meant.
    fn socket(&self) -> Result<PathBuf> {
        let base = base(self.dir.as_deref())?;
        if let Some(port) = self.port {
            return Ok(base.join(port.to_string()).join(SOCKET));
        }
        let folders = std::fs::read_dir(&base).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut sockets: Vec<PathBuf> = folders.map(|folder| folder.join(SOCKET)).filter(|socket| socket.exists()).collect();
        sockets.sort();
        match &sockets[..] {
            [only] => Ok(only.clone()),
            [] => bail!("no node runs here: start one with `mobula start --head` (looked in {})", base.display()),
            several => {
                let usual = base.join(config::PORT.to_string()).join(SOCKET);
                if several.contains(&usual) {
                    return Ok(usual);
                }
                let ports = several.iter().filter_map(|socket| socket.parent()?.file_name()?.to_str());
                let ports: Vec<&str> = ports.collect();
                Err(Usage(format!("several nodes run here: say which with --port, one of {}", ports.join(", "))).into())
            }
        }
    }
}

/// A connection to a node.
pub(crate) struct Node {
    connection: Connection,
    incoming: Incoming,
    asked: u64,
}

impl Node {
    /// Goes to the node that is meant.
    pub(crate) async fn of(which: &Which) -> Result<Self> {
        Self::at(&which.socket()?).await
    }

    /// Goes to the node at a socket.
    pub(crate) async fn at(socket: &Path) -> Result<Self> {
        let (connection, mut incoming) = match unix::connect(socket, CONNECT_MAX).await {
            Ok(connected) => connected,
            Err(UnixError::Nobody { path }) => {
                bail!("no node listens at {}: start it with `mobula start`", path.display())
            }
            Err(error) => return Err(error.into()),
        };
        let hello = mobula_wire::encode(&Hello::Tool { protocol: PROTOCOL })?;
        connection.send(FrameKind::Greeting, hello.into())?;
        match tokio::time::timeout(CONNECT_MAX, next(&mut incoming)).await.context("wait for the node")?? {
            FromNode::Welcome(_) => Ok(Self { connection, incoming, asked: 0 }),
            FromNode::Refused { message } => Err(anyhow!(message)),
            other => bail!("the node answered {other:?} to the greeting"),
        }
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(&mut self, question: ToolQuestion) -> Result<String> {
        self.asked += 1;
        let asked = ToNode::Tool { request: self.asked, question };
        self.connection.send(FrameKind::Local, mobula_wire::encode(&asked)?.into())?;
        let answered = async {
            loop {
                match next(&mut self.incoming).await? {
                    FromNode::Answer { request, answer } if request == self.asked => {
                        return answer.map_err(|why| anyhow!(why));
                    }
                    _ => {}
                }
            }
        };
        let waited = tokio::time::timeout(ANSWER_MAX, answered).await;
        waited.map_err(|_| anyhow!("the node did not answer within {} s", ANSWER_MAX.as_secs()))?
    }

    /// Waits until the node has closed the connection.
    pub(crate) async fn closed(&mut self) {
        while next(&mut self.incoming).await.is_ok() {}
    }
}

async fn next(incoming: &mut Incoming) -> Result<FromNode> {
    let frame = incoming.next().await?;
    Ok(mobula_wire::decode_limited::<FromNode, { mobula_wire::frame::CONTROL_BYTES_MAX }>(&frame.body)?)
}

/// Asks one question and gives the answer.
pub(crate) fn once(which: &Which, question: ToolQuestion) -> Result<String> {
    exit::until_signal(async { Node::of(which).await?.ask(question).await })
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
