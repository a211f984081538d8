//! The hosts themselves: what passes between them, what a cut takes away, and that nothing touches the machine.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result};
use mobula_cluster::hosts::{Host, Network};
use mobula_cluster::process::{Process, until};
use mobula_cluster::traces::{self, Socket};

/// How long a datagram may take that does arrive.
const ARRIVES: Duration = Duration::from_secs(2);
/// How long one is waited for that does not.
const LOST: Duration = Duration::from_millis(100);

/// Two sockets that say how a datagram between them fares.
struct Wire {
    sockets: Vec<UdpSocket>,
}

impl Wire {
    fn between(hosts: &[Host]) -> Result<Self> {
        let bind = |host: &Host| host.run(|| Ok(UdpSocket::bind((host.ip(), 7000))?));
        Ok(Self { sockets: hosts.iter().map(bind).collect::<Result<_>>()? })
    }

    fn passes(&self, from: usize, to: usize, within: Duration) -> Result<bool> {
        self.sockets[from].send_to(b"ray", self.sockets[to].local_addr()?)?;
        self.sockets[to].set_read_timeout(Some(within))?;
        match self.sockets[to].recv(&mut [0; 8]) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[test]
fn a_cut_takes_what_it_says_and_healing_gives_it_back() -> Result<()> {
    let Some(network) = Network::of(3)? else { return Ok(()) };
    let wire = Wire::between(network.hosts())?;
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 1)] {
        assert!(wire.passes(from, to, ARRIVES)?, "{from} to {to}");
    }

    network.cut_one_way(0, 1)?;
    assert!(!wire.passes(0, 1, LOST)? && wire.passes(1, 0, ARRIVES)? && wire.passes(0, 2, ARRIVES)?);
    network.heal()?;
    assert!(wire.passes(0, 1, ARRIVES)?);

    network.cut(&[0])?;
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0)] {
        assert!(!wire.passes(from, to, LOST)?, "{from} to {to}");
    }
    assert!(wire.passes(1, 2, ARRIVES)? && wire.passes(2, 1, ARRIVES)?);
    network.heal()?;
    assert!(wire.passes(2, 0, ARRIVES)?);
    Ok(())
}

#[test]
fn a_port_without_a_process_refuses_at_once() -> Result<()> {
    let Some(network) = Network::of(2)? else { return Ok(()) };
    let socket = network.host(0).run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((network.host(1).ip(), 7001))?;
        Ok(socket)
    })?;
    socket.set_read_timeout(Some(ARRIVES))?;
    socket.send(b"anybody?")?;
    let refused = socket.recv(&mut [0; 8]).map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
    Ok(())
}

#[test]
fn processes_and_sockets_of_a_host_are_found() -> Result<()> {
    let Some(network) = Network::of(2)? else { return Ok(()) };
    let (host, other) = (network.host(0), network.host(1));
    let folder = tempfile::tempdir()?;
    let mut command = host.command("sh");
    command.args(["-c", "sleep 1000 & echo child $!; wait"]);
    let mut shell = Process::start("sh", folder.path(), &mut command)?;
    let child: u32 = shell.line("child ", ARRIVES)?.parse()?;
    let mut pids = host.pids();
    pids.sort_unstable();
    let mut expected = [shell.pid(), child];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    assert_eq!(other.pids(), Vec::<u32>::new());
    assert_eq!(traces::parent(child), Some(shell.pid()));

    shell.kill()?;
    // The child goes on without its parent, and is found as what was left behind.
    assert_eq!(host.pids(), [child]);

    let _udp = host.run(|| Ok(UdpSocket::bind("127.0.0.1:7002")?))?;
    let _tcp = host.run(|| Ok(std::net::TcpListener::bind("0.0.0.0:7003")?))?;
    let path = folder.path().join("x.sock");
    let _unix = host.run(|| Ok(std::os::unix::net::UnixListener::bind(&path)?))?;
    let expected = [
        Socket::Udp { is_loopback: true, port: 7002 },
        Socket::Tcp { is_loopback: false, port: 7003 },
        Socket::Unix { name: path.to_str().context("a plain path")?.to_owned() },
    ];
    assert_eq!(host.listening()?, expected);
    assert_eq!(other.listening()?, []);

    drop(network);
    // Hosts take with them whatever is left on them.
    until("the child's end", ARRIVES, || Ok((traces::network_namespace(child).is_none()).then_some(())))
}
