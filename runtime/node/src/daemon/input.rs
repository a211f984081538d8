//! What can happen to a node: everything comes to the one task that owns its state in one of these words.

use std::collections::BTreeMap;

use bytes::Bytes;
use mobula_logic::attachment;
use mobula_net::{Issued, Line, Refusal};
use mobula_types::{HeadId, ObjectId, ProcessId, Role};
use mobula_wire::cluster::{ClusterTalk, FromHead};
use mobula_wire::local::{FromNode, RequestId, ToNode, ToolQuestion};
use tokio::sync::oneshot;

use super::door::say_greeting;
use super::far::FarCame;
use super::luggage::Arrived;
use super::membership::Registered;
use super::spill::Done;
use super::workers::programs::{ProgramHash, ProgramInUse};

/// Inputs that may wait before those who bring them wait: each is small, and takes some microseconds.
pub(crate) const INPUTS_MAX: usize = 16_384;

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// A driver wants to begin.
    DriverCame(DriverCame),
    /// A worker has shown its secret.
    WorkerCame { token: String, pid: u32, line: Line, reply: Reply },
    /// A process has said something.
    Said { process: ProcessId, said: ToNode },
    /// A parcel for the node itself, or for the home of detached actors.
    Parcel { body: Bytes },
    /// A process's connection is over.
    Gone { process: ProcessId, why: String },
    /// The command line asks.
    Asked { line: Line, request: RequestId, question: ToolQuestion },
    /// Somebody on another host comes.
    FarCame(FarCame),
    /// Something was seen of the connection to a process on another host.
    Far { process: ProcessId, seen: attachment::Input },
    /// Somebody on another host shows a join token to this node, which is not the head.
    Redeem(Redeem),
    /// The head speaks, from this process or from elsewhere.
    FromHead { head: HeadId, said: FromHead },
    /// Another node says something.
    Talk { from: ProcessId, talk: Box<ClusterTalk> },
    /// Another node does not answer, does not let this one in, or has ended the session.
    PeerLost { peer: ProcessId },
    /// The node has registered again, or will not be.
    Registered(Registered),
    /// Nothing more is written in the room that a process made for an object.
    Filled { process: ProcessId, object: ObjectId, is_whole: bool },
    /// Some of a copy has come from another node.
    Coming { object: ObjectId },
    /// No other node reads a copy any more on which nothing counts.
    Unread { object: ObjectId },
    /// A program is here, or cannot be had from those that were asked.
    Program { program: ProgramHash, result: Result<ProgramInUse, String>, asked: Vec<ProcessId> },
    /// All of a submission from another host is here, or cannot be.
    Arrived(Arrived),
    /// The files for values have done something.
    Spill(Done),
    /// End, and say so.
    Stop { done: oneshot::Sender<()> },
}

/// Tells a process's reader who it is, or why it is nobody.
pub(crate) type Reply = oneshot::Sender<Result<ProcessId, String>>;

/// Who hears how it went when a driver wants to begin.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Its reader at the door.
    AtDoor(Reply),
    /// Itself, on another host.
    OnLine(Line),
}

impl Answer {
    /// It may not begin.
    pub(crate) fn refuse(self, message: String) {
        match self {
            // Who does not wait any more hears nothing.
            Self::AtDoor(reply) => drop(reply.send(Err(message))),
            Self::OnLine(line) => {
                say_greeting(&line, &FromNode::Refused { message });
                line.close("it was refused");
            }
        }
    }

    /// It has begun as this process; false when nobody waits for that any more.
    pub(crate) fn admit(self, process: ProcessId) -> bool {
        match self {
            Self::AtDoor(reply) => reply.send(Ok(process)).is_ok(),
            Self::OnLine(_) => true,
        }
    }
}

/// A driver that wants to begin.
#[derive(Debug)]
pub(crate) struct DriverCame {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) working_dir: Option<String>,
    /// Its number on this host, if it is on this host.
    pub(crate) pid: Option<u32>,
    /// Its number at this node, if it has one already.
    pub(crate) number: Option<u32>,
    /// What the node gave it, or what started it, when the node runs it.
    pub(crate) worker_token: Option<String>,
    pub(crate) program: ProgramInUse,
    pub(crate) line: Line,
    pub(crate) answer: Answer,
}

/// A join token that somebody has shown.
#[derive(Debug)]
pub(crate) struct Redeem {
    pub(crate) id: [u8; 8],
    pub(crate) hash: [u8; 32],
    pub(crate) role: Role,
    pub(crate) key: [u8; 32],
    pub(crate) reply: oneshot::Sender<Result<Issued, Refusal>>,
}
