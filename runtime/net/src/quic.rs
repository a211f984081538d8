//! QUIC between members of a cluster: one UDP port, TLS 1.3, certificates on both sides.
//!
//! Two languages are spoken at the port: `mobula/1` among members, and `mobula-join/1` by those who have no certificate
//! yet ([`join`](mod@crate::join)). Because one port serves both, TLS asks for a certificate without insisting; that a member
//! has shown one is the first thing looked at after the handshake, before a byte of it is read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mobula_logic::session::Link;
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, ConnectionId, EndpointConfig, MtuDiscoveryConfig, TransportConfig, VarInt};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls_pki_types::CertificateDer;

use crate::certificate::{NODE_NAME, PeerIdentity};
use crate::error::NetError;
use crate::identity::Credentials;
use crate::refusal::{Cause, Refusal, Refusals};
use crate::reset::{RandomNames, ResetKey};
use crate::socket::{Sockets, Split};

/// The language of members.
pub(crate) const ALPN: &[u8] = b"mobula/1";
/// The language of those who join.
pub(crate) const JOIN_ALPN: &[u8] = b"mobula-join/1";

/// A handshake and the first words take at most this (promises.md).
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Handshakes that may be under way (promises.md); who comes then is told that this end is busy.
const HALF_OPEN_MAX: usize = 1024;
/// From so many on, an address must show that it is no forgery before anything is computed for it.
const HALF_OPEN_TRUSTED: usize = 256;

/// A connection on which nothing comes for so long is over: beyond the 5 s after which a silent node counts as dead (G11),
/// so that a process that was stopped for 4 s finds its connections again.
const IDLE_MAX: Duration = Duration::from_secs(6);
/// The bulk connection has no heartbeats of ours.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// A process that was started again frees a thousand connections of its peers in a second.
const RESET_INTERVAL: Duration = Duration::from_millis(1);

/// The first guess at a round trip, for the first retries of a handshake: hosts of a cluster are near to each other.
const INITIAL_RTT: Duration = Duration::from_millis(50);

/// Datagrams on the loopback interface, whose own limit is 65,536: 2.5 times less CPU than at 1,452 (design.md §8). Beyond
/// 16,383 quinn panics.
const LOOPBACK_MTU: u16 = 16_000;
/// The first datagrams on loopback, where a larger one is known to pass.
const LOOPBACK_MTU_INITIAL: u16 = 6_500;
/// What may be in flight before anything is known of the path: a fabric of 10 Gb/s at 0.1 ms. With QUIC's usual 14,720 bytes
/// one probe for larger datagrams fills the window, and even the word that closes a connection waits behind it.
const INITIAL_WINDOW_BYTES: u64 = 128 << 10;
/// Datagrams that an Ethernet with jumbo frames carries: 9,000 bytes less the heads of IPv6 and UDP. What a path really
/// carries is found by trying.
const NETWORK_MTU_MAX: u16 = 8_952;

/// What one stream may send before the other side has read it (promises.md). Calls are small, and few are to wait behind
/// others.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The same for the stream of what is large: what 10 Gb/s bring in a round trip of 13 ms. Beyond what a session lets go
/// unacknowledged, so that this window is never what holds it back.
const BULK_WINDOW_BYTES: u32 = 16 << 20;

/// The first name that a dialer gives to a connection for what is large begins so. The accepting side must choose its windows
/// before it can read a word of the other; the name is all that it has then. Anybody may write it: it opens nothing.
const BULK_NAME: [u8; 4] = *b"bulk";
/// Random bytes behind it: quinn's own names have eight.
const BULK_NAME_BYTES: usize = 16;

/// A UDP port that speaks QUIC.
#[derive(Clone)]
pub(crate) struct Port {
    endpoint: quinn::Endpoint,
    socket: Arc<Split>,
    client: Arc<QuicClientConfig>,
    server: Arc<QuicServerConfig>,
    half_open: Arc<AtomicUsize>,
    pub(crate) refusals: Arc<Refusals>,
}

