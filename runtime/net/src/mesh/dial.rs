//! Going to others: a connection, the first words, and what comes of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mobula_logic::Session;
use mobula_logic::session::{Input, Lane, Link, Offer, Output};
use mobula_types::{MemberId, ProcessId, StateMachine};
use tokio::time::{Instant, timeout_at};

use super::peer::{Carrier, Peer, is_ended};
use super::{Event, Inner, half};
use crate::connection;
use crate::error::NetError;
use crate::greeting::{self, FirstWords, Greeting};
use crate::refusal::{Cause, Refusal};

/// A dial that is not answered within this is given up for another one.
const DIAL_MAX: Duration = Duration::from_secs(3);

/// The wait between two attempts to enter.
const ENTER_STEP: Duration = Duration::from_millis(100);

/// What came of a dial that was answered.
struct Dialed {
    carrier: Carrier,
    member: MemberId,
    process: ProcessId,
    offer: Offer,
    welcome: Bytes,
}

/// Why a dial was not answered.
enum Failed {
    /// As others see it.
    Net(NetError),
    /// The other side says that the session is over.
    Ended,
}

/// Dials for a session and tells it what came of it.
pub(super) async fn dial(inner: Arc<Inner>, peer: Arc<Peer>, addr: SocketAddr, member: Option<MemberId>, offer: Offer) {
    let (link, number) = (offer.link, offer.made.number);
    let hello = if link == Link::Main { inner.hello.read().clone() } else { Bytes::new() };
    let until = Instant::now() + DIAL_MAX;
    let dialed = match timeout_at(until, reach(&inner, addr, offer, &hello)).await {
        Ok(dialed) => dialed,
        Err(_) => Err(Failed::Net(NetError::TimedOut { addr, within: DIAL_MAX })),
    };
    let is_expected = |dialed: Dialed| {
        let is_member = member.is_none_or(|member| member == dialed.member);
        if is_member && dialed.process == peer.id() {
            return Ok(dialed);
        }
        let refusal = Refusal::because(
            Cause::Another,
            format!("at {addr} answers process {} and not {}: it was started again", dialed.process, peer.id()),
        );
        Err(Failed::Net(NetError::Refused(inner.port.refuse(&dialed.carrier.quic, refusal))))
    };
    match dialed.and_then(is_expected) {
        Ok(Dialed { carrier, offer, .. }) => {
            peer.carry(&inner, carrier, |connection| Input::Answered { connection, number, offer });
        }
        Err(Failed::Ended) => peer.renew(&inner, None),
        Err(Failed::Net(NetError::Refused(refusal))) if refusal.cause == Cause::DeclaredDead => {
            peer.renew(&inner, Some(refusal));
        }
        Err(Failed::Net(error)) => {
            tracing::debug!(peer = %peer.id(), %error, "a dial failed");
            let is_alive = matches!(error, NetError::Refused(_));
            if let NetError::Refused(refusal) = error {
                inner.events.push(Event::Refused { peer: peer.id(), refusal });
            }
            peer.handle(&inner, Input::DialFailed { link, number, is_alive });
        }
    }
}

/// Goes to a process of which only the address is known.
pub(super) async fn enter(
    inner: &Arc<Inner>,
    addr: SocketAddr,
    hello: Bytes,
    within: Duration,
) -> Result<(ProcessId, Bytes), NetError> {
    let until = Instant::now() + within;
    loop {
        if inner.is_closed() {
            return Err(NetError::Closed);
        }
        let mut session = Session::new(inner.now(), half(), true);
        session.want(inner.now());
        let Some(Output::Dial { offer }) = session.poll_output() else { return Err(NetError::Closed) };
        let number = offer.made.number;
        match timeout_at(until.min(Instant::now() + DIAL_MAX), reach(inner, addr, offer, &hello)).await {
            Ok(Ok(Dialed { carrier, member, process, offer, welcome })) => {
                let peer = Peer::with_session(inner, process, Some(addr), Some(member), session);
                inner.replace(peer.clone());
                peer.carry(inner, carrier, |connection| Input::Answered { connection, number, offer });
                return Ok((process, welcome));
            }
            Ok(Err(Failed::Net(error @ NetError::Refused(_)))) if !is_passing(&error) => return Err(error),
            Ok(Err(Failed::Net(error))) if Instant::now() + ENTER_STEP >= until => return Err(error),
            Err(_) if Instant::now() + ENTER_STEP >= until => return Err(NetError::TimedOut { addr, within }),
            Ok(Err(_)) | Err(_) => tokio::time::sleep(ENTER_STEP).await,
        }
    }
}

