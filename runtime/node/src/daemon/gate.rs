//! Who may come in from other hosts, and what comes from there.
//!
//! Every kind of greeting has a row here; what has none is refused.
//!
//! | greeting | roles | on |
//! |---|---|---|
//! | `Register` | node | the head |
//! | `Node` | node | a node whose view has that node |
//! | `Driver` | driver, admin | nowhere yet: it is told so |

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mobula_logic::membership::Refusal as Refused;
use mobula_net::authority::PublicKey;
use mobula_net::token::{Secret, TokenId};
use mobula_net::{Admitted, Cause, Event, Gate, Issued, Lane, MeshEvents, PeerIdentity, Refusal, Registrar};
use mobula_types::Role;
use mobula_wire::FrameKind;
use mobula_wire::cluster::{ClusterTalk, Greeting};
use mobula_wire::frame::CONTROL_BYTES_MAX;
use tokio::sync::{mpsc, oneshot};

use super::input::Input;
use super::routes::{Forwarded, Routes};
use super::seat::{NotAdmitted, ToSeat};

/// The door of the mesh.
pub(crate) struct MeshGate {
    pub(crate) routes: Arc<Routes>,
    /// The head's part; none on other nodes.
    pub(crate) seat: Option<mpsc::Sender<ToSeat>>,
}

impl Gate for MeshGate {
    fn admit(&self, peer: &PeerIdentity, hello: Bytes) -> BoxFuture<'_, Result<Admitted, Refusal>> {
        let peer = *peer;
        async move {
            match mobula_wire::decode::<Greeting>(&hello).map_err(|_| Refusal::new(Cause::Malformed))? {
                Greeting::Register(registration) if peer.role == Role::Node => {
                    if registration.member != peer.member {
                        return Err(Refusal::because(Cause::Another, "the certificate is another member's"));
                    }
                    self.register(registration).await
                }
                Greeting::Node { node, .. } if peer.role == Role::Node => match self.routes.member_of(node) {
                    Some(member) if member == peer.member => Ok(Admitted { peer: node.into(), welcome: Bytes::new() }),
                    Some(_) => Err(Refusal::because(Cause::Another, format!("{node} has another certificate"))),
                    None if self.routes.death(node.into()).is_some() => Err(Refusal::new(Cause::DeclaredDead)),
                    // The head has told others of it sooner than this node.
                    None => Err(Refusal::new(Cause::NotReady)),
                },
                Greeting::Driver { .. } if peer.role.may_submit() => {
                    let message = "drivers on other hosts come with a later version: run the program on a node's host";
                    Err(Refusal::because(Cause::WrongRole, message))
                }
                _ => Err(Refusal::new(Cause::WrongRole)),
            }
        }
        .boxed()
    }
}

impl MeshGate {
    async fn register(&self, registration: mobula_types::Registration) -> Result<Admitted, Refusal> {
        let seat = self.seat.as_ref().ok_or_else(|| {
            Refusal::because(
                Cause::WrongRole,
                "this node is no head: join at the address that `mobula start --head` printed",
            )
        })?;
        let failed = |_| Refusal::new(Cause::Failed);
        let (reply, admission) = oneshot::channel();
        seat.send(ToSeat::Register { registration, reply }).await.map_err(|_| Refusal::new(Cause::Failed))?;
        match admission.await.map_err(failed)? {
            Ok(admission) => {
                let welcome = mobula_wire::encode(&admission).map_err(|_| Refusal::new(Cause::Failed))?;
                Ok(Admitted { peer: admission.node.into(), welcome: welcome.into() })
            }
            Err(NotAdmitted::Refused(why)) => {
                let cause = match why {
                    Refused::Fenced { .. } => Cause::DeclaredDead,
                    Refused::Full { .. } => Cause::Busy,
                    _ => Cause::Another,
                };
                Err(Refusal::because(cause, why.to_string()))
            }
            Err(NotAdmitted::ReadOnly(why)) => Err(Refusal::because(Cause::Failed, why)),
        }
    }
}

