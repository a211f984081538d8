//! The socket for the processes of this host: who they are, then what they say.
//!
//! One task per connection reads. Parcels go on by [`Routes`] from right here; all else goes to the task that owns the
//! node's state.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mobula_net::unix::{Listener, PeerProcess};
use mobula_net::{Cause, Connection, Frame, Incoming, Line, Refusal};
use mobula_types::ProcessId;
use mobula_wire::frame::{CONTROL_BYTES_MAX, GREETING_BYTES_MAX};
use mobula_wire::local::{FromNode, Hello, ToNode, Welcome};
use mobula_wire::{FrameKind, PROTOCOL};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::hauls::Hauls;
use super::input::{Answer, DriverCame, Input};
use super::routes::{Forwarded, Routes};
use super::workers::{Programs, descent, guard};

/// The first words must come in this time: who does not say who it is takes a descriptor for nothing.
const GREETING_MAX: Duration = Duration::from_secs(10);

/// A refusal is a few bytes; who does not read them goes without.
const REFUSAL_MAX: Duration = Duration::from_secs(1);

/// Connections that have not said who they are, at once; more wait in the socket's backlog.
const GREETINGS_MAX: usize = 64;

/// After the system had no descriptor left for a connection, the next try waits: some may have been given back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Parts of one process's large payloads that wait for the network, of a megabyte at most: as many as one lane to another
/// node holds. Who has more on its way waits with all it says.
const PARTS_MAX: usize = 64;

/// What every reader needs.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) programs: Programs,
    pub(crate) hauls: Arc<Hauls>,
}

