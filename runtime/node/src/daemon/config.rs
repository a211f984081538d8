//! How a node is started, and what can be wrong with that.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use mobula_net::token::Token;
use mobula_types::program::Platform;
use mobula_types::resources::Resources;

use super::workers::{MEMORY_THRESHOLD, MemoryFiles};

/// The port of a node unless another is given.
pub const PORT: u16 = 6379;

/// A certificate is renewed two days before its end.
const RENEWAL_LOOK: Duration = Duration::from_secs(3_600);

/// How to start a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its folder: one per node, closed to others.
    pub folder: PathBuf,
    /// Where it takes connections of other hosts; port 0 takes a free one.
    pub bind: SocketAddr,
    /// Where the others reach it; found by itself when it is none.
    pub advertise: Option<IpAddr>,
    /// Whether it is the head, or where the head is.
    pub part: Part,
    /// What it has.
    pub resources: Resources,
    /// Which programs its host can run; an empty machine tries all.
    pub platform: Platform,
    /// What it is called and where it stands.
    pub labels: BTreeMap<String, String>,
    /// For how long a program on another host that is attached here may resume a lost connection before its job ends.
    pub resume_max: Duration,
    /// A node that has not heard of its head for so long stops all that it runs, and comes as a new one (G13).
    pub fence_after: Duration,
    /// Between two looks at this node's certificate: one that has less than a third of its life left is renewed.
    pub renewal_look: Duration,
    /// The part of the host's memory, from 0 to 1, above which workers end, one after another (G15).
    pub memory_threshold: f64,
    /// Where it is said how much is used.
    pub memory_files: MemoryFiles,
    /// Memory that the processes of this host may share, in bytes; it is taken as it is needed.
    pub store_bytes: u64,
    /// What of it is made before it is asked for, in bytes, while the host has memory to spare.
    pub store_ahead_bytes: u64,
    /// Where values are written when that memory is short; `spill` in the node's folder when it is none. Each node needs one
    /// of its own.
    pub spill_folder: Option<PathBuf>,
    /// At most so many bytes are there; the disk decides when it is none.
    pub spill_bytes_max: Option<u64>,
}

/// The part a node has in its cluster.
#[derive(Clone, Debug)]
pub enum Part {
    /// It is the head.
    Head,
    /// It belongs to a head.
    Member {
        /// Where the head is.
        head: SocketAddr,
        /// With what it joins, when it has not before.
        token: Option<Token>,
    },
}

/// What a node makes ahead of `store_bytes`, unless it is told otherwise.
pub fn store_ahead_bytes(store_bytes: u64) -> u64 {
    mobula_store::ahead::AHEAD_BYTES.min(store_bytes / 4)
}

impl NodeConfig {
    /// A head in `folder`, on loopback, with what this host has.
    pub fn head(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)),
            advertise: None,
            part: Part::Head,
            resources: super::hardware::resources(),
            platform: super::workers::platform::of_this_host(),
            labels: BTreeMap::new(),
            resume_max: mobula_logic::attachment::RESUME_MAX,
            fence_after: mobula_logic::lease::FENCE_AFTER,
            renewal_look: RENEWAL_LOOK,
            memory_threshold: MEMORY_THRESHOLD,
            memory_files: MemoryFiles::of_this_host(),
            store_bytes: MemoryFiles::of_this_host().part(mobula_store::arena::BUDGET_PART),
            store_ahead_bytes: 0,
            spill_folder: None,
            spill_bytes_max: None,
        }
    }

    /// A node of the head at `head`.
    pub fn member(folder: impl Into<PathBuf>, head: SocketAddr, token: Option<Token>) -> Self {
        Self { part: Part::Member { head, token }, ..Self::head(folder) }
    }
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another node has the folder.
    #[error("a node runs in {folder} already: stop it with `mobula stop`, or give this one another --dir or --port", folder = folder.display())]
    Running {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder cannot be used.
    #[error("cannot use the folder {folder}: {source}", folder = folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The socket for the processes of this host.
    #[error(transparent)]
    Socket(#[from] mobula_net::unix::UnixError),
    /// The port for other hosts, or the way to the head.
    #[error(transparent)]
    Net(#[from] mobula_net::NetError),
    /// The certificate in the folder.
    #[error(transparent)]
    Identity(#[from] mobula_net::identity::IdentityError),
    /// The cluster's CA in the head's folder.
    #[error(transparent)]
    Authority(#[from] mobula_net::authority::AuthorityError),
    /// It is a member of no cluster, and has no token.
    #[error("{folder} has not joined the cluster at {head}: run `mobula token create` on the head's host and start this node with --token=<what it prints>", folder = folder.display())]
    NoToken {
        /// The folder.
        folder: PathBuf,
        /// The head.
        head: SocketAddr,
    },
    /// The logs or programs in the folder.
    #[error("{0}")]
    Kept(String),
    /// The head's records.
    #[error("cannot open the control store: {0}")]
    Store(String),
}
