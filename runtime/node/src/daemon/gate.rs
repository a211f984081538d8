//! Who may come in from other hosts, and what comes from there.
//!
//! Every kind of greeting has a row here; what has none is refused.
//!
//! | greeting | roles | on |
//! |---|---|---|
//! | `Register` | node | the head |
//! | `Node` | node | a node whose view has that node |
//! | `Driver` | driver, admin | every node |
//! | `Tool` | viewer, driver, admin | every node; what each may ask stands in [`far::may_ask`] |

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mobula_logic::attachment;
use mobula_logic::membership::Refusal as Refused;
use mobula_net::authority::PublicKey;
use mobula_net::token::{Secret, TokenId};
use mobula_net::{
    Admitted, Cause, Event, Frame, Gate, Issued, Lane, MeshEvents, Pace, PeerIdentity, Refusal, Registrar,
};
use mobula_types::Role;
use mobula_wire::FrameKind;
use mobula_wire::cluster::{ClusterTalk, DriverWelcome, Greeting};
use mobula_wire::frame::CONTROL_BYTES_MAX;
use tokio::sync::{mpsc, oneshot};

use crate::losses::Loss;

use super::far::{self, FarCame, Readers, Visit};
use super::input::{Input, Redeem};
use super::routes::{Forwarded, Routes};
use super::seat::{NotAdmitted, ToSeat};
use super::workers::programs::ProgramHash;

/// The door of the mesh.
pub(crate) struct MeshGate {
    pub(crate) routes: Arc<Routes>,
    pub(crate) inputs: mpsc::Sender<Input>,
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
                Greeting::Driver { name, env, namespace, program, program_bytes } if peer.role.may_submit() => {
                    far::check_length(program_bytes)?;
                    self.far(peer.role, Visit::Driver { name, env, namespace, program: ProgramHash(program) }).await
                }
                Greeting::Driver { .. } => Err(wrong_role(peer.role, "run programs", Role::Driver)),
                Greeting::Tool if peer.role != Role::Node => self.far(peer.role, Visit::Tool).await,
                Greeting::Tool => Err(wrong_role(peer.role, "ask", Role::Viewer)),
                Greeting::Register(_) | Greeting::Node { .. } => Err(wrong_role(peer.role, "be a node", Role::Node)),
            }
        }
        .boxed()
    }
}

fn wrong_role(is: Role, may_not: &str, right: Role) -> Refusal {
    let message = format!(
        "the certificate's role is {is}, which may not {may_not}: join with a token of `mobula token create --role {right}`"
    );
    Refusal::because(Cause::WrongRole, message)
}

impl MeshGate {
    async fn far(&self, role: Role, visit: Visit) -> Result<Admitted, Refusal> {
        let failed = || Refusal::new(Cause::Failed);
        let (reply, admitted) = oneshot::channel();
        self.inputs.send(Input::FarCame(FarCame { role, visit, reply })).await.map_err(|_| failed())?;
        let (process, resume_max) = admitted.await.map_err(|_| failed())??;
        let resume_ms = u64::try_from(resume_max.as_millis()).unwrap_or(u64::MAX);
        let welcome = mobula_wire::encode(&DriverWelcome { process, resume_ms }).map_err(|_| failed())?;
        Ok(Admitted { peer: process, welcome: welcome.into() })
    }

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

/// Lets the head redeem join tokens that are shown to another node.
pub(crate) struct Relay {
    pub(crate) inputs: mpsc::Sender<Input>,
}

impl Registrar for Relay {
    fn redeem(
        &self,
        id: TokenId,
        secret: Secret,
        role: Role,
        key: PublicKey,
    ) -> BoxFuture<'_, Result<Issued, Refusal>> {
        async move {
            let failed = |_| Refusal::new(Cause::Failed);
            if role == Role::Node {
                let message = "this node makes no nodes: join at the head's address";
                return Err(Refusal::because(Cause::WrongRole, message));
            }
            let (reply, issued) = oneshot::channel();
            let redeem = Redeem { id: id.0, hash: secret.hash().0, role, key, reply };
            self.inputs.send(Input::Redeem(redeem)).await.map_err(|_| Refusal::new(Cause::Failed))?;
            issued.await.map_err(failed)?
        }
        .boxed()
    }
}

/// The head has redeemed a token that was shown here, or has not.
pub(crate) fn redeemed(redeem: Redeem, result: Result<(Vec<u8>, Vec<u8>), (u32, String)>) {
    let issued = match result {
        Ok((certificate, authority)) => Ok(Issued { certificate: certificate.into(), authority: authority.into() }),
        Err((code, message)) => Err(Refusal::because(Cause::of_code(code.into()).unwrap_or(Cause::Failed), message)),
    };
    // Who showed it may have gone.
    redeem.reply.send(issued).ok();
}

/// Hands on what comes from the mesh: parcels straight to whom they are for, all else to the state or the head's part.
pub(crate) async fn read(
    mut events: MeshEvents,
    routes: Arc<Routes>,
    inputs: mpsc::Sender<Input>,
    seat: Option<mpsc::Sender<ToSeat>>,
) {
    let mut fars = Readers::new(routes.clone(), inputs.clone());
    while let Some(event) = events.next().await {
        let input = match event {
            // A process on another host, and no node.
            Event::Frame { from, kind, body, .. } if from.number() != 0 => {
                fars.take(from, Frame { kind, body });
                continue;
            }
            Event::Up { peer } if peer.number() != 0 => {
                Input::Far { process: peer, seen: attachment::Input::Connected }
            }
            Event::Down { peer, .. } if peer.number() != 0 => {
                Input::Far { process: peer, seen: attachment::Input::Lost }
            }
            Event::Silent { peer, refused, .. } if peer.number() != 0 => match refused {
                true => Input::Far { process: peer, seen: attachment::Input::Refused },
                false => continue,
            },
            Event::Ended { peer, .. } if peer.number() != 0 => {
                fars.forget(peer);
                Input::Far { process: peer, seen: attachment::Input::Ended }
            }
            Event::Frame { from, kind: kind @ (FrameKind::Parcel | FrameKind::Part), body, .. } => {
                forward(&routes, from, events.pace(), kind, body);
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
                        routes.lose(Loss::Unreadable);
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

fn forward(routes: &Routes, from: mobula_types::ProcessId, pace: Pace, kind: FrameKind, body: Bytes) {
    let sender = mobula_wire::Parcel::address(&body).map(|(_, sender)| sender);
    match routes.forward_of_mesh(from, pace, kind, body) {
        Forwarded::Done => {}
        Forwarded::Dead(death) => {
            let Ok(sender) = sender else { return };
            routes.tell_peer(from, Lane::Control, &ClusterTalk::Undelivered { from: sender, death });
        }
        Forwarded::Wrong => {
            tracing::warn!(%from, "a parcel in the name of another was dropped");
            routes.lose(Loss::Forged);
        }
    }
}