/// Redeems join tokens at the head.
pub(crate) struct Tokens {
    pub(crate) seat: mpsc::Sender<ToSeat>,
}

impl Registrar for Tokens {
    fn redeem(
        &self,
        id: TokenId,
        secret: Secret,
        role: Role,
        key: PublicKey,
    ) -> BoxFuture<'_, Result<Issued, Refusal>> {
        async move {
            let (reply, issued) = oneshot::channel();
            let id = mobula_logic::record::TokenId(id.0);
            let said = ToSeat::Redeem { id, hash: secret.hash(), role, key, reply };
            self.seat.send(said).await.map_err(|_| Refusal::new(Cause::Failed))?;
            issued.await.map_err(|_| Refusal::new(Cause::Failed))?
        }
        .boxed()
    }
}

/// Hands on what comes from the mesh: parcels straight to whom they are for, all else to the state or the head's part.
pub(crate) async fn read(
    mut events: MeshEvents,
    routes: Arc<Routes>,
    inputs: mpsc::Sender<Input>,
    seat: Option<mpsc::Sender<ToSeat>>,
) {
    while let Some(event) = events.next().await {
        let input = match event {
            Event::Frame { from, kind: kind @ (FrameKind::Parcel | FrameKind::Part), body, .. } => {
                forward(&routes, from, kind, body);
                continue;
            }
            Event::Frame { from, kind: FrameKind::Cluster, body, .. } => {
                match mobula_wire::decode_limited::<ClusterTalk, CONTROL_BYTES_MAX>(&body) {
                    Ok(ClusterTalk::ToHead(said)) => {
                        if let Some(seat) = seat.as_ref().filter(|_| from.number() == 0) {
                            seat.send(ToSeat::Said { from: from.node(), said }).await.ok();
                        }
                        continue;
                    }
                    Ok(ClusterTalk::FromHead { head, said }) => Input::FromHead { head, said },
                    Ok(talk) => Input::Talk { from, talk: Box::new(talk) },
                    Err(error) => {
                        tracing::warn!(%from, %error, "what another node says cannot be read");
                        continue;
                    }
                }
            }
            Event::Silent { peer, silent, refused } => {
                if let Some(seat) = seat.as_ref().filter(|_| peer.number() == 0) {
                    seat.send(ToSeat::Silent { node: peer.node(), silent, refused }).await.ok();
                }
                match refused {
                    true => Input::PeerLost { peer },
                    false => continue,
                }
            }
            Event::Refused { peer, refusal } => {
                tracing::debug!(%peer, %refusal, "another node does not let this one in");
                Input::PeerLost { peer }
            }
            // Old news where a new session stands: entering once more would end that one, and so on for ever.
            Event::Ended { peer, .. } if routes.mesh().is_some_and(|mesh| mesh.is_up(peer)) => continue,
            Event::Ended { peer, .. } => Input::PeerLost { peer },
            _ => continue,
        };
        if inputs.send(input).await.is_err() {
            return;
        }
    }
}

fn forward(routes: &Routes, from: mobula_types::ProcessId, kind: FrameKind, body: Bytes) {
    let sender = mobula_wire::Parcel::address(&body).map(|(_, sender)| sender);
    match routes.forward_of_mesh(from, kind, body) {
        Forwarded::Done => {}
        Forwarded::Dead(death) => {
            let Ok(sender) = sender else { return };
            let talk = ClusterTalk::Undelivered { from: sender, death };
            if let (Some(mesh), Ok(body)) = (routes.mesh(), mobula_wire::encode(&talk)) {
                mesh.send(from, Lane::Control, FrameKind::Cluster, body.into()).ok();
            }
        }
        Forwarded::Wrong => tracing::warn!(%from, "a parcel in the name of another was dropped"),
    }
}
