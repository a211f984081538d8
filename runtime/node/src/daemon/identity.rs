//! How a node comes to its certificate: the head issues its own, others show a token once.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mobula_net::token::Token;
use mobula_net::{Authority, Identity, join, unix};
use mobula_types::{MemberId, Role};
use mobula_wire::frame::CONTROL_BYTES_MAX;
use mobula_wire::local::{FromNode, Hello, ToNode, ToolQuestion};
use mobula_wire::{FrameKind, PROTOCOL};

use super::config::{NodeConfig, StartError};
use super::node::SOCKET;

/// A join is one question over the network.
const JOIN_MAX: Duration = Duration::from_secs(10);

/// The head answers its host's processes at once.
const ASK_MAX: Duration = Duration::from_secs(5);

/// The head's own certificate.
pub(crate) fn of_head(folder: &Path, authority: &Authority) -> Result<Identity, StartError> {
    let now = SystemTime::now();
    let known = Identity::load(folder)?.filter(|identity| identity.authority() == authority.certificate());
    match known {
        Some(identity) if !identity.needs_renewal(now) => Ok(identity),
        known => {
            let member = known.map_or_else(new_member, |identity| identity.peer().member);
            let identity = Identity::issue(authority, member, Role::Node, now)?;
            identity.store(folder)?;
            Ok(identity)
        }
    }
}

fn new_member() -> MemberId {
    let mut id = [0; 16];
    getrandom::fill(&mut id).expect("the system gave random numbers for the CA's key before");
    MemberId(id)
}

/// A member's certificate: the one in its folder, or a new one for a token.
pub(crate) async fn of_member(
    config: &NodeConfig,
    head: SocketAddr,
    token: Option<&Token>,
) -> Result<Identity, StartError> {
    let expired = |identity: &Identity| identity.not_after() <= SystemTime::now();
    let known = Identity::load(&config.folder)?.filter(|identity| !expired(identity));
    // Whoever gives a token for another cluster than the folder's wants to belong to that one.
    let is_of_token =
        |identity: &Identity| token.is_none_or(|token| mobula_net::token::Pin::of(identity.authority()) == token.pin);
    if let Some(identity) = known.filter(is_of_token) {
        return Ok(identity);
    }
    let own = match token {
        Some(_) => None,
        None => token_of_host(config, head).await,
    };
    let no_token = || StartError::NoToken { folder: config.folder.clone(), head };
    let token = token.or(own.as_ref()).ok_or_else(no_token)?;
    let identity = join(head, token, Role::Node, JOIN_MAX).await?;
    identity.store(&config.folder)?;
    Ok(identity)
}

/// On the head's own host its socket gives a token: whoever may use that may do anything with the head anyway.
async fn token_of_host(config: &NodeConfig, head: SocketAddr) -> Option<Token> {
    if !is_of_this_host(head.ip()) {
        return None;
    }
    for socket in sockets_of(config, head.port()) {
        if let Some(token) = ask_token(&socket).await {
            return Some(token);
        }
    }
    None
}

fn sockets_of(config: &NodeConfig, port: u16) -> Vec<PathBuf> {
    let beside = config.folder.parent().map(Path::to_owned);
    let usual = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".mobula"));
    let bases = beside.into_iter().chain(usual);
    bases.map(|base| base.join(port.to_string()).join(SOCKET)).filter(|socket| socket.exists()).collect()
}

/// An address is this host's when a socket can be bound to it.
fn is_of_this_host(ip: IpAddr) -> bool {
    ip.is_loopback() || std::net::UdpSocket::bind((ip, 0)).is_ok()
}

async fn ask_token(socket: &Path) -> Option<Token> {
    let asked = async {
        let (connection, mut incoming) = unix::connect(socket, ASK_MAX).await.ok()?;
        let hello = mobula_wire::encode(&Hello::Tool { protocol: PROTOCOL }).ok()?;
        connection.send(FrameKind::Greeting, hello.into()).ok()?;
        let question = ToolQuestion::TokenCreate { ttl_s: 0, role: Role::Node.to_string() };
        let asked = mobula_wire::encode(&ToNode::Tool { request: 1, question }).ok()?;
        connection.send(FrameKind::Local, asked.into()).ok()?;
        loop {
            let frame = incoming.next().await.ok()?;
            let said = mobula_wire::decode_limited::<FromNode, CONTROL_BYTES_MAX>(&frame.body).ok()?;
            if let FromNode::Answer { answer, .. } = said {
                let made: serde_json::Value = serde_json::from_str(&answer.ok()?).ok()?;
                return made["token"].as_str()?.parse().ok();
            }
        }
    };
    tokio::time::timeout(ASK_MAX, asked).await.ok().flatten()
}
