//! Connections inside a host: Unix sockets that only processes of the same user may use.
//!
//! The folder of a socket is closed to others (0700), and so is the socket (0600); beside that the kernel says of every
//! connection which process of which user made it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use crate::connection::{self, Connection, Incoming};

/// Takes connections at a path; removes the socket when it is dropped.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    uid: u32,
}

/// Which process is at the other end, in the kernel's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProcess {
    /// Its process number on this host.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

/// Why there is no listener or connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnixError {
    /// Another process listens there.
    #[error("{path} is in use: another process listens there", path = path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Nobody listens there.
    #[error("nobody listens at {path}", path = path.display())]
    Nobody {
        /// The socket.
        path: PathBuf,
    },
    /// The path is longer than a socket's may be.
    #[error("{path} is {bytes} bytes long, a socket's path at most {PATH_BYTES_MAX}: choose a shorter folder", path = path.display())]
    TooLong {
        /// The socket.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The listener did not take the connection in time.
    #[error("{path} did not answer within {within:?}", path = path.display())]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// The time it had.
        within: Duration,
    },
    /// The system refused.
    #[error("cannot use the socket {path}: {source}", path = path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// `sun_path` has 108 bytes, the last of them zero.
const PATH_BYTES_MAX: usize = 107;

/// Asking whether somebody listens at a socket that is left over takes no longer than this.
const STALE_PROBE: Duration = Duration::from_secs(1);

impl Listener {
    /// Listens at `path`. Makes its folder, closed to others; a socket that is left over from a process that has ended is
    /// removed first.
    ///
    /// # Errors
    ///
    /// [`UnixError`].
    pub async fn bind(path: &Path) -> Result<Self, UnixError> {
        check_length(path)?;
        let failed = |source| UnixError::Io { path: path.to_owned(), source };
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        if path.exists() {
            match tokio::time::timeout(STALE_PROBE, UnixStream::connect(path)).await {
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed)?;
                }
                Ok(Err(error)) => return Err(failed(error)),
                Ok(Ok(_)) | Err(_) => return Err(UnixError::InUse { path: path.to_owned() }),
            }
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), uid: rustix::process::geteuid().as_raw() })
    }

    /// The next connection of a process of this user; those of others are closed without a word.
    ///
    /// # Errors
    ///
    /// The system has no descriptors left; a later call may succeed.
    pub async fn accept(&self) -> Result<(Connection, Incoming, PeerProcess), UnixError> {
        loop {
            let failed = |source| UnixError::Io { path: self.path.clone(), source };
            let (stream, _) = self.listener.accept().await.map_err(failed)?;
            let Ok(peer) = stream.peer_cred() else { continue };
            let peer = PeerProcess { pid: peer.pid().unwrap_or(0), uid: peer.uid() };
            if peer.uid != self.uid && peer.uid != 0 {
                tracing::warn!(uid = peer.uid, pid = peer.pid, "a process of another user was turned away");
                continue;
            }
            let (connection, incoming) = connection::over_socket(stream).map_err(failed)?;
            return Ok((connection, incoming, peer));
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Gone already when its folder was removed before.
        fs::remove_file(&self.path).ok();
    }
}

/// Connects to a [`Listener`].
///
/// # Errors
///
/// [`UnixError`].
pub async fn connect(path: &Path, within: Duration) -> Result<(Connection, Incoming), UnixError> {
    check_length(path)?;
    let stream = match tokio::time::timeout(within, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                return Err(UnixError::Nobody { path: path.to_owned() });
            }
            _ => return Err(UnixError::Io { path: path.to_owned(), source: error }),
        },
        Err(_) => return Err(UnixError::TimedOut { path: path.to_owned(), within }),
    };
    connection::over_socket(stream).map_err(|source| UnixError::Io { path: path.to_owned(), source })
}

fn check_length(path: &Path) -> Result<(), UnixError> {
    let bytes = path.as_os_str().len();
    if bytes > PATH_BYTES_MAX { Err(UnixError::TooLong { path: path.to_owned(), bytes }) } else { Ok(()) }
}
