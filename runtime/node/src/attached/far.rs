//! The way to a node on another host: a certificate for a token, a session of the mesh, and the program handed over.
//!
//! ```text
//! no certificate ──token──► joined ──► session ──the node asks for what it lacks──► welcome ──► as on the node's host
//! ```
//!
//! The certificate is kept in a folder that is closed to others, so that a token is needed once. A lost connection is made
//! again by the session, in which nothing is lost and nothing comes twice; for how long that may take the node says.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::Seek;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mobula_actor::arbiters;
use mobula_logic::attachment::{Attachment, End, Input, Output};
use mobula_net::identity::{Credentials, IdentityError};
use mobula_net::token::Pin;
use mobula_net::{
    Admitted, Cause, Event, Frame, Gate, Identity, Lane, Line, Mesh, MeshConfig, MeshEvents, NetError, PeerIdentity,
    Refusal, Token, join_as_any,
};
use mobula_types::{DeathCause, ProcessId, Role, StateMachine, Time};
use mobula_wire::FrameKind;
use mobula_wire::cluster::{ClusterTalk, DriverWelcome, Greeting, PROGRAM_PART_BYTES};
use mobula_wire::frame::CONTROL_BYTES_MAX;
use mobula_wire::local::{FromNode, Sent, ToNode, ToolQuestion, Welcome};
use tokio::time::Instant;

use super::renewal::Renewing;

/// A node on another host.
#[derive(Clone, PartialEq, Eq)]
pub struct FarNode {
    /// `host:port` of any node of the cluster.
    pub address: String,
    /// What `mobula token create` printed, or the path of a file that holds it; not needed by who has joined before.
    pub token: Option<String>,
    /// Where certificates are kept; nowhere when there is none.
    pub folder: Option<PathBuf>,
}

impl std::fmt::Debug for FarNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FarNode").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Why there is no way to a node on another host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FarError {
    /// The address is none.
    #[error("{address}: {message}, expected host:port of a node")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        message: String,
    },
    /// There is no token, and no certificate of an earlier one.
    #[error(
        "this user has not joined the cluster at {address} from this host: run `mobula token create --role {role}` on the \
         head's host, and give what it prints in MOBULA_TOKEN, or the path of a file that holds it"
    )]
    NoToken {
        /// The node.
        address: String,
        /// The role that is needed.
        role: Role,
    },
    /// What was given is no token.
    #[error("{0}")]
    Token(String),
    /// The network, or what the node says before it takes anybody in.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// This program cannot be read, so it cannot be handed over.
    #[error("this program cannot be read to be handed over: {0}")]
    Program(std::io::Error),
    /// The node says no.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
    },
    /// The session ended before the node had taken the program in.
    #[error("the node {0} before it had taken the program in")]
    Over(DeathCause),
}

/// A join or the entering of a node takes a few round trips; a node that starts is waited for.
const ENTER_MAX: Duration = Duration::from_secs(10);

/// The node says something in this time while it takes the program in: it asks for parts, and its head has to answer.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// The command line is answered in this time.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A program and its folder have been brought in this time: five gigabytes at 10 MB/s.
const UPLOAD_MAX: Duration = Duration::from_secs(600);

/// Parts of the program that are read at once: the node asks for as many ahead.
const READS_MAX: usize = 8;

/// Attaches as a driver: returns when the node has the program.
pub(super) async fn attach(
    node: &FarNode,
    name: String,
    env: BTreeMap<String, String>,
    namespace: Option<String>,
) -> Result<(Session, Welcome), FarError> {
    let program = tokio::task::spawn_blocking(Program::of_this_process);
    let program = program.await.map_err(std::io::Error::other).and_then(|read| read).map_err(FarError::Program)?;
    let (hash, bytes) = (program.hash, program.bytes);
    let greeting = Greeting::Driver { name, env, namespace, program: hash, program_bytes: bytes };
    let mut session = Session::enter(node, Visit::Driver, &greeting, vec![program]).await?;
    let welcome = session.welcome().await?;
    Ok((session, welcome))
}

/// A program that is to run in the cluster, with files of this host.
#[derive(Debug)]
pub struct FarSubmission {
    /// How it was called.
    pub name: String,
    /// Its file.
    pub program: fs::File,
    /// The folder where it starts, as [`pack`](crate::daemon::workers::folder::pack) has written it; none for an empty one.
    pub folder: Option<fs::File>,
    /// Its arguments, after its name.
    pub args: Vec<String>,
    /// Variables of its environment.
    pub env: BTreeMap<String, String>,
}

