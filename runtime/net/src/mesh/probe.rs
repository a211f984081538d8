//! Asks another host whether a process still has its port.
//!
//! A datagram to a port that nobody has is answered by the host with an ICMP message, which a connected socket is told as
//! `ECONNREFUSED`. A process that was killed is known so in a few milliseconds; a host that is silent says nothing, and
//! neither does a process that was stopped. One answer may be forged or be about a port that is only just being taken, so
//! two are asked for; and without silence before it none means anything.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mobula_logic::session::Input;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::Inner;
use super::peer::Peer;

/// One may be forged, or of a port that is only just being taken.
const REFUSALS: usize = 2;

/// A host that says anything says it within this: ten round trips of a slow network.
const ANSWER_MAX: Duration = Duration::from_millis(200);

/// Where a peer can be asked for.
#[derive(Clone, Copy)]
pub(super) enum At {
    /// It takes connections there.
    Open(SocketAddr),
    /// It came from there and takes none. Between may stand a router that lets in only what answers it, and says of all
    /// else that nobody has the port: so it is not asked, and only what comes back of what was sent to it counts.
    CameFrom(SocketAddr),
    Nowhere,
}

/// Probes a peer that has been silent for so long, and tells its session.
pub(super) async fn probe(inner: Arc<Inner>, peer: Arc<Peer>, at: At, silent: Duration) {
    let refused = match at {
        At::Open(addr) if inner.probes => {
            // Mostly the host has said so already, of what the session had sent.
            let mut refusals = inner.bounced.lately(addr, silent);
            while refusals < REFUSALS && is_refused(addr).await.unwrap_or(false) {
                refusals += 1;
            }
            refusals >= REFUSALS
        }
        At::CameFrom(addr) => inner.bounced.lately(addr, silent) >= REFUSALS,
        At::Open(_) | At::Nowhere => false,
    };
    peer.handle(&inner, Input::Probed { refused });
}

async fn is_refused(addr: SocketAddr) -> io::Result<bool> {
    let any = if addr.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(addr).await?;
    // One byte is no packet of QUIC: a process that is there drops it.
    let sent = socket.send(&[0]).await;
    let answer = match sent {
        Ok(_) => timeout(ANSWER_MAX, socket.recv(&mut [0])).await.unwrap_or(Ok(0)),
        Err(error) => Err(error),
    };
    Ok(answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_nobody_has_is_refused_and_one_that_is_silent_is_not() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        assert!(!is_refused(addr).await.unwrap());
        drop(socket);
        assert!(is_refused(addr).await.unwrap());
    }
}
