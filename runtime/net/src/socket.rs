//! What carries datagrams: by default a UDP socket on tokio; tests bring their own.
//!
//! `Split` stands between quinn and the socket. Linux takes up to 65,507 bytes of segments at once and says `EMSGSIZE`
//! to more, which quinn takes for sent: with datagrams above 6,550 bytes and its ten segments a burst nothing would ever
//! arrive. So what is longer is handed over in parts.
//!
//! It also gives the socket up when that is asked for. Whoever holds a connection holds quinn's endpoint and its socket,
//! and the port would be taken for as long as anybody does.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::RwLock;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

use crate::bounced::Bounced;

/// A socket, and the runtime on which its endpoint runs.
#[derive(Clone, Debug)]
pub struct Sockets {
    /// Gives time and tasks.
    pub runtime: Arc<dyn Runtime>,
    /// Sends and receives.
    pub socket: Arc<dyn AsyncUdpSocket>,
    /// Whether peers are where this host's own sockets reach them too: one of those asks for a process that is silent.
    pub is_of_host: bool,
}

/// Bytes that the kernel is asked to keep for a process that is busy; it gives what its own bound allows.
const BUFFER_BYTES: usize = 4 << 20;

/// UDP's longest payload over IPv4.
const TRANSMIT_BYTES_MAX: usize = 65_507;

impl Sockets {
    /// A UDP socket at `addr`, on the tokio runtime of the caller.
    ///
    /// # Errors
    ///
    /// The address is taken or cannot be had.
    pub fn udp(addr: SocketAddr) -> io::Result<Self> {
        Self::of(std::net::UdpSocket::bind(addr)?)
    }

    /// The same, where what comes back is noted in `bounced`.
    pub(crate) fn udp_heard(addr: SocketAddr, bounced: &Bounced) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(addr)?;
        bounced.listen(&socket)?;
        Self::of(socket)
    }

    fn of(socket: std::net::UdpSocket) -> io::Result<Self> {
        // Less than asked for is no fault: the kernel's bound is the host's business.
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, BUFFER_BYTES).ok();
        rustix::net::sockopt::set_socket_send_buffer_size(&socket, BUFFER_BYTES).ok();
        let runtime = Arc::new(TokioRuntime);
        let socket = runtime.wrap_udp_socket(socket)?;
        Ok(Self { runtime, socket, is_of_host: true })
    }

    pub(crate) fn split(self) -> (Arc<dyn Runtime>, Arc<Split>) {
        (self.runtime, Arc::new(Split { inner: RwLock::new(Some(self.socket)) }))
    }
}

/// A socket until it is closed.
pub(crate) struct Split {
    inner: RwLock<Option<Arc<dyn AsyncUdpSocket>>>,
}

impl Split {
    /// Gives the socket up, and waits until nobody has it who waits at this moment to send: but not beyond `within`.
    pub(crate) async fn close(&self, within: Duration) {
        let Some(socket) = self.inner.write().take() else { return };
        let held = Arc::downgrade(&socket);
        drop(socket);
        let gone = async {
            while held.strong_count() > 0 {
                tokio::time::sleep(CLOSE_LOOK).await;
            }
        };
        if tokio::time::timeout(within, gone).await.is_err() {
            tracing::warn!("the network port is not free yet: {} still wait to send", held.strong_count());
        }
    }

    fn with<T>(&self, act: impl FnOnce(&Arc<dyn AsyncUdpSocket>) -> io::Result<T>) -> io::Result<T> {
        self.inner.read().as_ref().map_or_else(|| Err(io::ErrorKind::NotConnected.into()), act)
    }
}

/// Between two looks whether a socket is gone.
const CLOSE_LOOK: Duration = Duration::from_millis(1);

/// Waits until there is room to send; has the socket only meanwhile.
#[derive(Debug)]
struct Writable {
    socket: Arc<Split>,
    waiting: Option<Pin<Box<dyn UdpPoller>>>,
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, waiting } = &mut *self;
        let mut poller = match waiting.take() {
            Some(poller) => poller,
            None => socket.with(|inner| Ok(inner.clone().create_io_poller()))?,
        };
        let polled = poller.as_mut().poll_writable(cx);
        if polled.is_pending() {
            *waiting = Some(poller);
        }
        polled
    }
}

impl AsyncUdpSocket for Split {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.with(|inner| {
            let Some(segment) = transmit.segment_size.filter(|_| transmit.contents.len() > TRANSMIT_BYTES_MAX) else {
                return inner.try_send(transmit);
            };
            let part_bytes = (TRANSMIT_BYTES_MAX / segment).max(1) * segment;
            for contents in transmit.contents.chunks(part_bytes) {
                let segment_size = (contents.len() > segment).then_some(segment);
                let Transmit { destination, ecn, src_ip, .. } = *transmit;
                // When a later part finds no room all are sent again: QUIC drops a packet that comes twice.
                inner.try_send(&Transmit { destination, ecn, contents, segment_size, src_ip })?;
            }
            Ok(())
        })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let inner = self.inner.read();
        let Some(inner) = inner.as_ref() else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        loop {
            match inner.poll_recv(cx, bufs, meta) {
                // Of one datagram to one peer, while quinn would take it for the end of the port. Said once: the next
                // call goes on. What it means is read from the port's error queue.
                Poll::Ready(Err(error)) if is_of_one_peer(&error) => {}
                received => return received,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.with(|inner| inner.local_addr())
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.read().as_ref().map_or(1, |inner| inner.max_transmit_segments())
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.read().as_ref().map_or(1, |inner| inner.max_receive_segments())
    }

    fn may_fragment(&self) -> bool {
        self.inner.read().as_ref().is_none_or(|inner| inner.may_fragment())
    }
}

/// Whether an error is what a host or a router has said of a datagram: the errors that Linux makes of ICMP messages
/// (net/ipv4/icmp.c, net/ipv6/icmp.c).
fn is_of_one_peer(error: &io::Error) -> bool {
    use rustix::io::Errno;
    const SAID: [Errno; 10] = [
        Errno::CONNREFUSED,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::OPNOTSUPP,
        Errno::NOPROTOOPT,
        Errno::MSGSIZE,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::PROTO,
        Errno::ACCESS,
    ];
    Errno::from_io_error(error).is_some_and(|errno| SAID.contains(&errno))
}

impl fmt::Debug for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Split").field(&self.inner).finish()
    }
}
