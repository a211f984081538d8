//! The socket at which processes of this host are given shared memory: what is asked there is answered by the node's
//! [`Arena`], one word after another.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mobula_store::{Arena, pass};
use mobula_types::ProcessId;
use mobula_wire::segments::{FromStore, PACKET_BYTES_MAX, STORE_SOCKET, ToStore};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Connections that wait to be taken.
const BACKLOG: i32 = 128;

/// Processes that are connected at once: each is, as long as it shares memory. More wait in the backlog.
const SPEAKERS_MAX: usize = 4_096;

/// The first word must come in this time, and an answer be taken.
const PATIENCE: Duration = Duration::from_secs(10);

/// After the system had no descriptor left for a connection, the next try waits: some may have been given back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The socket; its file is gone with this.
pub(crate) struct Doorway {
    /// It carries packets; of the stream only the waiting is used.
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Doorway {
    fn drop(&mut self) {
        // Gone already when its folder was removed before.
        std::fs::remove_file(&self.path).ok();
    }
}

/// Listens in a node's folder, which is closed to others.
pub(crate) fn listen_in(folder: &Path) -> io::Result<Doorway> {
    let path = folder.join(STORE_SOCKET);
    // Of a node that was killed here: another one that lives would have the node's own socket.
    std::fs::remove_file(&path).ok();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(&path)?)?;
    rustix::fs::chmod(&path, Mode::RUSR | Mode::WUSR)?;
    listen(&socket, BACKLOG)?;
    Ok(Doorway { listener: UnixListener::from_std(net::UnixListener::from(socket))?, path })
}

/// Takes connections until the task is ended.
pub(crate) async fn open(doorway: Doorway, arena: Arc<Arena>) {
    let room = Arc::new(Semaphore::new(SPEAKERS_MAX));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        match doorway.listener.accept().await {
            Ok((socket, _)) => {
                let arena = arena.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(&socket, &arena).await {
                        tracing::debug!(%error, "a process is not heard about its segments any more");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::error!(%error, "no connection for segments can be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(socket: &UnixStream, arena: &Arc<Arena>) -> io::Result<()> {
    let mut speaker: Option<ProcessId> = None;
    loop {
        let heard = hear(socket);
        let said = match speaker {
            Some(_) => heard.await?,
            None => tokio::time::timeout(PATIENCE, heard).await??,
        };
        let Some(said) = said else { return Ok(()) };
        let arena = arena.clone();
        // Making memory takes a millisecond for each few megabytes.
        let answered = tokio::task::spawn_blocking(move || {
            let answer = arena.answer(&mut speaker, said);
            (answer, speaker)
        });
        let ((answer, file), known) = answered.await.map_err(io::Error::other)?;
        speaker = known;
        let packet = mobula_wire::encode(&answer).map_err(io::Error::other)?;
        let send = || pass::send(socket, &packet, file.as_ref().map(AsFd::as_fd));
        tokio::time::timeout(PATIENCE, socket.async_io(Interest::WRITABLE, send)).await??;
        if matches!(answer, FromStore::Refused(_)) && speaker.is_none() {
            return Ok(());
        }
    }
}

/// The next word; `None` when the other end has gone.
async fn hear(socket: &UnixStream) -> io::Result<Option<ToStore>> {
    let mut packet = [0; PACKET_BYTES_MAX];
    let (len, _) = socket.async_io(Interest::READABLE, || pass::receive(socket, &mut packet)).await?;
    match len {
        0 => Ok(None),
        len => mobula_wire::decode(&packet[..len]).map(Some).map_err(io::Error::other),
    }
}
