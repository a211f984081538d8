//! What can happen to a node: everything comes to the one task that owns its state in one of these words.

use std::collections::BTreeMap;

use bytes::Bytes;
use mobula_net::Connection;
use mobula_types::{HeadId, ProcessId};
use mobula_wire::cluster::{ClusterTalk, FromHead};
use mobula_wire::local::{RequestId, ToNode, ToolQuestion};
use tokio::sync::oneshot;

use super::membership::Registered;
use super::workers::programs::{ProgramHash, ProgramInUse};

/// Inputs that may wait before those who bring them wait: each is small, and takes some microseconds.
pub(crate) const INPUTS_MAX: usize = 16_384;

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// A driver wants to begin.
    DriverCame(DriverCame),
    /// A worker has shown its secret.
    WorkerCame { token: String, pid: u32, connection: Connection, reply: Reply },
    /// A process has said something.
    Said { process: ProcessId, said: ToNode },
    /// A parcel for the node itself, or for the home of detached actors.
    Parcel { body: Bytes },
    /// A process's connection is over.
    Gone { process: ProcessId, why: String },
    /// The command line asks.
    Asked { connection: Connection, request: RequestId, question: ToolQuestion },
    /// The head speaks, from this process or from elsewhere.
    FromHead { head: HeadId, said: FromHead },
    /// Another node says something.
    Talk { from: ProcessId, talk: Box<ClusterTalk> },
    /// Another node does not answer, does not let this one in, or has ended the session.
    PeerLost { peer: ProcessId },
    /// The node has registered again, or will not be.
    Registered(Registered),
    /// A program is here, or cannot be had.
    Program { program: ProgramHash, result: Result<ProgramInUse, String> },
    /// End, and say so.
    Stop { done: oneshot::Sender<()> },
}

/// Tells a process's reader who it is, or why it is nobody.
pub(crate) type Reply = oneshot::Sender<Result<ProcessId, String>>;

/// A driver that wants to begin.
#[derive(Debug)]
pub(crate) struct DriverCame {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) working_dir: Option<String>,
    pub(crate) pid: u32,
    /// What the node gave it, or what started it, when the node runs it.
    pub(crate) worker_token: Option<String>,
    pub(crate) program: ProgramInUse,
    pub(crate) connection: Connection,
    pub(crate) reply: Reply,
}