/// The command line of another host, at a node.
pub struct FarTool {
    session: Session,
    asked: u64,
}

impl FarTool {
    /// Goes to a node.
    ///
    /// # Errors
    ///
    /// [`FarError`].
    pub async fn enter(node: &FarNode) -> Result<Self, FarError> {
        let mut session = Session::enter(node, Visit::Tool, &Greeting::Tool, Vec::new()).await?;
        session.welcome().await?;
        Ok(Self { session, asked: 0 })
    }

    /// Goes to a node as somebody who may run programs, and does so.
    ///
    /// # Errors
    ///
    /// [`FarError`].
    pub async fn enter_to_submit(node: &FarNode) -> Result<Self, FarError> {
        let mut session = Session::enter(node, Visit::Driver, &Greeting::Tool, Vec::new()).await?;
        session.welcome().await?;
        Ok(Self { session, asked: 0 })
    }

    /// Has a program run in the cluster, as the driver of a job; the node asks for the files that it lacks. Gives what
    /// [`SubmissionStatus`](mobula_types::state::SubmissionStatus) is read from.
    ///
    /// # Errors
    ///
    /// A file cannot be read, what the node says, or that it does not answer.
    pub async fn submit(&mut self, submission: FarSubmission) -> Result<String, String> {
        let FarSubmission { name, program, folder, args, env } = submission;
        let read = tokio::task::spawn_blocking(move || {
            let folder = folder.map(Program::of).transpose()?;
            Ok::<_, std::io::Error>((Program::of(program)?, folder))
        });
        let (program, folder) = read
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("what is to be submitted cannot be read: {error}"))?;
        let sent = |program: &Program| Sent { hash: program.hash, bytes: program.bytes };
        let question =
            ToolQuestion::SubmitFar { name, program: sent(&program), folder: folder.as_ref().map(sent), args, env };
        self.session.programs = [Some(program), folder].into_iter().flatten().collect();
        self.ask_within(question, UPLOAD_MAX).await
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    ///
    /// What the node says, or that it does not answer.
    pub async fn ask(&mut self, question: ToolQuestion) -> Result<String, String> {
        self.ask_within(question, ANSWER_MAX).await
    }

    async fn ask_within(&mut self, question: ToolQuestion, within: Duration) -> Result<String, String> {
        self.asked += 1;
        let asked = ToNode::Tool { request: self.asked, question };
        let asked = mobula_wire::encode(&asked).map_err(|error| error.to_string())?;
        self.session.line().send(FrameKind::Local, asked.into()).map_err(|error| error.to_string())?;
        let answered = async {
            loop {
                let frame = self.session.next().await.map_err(|cause| format!("the node {cause}"))?;
                match mobula_wire::decode_limited::<FromNode, CONTROL_BYTES_MAX>(&frame.body) {
                    Ok(FromNode::Answer { request, answer }) if request == self.asked => return answer,
                    Ok(_) => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
        };
        let late = || Err(format!("the node did not answer within {within:?}: its head may be away"));
        tokio::time::timeout(within, answered).await.unwrap_or_else(|_| late())
    }

    /// Which node it is.
    pub fn node(&self) -> mobula_types::NodeId {
        self.session.node.node()
    }

    /// Ends the session.
    pub async fn close(self) {
        self.session.mesh.end(self.session.node);
        self.session.mesh.close().await;
    }
}

impl std::fmt::Debug for FarTool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FarTool").field("node", &self.session.node).finish_non_exhaustive()
    }
}

/// As what somebody comes.
#[derive(Clone, Copy)]
enum Visit {
    Driver,
    Tool,
}

impl Visit {
    /// The roles that may come so, the one that is asked for first.
    const fn roles(self) -> &'static [Role] {
        match self {
            Self::Driver => &[Role::Driver, Role::Admin],
            Self::Tool => &[Role::Viewer, Role::Driver, Role::Admin],
        }
    }

    const fn folder(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Tool => "tool",
        }
    }
}

/// A session with a node on another host.
pub(super) struct Session {
    mesh: Mesh,
    events: MeshEvents,
    node: ProcessId,
    attachment: Attachment,
    begun: Instant,
    renewing: Renewing,
    /// What the node may ask for.
    programs: Vec<Program>,
    reads: Arc<tokio::sync::Semaphore>,
}

