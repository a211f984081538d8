//! A token becomes a certificate once, in time, for its role, and from the right cluster only.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mobula_net::authority::PublicKey;
use mobula_net::identity::Credentials;
use mobula_net::token::{Pin, Secret, SecretHash, TokenId};
use mobula_net::{Authority, Cause, Issued, Mesh, MeshConfig, NetError, Refusal, Registrar, Token, join};
use mobula_types::Role;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

use crate::cluster::{LIMIT, Node, Numbers, authority, hello, loopback, member, node};

/// Wrong secrets after which a token is void (promises.md).
const FAILURES_MAX: u32 = 5;

/// The least that a head does with tokens.
struct Tokens {
    authority: Authority,
    kept: Mutex<HashMap<TokenId, Kept>>,
}

struct Kept {
    hash: SecretHash,
    role: Role,
    until: SystemTime,
    is_used: bool,
    failures: u32,
}

impl Tokens {
    fn make(&self, role: Role, until: SystemTime) -> Token {
        let token = Token::new(self.authority.pin()).unwrap();
        let kept = Kept { hash: token.secret.hash(), role, until, is_used: false, failures: 0 };
        self.kept.lock().unwrap().insert(token.id, kept);
        token
    }

    fn issue(&self, id: TokenId, secret: &Secret, role: Role, key: PublicKey) -> Result<Issued, Refusal> {
        let mut kept = self.kept.lock().unwrap();
        let kept = kept.get_mut(&id).ok_or_else(|| Refusal::new(Cause::TokenUnknown))?;
        let cause = if kept.failures >= FAILURES_MAX {
            Some(Cause::TokenBurned)
        } else if !secret.matches(&kept.hash) {
            kept.failures += 1;
            Some(Cause::TokenUnknown)
        } else if kept.until < SystemTime::now() {
            Some(Cause::TokenExpired)
        } else if kept.is_used {
            Some(Cause::TokenUsed)
        } else if kept.role != role {
            Some(Cause::WrongRole)
        } else {
            None
        };
        if let Some(cause) = cause {
            return Err(Refusal::new(cause));
        }
        kept.is_used = true;
        let certificate = self.authority.issue(member(5), role, &key, SystemTime::now()).unwrap();
        Ok(Issued { certificate, authority: self.authority.certificate().clone() })
    }
}

impl Registrar for Tokens {
    fn redeem(
        &self,
        id: TokenId,
        secret: Secret,
        role: Role,
        key: PublicKey,
    ) -> BoxFuture<'_, Result<Issued, Refusal>> {
        async move { self.issue(id, &secret, role, key) }.boxed()
    }
}

async fn head() -> (Node, Arc<Tokens>) {
    let authority = authority();
    let config = crate::cluster::config(&authority, 1, loopback());
    let tokens = Arc::new(Tokens { authority, kept: Mutex::default() });
    let head = Node::with(MeshConfig { registrar: Some(tokens.clone()), ..config }, 1).await;
    (head, tokens)
}

fn soon() -> SystemTime {
    SystemTime::now() + Duration::from_secs(900)
}

