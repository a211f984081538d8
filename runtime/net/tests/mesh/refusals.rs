//! Who is not let in is told why, within a second, on both sides, and counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use mobula_net::identity::{Credentials, Identity, Key};
use mobula_net::{Authority, Cause, Event, Lane, Mesh, MeshConfig, NetError, Refusal};
use mobula_types::{ClusterId, Role};
use mobula_wire::FrameKind;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use crate::cluster::{LIMIT, Node, Numbers, authority, hello, loopback, member, node};

/// Who is refused knows it within this (issue 3), a machine under load included.
const TOLD_MAX: Duration = Duration::from_secs(1);

async fn enters(identity: &Identity, addr: SocketAddr, hello: Bytes) -> Result<Bytes, NetError> {
    let config = MeshConfig::new(loopback(), Credentials::new(identity).unwrap());
    let (mesh, _events) = Mesh::bind(config, Arc::new(Numbers)).await.unwrap();
    let begun = Instant::now();
    let entered = mesh.enter(addr, hello, LIMIT).await;
    assert!(begun.elapsed() < TOLD_MAX, "told after {:?}", begun.elapsed());
    mesh.close().await;
    Ok(entered?.1)
}

/// What an identity is told at the door of a node of `authority`, and that the node has counted it.
async fn check(authority: &Authority, identity: &Identity, cause: Cause, advice: &str) {
    let head = Node::start(authority, 1).await;
    match enters(identity, head.addr, hello(2)).await {
        Err(NetError::Refused(refusal)) => {
            assert_eq!(refusal.cause, cause, "{refusal}");
            assert!(refusal.message.contains(advice), "{refusal}");
        }
        other => panic!("expected {cause:?}, got {other:?}"),
    }
    counted(&head, cause).await;
}

