//! By which address the others reach this node. Nothing is sent to find it out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where the kernel lists its routes, and so the addresses of interfaces that are up.
const ROUTES: &str = "/proc/net/fib_trie";

/// Where the others reach a node that is bound to `bound`: as it was said, else the address by which this host goes to its
/// head or, on the head, to other networks, else one of an interface that is up.
pub(super) fn advertised(said: Option<IpAddr>, bound: SocketAddr, head: Option<SocketAddr>) -> SocketAddr {
    let found = said.or_else(|| (!bound.ip().is_unspecified()).then_some(bound.ip())).or_else(|| outward(head));
    let ip = found.or_else(|| {
        let routes = std::fs::read_to_string(ROUTES).unwrap_or_default();
        of_interfaces(&routes).into_iter().next().map(IpAddr::V4)
    });
    let ip = ip.unwrap_or_else(|| {
        tracing::warn!("this host has no address by which others reach it: only its own processes find this node");
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    });
    SocketAddr::new(ip, bound.port())
}

/// The address from which this host goes to another, as the system would choose it.
fn outward(to: Option<SocketAddr>) -> Option<IpAddr> {
    // An address of documentation: only which way it lies matters.
    let to = to.unwrap_or(SocketAddr::from(([198, 51, 100, 1], 9)));
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = std::net::UdpSocket::bind(any).ok()?;
    socket.connect(to).ok()?;
    socket.local_addr().ok().map(|addr| addr.ip())
}

/// This host's own addresses in the kernel's list of routes, but those of loopback.
fn of_interfaces(routes: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in routes.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = last.filter(|address| !address.is_loopback() && !found.contains(address))
        {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_interfaces_are_read_from_the_routes() {
        // Of a host with eth0 10.77.0.1/24 and no way out.
        let routes = "Main:\n  +-- 10.77.0.0/24 2 0 2\n     |-- 10.77.0.0\n        /24 link UNICAST\n\
                      Local:\n  +-- 0.0.0.0/1 2 0 2\n     |-- 10.77.0.1\n        /32 host LOCAL\n\
                           |-- 10.77.0.255\n        /32 link BROADCAST\n  +-- 127.0.0.0/8 2 0 2\n\
                           |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(of_interfaces(routes), [Ipv4Addr::new(10, 77, 0, 1)]);
        assert!(of_interfaces("nonsense\n|-- x\n/32 host LOCAL").is_empty());
    }

    #[test]
    fn what_was_said_comes_first_and_then_what_it_is_bound_to() {
        let said = Some(IpAddr::from([10, 0, 0, 7]));
        let (any, one) = (SocketAddr::from(([0, 0, 0, 0], 5)), SocketAddr::from(([10, 0, 0, 8], 5)));
        assert_eq!(advertised(said, any, None), SocketAddr::from(([10, 0, 0, 7], 5)));
        assert_eq!(advertised(None, one, None), one);
        let head = SocketAddr::from(([127, 0, 0, 1], 9));
        assert_eq!(advertised(None, any, Some(head)), SocketAddr::from(([127, 0, 0, 1], 5)), "the way to its head");
    }
}
