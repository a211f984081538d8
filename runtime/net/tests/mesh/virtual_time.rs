//! Meshes on hosts of `turmoil`: cuts, one-way cuts and bad networks, in virtual time.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use mobula_net::{Authority, Event, Lane, MeshConfig, Sockets};
use mobula_wire::FrameKind;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, TokioRuntime, UdpPoller};
use tokio::time::Instant;

use crate::cluster::{Node, authority, config, member, node};

const PORT: u16 = 6379;

/// A UDP socket of a simulated host, as quinn takes it.
struct Simulated {
    socket: Arc<turmoil::net::UdpSocket>,
    readable: Mutex<Option<Readable>>,
}

type Readable = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

impl AsyncUdpSocket for Simulated {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        // A network that is cut says nothing.
        self.socket.try_send_to(transmit.contents, transmit.destination).ok();
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.socket.try_recv_from(&mut bufs[0]) {
                Ok((len, addr)) => {
                    meta[0] = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
                    return Poll::Ready(Ok(1));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            let mut slot = self.readable.lock().unwrap();
            let socket = self.socket.clone();
            let readable = slot.get_or_insert_with(|| Box::pin(async move { socket.readable().await }));
            match readable.as_mut().poll(cx) {
                Poll::Ready(_) => *slot = None,
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Simulated")
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

async fn start(authority: &Authority, number: u64) -> Node {
    let any: SocketAddr = ([0, 0, 0, 0], PORT).into();
    let socket = Arc::new(turmoil::net::UdpSocket::bind(any).await.unwrap());
    let socket = Arc::new(Simulated { socket, readable: Mutex::default() });
    let sockets = Sockets { runtime: Arc::new(TokioRuntime), socket, is_of_host: false };
    Node::with(MeshConfig { sockets: Some(sockets), ..config(authority, number, any) }, number).await
}

/// What a host does, after it has begun.
fn host(
    sim: &mut turmoil::Sim<'_>,
    authority: &Arc<Authority>,
    number: u64,
    run: impl AsyncFn(Node) -> turmoil::Result + Clone + 'static,
) {
    let authority = authority.clone();
    sim.client(format!("node{number}"), async move {
        let started = start(&authority, number).await;
        let other = 3 - number;
        let addr = (turmoil::lookup(format!("node{other}")), PORT).into();
        started.mesh.know(node(other), addr, member(other));
        run(started).await
    });
}

fn sim(seconds: u64, bad: bool) -> turmoil::Sim<'static> {
    let mut builder = turmoil::Builder::new();
    builder
        .simulation_duration(Duration::from_secs(seconds))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_micros(100))
        .max_message_latency(Duration::from_millis(2))
        .udp_capacity(10_000)
        .rng_seed(7);
    if bad {
        // Links that fail now and then and come back: one message in 200 finds its link failed.
        builder.fail_rate(0.005).repair_rate(0.3);
    }
    builder.build()
}

const FRAMES: u64 = 3000;

/// Sends [`FRAMES`] on two lanes over ten seconds, and receives as many from the other.
async fn exchange(mut this: Node) -> turmoil::Result {
    let other = node(3 - this.number);
    let mesh = this.mesh.clone();
    let sender = tokio::spawn(async move {
        for number in 0..FRAMES {
            let lane = if number % 2 == 0 { Lane::Calls } else { Lane::Bulk };
            let body = Bytes::copy_from_slice(&number.to_le_bytes());
            mesh.send(other, lane, FrameKind::Parcel, body).unwrap();
            if number % 300 == 0 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    });
    let mut next = [0, 1];
    while next != [FRAMES, FRAMES + 1] {
        let Some(event) = this.events.next().await else { panic!("the mesh is open") };
        if let Event::Frame { lane, body, .. } = event {
            let number = u64::from_le_bytes(body[..].try_into().unwrap());
            let next = &mut next[usize::from(lane == Lane::Bulk)];
            assert_eq!(number, *next, "{lane:?} on node {}", this.number);
            *next += 2;
        }
    }
    sender.await.unwrap();
    // The other may still wait for the last frames, and for the word that its own have come.
    tokio::time::sleep(Duration::from_secs(5)).await;
    Ok(())
}

#[test]
fn everything_arrives_through_cuts_of_every_kind() {
    for (name, cut, heal) in [
        (
            "both ways",
            (|| turmoil::partition("node1", "node2")) as fn(),
            (|| turmoil::repair("node1", "node2")) as fn(),
        ),
        ("one way", || turmoil::partition_oneway("node1", "node2"), || turmoil::repair_oneway("node1", "node2")),
    ] {
        let authority = Arc::new(authority());
        let mut sim = sim(120, false);
        host(&mut sim, &authority, 1, exchange);
        host(&mut sim, &authority, 2, exchange);
        sim.client("cutter", async move {
            for length_ms in [200, 1500, 4000, 30_000] {
                tokio::time::sleep(Duration::from_millis(1500)).await;
                cut();
                tokio::time::sleep(Duration::from_millis(length_ms)).await;
                heal();
            }
            Ok(())
        });
        sim.run().unwrap_or_else(|error| panic!("cut {name}: {error}"));
    }
}

#[test]
fn everything_arrives_over_a_bad_network() {
    let authority = Arc::new(authority());
    let mut sim = sim(120, true);
    host(&mut sim, &authority, 1, exchange);
    host(&mut sim, &authority, 2, exchange);
    sim.run().unwrap();
}

#[test]
fn a_cut_peer_is_silent_in_steps_and_back_soon_after_the_cut_is_healed() {
    let authority = Arc::new(authority());
    let mut sim = sim(60, false);
    host(&mut sim, &authority, 1, async |mut one: Node| {
        one.mesh.send(node(2), Lane::Calls, FrameKind::Cluster, Bytes::new()).unwrap();
        one.wait(|event| matches!(event, Event::Up { .. }).then_some(())).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        turmoil::partition("node1", "node2");
        let cut = Instant::now();
        let (mut silences, mut down) = (Vec::new(), None);
        while silences.len() < 6 {
            match one.next().await {
                Event::Silent { silent, refused: false, .. } => silences.push(silent.as_millis()),
                Event::Down { .. } => down = Some(cut.elapsed().as_millis()),
                other => panic!("{other:?}"),
            }
        }
        for (at, silent) in silences.iter().enumerate() {
            let due = 300 + 1000 * at as u128;
            assert!((due..due + 200).contains(silent), "{silences:?}");
        }
        let down = down.expect("the connection is given up");
        assert!((1800..2200).contains(&down), "after {down} ms");
        turmoil::repair("node1", "node2");
        let healed = Instant::now();
        one.wait(|event| matches!(event, Event::Up { .. }).then_some(())).await;
        assert!(healed.elapsed() < Duration::from_secs(4), "up after {:?}", healed.elapsed());
        Ok(())
    });
    host(&mut sim, &authority, 2, async |mut two: Node| {
        // It ends when the other has gone and says so.
        two.wait(|event| matches!(event, Event::Up { .. }).then_some(())).await;
        two.wait(|event| matches!(event, Event::Down { .. }).then_some(())).await;
        two.wait(|event| matches!(event, Event::Up { .. }).then_some(())).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok(())
    });
    sim.run().unwrap();
}
