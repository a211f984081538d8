//! Which node a program joins: what an address means on this host.

use std::env;
use std::path::{Path, PathBuf};

use mobula_node::attached::{FarNode, NodeAddress};
use tokio::net::UnixStream;

use super::InitError;

/// Where a session's actors and functions run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Where {
    /// In this process.
    Here,
    /// On the cluster of this node.
    Node(NodeAddress),
}

/// The socket of a node, in its folder.
const SOCKET: &str = "node.sock";

/// What `address` leads to; without one the node of this host if there is one, else this process. `token` is what lets
/// this program into a cluster that has no node here.
pub(super) async fn find(address: Option<&str>, token: Option<String>) -> Result<Where, InitError> {
    let wrong = |message: String| InitError::Address { address: address.unwrap_or("local").into(), message };
    match address {
        Some("embedded") => Ok(Where::Here),
        None => Ok(local(&folders()).await.map_or(Where::Here, node)),
        Some("local" | "auto") => match local(&folders()).await {
            Some(socket) => Ok(node(socket)),
            None => Err(wrong("no node runs on this host: start one with `mobula start --head`".into())),
        },
        Some(path) if path.starts_with('/') || path.starts_with('.') => {
            let path = Path::new(path);
            let socket = if path.is_dir() { path.join(SOCKET) } else { path.to_owned() };
            if answers(&socket).await {
                return Ok(node(socket));
            }
            Err(wrong("no node listens there: name the folder of one, as `mobula start` prints it".into()))
        }
        Some(host_and_port) => {
            let Some((_, port)) = host_and_port.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()) else {
                return Err(wrong("expected `local`, `embedded`, `host:port`, or the folder of a node".into()));
            };
            // The nodes of a cluster mostly have one port: a program on any of their hosts joins by the node there. Who
            // shows a token may mean another cluster.
            let may_be_here = token.is_none() || is_of_this_host(host_and_port).await;
            let is_named_so = |folder: &PathBuf| folder.file_name().is_some_and(|name| name == port);
            let here = folders().into_iter().filter(|_| may_be_here).find(is_named_so);
            let socket = here.map(|folder| folder.join(SOCKET));
            match socket {
                Some(socket) if answers(&socket).await => Ok(node(socket)),
                _ => {
                    let (address, folder) = (host_and_port.to_owned(), root());
                    Ok(Where::Node(NodeAddress::Far(FarNode { address, token, folder })))
                }
            }
        }
    }
}

fn node(socket: PathBuf) -> Where {
    Where::Node(NodeAddress::Socket(socket))
}

/// An address is this host's when a socket can be bound to it.
async fn is_of_this_host(host_and_port: &str) -> bool {
    let Ok(mut found) = tokio::net::lookup_host(host_and_port).await else { return false };
    found.any(|addr| std::net::UdpSocket::bind((addr.ip(), 0)).is_ok())
}

/// The first node of this host that answers, the smallest port first.
async fn local(folders: &[PathBuf]) -> Option<PathBuf> {
    for folder in folders {
        let socket = folder.join(SOCKET);
        if answers(&socket).await {
            return Some(socket);
        }
    }
    None
}

async fn answers(socket: &Path) -> bool {
    UnixStream::connect(socket).await.is_ok()
}

/// Where nodes and programs of this user keep their files.
fn root() -> Option<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".mobula"));
    env::var_os("MOBULA_DIR").map(PathBuf::from).or_else(home)
}

/// The folders of nodes of this user, by port.
fn folders() -> Vec<PathBuf> {
    let Some(root) = root() else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    folders.sort_by_key(|folder| {
        folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()).unwrap_or(u32::MAX)
    });
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_leads_nowhere_is_said() {
        for (address, says) in
            [("7000", "expected `local`"), ("host:port", "expected `local`"), ("/nowhere", "no node listens there")]
        {
            let error = find(Some(address), None).await.unwrap_err().to_string();
            assert!(error.starts_with(address) && error.contains(says), "{error}");
        }
        assert_eq!(find(Some("embedded"), None).await, Ok(Where::Here));
    }

    #[tokio::test]
    async fn a_cluster_without_a_node_here_is_joined_from_afar() {
        let token = Some("id.secret.pin".to_owned());
        let found = find(Some("192.0.2.1:1"), token.clone()).await.unwrap();
        let Where::Node(NodeAddress::Far(far)) = found else { panic!("{found:?}") };
        assert_eq!((far.address.as_str(), &far.token), ("192.0.2.1:1", &token));
        assert!(!format!("{far:?}").contains("secret"), "a token is shown to nobody");
    }
}
