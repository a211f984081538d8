//! A node from its start to its end.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mobula_net::unix::{Listener, UnixError};
use mobula_types::{HeadId, NodeId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::config::{NodeConfig, StartError};
use super::door::Door;
use super::input::{INPUTS_MAX, Input};
use super::routes::Routes;
use super::seat::{SEAT_MAX, Seat};
use super::state::State;
use super::workers::{Programs, Workers, WorkersConfig};

/// The file name of a node's socket, in its folder.
pub const SOCKET: &str = "node.sock";

/// A node that runs in this process. Dropping it ends its workers.
#[derive(Debug)]
pub struct Node {
    inputs: mpsc::Sender<Input>,
    socket: PathBuf,
    id: NodeId,
    state: JoinHandle<()>,
    door: JoinHandle<()>,
}

impl Node {
    /// Starts a node; when this returns, processes of this host can attach.
    ///
    /// Must be called on a tokio runtime, which runs everything.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        make_folder(&config.folder)?;
        let socket = config.folder.join(SOCKET);
        let listener = Listener::bind(&socket).await.map_err(|error| match error {
            UnixError::InUse { .. } => StartError::Running { folder: config.folder.clone() },
            other => other.into(),
        })?;
        let programs = Programs::open(&config.folder.join("programs"));
        let programs = programs.map_err(|error| StartError::Kept(error.to_string()))?;
        let workers = Workers::start(WorkersConfig::new(&config.folder, &socket));
        let (workers, events) = workers.map_err(|error| StartError::Kept(error.to_string()))?;
        let routes = Arc::new(Routes::default());
        let id = NodeId(1);
        routes.set_node(id);
        let (inputs, heard) = mpsc::channel(INPUTS_MAX);
        let (seat, seat_heard) = mpsc::channel(SEAT_MAX);
        tokio::spawn(Seat::default().run(seat_heard, inputs.clone()));
        let state = State::new(config, id, HeadId::default(), routes.clone(), workers, seat, inputs.clone());
        let state = tokio::spawn(state.run(heard, events));
        let door = Door { inputs: inputs.clone(), routes, programs };
        let door = tokio::spawn(door.open(listener));
        Ok(Self { inputs, socket, id, state, door })
    }

    /// Its id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Where processes of this host attach.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends all that it runs, and itself.
    pub async fn stop(mut self) {
        let (done, ended) = oneshot::channel();
        if self.inputs.send(Input::Stop { done }).await.is_ok() {
            ended.await.ok();
        }
        (&mut self.state).await.ok();
    }

    /// Waits until it has ended by itself: somebody asked it to.
    pub async fn ended(&mut self) {
        (&mut self.state).await.ok();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.door.abort();
        self.state.abort();
    }
}

fn make_folder(folder: &Path) -> Result<(), StartError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| StartError::Folder { folder: folder.to_owned(), source })
}
