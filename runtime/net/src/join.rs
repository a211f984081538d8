//! Joining a cluster: a token for a certificate.
//!
//! ```text
//! joiner                                    head
//!   ── TLS, without a certificate ──────────►
//!   ◄─ chain that ends in the token's CA ───   the secret is sent to nobody else
//!   ── token id, secret, role, public key ──►  Registrar::redeem
//!   ◄─ certificate, CA; or why not ─────────
//!   ── closes, when it has read that ───────►
//! ```
//!
//! A refusal is an answer like any other. The word that closes a connection is said once and again for a moment: a host
//! that does not run meanwhile, or a network that loses it, would leave the joiner with a connection that nobody knows.
//!
//! Who may have what is decided by the [`Registrar`]; nothing here keeps tokens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mobula_logic::session::Link;
use mobula_types::Role;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::{Deserialize, Serialize};

use crate::authority::PublicKey;
use crate::error::NetError;
use crate::greeting::{self, FirstWords};
use crate::identity::{Identity, Key};
use crate::quic::{self, JOIN_ALPN, Port};
use crate::refusal::{Cause, Refusal};
use crate::token::{Pin, Secret, Token, TokenId};

/// Redeems tokens; the head has one.
pub trait Registrar: Send + Sync + 'static {
    /// Issues a certificate for `key`, if the token is good for `role`. The use is durable before the answer.
    fn redeem(&self, id: TokenId, secret: Secret, role: Role, key: PublicKey)
    -> BoxFuture<'_, Result<Issued, Refusal>>;
}

/// What a token was redeemed for.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The new member's certificate.
    pub certificate: CertificateDer<'static>,
    /// The cluster's CA.
    pub authority: CertificateDer<'static>,
}

/// What a joiner says.
#[derive(Serialize, Deserialize)]
struct Request {
    id: [u8; 8],
    secret: [u8; 32],
    role: Role,
    key: PublicKey,
}

/// What it is given.
#[derive(Serialize, Deserialize)]
enum Response {
    Issued {
        certificate: Vec<u8>,
        authority: Vec<u8>,
    },
    /// The number of the cause, and the words.
    Refused {
        code: u32,
        reason: Vec<u8>,
    },
}

/// Joins the cluster whose head is at `addr`, as `role`.
///
/// # Errors
///
/// The head refuses the token, is not of the token's cluster, or does not answer `within` the time.
pub async fn join(addr: SocketAddr, token: &Token, role: Role, within: Duration) -> Result<Identity, NetError> {
    join_as_any(addr, token, &[role], within).await
}

/// Joins as the first of `roles` for which the token is good: who shows it need not know for which it was made.
///
/// # Errors
///
/// As [`join`]; when it is good for none of them, what is said of the last.
///
/// # Panics
///
/// When there are no roles.
pub async fn join_as_any(
    addr: SocketAddr,
    token: &Token,
    roles: &[Role],
    within: Duration,
) -> Result<Identity, NetError> {
    let (last, others) = roles.split_last().expect("somebody joins as something");
    // One key for all: the head takes it for one use of the token.
    let key = Key::new()?;
    let asked = async {
        for role in others {
            match ask(addr, token, *role, &key).await {
                Err(NetError::Refused(Refusal { cause: Cause::WrongRole, .. })) => {}
                joined => return joined,
            }
        }
        ask(addr, token, *last, &key).await
    };
    match tokio::time::timeout(within, asked).await {
        Ok(joined) => joined,
        Err(_) => Err(NetError::TimedOut { addr, within }),
    }
}

