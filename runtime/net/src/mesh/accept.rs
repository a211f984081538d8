//! Who comes: a handshake, the first words, the gate.

use std::sync::Arc;

use bytes::Bytes;
use mobula_logic::session::{Input, Lane, Link, Offer};
use mobula_types::Role;
use mobula_wire::frame::CONTROL_BYTES_MAX;
use quinn::VarInt;
use tokio::time::timeout;

use super::peer::{Peer, code};
use super::{Admitted, Inner, dial};
use crate::certificate::PeerIdentity;
use crate::greeting::{self, FirstWords, Greeting};
use crate::join;
use crate::quic::{Arrived, HANDSHAKE_MAX};
use crate::refusal::{Cause, Refusal};

/// Takes connections until the port is closed.
pub(super) async fn accept_all(inner: Arc<Inner>) {
    while let Some(incoming) = inner.port.accept().await {
        let inner = inner.clone();
        tokio::spawn(async move {
            let Some((arrived, half_open)) = inner.port.handshake(incoming).await else { return };
            let quic = match &arrived {
                Arrived::Member(quic, _) | Arrived::Joiner(quic) => quic.clone(),
            };
            let served = async {
                match arrived {
                    Arrived::Member(quic, identity) => greet(&inner, quic, identity).await,
                    Arrived::Joiner(quic) => {
                        let registrar = inner.doors()?.registrar;
                        join::serve(&inner.port, registrar.as_deref(), quic).await
                    }
                }
            };
            match timeout(HANDSHAKE_MAX, served).await {
                Ok(Ok(())) => {}
                Ok(Err(FirstWords::Gone)) => tracing::debug!("who came has gone before it said who it is"),
                Ok(Err(FirstWords::Refused(refusal))) => {
                    inner.port.refuse(&quic, refusal);
                }
                Err(_) => {
                    inner.port.refuse(&quic, Refusal::new(Cause::TooSlow));
                }
            }
            drop(half_open);
        });
    }
}

/// Hears the first words of a member, and hands its connection to the session that it belongs to.
async fn greet(inner: &Arc<Inner>, quic: quinn::Connection, identity: PeerIdentity) -> Result<(), FirstWords> {
    let gone = |_| FirstWords::Gone;
    let (send, mut recv) = quic.accept_bi().await.map_err(gone)?;
    // Only nodes have so much to say.
    let max = if identity.role == Role::Node { greeting::NODE_BYTES_MAX } else { CONTROL_BYTES_MAX };
    let greeting: Greeting = greeting::decode_member(&greeting::read_member(&mut recv, max).await?)?;
    let ours = inner.credentials.peer().cluster;
    if greeting.cluster != ours || identity.cluster != ours {
        let message = format!("this is cluster {ours}, not {}: check the address", greeting.cluster);
        return Err(Refusal::because(Cause::WrongCluster, message).into());
    }
    if inner.process.read().is_none() {
        return Err(Refusal::new(Cause::NotReady).into());
    }
    let offer = Offer::from(greeting.session);
    let mut streams = Vec::new();
    if offer.link == Link::Main {
        streams.push((Lane::Control, send, recv));
        let (send, mut recv) = quic.accept_bi().await.map_err(gone)?;
        greeting::read_member(&mut recv, CONTROL_BYTES_MAX).await?;
        streams.push((Lane::Calls, send, recv));
    } else {
        streams.push((Lane::Bulk, send, recv));
    }
    let Some(peer) = whose(inner, &quic, &identity, &offer, greeting.body.into()).await? else { return Ok(()) };
    let carrier = dial::carrier(quic, streams);
    peer.carry(inner, carrier, |connection| Input::Accepted { connection, offer });
    Ok(())
}

/// The peer to whose session somebody's words belong; `None` when that is over, which it is told.
async fn whose(
    inner: &Arc<Inner>,
    quic: &quinn::Connection,
    identity: &PeerIdentity,
    offer: &Offer,
    hello: Bytes,
) -> Result<Option<Arc<Peer>>, Refusal> {
    let known = {
        let peers = inner.peers.read();
        let is_theirs = |peer: &&Arc<Peer>| peer.is_with(offer.half) && peer.recognises(offer, identity.member);
        peers.values().find(is_theirs).cloned()
    };
    if known.is_some() {
        return Ok(known);
    }
    if inner.is_buried(offer.half) {
        return Err(Refusal::new(Cause::DeclaredDead));
    }
    let is_new = offer.link == Link::Main && offer.knows.is_none();
    if !is_new {
        quic.close(VarInt::from_u32(code::ENDED), b"there is no such session any more");
        return Ok(None);
    }
    let Admitted { peer: id, welcome } = inner.doors()?.gate.admit(identity, hello).await?;
    let peer = match inner.peer(id).filter(|peer| peer.recognises(offer, identity.member)) {
        Some(peer) => peer,
        None => {
            // Whoever had this id has begun anew.
            let peer = Peer::begin(inner, id, None, Some(identity.member));
            inner.replace(peer.clone());
            peer
        }
    };
    // A node dials from the port at which it takes connections; a driver takes none.
    let addr = (identity.role == Role::Node).then(|| quic.remote_address());
    peer.admitted(inner, welcome, identity.member, addr);
    Ok(Some(peer))
}
