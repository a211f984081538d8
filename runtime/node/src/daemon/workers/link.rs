//! The node's end of the socket to its warden: starts the warden, sends with descriptors, receives.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv,
    sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::WorkersConfig;
use super::letter::{BIRTH_FDS, FromWarden};
use super::warden::ROLE;

/// A warden that does not take a message within this time hangs. It takes one within a millisecond.
const SEND_MAX: Duration = Duration::from_secs(10);

/// What a warden has to say fits well into this; its longest is an error's text.
const HEARD_BYTES_MAX: usize = 16 << 10;

/// A warden, and the way to it. When this is dropped, the warden kills all below it and ends.
#[derive(Debug)]
pub(crate) struct Link {
    /// It carries packets; of the stream only the waiting is used.
    socket: UnixStream,
    warden: Child,
}

impl Link {
    pub(crate) fn start(config: &WorkersConfig) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let mut command = Command::new(&config.warden_program);
        command.args(&config.warden_args).env(ROLE, "1");
        let warden = command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).spawn()?;
        Ok(Self { socket: UnixStream::from_std(std::os::unix::net::UnixStream::from(ours))?, warden })
    }

    /// The warden's process number.
    pub(crate) fn pid(&self) -> i32 {
        self.warden.id().cast_signed()
    }

    pub(crate) async fn send(&self, letter: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BIRTH_FDS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(&fds));
            }
            Ok(sendmsg(&self.socket, &[IoSlice::new(letter)], &mut ancillary, SendFlags::NOSIGNAL)?)
        };
        let sent = async {
            loop {
                self.socket.writable().await?;
                match self.socket.try_io(Interest::WRITABLE, send) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    sent => return sent.map(|_| ()),
                }
            }
        };
        tokio::time::timeout(SEND_MAX, sent).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// What the warden says next. Cancel safe.
    ///
    /// # Errors
    ///
    /// It has ended, or speaks another language.
    pub(crate) async fn next(&self) -> io::Result<FromWarden> {
        loop {
            self.socket.readable().await?;
            let mut bytes = vec![0; HEARD_BYTES_MAX];
            let receive = || Ok(recv(&self.socket, &mut bytes, RecvFlags::empty())?);
            match self.socket.try_io(Interest::READABLE, receive) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((len, _)) => {
                    return mobula_wire::decode(&bytes[..len])
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
    }

    /// Takes leave: from here on the warden kills all below it. The child is to be waited for.
    pub(crate) fn close(self) -> Child {
        self.warden
    }
}
