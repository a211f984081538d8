//! The ways of parcels: to processes of this host over a socket of their own, to all others through the node.
//!
//! A driver on another host than its node has one way only, through the node.
//!
//! All parcels of a pair of processes take one way, so their order holds. A direct way that cannot be made, or that has
//! broken, leads through the node from then on: it knows who is dead, and says so.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mobula_net::unix::{self, Listener, UnixError};
use mobula_net::{Connection, Incoming, Line, Pace, SendError};
use mobula_types::{NotStarted, ProcessId};
use mobula_wire::local::{PeerHello, peer_socket};
use mobula_wire::{FrameKind, PROTOCOL, Parcel};
use parking_lot::Mutex;

use crate::losses::{Loss, Losses};

/// A process of this host answers in this time, or is spoken with through the node.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A process that was just let in listens within this time: its node says where it is before it does. One that has not by
/// then is spoken with through the node, like one that has ended.
const LISTENS_WITHIN: Duration = Duration::from_millis(100);
/// Between two looks whether it does.
const LISTENS_LOOK: Duration = Duration::from_millis(1);

/// Parcels that wait for a direct way to be made; more go nowhere, and their senders are told that it is full.
const WAITING_MAX: usize = 1 << 18;

/// The ways of one process.
pub(crate) struct Roads {
    me: ProcessId,
    node: Line,
    /// Where the processes of this host have their sockets; none where the node is on another one.
    folder: Option<PathBuf>,
    hello: Bytes,
    secret: String,
    ways: Mutex<HashMap<ProcessId, Way>>,
    losses: Arc<Losses>,
}

enum Way {
    /// Parcels wait until it is made.
    Making(Vec<Bytes>),
    Direct(Connection),
    ByNode,
}

impl Roads {
    pub(crate) fn new(me: ProcessId, node: Line, folder: &str, secret: String, losses: Arc<Losses>) -> Self {
        let hello = PeerHello { protocol: PROTOCOL, from: me, secret: secret.clone() };
        let hello = mobula_wire::encode(&hello).map(Bytes::from).unwrap_or_default();
        let folder = (!folder.is_empty()).then(|| folder.into());
        Self { me, node, folder, hello, secret, ways: Mutex::default(), losses }
    }

    /// Whether parcels wait for a way that is being made.
    pub(crate) fn holds_parcels(&self) -> bool {
        self.ways.lock().values().any(|way| matches!(way, Way::Making(parcels) if !parcels.is_empty()))
    }

    /// Ends the direct ways after what is queued there. What they lead to hears of the end by its node.
    pub(crate) fn close(&self, reason: &str) -> Vec<Connection> {
        let ways = self.ways.lock();
        let direct = ways.values().filter_map(|way| match way {
            Way::Direct(connection) => Some(connection.clone()),
            Way::Making(_) | Way::ByNode => None,
        });
        let direct: Vec<Connection> = direct.collect();
        direct.iter().for_each(|connection| connection.close(reason));
        direct
    }

    /// Sends a parcel, behind all that were sent to the same process before.
    ///
    /// # Errors
    ///
    /// Why it was not taken.
    pub(crate) fn send(self: &Arc<Self>, parcel: &Parcel, pace: Pace) -> Result<(), NotStarted> {
        let body = parcel.encode().map_err(|error| NotStarted::TooLarge { bytes: error.count, max: error.max })?.into();
        let to = parcel.to;
        if to.node() != self.me.node() || to.number() == 0 || self.folder.is_none() {
            return sent(self.node.send_at(pace, FrameKind::Parcel, body));
        }
        let mut ways = self.ways.lock();
        match ways.get_mut(&to) {
            Some(Way::Direct(connection)) => match connection.send_at(pace, FrameKind::Parcel, body) {
                Err(SendError::Closed(_)) => {
                    ways.insert(to, Way::ByNode);
                    let body = parcel.encode().expect("it was encoded before").into();
                    sent(self.node.send_at(pace, FrameKind::Parcel, body))
                }
                done => sent(done),
            },
            Some(Way::ByNode) => sent(self.node.send_at(pace, FrameKind::Parcel, body)),
            Some(Way::Making(waiting)) if waiting.len() >= WAITING_MAX => {
                Err(NotStarted::MailboxFull { waiting: waiting.len() })
            }
            Some(Way::Making(waiting)) => {
                waiting.push(body);
                Ok(())
            }
            None => {
                ways.insert(to, Way::Making(vec![body]));
                let roads = self.clone();
                mobula_actor::arbiters::runtime().spawn(async move { roads.make(to).await });
                Ok(())
            }
        }
    }