impl Session {
    async fn enter(
        node: &FarNode,
        visit: Visit,
        greeting: &Greeting,
        programs: Vec<Program>,
    ) -> Result<Self, FarError> {
        let wrong = |message: String| FarError::Address { address: node.address.clone(), message };
        let hello = mobula_wire::encode(greeting).map_err(|error| FarError::Refused { message: error.to_string() })?;
        let mut found = tokio::net::lookup_host(&node.address).await.map_err(|error| wrong(error.to_string()))?;
        let addr = found.next().ok_or_else(|| wrong("the name has no address".into()))?;
        let identity = identity(node, visit, addr).await?;
        let credentials = Credentials::new(&identity)?;
        let folder = node.folder.as_deref().map(|folder| kept_in(folder, &node.address, visit));
        let renewing = Renewing::new(identity, credentials.clone(), folder);
        // Its tasks must live as long as the program, whatever runtime this is called on.
        let entered = arbiters::runtime().spawn(async move {
            let (mesh, events) = Mesh::bind(MeshConfig::of_driver(addr, credentials), Arc::new(Nobody)).await?;
            match mesh.enter(addr, hello.into(), ENTER_MAX).await {
                Ok((node, welcome)) => Ok((mesh, events, node, welcome)),
                Err(error) => {
                    mesh.close().await;
                    Err(error)
                }
            }
        });
        let entered = entered.await.map_err(|error| FarError::Refused { message: error.to_string() })?;
        let (mesh, events, node, welcome) = entered?;
        let welcome = mobula_wire::decode::<DriverWelcome>(&welcome);
        let DriverWelcome { resume_ms, .. } =
            welcome.map_err(|error| FarError::Refused { message: format!("its welcome cannot be read: {error}") })?;
        let attachment = Attachment::new(Time::ZERO, Duration::from_millis(resume_ms));
        let reads = Arc::new(tokio::sync::Semaphore::new(READS_MAX));
        Ok(Self { mesh, events, node, attachment, begun: Instant::now(), renewing, programs, reads })
    }

    pub(super) fn line(&self) -> Line {
        Line::Session { mesh: self.mesh.clone(), peer: self.node }
    }

    /// The node's first words, which come when it has all it needs.
    async fn welcome(&mut self) -> Result<Welcome, FarError> {
        let first = self.first_words().await;
        if first.is_err() {
            self.mesh.end(self.node);
            self.mesh.close().await;
        }
        first
    }