/// Who has come.
pub(crate) enum Arrived {
    /// A member.
    Member(quinn::Connection, PeerIdentity),
    /// Somebody who wants to become one.
    Joiner(quinn::Connection),
}

impl Port {
    /// Speaks QUIC at a socket as the member whose credentials these are.
    pub(crate) fn open(
        sockets: Sockets,
        credentials: Arc<Credentials>,
        takes_connections: bool,
    ) -> Result<Self, NetError> {
        let roots = credentials.roots()?;
        let reset_key = credentials.reset_key();
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider());
        let verifier = verifier.build().map_err(|error| NetError::Tls(error.to_string()))?;
        let client = client_crypto(verifier, Some(credentials.clone()), ALPN)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated();
        let verifier = verifier.build().map_err(|error| NetError::Tls(error.to_string()))?;
        let mut server = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| NetError::Tls(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(credentials);
        server.alpn_protocols = vec![ALPN.to_vec(), JOIN_ALPN.to_vec()];
        // A session that is resumed shows no certificate: neither its end nor a new one would be seen.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let server = QuicServerConfig::try_from(server).map_err(|error| NetError::Tls(error.to_string()))?;
        let server = Arc::new(server);
        let taking = takes_connections.then(|| server_config(server.clone(), false, Link::Main));
        let (endpoint, socket) = endpoint(sockets, reset_key, taking)?;
        let refusals = Arc::default();
        Ok(Self { endpoint, socket, client: Arc::new(client), server, half_open: Arc::default(), refusals })
    }

    pub(crate) fn local_addr(&self) -> Result<SocketAddr, NetError> {
        self.endpoint.local_addr().map_err(NetError::Socket)
    }

    /// Connects to a node.
    pub(crate) async fn dial(
        &self,
        addr: SocketAddr,
        link: Link,
    ) -> Result<(quinn::Connection, PeerIdentity), NetError> {
        let connection = dial(&self.endpoint, self.client.clone(), addr, link).await?;
        let peer = shown(&connection).and_then(|certificate| PeerIdentity::of(&certificate).ok());
        match peer {
            Some(peer) => Ok((connection, peer)),
            None => Err(NetError::Refused(self.refuse(&connection, Refusal::new(Cause::BadCertificate)))),
        }
    }

    /// The next attempt to connect; `None` when the port is closed.
    pub(crate) async fn accept(&self) -> Option<quinn::Incoming> {
        self.endpoint.accept().await
    }

