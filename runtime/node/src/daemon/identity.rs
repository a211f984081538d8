//! How a node comes to its certificate: the head issues its own, others show a token once.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mobula_net::token::Token;
use mobula_net::{Authority, Identity, join};
use mobula_types::state::ClusterStatus;
use mobula_types::{MemberId, Role};
use mobula_wire::local::ToolQuestion;

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
    for (socket, is_named_by_port) in sockets_of(config, head.port()) {
        if (is_named_by_port || is_head_at(&socket, head.port()).await)
            && let Some(token) = ask_token(&socket).await
        {
            return Some(token);
        }
    }
    None
}

/// The sockets of this host's nodes, those first whose folder has the port's name. A head that has taken any free port has
/// a folder of another name.
fn sockets_of(config: &NodeConfig, port: u16) -> Vec<(PathBuf, bool)> {
    let beside = config.folder.parent().map(Path::to_owned);
    let usual = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".mobula"));
    let mut sockets = Vec::new();
    for base in beside.into_iter().chain(usual) {
        for entry in std::fs::read_dir(&base).into_iter().flatten().flatten() {
            let socket = entry.path().join(SOCKET);
            if socket.exists() && entry.path() != config.folder {
                sockets.push((socket, entry.file_name().to_str() == Some(port.to_string().as_str())));
            }
        }
    }
    sockets.sort_by_key(|(_, is_named_by_port)| !is_named_by_port);
    sockets
}

/// Whether the node at a socket is the head that takes connections at this port.
async fn is_head_at(socket: &Path, port: u16) -> bool {
    let Ok(answer) = ask(socket, ToolQuestion::Status).await else { return false };
    let Ok(status) = serde_json::from_str::<ClusterStatus>(&answer) else { return false };
    let is_it = |addr: &str| addr.parse::<SocketAddr>().is_ok_and(|addr| addr.port() == port);
    status.nodes.iter().any(|node| node.node_id == status.head && is_it(&node.addr))
}

/// An address is this host's when a socket can be bound to it.
fn is_of_this_host(ip: IpAddr) -> bool {
    ip.is_loopback() || std::net::UdpSocket::bind((ip, 0)).is_ok()
}

async fn ask_token(socket: &Path) -> Option<Token> {
    let question = ToolQuestion::TokenCreate { ttl_s: 0, role: Role::Node.to_string() };
    let made: serde_json::Value = serde_json::from_str(&ask(socket, question).await.ok()?).ok()?;
    made["token"].as_str()?.parse().ok()
}

async fn ask(socket: &Path, question: ToolQuestion) -> Result<String, String> {
    let late = || Err("it does not answer".to_owned());
    tokio::time::timeout(ASK_MAX, crate::attached::ask_node(socket, question)).await.unwrap_or_else(|_| late())
}