/// Whether a refusal will not last.
fn is_passing(error: &NetError) -> bool {
    matches!(error, NetError::Refused(Refusal { cause: Cause::NotReady | Cause::Busy, .. }))
}

/// Connects, says the first words and reads the answer.
async fn reach(inner: &Inner, addr: SocketAddr, offer: Offer, hello: &Bytes) -> Result<Dialed, Failed> {
    let (quic, identity) = inner.port.dial(addr, offer.link).await.map_err(Failed::Net)?;
    let closed = |quic: &quinn::Connection| match quic.close_reason() {
        Some(error) if is_ended(&error) && !is_declared_dead(&error) => Failed::Ended,
        Some(error) => Failed::Net(NetError::of(&error, addr)),
        None => Failed::Net(NetError::Unreachable { addr, message: "the connection was closed".into() }),
    };
    let words = Greeting {
        cluster: inner.credentials.peer().cluster,
        features: 0,
        process: *inner.process.read(),
        session: offer.into(),
        body: hello.to_vec(),
    };
    let words = greeting::encode_member(&words).map_err(|refusal| Failed::Net(refusal.into()))?;
    let lanes: &[Lane] = match offer.link {
        Link::Main => &[Lane::Control, Lane::Calls],
        Link::Bulk => &[Lane::Bulk],
    };
    let mut streams = Vec::new();
    for lane in lanes {
        // The second stream is opened by a frame without words: the other side hears of a stream with its first byte.
        let first = if streams.is_empty() { &words[..] } else { &[] };
        let (mut send, recv) = quic.open_bi().await.map_err(|_| closed(&quic))?;
        greeting::write_member(&mut send, first).await.map_err(|_| closed(&quic))?;
        streams.push((*lane, send, recv));
    }
    let answer = match greeting::read_member(&mut streams[0].2, greeting::NODE_BYTES_MAX).await {
        Ok(words) => greeting::decode_member::<Greeting>(&words),
        Err(FirstWords::Refused(refusal)) => Err(refusal),
        Err(FirstWords::Gone) => return Err(closed(&quic)),
    };
    let answer = answer.and_then(|answer| match answer.process {
        Some(process) if answer.cluster == identity.cluster => Ok((process, answer)),
        _ => Err(Refusal::new(Cause::WrongCluster)),
    });
    match answer {
        Ok((process, answer)) => Ok(Dialed {
            carrier: carrier(quic, streams),
            member: identity.member,
            process,
            offer: Offer { link: offer.link, ..answer.session.into() },
            welcome: answer.body.into(),
        }),
        Err(refusal) => Err(Failed::Net(inner.port.refuse(&quic, refusal).into())),
    }
}

fn is_declared_dead(error: &quinn::ConnectionError) -> bool {
    crate::quic::refusal_of(error, crate::quic::Side::Client).is_some()
}

/// A connection with its lanes' streams, the first of which carries what is most urgent.
pub(super) fn carrier(quic: quinn::Connection, streams: Vec<(Lane, quinn::SendStream, quinn::RecvStream)>) -> Carrier {
    let lanes = streams.into_iter().map(|(lane, send, recv)| {
        if lane == Lane::Control {
            // An error says that the connection is over, which its watcher sees.
            send.set_priority(1).ok();
        }
        let (connection, incoming) = connection::over(recv, send);
        (lane, connection, incoming)
    });
    let lanes = lanes.collect();
    Carrier { quic, lanes }
}