    /// Sees an attempt through its handshake, if there is room for one more.
    pub(crate) async fn handshake(&self, incoming: quinn::Incoming) -> Option<(Arrived, HalfOpen)> {
        let half_open = HalfOpen::new(&self.half_open);
        if half_open.count > HALF_OPEN_MAX {
            self.refusals.count(Cause::Busy);
            incoming.refuse();
            return None;
        }
        if half_open.count > HALF_OPEN_TRUSTED && incoming.may_retry() {
            // It comes again with proof of its address.
            incoming.retry().ok();
            return None;
        }
        let is_loopback = incoming.remote_address().ip().is_loopback();
        let link = if incoming.orig_dst_cid().starts_with(&BULK_NAME) { Link::Bulk } else { Link::Main };
        let config = Arc::new(server_config(self.server.clone(), is_loopback, link));
        let remote = incoming.remote_address();
        let shaken = async { incoming.accept_with(config)?.await };
        let connection = match tokio::time::timeout(HANDSHAKE_MAX, shaken).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                tracing::warn!(%remote, %error, "a handshake failed");
                if let Some(refusal) = refusal_of(&error, Side::Server) {
                    self.refusals.count(refusal.cause);
                }
                return None;
            }
            Err(_) => {
                self.refusals.count(Cause::TooSlow);
                return None;
            }
        };
        match self.look_at(&connection) {
            Ok(arrived) => Some((arrived, half_open)),
            Err(refusal) => {
                self.refuse(&connection, refusal);
                None
            }
        }
    }

    fn look_at(&self, connection: &quinn::Connection) -> Result<Arrived, Refusal> {
        if language(connection).as_deref() == Some(JOIN_ALPN) {
            return Ok(Arrived::Joiner(connection.clone()));
        }
        let certificate = shown(connection).ok_or_else(|| Refusal::new(Cause::NoCertificate))?;
        let peer = PeerIdentity::of(&certificate)
            .map_err(|error| Refusal::because(Cause::BadCertificate, error.to_string()))?;
        Ok(Arrived::Member(connection.clone(), peer))
    }

    /// Notes and counts that somebody is turned away.
    pub(crate) fn note(&self, connection: &quinn::Connection, refusal: &Refusal) {
        tracing::warn!(remote = %connection.remote_address(), cause = refusal.cause.word(), "refused: {refusal}");
        self.refusals.count(refusal.cause);
    }

    /// Turns somebody away, and counts it.
    pub(crate) fn refuse(&self, connection: &quinn::Connection, refusal: Refusal) -> Refusal {
        self.note(connection, &refusal);
        connection.close(VarInt::from_u32(refusal.cause.code()), refusal.reason());
        refusal
    }

    /// Closes every connection.
    pub(crate) fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"this process ends");
    }

    pub(crate) async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }

    /// Gives the port up: another may have it at once, whoever holds a connection of this one still.
    pub(crate) async fn free(&self, within: Duration) {
        self.socket.close(within).await;
    }
}

/// One of the handshakes under way, until it is dropped.
pub(crate) struct HalfOpen {
    counter: Arc<AtomicUsize>,
    count: usize,
}

