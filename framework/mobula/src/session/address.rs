//! Which node a program joins: what an address means on this host.

use std::env;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

use super::InitError;

/// Where a session's actors and functions run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Where {
    /// In this process.
    Here,
    /// On the cluster of the node that listens at this socket.
    Node(PathBuf),
}

/// The socket of a node, in its folder.
const SOCKET: &str = "node.sock";

/// What `address` leads to; without one the node of this host if there is one, else this process.
pub(super) async fn find(address: Option<&str>) -> Result<Where, InitError> {
    let wrong = |message: String| InitError::Address { address: address.unwrap_or("local").into(), message };
    match address {
        Some("embedded") => Ok(Where::Here),
        None => Ok(local(&folders()).await.map_or(Where::Here, Where::Node)),
        Some("local" | "auto") => match local(&folders()).await {
            Some(socket) => Ok(Where::Node(socket)),
            None => Err(wrong("no node runs on this host: start one with `mobula start --head`".into())),
        },
        Some(path) if path.starts_with('/') || path.starts_with('.') => {
            let path = Path::new(path);
            let socket = if path.is_dir() { path.join(SOCKET) } else { path.to_owned() };
            if answers(&socket).await {
                return Ok(Where::Node(socket));
            }
            Err(wrong("no node listens there: name the folder of one, as `mobula start` prints it".into()))
        }
        Some(host_and_port) => {
            let Some((_, port)) = host_and_port.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()) else {
                return Err(wrong("expected `local`, `embedded`, `host:port`, or the folder of a node".into()));
            };
            let here = folders().into_iter().find(|folder| folder.file_name().is_some_and(|name| name == port));
            let socket = here.map(|folder| folder.join(SOCKET));
            match socket {
                Some(socket) if answers(&socket).await => Ok(Where::Node(socket)),
                _ => Err(wrong(format!(
                    "no node of this cluster runs on this host: run the program on a host of it, after `mobula start \
                     --address={host_and_port} --token=…`"
                ))),
            }
        }
    }
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

/// The folders of nodes of this user, by port.
fn folders() -> Vec<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".mobula"));
    let Some(root) = env::var_os("MOBULA_DIR").map(PathBuf::from).or_else(home) else { return Vec::new() };
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
        for (address, says) in [
            ("7000", "expected `local`"),
            ("host:port", "expected `local`"),
            ("/nowhere", "no node listens there"),
            ("10.0.0.1:1", "run the program on a host of it"),
        ] {
            let error = find(Some(address)).await.unwrap_err().to_string();
            assert!(error.starts_with(address) && error.contains(says), "{error}");
        }
        assert_eq!(find(Some("embedded")).await, Ok(Where::Here));
    }
}