async fn counted(head: &Node, cause: Cause) {
    let begun = Instant::now();
    while head.mesh.refusals().of(cause) == 0 {
        assert!(begun.elapsed() < LIMIT, "{cause:?} is counted: {:?}", head.mesh.refusals().list().collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn issue(authority: &Authority, role: Role, at: SystemTime) -> Identity {
    Identity::issue(authority, member(2), role, at).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_ca_is_refused_by_either_side() {
    let (ours, theirs) = (authority(), authority());
    // It does not believe the node.
    check(&ours, &issue(&theirs, Role::Node, SystemTime::now()), Cause::ForeignAuthority, "join this cluster").await;
    // It believes the node, but the node does not believe it.
    let key = Key::new().unwrap();
    let foreign = theirs.issue(member(2), Role::Node, &key.public(), SystemTime::now()).unwrap();
    let identity = Identity::new(&key, foreign, ours.certificate().clone()).unwrap();
    check(&ours, &identity, Cause::ForeignAuthority, "join this cluster").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_whose_time_is_over_or_has_not_come_is_refused() {
    let authority = authority();
    let day = Duration::from_secs(24 * 60 * 60);
    for at in [SystemTime::now() - 8 * day, SystemTime::now() + day] {
        check(&authority, &issue(&authority, Role::Node, at), Cause::Expired, "join again with a new token").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_is_refused_by_the_gate_with_its_words() {
    let authority = authority();
    for role in [Role::Driver, Role::Admin, Role::Viewer] {
        check(&authority, &issue(&authority, role, SystemTime::now()), Cause::WrongRole, "--role node").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_is_no_node_and_nobody_connects_to_it() {
    let authority = authority();
    let driver = issue(&authority, Role::Driver, SystemTime::now());
    let mut config = MeshConfig::new(loopback(), Credentials::new(&driver).unwrap());
    config.process = Some(node(1));
    let driver = Node::with(config, 1).await;
    let node = issue(&authority, Role::Node, SystemTime::now());
    match enters(&node, driver.addr, hello(2)).await {
        Err(NetError::Refused(refusal)) => assert_eq!(refusal.cause, Cause::BadCertificate),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_another_cluster_is_refused() {
    let ours = authority();
    let head = Node::start(&ours, 1).await;
    let refused = raw_greeting(&head, &ours, b"mobula/1", ClusterId([8; 16]), mobula_wire::PROTOCOL).await;
    assert_eq!(refused.cause, Cause::WrongCluster);
    assert!(refused.message.contains("check the address"), "{refused}");
    counted(&head, Cause::WrongCluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_is_refused_in_the_handshake_and_in_the_first_words() {
    let authority = authority();
    let head = Node::start(&authority, 1).await;
    let refused = raw_greeting(&head, &authority, b"mobula/2", ClusterId([7; 16]), 2).await;
    assert_eq!(refused.cause, Cause::Protocol);
    counted(&head, Cause::Protocol).await;
    let refused = raw_greeting(&head, &authority, b"mobula/1", ClusterId([7; 16]), 2).await;
    assert_eq!(refused.cause, Cause::Protocol);
    assert!(refused.message.contains("run one version of mobula"), "{refused}");
    assert_eq!(head.mesh.refusals().of(Cause::Protocol), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_comes_in_without_a_certificate() {
    let authority = authority();
    let head = Node::start(&authority, 1).await;
    let refused = raw(&head, None, b"mobula/1", |_| Vec::new()).await;
    assert_eq!(refused.cause, Cause::NoCertificate);
    assert!(refused.message.contains("mobula token create"), "{refused}");
    counted(&head, Cause::NoCertificate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_words_that_are_none_are_refused() {
    let authority = authority();
    let head = Node::start(&authority, 1).await;
    let too_long = (1u32 << 20).to_le_bytes();
    let cases: [&[u8]; 4] = [
        // No words, another kind of frame, a kind that is none, too long.
        &[6, 0, 0, 0, 1, 1, 1, 0, 0, 0],
        &[2, 0, 0, 0, 1, 2],
        &[2, 0, 0, 0, 1, 99],
        &[too_long[0], too_long[1], too_long[2], too_long[3], 1, 1],
    ];
    for bytes in cases {
        let identity = issue(&authority, Role::Node, SystemTime::now());
        let refused = raw(&head, Some((&authority, identity.peer().role)), b"mobula/1", |_| bytes.to_vec()).await;
        assert_eq!(refused.cause, Cause::Malformed, "{bytes:?}: {refused}");
    }
    assert_eq!(head.mesh.refusals().of(Cause::Malformed), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_one_yet_says_so_and_another_at_its_address_is_no_match() {
    let authority = authority();
    let config = MeshConfig { process: None, ..crate::cluster::config(&authority, 1, loopback()) };
    let head = Node::with(config, 1).await;
    let mut b = Node::start(&authority, 2).await;
    b.knows(&head);
    b.mesh.send(node(1), Lane::Calls, FrameKind::Cluster, Bytes::from_static(b"hello")).unwrap();
    let refusal = |event| match event {
        Event::Refused { refusal, .. } => Some(refusal.cause),
        _ => None,
    };
    assert_eq!(b.wait(refusal).await, Cause::NotReady);
    head.mesh.set_process(node(77));
    loop {
        match b.wait(refusal).await {
            Cause::NotReady => {}
            other => break assert_eq!(other, Cause::Another),
        }
    }
    head.mesh.set_process(node(1));
    b.wait(|event| matches!(event, Event::Up { .. }).then_some(())).await;
}

/// Sends a greeting of our own making; what it is refused with.
async fn raw_greeting(head: &Node, authority: &Authority, alpn: &[u8], cluster: ClusterId, protocol: u32) -> Refusal {
    let words = |_: ()| {
        let mut body = protocol.to_le_bytes().to_vec();
        // Cluster, no features, no process, a session that is new, no hello.
        body.extend(cluster.0);
        body.extend([0; 8]);
        body.push(0);
        body.extend(1u64.to_le_bytes());
        body.push(0);
        body.push(0);
        body.extend([1u64, 0, 0, 0, 0, 0].map(u64::to_le_bytes).concat());
        let mut frame = (body.len() as u32 + 2).to_le_bytes().to_vec();
        // The version of frames, and the kind in which members speak.
        frame.extend([1, 4]);
        frame.extend(body);
        frame
    };
    raw(head, Some((authority, Role::Node)), alpn, words).await
}

/// Connects with a bare QUIC client and sends `words`; what it is refused with.
async fn raw(
    head: &Node,
    certified: Option<(&Authority, Role)>,
    alpn: &[u8],
    words: impl Fn(()) -> Vec<u8>,
) -> Refusal {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match certified {
        Some((authority, role)) => {
            let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
            let public = key.public_key_raw().try_into().unwrap();
            let certificate = authority.issue(member(2), role, &public, SystemTime::now()).unwrap();
            let key = PrivatePkcs8KeyDer::from(key.serialize_der());
            config.with_client_auth_cert(vec![certificate], key.into()).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let crypto = Arc::new(QuicClientConfig::try_from(config).unwrap());
    let endpoint = quinn::Endpoint::client(loopback()).unwrap();
    let begun = Instant::now();
    let connecting = endpoint.connect_with(quinn::ClientConfig::new(crypto), head.addr, "node.mobula").unwrap();
    let error = match connecting.await {
        Ok(connection) => {
            if let Ok((mut send, _recv)) = connection.open_bi().await {
                // It may be refused before it has said anything.
                send.write_all(&words(())).await.ok();
                let second = async {
                    let (mut send, _recv) = connection.open_bi().await.ok()?;
                    send.write_all(&[2, 0, 0, 0, 1, 1]).await.ok()?;
                    connection.closed().await;
                    Some(())
                };
                second.await;
            }
            connection.closed().await
        }
        Err(error) => error,
    };
    assert!(begun.elapsed() < TOLD_MAX, "told after {:?}", begun.elapsed());
    match error {
        quinn::ConnectionError::ApplicationClosed(closed) => {
            let code = closed.error_code.into_inner();
            let cause = Cause::of_code(code).unwrap_or_else(|| panic!("a cause and not {code}"));
            Refusal { cause, message: String::from_utf8(closed.reason.to_vec()).unwrap() }
        }
        // no_application_protocol (RFC 7301, 3.2).
        quinn::ConnectionError::ConnectionClosed(closed) if u64::from(closed.error_code) == 0x178 => {
            Refusal::new(Cause::Protocol)
        }
        other => panic!("{other:?}"),
    }
}

/// Believes anybody: the tests look at what the other side does.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
