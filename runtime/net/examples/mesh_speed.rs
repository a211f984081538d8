//! How fast two meshes on loopback are: round trips of small frames, frames and bytes a second, and ranges of memory.
//!
//! ```text
//! cargo run --release -p mobula-net --example mesh_speed [threads of each side]
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use mobula_net::identity::{Credentials, Identity};
use mobula_net::mesh::{RangeComing, Ranges, SendError};
use mobula_net::{Admitted, Authority, Event, Gate, Lane, Mesh, MeshConfig, MeshEvents, PeerIdentity, Refusal};
use mobula_types::{ClusterId, MemberId, NodeId, ProcessId, Role};
use mobula_wire::FrameKind;

const ROUND_TRIPS: usize = 20_000;
const FRAMES: u64 = 1_000_000;
const BULK_FRAMES: u64 = 512;
const BULK_BYTES: usize = 1 << 20;
const RANGES: usize = 512;
/// In flight at once.
const RANGES_AHEAD: usize = 3;
const RANGE_BYTES: usize = 4 << 20;

/// Lets everybody in as node 1: there is one other.
struct Open;

impl Gate for Open {
    fn admit(&self, _: &PeerIdentity, _: Bytes) -> BoxFuture<'_, Result<Admitted, Refusal>> {
        async { Ok(Admitted { peer: ProcessId::from(NodeId(1)), welcome: Bytes::new() }) }.boxed()
    }
}

/// A range that lies in memory.
struct Memory(Bytes);

impl Ranges for Memory {
    fn range(&self, _: ProcessId, _: &[u8]) -> RangeComing {
        let range = self.0.clone();
        Box::pin(async move { Some(range) })
    }
}

async fn mesh(authority: &Authority, number: u8) -> (Mesh, MeshEvents) {
    let member = MemberId([number; 16]);
    let identity = Identity::issue(authority, member, Role::Node, SystemTime::now()).expect("an identity");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let mut config = MeshConfig::new(any, Credentials::new(&identity).expect("credentials"));
    config.process = Some(ProcessId::from(NodeId(number.into())));
    Mesh::bind(config, Arc::new(Open)).await.expect("a port")
}

/// The other side, on threads of its own: sends small frames back, and says when it has counted the rest.
fn serve(authority: Arc<Authority>, threads: usize) -> SocketAddr {
    let (said, addr) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        run_on(threads, async move {
            let (mesh, mut events) = mesh(&authority, 2).await;
            mesh.serve_ranges(Arc::new(Memory(vec![7; RANGE_BYTES].into())));
            said.send(mesh.local_addr().expect("an address")).expect("somebody listens");
            let mut counted = 0;
            while let Some(event) = events.next().await {
                let Event::Frame { from, lane, kind, body } = event else { continue };
                match lane {
                    Lane::Control => mesh.send(from, Lane::Control, kind, body).expect("it goes back"),
                    Lane::Calls | Lane::Bulk => counted += 1,
                }
                if counted == FRAMES && lane == Lane::Calls || counted == BULK_FRAMES && lane == Lane::Bulk {
                    counted = 0;
                    mesh.send(from, Lane::Control, kind, Bytes::new()).expect("it goes back");
                }
            }
        });
    });
    addr.recv().expect("the other side has begun")
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|threads| threads.parse().ok()).unwrap_or(1);
    run_on(threads, measure(threads));
}

/// Runs a task on threads of its own runtime: what is on another thread is woken through the kernel.
fn run_on(threads: usize, task: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    runtime.expect("a runtime").block_on(async { tokio::spawn(task).await.expect("it ends well") });
}

async fn measure(threads: usize) {
    let authority = Authority::new(ClusterId([1; 16]), SystemTime::now()).expect("a CA");
    let authority = Arc::new(authority);
    let addr = serve(authority.clone(), threads);
    let (mesh, mut events) = mesh(&authority, 1).await;
    let other = ProcessId::from(NodeId(2));
    mesh.enter(addr, Bytes::new(), Duration::from_secs(5)).await.expect("the other side answers");

    let mut trips = Vec::new();
    let body = Bytes::from_static(&[7; 64]);
    for _ in 0..ROUND_TRIPS {
        let begun = Instant::now();
        mesh.send(other, Lane::Control, FrameKind::Parcel, body.clone()).expect("it goes");
        frame(&mut events).await;
        trips.push(begun.elapsed());
    }
    trips.sort();
    println!("round trip: p50 {:?}, p99 {:?}", trips[ROUND_TRIPS / 2], trips[ROUND_TRIPS * 99 / 100]);

    for (lane, frames, bytes) in [(Lane::Calls, FRAMES, 64), (Lane::Bulk, BULK_FRAMES, BULK_BYTES)] {
        let body = Bytes::from(vec![7; bytes]);
        let kind = if lane == Lane::Bulk { FrameKind::Part } else { FrameKind::Parcel };
        let begun = Instant::now();
        for _ in 0..frames {
            while let Err(error) = mesh.send(other, lane, kind, body.clone()) {
                assert!(matches!(error, SendError::Full { .. }), "{error}");
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            if lane == Lane::Calls {
                tokio::task::consume_budget().await;
            }
        }
        frame(&mut events).await;
        let seconds = begun.elapsed().as_secs_f64();
        let rate = frames as f64 / seconds;
        println!("{lane:?}: {rate:.0} frames/s of {bytes} bytes, {:.0} MiB/s", rate * bytes as f64 / (1 << 20) as f64);
    }
    ranges(&mesh, other).await;
    mesh.close().await;
}

async fn ranges(mesh: &Mesh, other: ProcessId) {
    let begun = Instant::now();
    let fetch = async |_| {
        let mut room = vec![0; RANGE_BYTES];
        let keep = |at: u64, chunks: &[Bytes]| {
            let mut at = at as usize;
            for chunk in chunks {
                room[at..at + chunk.len()].copy_from_slice(chunk);
                at += chunk.len();
            }
            Ok(())
        };
        mesh.fetch_range(other, Bytes::new(), RANGE_BYTES as u64, keep).await.expect("it comes");
    };
    futures_util::stream::iter(0..RANGES).for_each_concurrent(RANGES_AHEAD, fetch).await;
    let mebibytes = (RANGES * RANGE_BYTES) as f64 / (1 << 20) as f64;
    println!("ranges of {RANGE_BYTES} bytes: {:.0} MiB/s", mebibytes / begun.elapsed().as_secs_f64());
}

async fn frame(events: &mut MeshEvents) {
    while !matches!(events.next().await, Some(Event::Frame { .. })) {}
}