impl Door {
    /// Takes connections until the task is ended.
    pub(crate) async fn open(self, listener: Listener) {
        let room = Arc::new(Semaphore::new(GREETINGS_MAX));
        loop {
            let Ok(place) = room.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((connection, incoming, peer)) => {
                    let door = self.clone();
                    tokio::spawn(async move { door.greet(connection, incoming, peer, place).await });
                }
                Err(error) => {
                    tracing::error!(%error, "no connection can be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn greet(
        self,
        connection: Connection,
        mut incoming: Incoming,
        peer: PeerProcess,
        place: tokio::sync::OwnedSemaphorePermit,
    ) {
        if let Err(Refusal { cause, message }) = self.clone().admit(&connection, &mut incoming, peer, place).await {
            if let Some(mesh) = self.routes.mesh() {
                mesh.refusals().count(cause);
            }
            say_greeting(&connection.clone().into(), &FromNode::Refused { message });
            connection.close("it was refused");
            // The words leave before the reader is dropped, or never.
            tokio::time::timeout(REFUSAL_MAX, connection.closed()).await.ok();
        }
    }

    /// Hears who comes, and reads what it says until it goes.
    async fn admit(
        self,
        connection: &Connection,
        incoming: &mut Incoming,
        peer: PeerProcess,
        place: tokio::sync::OwnedSemaphorePermit,
    ) -> Result<(), Refusal> {
        let Ok(Ok(first)) = tokio::time::timeout(GREETING_MAX, incoming.next()).await else { return Ok(()) };
        let hello = match first.kind {
            FrameKind::Greeting => mobula_wire::decode_limited::<Hello, GREETING_BYTES_MAX>(&first.body),
            _ => return Err(malformed("the first words are a greeting".to_owned())),
        };
        let hello = hello.map_err(|error| malformed(format!("the greeting cannot be read: {error}")))?;
        let protocol = match &hello {
            Hello::Driver { protocol, .. } | Hello::Worker { protocol, .. } | Hello::Tool { protocol } => *protocol,
        };
        if protocol != PROTOCOL {
            let message = format!(
                "this node speaks protocol {PROTOCOL}, the program {protocol}: build both with one version of mobula"
            );
            return Err(Refusal::because(Cause::Protocol, message));
        }
        let (reply, admitted) = oneshot::channel();
        let failed = |message| Refusal::because(Cause::Failed, message);
        let cause = if matches!(hello, Hello::Worker { .. }) { Cause::WorkerUnknown } else { Cause::Failed };
        let input = match hello {
            Hello::Driver { name, env, namespace, .. } => {
                let came = self.driver(name, (env, namespace), connection, peer, reply).await;
                Input::DriverCame(came.map_err(failed)?)
            }
            Hello::Worker { token, .. } => {
                Input::WorkerCame { token, pid: peer.pid.unsigned_abs(), line: connection.clone().into(), reply }
            }
            Hello::Tool { .. } => {
                drop(place);
                let process = self.routes.node().into();
                say_greeting(&connection.clone().into(), &FromNode::Welcome(Welcome { process, ..Welcome::default() }));
                self.read_tool(connection, incoming).await;
                return Ok(());
            }
        };
        let stopping = || failed("this node is stopping".to_owned());
        self.inputs.send(input).await.map_err(|_| stopping())?;
        let admitted = admitted.await.map_err(|_| stopping())?;
        let process = admitted.map_err(|message| Refusal::because(cause, message))?;
        drop(place);
        self.read(process, connection, incoming).await;
        Ok(())
    }

    /// Keeps the program that the driver runs.
    async fn driver(
        &self,
        name: String,
        (env, namespace): (std::collections::BTreeMap<String, String>, Option<String>),
        connection: &Connection,
        peer: PeerProcess,
        reply: super::input::Reply,
    ) -> Result<DriverCame, String> {
        let of_process = |what: &str| PathBuf::from(format!("/proc/{}/{what}", peer.pid));
        let (exe, cwd, programs) = (of_process("exe"), of_process("cwd"), self.programs.clone());
        let kept = tokio::task::spawn_blocking(move || {
            let hash = programs.keep(&exe)?;
            let worker_token =
                descent::variable(peer.pid, guard::TOKEN).and_then(|token| String::from_utf8(token).ok());
            Ok((programs.use_program(hash)?, std::fs::read_link(cwd).ok(), worker_token))
        });
        let kept: Result<_, super::workers::programs::ProgramError> =
            kept.await.map_err(|error| format!("keeping its program failed: {error}"))?;
        let (program, cwd, worker_token) = kept.map_err(|error| error.to_string())?;
        Ok(DriverCame {
            name,
            namespace,
            env,
            working_dir: cwd.and_then(|cwd| cwd.to_str().map(str::to_owned)),
            pid: Some(peer.pid.unsigned_abs()),
            number: None,
            worker_token,
            program,
            line: connection.clone().into(),
            answer: Answer::AtDoor(reply),
        })
    }

    async fn read(self, process: ProcessId, connection: &Connection, incoming: &mut Incoming) {
        let mut parts = None;
        let why = loop {
            let Frame { kind, body } = match incoming.next().await {
                Ok(frame) => frame,
                Err(closed) => break closed.to_string(),
            };
            match kind {
                FrameKind::Part if self.routes.is_for_another_node(&body) => {
                    let parts = parts.get_or_insert_with(|| self.send_parts(process, connection));
                    if parts.send(body).await.is_err() {
                        break "it spoke in the name of another".to_owned();
                    }
                }
                FrameKind::Parcel | FrameKind::Part => match self.routes.forward_from(process, kind, body).await {
                    Forwarded::Done => {}
                    Forwarded::Dead(death) => self.routes.say(&connection.clone().into(), &FromNode::Died(death)),
                    Forwarded::Wrong => break "it spoke in the name of another".to_owned(),
                },
                FrameKind::Local => match mobula_wire::decode_limited::<ToNode, CONTROL_BYTES_MAX>(&body) {
                    Ok(said) => {
                        let Some(said) = self.hauls.said(process, said) else { continue };
                        if self.inputs.send(Input::Said { process, said }).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => break format!("what it says cannot be read: {error}"),
                },
                FrameKind::Heartbeat => {}
                FrameKind::Greeting | FrameKind::Cluster => break "it says what only others say".to_owned(),
            }
        };
        connection.close(why.clone());
        self.inputs.send(Input::Gone { process, why }).await.ok();
    }

    /// Sends parts of a process's large payloads to other nodes, so that its messages need not wait behind them.
    fn send_parts(&self, process: ProcessId, connection: &Connection) -> mpsc::Sender<Bytes> {
        let (parts, mut waiting) = mpsc::channel(PARTS_MAX);
        let (routes, line) = (self.routes.clone(), Line::from(connection.clone()));
        tokio::spawn(async move {
            while let Some(part) = waiting.recv().await {
                match routes.forward_from(process, FrameKind::Part, part).await {
                    Forwarded::Done => {}
                    Forwarded::Dead(death) => routes.say(&line, &FromNode::Died(death)),
                    Forwarded::Wrong => return,
                }
            }
        });
        parts
    }

    async fn read_tool(self, connection: &Connection, incoming: &mut Incoming) {
        while let Ok(Frame { kind, body }) = incoming.next().await {
            let said = match kind {
                FrameKind::Local => mobula_wire::decode_limited::<ToNode, CONTROL_BYTES_MAX>(&body),
                _ => break,
            };
            let Ok(ToNode::Tool { request, question }) = said else { break };
            let input = Input::Asked { line: connection.clone().into(), request, question };
            if self.inputs.send(input).await.is_err() {
                break;
            }
        }
        connection.close("it has gone");
    }
}

fn malformed(message: String) -> Refusal {
    Refusal::because(Cause::Malformed, message)
}

/// The first words of a node are a greeting too.
pub(crate) fn say_greeting(line: &Line, said: &FromNode) {
    if let Ok(body) = mobula_wire::encode(said) {
        // A line that does not take it is found out by its reader.
        line.send_greeting(body.into()).ok();
    }
}