    async fn first_words(&mut self) -> Result<Welcome, FarError> {
        let refused = |message| Err(FarError::Refused { message });
        let frame = match tokio::time::timeout(QUIET_MAX, self.next()).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(cause)) => return Err(FarError::Over(cause)),
            Err(_) => return refused(format!("the node has said nothing for {QUIET_MAX:?}")),
        };
        match mobula_wire::decode_limited::<FromNode, CONTROL_BYTES_MAX>(&frame.body) {
            Ok(FromNode::Welcome(welcome)) => Ok(welcome),
            Ok(FromNode::Refused { message }) => refused(message),
            Ok(_) => refused("its first word is no welcome".into()),
            Err(error) => refused(error.to_string()),
        }
    }

    /// The next frame of what is said to a process; else why there will be none.
    ///
    /// # Cancel safety
    ///
    /// A wait that is dropped loses nothing.
    pub(super) async fn next(&mut self) -> Result<Frame, DeathCause> {
        loop {
            self.renew();
            let due = self.attachment.next_timeout().map(|at| self.begun + at.since(Time::ZERO));
            let look = self.renewing.next_look();
            let due = Some(due.map_or(look, |due| due.min(look)));
            let event = tokio::select! {
                event = self.events.next() => event,
                () = crate::daemon::until(due) => {
                    self.saw(Input::Tick)?;
                    continue;
                }
            };
            match event {
                Some(Event::Frame { kind: FrameKind::Cluster, body, .. }) => self.heard(&body),
                Some(Event::Frame { kind, body, .. }) => return Ok(Frame { kind, body }),
                Some(Event::Up { .. }) => self.saw(Input::Connected)?,
                Some(Event::Down { why, .. }) => {
                    tracing::warn!(node = %self.node, why, "the connection to the node is lost, and is made again");
                    self.saw(Input::Lost)?;
                }
                Some(Event::Silent { refused: true, .. }) => self.saw(Input::Refused)?,
                Some(Event::Refused { refusal, .. }) => {
                    tracing::warn!(node = %self.node, %refusal, "the node does not let this program resume its session");
                }
                Some(Event::Ended { .. }) => self.saw(Input::Ended)?,
                Some(_) => {}
                // Closed by this process itself.
                None => return Err(DeathCause::JobStopped),
            }
        }
    }

    fn saw(&mut self, seen: Input) -> Result<(), DeathCause> {
        let now = Time::from_nanos(u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        self.attachment.handle(now, seen);
        while let Some(output) = self.attachment.poll_output() {
            let Output::Over(end) = output else { continue };
            self.mesh.end(self.node);
            return Err(match end {
                End::Killed => DeathCause::NodeKilled,
                End::Silent { lost } => {
                    DeathCause::NodeSilent { silent_ms: u64::try_from(lost.as_millis()).unwrap_or(u64::MAX) }
                }
                // It takes this program for gone: the connection was lost for too long.
                End::Left => DeathCause::Disconnected,
            });
        }
        Ok(())
    }

    fn renew(&mut self) {
        let wish = self.renewing.look(Instant::now(), SystemTime::now());
        if let Some(body) = wish.and_then(|wish| mobula_wire::encode(&wish).ok()) {
            // What is not taken is asked again at the next look.
            self.mesh.send(self.node, Lane::Control, FrameKind::Cluster, body.into()).ok();
        }
    }

    fn heard(&mut self, body: &Bytes) {
        match mobula_wire::decode_limited::<ClusterTalk, CONTROL_BYTES_MAX>(body) {
            Ok(ClusterTalk::ProgramAsk { program, offset }) => self.asked_for_program(program, offset),
            Ok(ClusterTalk::RenewIs { key, certificate }) => self.renewing.came(key, certificate),
            _ => tracing::warn!(node = %self.node, "the node asks a program for what only nodes have"),
        }
    }

    /// The node lacks a part of the program.
    fn asked_for_program(&self, program: [u8; 32], offset: u64) {
        let Some(own) = self.programs.iter().find(|own| own.hash == program).cloned() else { return };
        let (mesh, node, reads) = (self.mesh.clone(), self.node, self.reads.clone());
        arbiters::runtime().spawn(async move {
            let Ok(_turn) = reads.acquire_owned().await else { return };
            let read = tokio::task::spawn_blocking(move || own.part(offset)).await;
            let (total_bytes, bytes) = match read {
                Ok(Ok((total_bytes, bytes))) => (total_bytes, bytes.into()),
                // The node is told that there is nothing to be had.
                Ok(Err(error)) => {
                    tracing::error!(%error, "this program cannot be read");
                    (0, Bytes::new())
                }
                Err(_) => return,
            };
            let talk = ClusterTalk::ProgramPart { program, total_bytes, offset, bytes };
            if let Ok(body) = mobula_wire::encode(&talk) {
                mesh.send_when_room(node, Lane::Bulk, FrameKind::Cluster, body.into()).await.ok();
            }
        });
    }
}

/// Lets nobody in: a program is gone to by nobody.
struct Nobody;

impl Gate for Nobody {
    fn admit(&self, _: &PeerIdentity, _: Bytes) -> BoxFuture<'_, Result<Admitted, Refusal>> {
        async { Err(Refusal::new(Cause::WrongRole)) }.boxed()
    }
}

/// The executable of this process.
#[derive(Clone)]
struct Program {
    file: Arc<fs::File>,
    hash: [u8; 32],
    bytes: u64,
}

impl Program {
    fn of_this_process() -> std::io::Result<Self> {
        // The file that runs, even if another one has taken its name.
        Self::of(fs::File::open("/proc/self/exe")?)
    }

    fn of(mut file: fs::File) -> std::io::Result<Self> {
        file.rewind()?;
        let mut hasher = blake3::Hasher::new();
        let bytes = std::io::copy(&mut &file, &mut hasher)?;
        Ok(Self { file: Arc::new(file), hash: *hasher.finalize().as_bytes(), bytes })
    }

    fn part(&self, offset: u64) -> std::io::Result<(u64, Vec<u8>)> {
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(PROGRAM_PART_BYTES)];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok((self.bytes, bytes))
    }
}