    /// Sends a part of a large payload as soon as its road takes it.
    ///
    /// # Errors
    ///
    /// The road is over.
    pub(crate) async fn send_part(&self, to: ProcessId, body: Bytes) -> Result<(), SendError> {
        let direct = match self.ways.lock().get(&to) {
            Some(Way::Direct(connection)) => Some(connection.clone()),
            _ => None,
        };
        if let Some(connection) = direct
            && connection.send_when_room(FrameKind::Part, body.clone()).await.is_ok()
        {
            return Ok(());
        }
        // Parts have no order with messages: while a direct way is made, the node has one.
        self.node.send_when_room(FrameKind::Part, body).await
    }

    /// A process has ended: what follows to it is answered by the node.
    pub(crate) fn forget(&self, is_gone: impl Fn(ProcessId) -> bool) {
        self.ways.lock().retain(|process, way| !is_gone(*process) || matches!(way, Way::Making(_)));
    }

    async fn make(self: Arc<Self>, to: ProcessId) {
        let made = tokio::time::timeout(CONNECT_MAX, self.connect(to)).await.ok().flatten();
        let mut ways = self.ways.lock();
        let Some(Way::Making(waiting)) = ways.remove(&to) else { return };
        let (way, line) = match made {
            Some(connection) => (Way::Direct(connection.clone()), connection.into()),
            None => (Way::ByNode, self.node.clone()),
        };
        for body in waiting {
            if let Err(error) = line.send(FrameKind::Parcel, body) {
                tracing::debug!(%to, %error, "a parcel was not taken");
                self.losses.count(Loss::of_own(&error));
            }
        }
        ways.insert(to, way);
    }

    async fn connect(&self, to: ProcessId) -> Option<Connection> {
        let (connection, mut incoming) = reach(&self.folder.as_ref()?.join(peer_socket(to))).await?;
        connection.send(FrameKind::Greeting, self.hello.clone()).ok()?;
        let answer = incoming.next().await.ok()?;
        if answer.kind != FrameKind::Greeting {
            return None;
        }
        // Nothing more comes this way; its end must be seen, though.
        mobula_actor::arbiters::runtime().spawn(async move { while incoming.next().await.is_ok() {} });
        Some(connection)
    }

    /// Where others of this host reach this process; none where its node is on another one.
    pub(crate) async fn listen(&self) -> Result<Option<Listener>, unix::UnixError> {
        match &self.folder {
            Some(folder) => Listener::bind(&folder.join(peer_socket(self.me))).await.map(Some),
            None => Ok(None),
        }
    }

    /// Who is at the other end of a connection that was made to us; `None` when it is not of our job.
    pub(crate) async fn greeted(&self, connection: &Connection, incoming: &mut Incoming) -> Option<ProcessId> {
        let first = tokio::time::timeout(CONNECT_MAX, incoming.next()).await.ok()?.ok()?;
        if first.kind != FrameKind::Greeting {
            return None;
        }
        let hello: PeerHello = mobula_wire::decode(&first.body).ok()?;
        let PeerHello { protocol, from, secret } = hello;
        let is_ours = protocol == PROTOCOL && secret == self.secret && from.node() == self.me.node();
        if !is_ours {
            tracing::warn!(%from, "a process of another job was turned away");
            return None;
        }
        connection.send(FrameKind::Greeting, Bytes::new()).ok()?;
        Some(from)
    }
}

/// Connects to a process of this host, as soon as it listens. A socket at which nobody listens any more is left over from
/// one that was killed.
async fn reach(socket: &Path) -> Option<(Connection, Incoming)> {
    let begun = Instant::now();
    loop {
        let is_there = socket.exists();
        match unix::connect(socket, CONNECT_MAX).await {
            Err(UnixError::Nobody { .. }) if !is_there && begun.elapsed() < LISTENS_WITHIN => {
                tokio::time::sleep(LISTENS_LOOK).await;
            }
            connected => return connected.ok(),
        }
    }
}

fn sent(result: Result<(), SendError>) -> Result<(), NotStarted> {
    result.map_err(|error| match error {
        SendError::Full { frames, .. } => NotStarted::MailboxFull { waiting: frames },
        SendError::TooLarge { bytes, max } => NotStarted::TooLarge { bytes, max },
        SendError::Closed(_) => NotStarted::NoSession,
    })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// A hang shows as this, not as a test that never ends.
    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_process_that_does_not_listen_yet_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("p1");
        let reaching = tokio::spawn({
            let socket = socket.clone();
            async move { reach(&socket).await.is_some() }
        });
        tokio::time::sleep(5 * LISTENS_LOOK).await;
        let listener = Listener::bind(&socket).await.unwrap();
        tokio::time::timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
        assert!(reaching.await.unwrap());
    }

    #[tokio::test]
    async fn one_that_never_does_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("p1");
        let reached = tokio::time::timeout(LIMIT, reach(&socket)).await;
        assert!(reached.unwrap().is_none());
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let reached = reach(&socket).now_or_never();
        assert!(matches!(reached, Some(None)), "one that was killed is not waited for");
    }
}
