//! What strangers may send before and after they are known, fed with bytes that nobody meant: no panic, nothing unbounded.
//!
//! A run prints its seed; `MOBULA_FUZZ_SEED` repeats it.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mobula_net::identity::{Credentials, Identity};
use mobula_net::{
    Admitted, Authority, Event, Gate, Lane, Mesh, MeshConfig, MeshEvents, PeerIdentity, Refusal, Token, connection,
    doors,
};
use mobula_types::{ClusterId, MemberId, NodeId, ProcessId, Role};
use mobula_wire::{FrameHead, FrameKind, PROTOCOL};
use rustls_pki_types::CertificateDer;
use tokio::io::AsyncWriteExt;

const INPUTS: usize = 20_000;
const INPUT_BYTES_MAX: usize = 300;
/// Streams of frames and datagrams: each costs a task or a system call.
const STREAMS: usize = 2000;
/// A hang shows as this.
const LIMIT: Duration = Duration::from_secs(20);

struct Numbers(u64);

impl Numbers {
    fn seeded(door: &str) -> Self {
        let clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
        let seed = std::env::var("MOBULA_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(clock);
        println!("{door}: MOBULA_FUZZ_SEED={seed}");
        Self(seed | 1)
    }

    /// xorshift64* (Vigna 2016).
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    /// Bytes that are mostly zeros, behind `front`.
    fn behind(&mut self, front: &[u8]) -> Vec<u8> {
        let mut bytes = front.to_vec();
        let more = self.below(INPUT_BYTES_MAX);
        bytes.extend((0..more).map(|_| if self.below(4) > 0 { 0 } else { self.next() as u8 }));
        bytes
    }

    fn changed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.next() as u8),
                _ if at < bytes.len() => bytes[at] = self.next() as u8,
                _ => bytes.push(0),
            }
        }
        bytes
    }
}

/// Feeds a door; what it accepts must read back as what it was.
fn feed(name: &str, door: fn(&[u8]) -> Result<Vec<u8>, Refusal>) {
    let mut numbers = Numbers::seeded(name);
    let mut accepted: Vec<Vec<u8>> = Vec::new();
    for _ in 0..INPUTS {
        let input = match accepted.last() {
            Some(last) if numbers.below(2) == 0 => {
                let last = last.clone();
                numbers.changed(&last)
            }
            _ => numbers.behind(&PROTOCOL.to_le_bytes()),
        };
        if let Ok(again) = door(&input) {
            assert_eq!(door(&again).as_deref(), Ok(&again[..]), "{input:?}");
            accepted.push(again);
        }
    }
    println!("{name}: {} of {INPUTS} accepted", accepted.len());
}

#[test]
fn first_words() {
    feed("greeting", doors::greeting);
    feed("join request", doors::join_request);
    feed("join response", doors::join_response);
}

#[test]
fn certificates_and_tokens() {
    let mut numbers = Numbers::seeded("certificate");
    let authority = Authority::new(ClusterId([1; 16]), SystemTime::now()).unwrap();
    let certificate = authority.issue(MemberId([2; 16]), Role::Node, &[3; 32], SystemTime::now()).unwrap();
    let token = Token::new(authority.pin()).unwrap().to_string();
    for _ in 0..INPUTS {
        let changed = numbers.changed(&certificate);
        // Nothing here verifies; that a changed one is read is no fault.
        PeerIdentity::of(&CertificateDer::from(changed)).ok();
        let changed = numbers.changed(token.as_bytes());
        if let Ok(read) = String::from_utf8_lossy(&changed).parse::<Token>() {
            assert_eq!(read.to_string().parse(), Ok(read));
        }
    }
}

#[tokio::test]
async fn streams_of_frames() {
    let mut numbers = Numbers::seeded("frames");
    let mut frames = 0;
    for _ in 0..STREAMS {
        let mut bytes = Vec::new();
        for _ in 0..numbers.below(4) {
            let kind =
                [FrameKind::Parcel, FrameKind::Local, FrameKind::Cluster, FrameKind::Heartbeat][numbers.below(4)];
            let body = numbers.behind(&[]);
            let body = &body[..body.len().min(kind.body_bytes_max())];
            bytes.extend(FrameHead { kind, body_bytes: body.len() }.bytes());
            bytes.extend(body);
        }
        let bytes = if numbers.below(2) == 0 { bytes } else { numbers.changed(&bytes) };
        let (mut raw, end) = tokio::io::duplex(4096);
        let (read, write) = tokio::io::split(end);
        let (_connection, mut incoming) = connection::over(read, write);
        let written = tokio::spawn(async move {
            raw.write_all(&bytes).await.ok();
            raw.shutdown().await.ok();
            raw
        });
        // It ends: by the end of the stream or by the first wrong frame.
        while tokio::time::timeout(LIMIT, incoming.next()).await.expect("no hang").is_ok() {
            frames += 1;
        }
        written.await.unwrap();
    }
    assert!(frames > STREAMS / 4, "{frames} frames were read");
}

/// Lets everybody in as node 2.
struct Open;

impl Gate for Open {
    fn admit(&self, _: &PeerIdentity, _: Bytes) -> BoxFuture<'_, Result<Admitted, Refusal>> {
        async { Ok(Admitted { peer: ProcessId::from(NodeId(2)), welcome: Bytes::new() }) }.boxed()
    }
}

async fn mesh(authority: &Authority, number: u8) -> (Mesh, MeshEvents) {
    let identity = Identity::issue(authority, MemberId([number; 16]), Role::Node, SystemTime::now()).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut config = MeshConfig::new(any, Credentials::new(&identity).unwrap());
    config.process = Some(ProcessId::from(NodeId(number.into())));
    Mesh::bind(config, Arc::new(Open)).await.unwrap()
}

/// Datagrams of anybody, some of which look like QUIC, do nothing to a port.
#[tokio::test]
async fn datagrams() {
    let mut numbers = Numbers::seeded("datagrams");
    let authority = Authority::new(ClusterId([1; 16]), SystemTime::now()).unwrap();
    let ((one, mut events), (two, _events)) = (mesh(&authority, 1).await, mesh(&authority, 2).await);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..STREAMS {
        // A long header of version 1, now and then.
        let datagram = numbers.behind(if numbers.0 & 4 == 0 { &[0xc3, 0, 0, 0, 1, 8] } else { &[] });
        socket.send_to(&datagram, one.local_addr().unwrap()).unwrap();
        tokio::task::yield_now().await;
    }
    two.enter(one.local_addr().unwrap(), Bytes::new(), LIMIT).await.unwrap();
    two.send(ProcessId::from(NodeId(1)), Lane::Calls, FrameKind::Cluster, Bytes::from_static(b"well")).unwrap();
    let arrived = async { while !matches!(events.next().await, Some(Event::Frame { .. })) {} };
    tokio::time::timeout(LIMIT, arrived).await.expect("the port works on");
}