/// The certificate that is kept, or one for the token.
async fn identity(node: &FarNode, visit: Visit, addr: SocketAddr) -> Result<Identity, FarError> {
    let token = node.token.as_deref().map(token).transpose()?;
    let folder = node.folder.as_deref().map(|folder| kept_in(folder, &node.address, visit));
    let known = folder.as_deref().map(Identity::load).transpose()?.flatten();
    let is_good = |identity: &Identity| {
        let is_of_token = token.as_ref().is_none_or(|token| Pin::of(identity.authority()) == token.pin);
        let lasts = identity.not_after() > SystemTime::now();
        is_of_token && lasts && visit.roles().contains(&identity.peer().role)
    };
    if let Some(known) = known.filter(is_good) {
        return Ok(known);
    }
    let none = || FarError::NoToken { address: node.address.clone(), role: visit.roles()[0] };
    let token = token.ok_or_else(none)?;
    let identity = join_as_any(addr, &token, visit.roles(), ENTER_MAX).await.map_err(|error| wanted(error, visit))?;
    if let Some(folder) = folder {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        let stored = made.map_err(|error| error.to_string());
        let stored = stored.and_then(|()| identity.store(&folder).map_err(|error| error.to_string()));
        if let Err(error) = stored {
            // This time it is used all the same.
            tracing::warn!(folder = %folder.display(), error, "the certificate cannot be kept: the next start takes a new token");
        }
    }
    Ok(identity)
}

/// Says which token would have been right: the refusal names the last role that was tried.
fn wanted(error: NetError, visit: Visit) -> NetError {
    match error {
        NetError::Refused(Refusal { cause: Cause::WrongRole, message }) => {
            let role = visit.roles()[0];
            let said = message.split(", not for").next().unwrap_or_default().to_owned();
            let message = format!(
                "{said}, and this takes one for a {role}: make it with `mobula token create --role {role}` on the head's host"
            );
            NetError::Refused(Refusal::because(Cause::WrongRole, message))
        }
        other => other,
    }
}

/// The folder for the certificate of who comes to an address so.
fn kept_in(folder: &Path, address: &str, visit: Visit) -> PathBuf {
    let name = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' };
    folder.join("far").join(address.chars().map(name).collect::<String>()).join(visit.folder())
}

/// Bytes of a file with a token that are read: a token has about 120.
const TOKEN_FILE_BYTES_MAX: u64 = 4096;

/// A token, or the one in a file.
fn token(text: &str) -> Result<Token, FarError> {
    let wrong = |error: String| FarError::Token(error);
    if text.starts_with(['/', '.']) {
        use std::io::Read;
        let mut read = String::new();
        let file = fs::File::open(text).and_then(|file| file.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut read));
        file.map_err(|error| wrong(format!("the file with the token, {text}: {error}")))?;
        return read.trim().parse().map_err(|error| wrong(format!("the token in {text}: {error}")));
    }
    text.trim().parse().map_err(|error| wrong(format!("the token: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_text_or_in_a_file() {
        let text = Token::new(Pin([7; 16])).unwrap().to_string();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, format!("{text}\n")).unwrap();
        for given in [&text, path.to_str().unwrap()] {
            assert_eq!(token(given).unwrap().to_string(), text);
        }
        for (wrong, says) in
            [("nonsense", "the token:"), ("/nowhere/token", "/nowhere/token"), ("/dev/zero", "/dev/zero")]
        {
            let error = token(wrong).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_certificate_has_a_folder_by_address_and_kind() {
        let folder = Path::new("/m");
        for (address, name) in [("10.0.0.1:6379", "10.0.0.1_6379"), ("[::1]:1", "___1__1"), ("../x:1", ".._x_1")] {
            let path = kept_in(folder, address, Visit::Driver);
            assert_eq!(path, folder.join("far").join(name).join("driver"));
        }
    }

    #[test]
    fn the_program_is_read_in_parts_up_to_its_end() {
        let program = Program::of_this_process().unwrap();
        let whole = fs::read("/proc/self/exe").unwrap();
        assert_eq!((program.bytes, program.hash), (whole.len() as u64, *blake3::hash(&whole).as_bytes()));
        let last = program.bytes - 3;
        assert_eq!(program.part(last).unwrap(), (program.bytes, whole[whole.len() - 3..].to_vec()));
        assert_eq!(program.part(0).unwrap().1, whole[..PROGRAM_PART_BYTES.min(whole.len())]);
        assert_eq!(program.part(u64::MAX).unwrap().1, b"", "there is nothing beyond");
    }
}