async fn refused(head: &Node, token: &Token, role: Role) -> Refusal {
    let begun = Instant::now();
    let joined = join(head.addr, token, role, LIMIT).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "told after {:?}", begun.elapsed());
    match joined {
        Err(NetError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_makes_a_member_once() {
    let (head, tokens) = head().await;
    let token = tokens.make(Role::Node, soon());
    let identity = join(head.addr, &token, Role::Node, LIMIT).await.unwrap();
    assert_eq!((identity.peer().member, identity.peer().role), (member(5), Role::Node));
    let config = MeshConfig::new(loopback(), Credentials::new(&identity).unwrap());
    let (mesh, _events) = Mesh::bind(config, Arc::new(Numbers)).await.unwrap();
    assert_eq!(mesh.enter(head.addr, hello(5), LIMIT).await.unwrap().0, node(1));
    let again = refused(&head, &token, Role::Node).await;
    assert_eq!(again.cause, Cause::TokenUsed);
    assert!(again.message.contains("mobula token create"), "{again}");
    assert_eq!(head.mesh.refusals().of(Cause::TokenUsed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_old_or_for_another_role_or_of_nobody_are_refused() {
    let (head, tokens) = head().await;
    let old = tokens.make(Role::Node, SystemTime::now() - Duration::from_secs(1));
    assert_eq!(refused(&head, &old, Role::Node).await.cause, Cause::TokenExpired);
    let driver = tokens.make(Role::Driver, soon());
    assert_eq!(refused(&head, &driver, Role::Node).await.cause, Cause::WrongRole);
    let nobody = Token::new(tokens.authority.pin()).unwrap();
    assert_eq!(refused(&head, &nobody, Role::Node).await.cause, Cause::TokenUnknown);
    for cause in [Cause::TokenExpired, Cause::WrongRole, Cause::TokenUnknown] {
        assert_eq!(head.mesh.refusals().of(cause), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_voids_a_token() {
    let (head, tokens) = head().await;
    let token = tokens.make(Role::Node, soon());
    for _ in 0..FAILURES_MAX {
        let guess = Token { secret: Token::new(token.pin).unwrap().secret, ..token.clone() };
        assert_eq!(refused(&head, &guess, Role::Node).await.cause, Cause::TokenUnknown);
    }
    assert_eq!(refused(&head, &token, Role::Node).await.cause, Cause::TokenBurned, "the right one comes too late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_sent_to_the_pinned_ca_only() {
    let (head, tokens) = head().await;
    let token = tokens.make(Role::Node, soon());
    let elsewhere = Token { pin: Pin::of(authority().certificate()), ..token.clone() };
    assert_eq!(refused(&head, &elsewhere, Role::Node).await.cause, Cause::ForeignAuthority);
    assert!(!tokens.kept.lock().unwrap()[&token.id].is_used, "the head has not seen it");
    join(head.addr, &token, Role::Node, LIMIT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_head_makes_members_and_nobody_answers_at_a_closed_port() {
    let authority = authority();
    let node = Node::start(&authority, 2).await;
    let token = Token::new(authority.pin()).unwrap();
    assert!(refused(&node, &token, Role::Node).await.message.contains("the head's address"));
    let closed = std::net::UdpSocket::bind(loopback()).unwrap();
    let within = Duration::from_millis(200);
    let nobody = join(closed.local_addr().unwrap(), &token, Role::Node, within).await;
    assert!(matches!(nobody, Err(NetError::TimedOut { .. })), "{nobody:?}");
}

/// Between a joiner and a head: carries datagrams, and loses what the head says for `silence` from its first answer on.
async fn lossy(head: SocketAddr, refuses: Arc<Notify>, silence: Duration) -> SocketAddr {
    let (near, far) = (UdpSocket::bind(loopback()).await.unwrap(), UdpSocket::bind(loopback()).await.unwrap());
    far.connect(head).await.unwrap();
    let addr = near.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut up, mut down) = ([0; 1 << 16], [0; 1 << 16]);
        let (mut joiner, mut lost_until) = (None, None);
        loop {
            tokio::select! {
                biased;
                () = refuses.notified() => lost_until = Some(Instant::now() + silence),
                came = near.recv_from(&mut up) => {
                    let (count, from) = came.unwrap();
                    joiner = Some(from);
                    far.send(&up[..count]).await.unwrap();
                }
                came = far.recv(&mut down) => {
                    let count = came.unwrap();
                    if lost_until.is_none_or(|until| until <= Instant::now()) {
                        near.send_to(&down[..count], joiner.unwrap()).await.unwrap();
                    }
                }
            }
        }
    });
    addr
}

/// Says when it refuses, before it does.
struct Refusing {
    refuses: Arc<Notify>,
}

impl Registrar for Refusing {
    fn redeem(&self, _: TokenId, _: Secret, _: Role, _: PublicKey) -> BoxFuture<'_, Result<Issued, Refusal>> {
        self.refuses.notify_one();
        // The one between hears it first.
        async { Err(tokio::time::sleep(Duration::from_millis(20)).map(|()| Refusal::new(Cause::TokenBurned)).await) }
            .boxed()
    }
}

/// As when the joiner's host does not run for a while, or the network is bad: what the head says is lost for longer than a
/// closed connection answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_reads_why_though_the_first_words_of_it_are_lost() {
    const SILENCE: Duration = Duration::from_millis(400);
    let authority = authority();
    let refuses = Arc::new(Notify::new());
    let config = crate::cluster::config(&authority, 1, loopback());
    let registrar = Arc::new(Refusing { refuses: refuses.clone() });
    let head = Node::with(MeshConfig { registrar: Some(registrar), ..config }, 1).await;
    let between = lossy(head.addr, refuses, SILENCE).await;
    let token = Token::new(authority.pin()).unwrap();
    let begun = Instant::now();
    let joined = join(between, &token, Role::Node, LIMIT).await;
    assert!(matches!(&joined, Err(NetError::Refused(why)) if why.cause == Cause::TokenBurned), "{joined:?}");
    assert!(begun.elapsed() > SILENCE, "nothing was lost");
    assert_eq!(head.mesh.refusals().total(), 1, "it is counted once");
}
