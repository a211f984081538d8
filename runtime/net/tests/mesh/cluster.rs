//! A cluster to test with: a CA, meshes of it on loopback, and a gate that lets in whom it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mobula_net::identity::{Credentials, Identity};
use mobula_net::{Admitted, Authority, Cause, Event, Gate, Mesh, MeshConfig, MeshEvents, PeerIdentity, Refusal};
use mobula_types::{ClusterId, MemberId, NodeId, ProcessId, Role};
use tokio::time::timeout;

/// A hang shows as this, not as a test that never ends.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn node(number: u64) -> ProcessId {
    ProcessId::from(NodeId(number))
}

pub(crate) fn member(number: u64) -> MemberId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    MemberId(id)
}

pub(crate) fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub(crate) fn authority() -> Authority {
    Authority::new(ClusterId([7; 16]), SystemTime::now()).unwrap()
}

/// Lets in nodes whose hello is their number.
pub(crate) struct Numbers;

impl Gate for Numbers {
    fn admit(&self, peer: &PeerIdentity, hello: Bytes) -> BoxFuture<'_, Result<Admitted, Refusal>> {
        let peer = *peer;
        async move {
            if peer.role != Role::Node {
                let message = format!("a {} is no node: use a token made with --role node", peer.role);
                return Err(Refusal::because(Cause::WrongRole, message));
            }
            let number = u64::from_le_bytes(hello[..].try_into().map_err(|_| Refusal::new(Cause::Malformed))?);
            Ok(Admitted { peer: node(number), welcome: Bytes::from(format!("welcome {number}")) })
        }
        .boxed()
    }
}

/// A node of the cluster and what happens to it.
pub(crate) struct Node {
    pub(crate) mesh: Mesh,
    pub(crate) events: MeshEvents,
    pub(crate) number: u64,
    pub(crate) addr: SocketAddr,
}

pub(crate) fn hello(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

pub(crate) fn config(authority: &Authority, number: u64, addr: SocketAddr) -> MeshConfig {
    let identity = Identity::issue(authority, member(number), Role::Node, SystemTime::now()).unwrap();
    let mut config = MeshConfig::new(addr, Credentials::new(&identity).unwrap());
    config.process = Some(node(number));
    config.hello = hello(number);
    config
}

impl Node {
    pub(crate) async fn start(authority: &Authority, number: u64) -> Self {
        Self::with(config(authority, number, loopback()), number).await
    }

    pub(crate) async fn with(config: MeshConfig, number: u64) -> Self {
        let (mesh, events) = Mesh::bind(config, Arc::new(Numbers)).await.unwrap();
        let addr = mesh.local_addr().unwrap();
        Self { mesh, events, number, addr }
    }

    pub(crate) fn knows(&self, other: &Self) {
        self.mesh.know(node(other.number), other.addr, member(other.number));
    }

    pub(crate) async fn next(&mut self) -> Event {
        timeout(LIMIT, self.events.next()).await.expect("something happens in time").expect("the mesh is open")
    }

    /// The next event that `wanted` makes something of; others are passed over.
    pub(crate) async fn wait<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            let event = self.next().await;
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    }
}