impl HalfOpen {
    fn new(counter: &Arc<AtomicUsize>) -> Self {
        Self { count: counter.fetch_add(1, Ordering::Relaxed) + 1, counter: counter.clone() }
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An endpoint for one who joins: it has no certificate and takes no connections.
pub(crate) fn joiner(addr: SocketAddr) -> Result<quinn::Endpoint, NetError> {
    // Nobody is connected to it after it has gone.
    let mut reset_key = [0; 32];
    getrandom::fill(&mut reset_key).map_err(|error| NetError::Socket(error.into()))?;
    let sockets = Sockets::udp(any_port(addr)).map_err(NetError::Socket)?;
    Ok(endpoint(sockets, reset_key, None)?.0)
}

/// Any port of this host, for who goes to `addr`; on loopback one that no other host can send to.
pub(crate) fn any_port(addr: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match addr.ip() {
        ip if ip.is_loopback() => ip,
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, 0)
}

pub(crate) async fn dial(
    endpoint: &quinn::Endpoint,
    crypto: Arc<QuicClientConfig>,
    addr: SocketAddr,
    link: Link,
) -> Result<quinn::Connection, NetError> {
    let mut config = quinn::ClientConfig::new(crypto);
    config.transport_config(transport(addr.ip().is_loopback(), link));
    if link == Link::Bulk {
        config.initial_dst_cid_provider(Arc::new(bulk_name));
    }
    let connecting = endpoint.connect_with(config, addr, NODE_NAME);
    let connecting = connecting.map_err(|error| NetError::Unreachable { addr, message: error.to_string() })?;
    connecting.await.map_err(|error| NetError::of(&error, addr))
}

/// TLS for the side that connects.
pub(crate) fn client_crypto(
    verifier: Arc<dyn ServerCertVerifier>,
    credentials: Option<Arc<Credentials>>,
    alpn: &[u8],
) -> Result<QuicClientConfig, NetError> {
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| NetError::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match credentials {
        Some(credentials) => config.with_client_cert_resolver(credentials),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    QuicClientConfig::try_from(config).map_err(|error| NetError::Tls(error.to_string()))
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn endpoint(
    sockets: Sockets,
    reset_key: [u8; 32],
    server: Option<quinn::ServerConfig>,
) -> Result<(quinn::Endpoint, Arc<Split>), NetError> {
    let mut config = EndpointConfig::new(Arc::new(ResetKey(reset_key)));
    config.cid_generator(|| Box::new(RandomNames)).min_reset_interval(RESET_INTERVAL);
    config.max_udp_payload_size(LOOPBACK_MTU).expect("it is more than the least that QUIC allows");
    let (runtime, socket) = sockets.split();
    let endpoint = quinn::Endpoint::new_with_abstract_socket(config, server, socket.clone(), runtime);
    Ok((endpoint.map_err(NetError::Socket)?, socket))
}

/// A name for a connection that is dialed for what is large.
fn bulk_name() -> ConnectionId {
    let mut name = [0; BULK_NAME.len() + BULK_NAME_BYTES];
    name[..BULK_NAME.len()].copy_from_slice(&BULK_NAME);
    getrandom::fill(&mut name[BULK_NAME.len()..])
        .expect("the system gave random numbers for the certificate's key before");
    ConnectionId::new(&name)
}

fn server_config(crypto: Arc<QuicServerConfig>, is_loopback: bool, link: Link) -> quinn::ServerConfig {
    let mut config = quinn::ServerConfig::with_crypto(crypto);
    config.migration(false).max_incoming(HALF_OPEN_MAX).transport_config(transport(is_loopback, link));
    config
}

fn transport(is_loopback: bool, link: Link) -> Arc<TransportConfig> {
    let stream_window = if link == Link::Bulk { BULK_WINDOW_BYTES } else { STREAM_WINDOW_BYTES };
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(if is_loopback { LOOPBACK_MTU } else { NETWORK_MTU_MAX });
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW_BYTES);
    let mut config = TransportConfig::default();
    config
        .congestion_controller_factory(Arc::new(congestion))
        .max_concurrent_bidi_streams(VarInt::from_u32(256))
        .max_concurrent_uni_streams(VarInt::from_u32(64))
        .stream_receive_window(VarInt::from_u32(stream_window))
        .receive_window(VarInt::from_u32(64 << 20))
        .send_window(64 << 20)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IDLE_MAX.try_into().expect("6 s are a time")))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(discovery));
    if is_loopback {
        config.initial_mtu(LOOPBACK_MTU_INITIAL);
    }
    Arc::new(config)
}

/// The language that a handshake settled on.
fn language(connection: &quinn::Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

/// The certificate that the other side has shown, verified by TLS.
fn shown(connection: &quinn::Connection) -> Option<CertificateDer<'static>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.first().cloned()
}

/// Which end of a handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// The refusal in a connection's end, if it is one: said in our words, or by TLS on either side.
pub(crate) fn refusal_of(error: &ConnectionError, side: Side) -> Option<Refusal> {
    let alert = |code: u64| (code & !0xff == 0x100).then_some(code as u8);
    match error {
        ConnectionError::ApplicationClosed(closed) => Refusal::read(closed.error_code.into_inner(), &closed.reason),
        ConnectionError::ConnectionClosed(closed) => {
            let code = u64::from(closed.error_code);
            if code == u64::from(quinn::TransportErrorCode::CONNECTION_REFUSED) {
                return Some(Refusal::new(Cause::Busy));
            }
            alert(code).and_then(Cause::of_alert).map(Refusal::new)
        }
        ConnectionError::TransportError(error) => {
            let cause = Cause::of_alert(alert(error.code.into())?)?;
            // What this side found wrong with the other.
            let whose = if side == Side::Server { "who connected" } else { "who answered" };
            Some(Refusal::because(cause, format!("{whose} was turned away: {}", cause.advice())))
        }
        ConnectionError::VersionMismatch => Some(Refusal::new(Cause::Protocol)),
        _ => None,
    }
}