async fn ask(addr: SocketAddr, token: &Token, role: Role, key: &Key) -> Result<Identity, NetError> {
    let crypto = quic::client_crypto(Arc::new(Pinned { pin: token.pin }), None, JOIN_ALPN)?;
    let endpoint = quic::joiner(addr)?;
    let connection = quic::dial(&endpoint, Arc::new(crypto), addr, Link::Main).await?;
    let closed = || match connection.close_reason() {
        Some(error) => NetError::of(&error, addr),
        None => NetError::Unreachable { addr, message: "the connection was closed".into() },
    };
    let request = Request { id: token.id.0, secret: *token.secret.bytes(), role, key: key.public() };
    let (mut send, mut recv) = connection.open_bi().await.map_err(|_| closed())?;
    greeting::write(&mut send, &greeting::encode(&request)?).await.map_err(|_| closed())?;
    let words = match greeting::read(&mut recv).await {
        Ok(words) => words,
        Err(FirstWords::Refused(refusal)) => return Err(refusal.into()),
        Err(FirstWords::Gone) => return Err(closed()),
    };
    let response: Response = greeting::decode(&words)?;
    connection.close(quinn::VarInt::from_u32(0), b"read");
    let (certificate, authority) = match response {
        Response::Issued { certificate, authority } => (certificate, authority),
        Response::Refused { code, reason } => {
            let refusal = Refusal::read(code.into(), &reason);
            return Err(refusal.unwrap_or_else(|| Refusal::new(Cause::Malformed)).into());
        }
    };
    endpoint.wait_idle().await;
    if Pin::of(&authority) != token.pin {
        return Err(Refusal::new(Cause::ForeignAuthority).into());
    }
    Ok(Identity::new(key, certificate.into(), authority.into())?)
}

/// Answers one who wants to join.
pub(crate) async fn serve(
    port: &Port,
    registrar: Option<&dyn Registrar>,
    connection: quinn::Connection,
) -> Result<(), FirstWords> {
    let (mut send, mut recv) = connection.accept_bi().await.map_err(|_| FirstWords::Gone)?;
    let (response, refusal) = match answer(registrar, &mut recv).await {
        Ok((role, Issued { certificate, authority })) => {
            tracing::info!(remote = %connection.remote_address(), %role, "joins");
            (Response::Issued { certificate: certificate.to_vec(), authority: authority.to_vec() }, None)
        }
        Err(FirstWords::Refused(refusal)) => {
            port.note(&connection, &refusal);
            let (code, reason) = (refusal.cause.code(), refusal.reason().to_vec());
            (Response::Refused { code, reason }, Some(refusal))
        }
        Err(FirstWords::Gone) => return Err(FirstWords::Gone),
    };
    greeting::write(&mut send, &greeting::encode(&response)?).await?;
    send.finish().ok();
    // The joiner closes when it has read.
    let is_read = tokio::time::timeout(READ_MAX, connection.closed()).await.is_ok();
    if let Some(refusal) = refusal.filter(|_| !is_read) {
        connection.close(quinn::VarInt::from_u32(refusal.cause.code()), refusal.reason());
    }
    Ok(())
}

/// An answer is there to be read for so long: less than a [handshake and first words](quic::HANDSHAKE_MAX) may take.
const READ_MAX: Duration = Duration::from_secs(5);

async fn answer(registrar: Option<&dyn Registrar>, recv: &mut quinn::RecvStream) -> Result<(Role, Issued), FirstWords> {
    let request: Request = greeting::decode(&greeting::read(recv).await?)?;
    let Some(registrar) = registrar else {
        let message = "this node makes no members: join at the head's address";
        return Err(Refusal::because(Cause::WrongRole, message).into());
    };
    let Request { id, secret, role, key } = request;
    Ok((role, registrar.redeem(TokenId(id), Secret::received(secret), role, key).await?))
}

/// Reads what a joiner may have sent, and writes it again: for fuzzing.
pub(crate) fn reread_request(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    greeting::encode(&greeting::decode::<Request>(bytes)?)
}

/// Reads what a head may have answered a joiner, and writes it again: for fuzzing.
pub(crate) fn reread_response(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    greeting::encode(&greeting::decode::<Response>(bytes)?)
}

/// Believes a chain that has the pinned CA in it and is good up to that.
#[derive(Debug)]
struct Pinned {
    pin: Pin,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find(|certificate| Pin::of(certificate) == self.pin);
        let Some(pinned) = pinned else {
            return Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), quic::provider());
        let verifier = verifier.build().map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let provider = quic::provider();
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signed,
            &provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        quic::provider().signature_verification_algorithms.supported_schemes()
    }
}
