//! Datagrams that came back: a host says that nobody has the port they were sent to.
//!
//! Asking for it when a peer is silent comes too late. A host answers a few datagrams to closed ports at once and then
//! one a second (`icmp_ratelimit`), and what QUIC sends again to a killed process uses these answers up in 200 ms. So the
//! answers to what was sent anyway are listened to, on the port's own error queue (`IP_RECVERR`). The loopback device has
//! no such limit: tests on it see nothing of this.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::task::JoinHandle;

/// What came back longer ago is forgotten when room is needed: silence is a death before.
const FRESH: Duration = Duration::from_secs(10);

/// Addresses of which is known when datagrams came back; the oldest make room. As many peers may die at once.
const ADDRS_MAX: usize = 1_024;

/// Bytes of a datagram that came back that are read: none of them is needed.
const CONTENTS_BYTES: usize = 64;

/// The last two times at which a datagram to an address came back.
type Seen = Arc<Mutex<BTreeMap<SocketAddr, [Option<Instant>; 2]>>>;

/// What came back to one port.
#[derive(Debug, Default)]
pub(crate) struct Bounced {
    seen: Seen,
    listener: Mutex<Option<JoinHandle<()>>>,
}

impl Bounced {
    /// Listens to what comes back to `socket`, until [`close`](Self::close). Must be called on a tokio runtime.
    pub(crate) fn listen(&self, socket: &UdpSocket) -> io::Result<()> {
        match socket.local_addr()? {
            SocketAddr::V4(_) => setsockopt(socket, Ipv4RecvErr, &true)?,
            SocketAddr::V6(_) => setsockopt(socket, Ipv6RecvErr, &true)?,
        }
        let socket = socket.try_clone()?;
        socket.set_nonblocking(true)?;
        #[expect(deprecated, reason = "the twin is unsafe for descriptors that close by themselves; a socket does not")]
        let socket = AsyncFd::with_interest(socket, Interest::ERROR)?;
        let seen = self.seen.clone();
        *self.listener.lock() = Some(tokio::spawn(async move {
            while let Ok(mut ready) = socket.ready(Interest::ERROR).await {
                // First, so that one which comes while the queue is read wakes this again.
                ready.clear_ready_matching(Ready::ERROR);
                drain(socket.get_ref(), &seen);
            }
        }));
        Ok(())
    }

    /// How many of the last two datagrams to `addr` came back in the time given: since its process was heard. Before that
    /// another one may have had the port, and been killed.
    pub(crate) fn lately(&self, addr: SocketAddr, within: Duration) -> usize {
        let seen = self.seen.lock().get(&addr).copied().unwrap_or_default();
        seen.iter().flatten().filter(|at| at.elapsed() < within).count()
    }

    /// Listens no more, and gives the port up.
    pub(crate) async fn close(&self) {
        let listener = self.listener.lock().take();
        if let Some(listener) = listener {
            listener.abort();
            listener.await.ok();
        }
    }
}

impl Drop for Bounced {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.get_mut() {
            listener.abort();
        }
    }
}

/// Reads the error queue until it is empty.
fn drain(socket: &UdpSocket, seen: &Seen) {
    let mut contents = [0; CONTENTS_BYTES];
    let mut space = nix::cmsg_space!([u8; 256]);
    loop {
        let mut parts = [IoSliceMut::new(&mut contents)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        // The name of such a message is where the datagram was sent to.
        let Ok(message) = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) else {
            return;
        };
        let refused = message.cmsgs().is_ok_and(|mut messages| messages.any(|message| is_refusal(&message)));
        if let Some(addr) = message.address.as_ref().and_then(socket_addr).filter(|_| refused) {
            note(&mut seen.lock(), addr);
        }
    }
}

fn is_refusal(message: &ControlMessageOwned) -> bool {
    let (ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _)) = message else {
        return false;
    };
    i32::try_from(error.ee_errno)
        .is_ok_and(|errno| io::Error::from_raw_os_error(errno).kind() == io::ErrorKind::ConnectionRefused)
}

fn socket_addr(name: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = name.as_sockaddr_in().map(|name| SocketAddr::from((name.ip(), name.port())));
    v4.or_else(|| name.as_sockaddr_in6().map(|name| SocketAddr::from((name.ip(), name.port()))))
}

fn note(seen: &mut BTreeMap<SocketAddr, [Option<Instant>; 2]>, addr: SocketAddr) {
    if seen.len() >= ADDRS_MAX && !seen.contains_key(&addr) {
        seen.retain(|_, [_, last]| last.is_some_and(|at| at.elapsed() < FRESH));
        if seen.len() >= ADDRS_MAX {
            return;
        }
    }
    let times = seen.entry(addr).or_default();
    *times = [times[1], Some(Instant::now())];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_back_is_counted_for_its_address() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let there = UdpSocket::bind("127.0.0.1:0").unwrap();
        let bounced = Bounced::default();
        bounced.listen(&socket).unwrap();
        for expected in [1, 2, 2] {
            // The error of the one before is told to the next that sends.
            while socket.send_to(b"ray", gone).is_err() {}
            while socket.send_to(b"ray", there.local_addr().unwrap()).is_err() {}
            let begun = Instant::now();
            while bounced.lately(gone, FRESH) < expected {
                assert!(begun.elapsed() < Duration::from_secs(10), "it comes back");
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(bounced.lately(there.local_addr().unwrap(), FRESH), 0);
        assert_eq!(bounced.lately(gone, Duration::ZERO), 0, "before it was heard");
        bounced.close().await;
        let addr = socket.local_addr().unwrap();
        drop(socket);
        UdpSocket::bind(addr).expect("the port is given up");
    }
}
