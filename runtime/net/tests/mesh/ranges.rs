//! Ranges of a peer's memory: whole, or not there; and nothing is kept of what nobody reads any more.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mobula_net::Mesh;
use mobula_net::mesh::{RangeComing, RangeError, Ranges};
use mobula_types::ProcessId;

use crate::cluster::{LIMIT, Node, authority, node};

const BYTES: usize = 8 << 20;

/// What lies here, for node 1 only.
struct Memory(Arc<Vec<u8>>);

struct Lent(Arc<Vec<u8>>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Ranges for Memory {
    fn range(&self, by: ProcessId, words: &[u8]) -> RangeComing {
        let lent = Bytes::from_owner(Lent(self.0.clone()));
        let range = (by == node(1) && words == b"all of it").then_some(lent);
        Box::pin(async move { range })
    }
}

fn memory() -> Arc<Vec<u8>> {
    Arc::new((0..BYTES).map(|at| (at / 1_000) as u8).collect())
}

async fn fetch(mesh: &Mesh, of: ProcessId, words: &'static str, bytes: usize) -> Result<Vec<u8>, RangeError> {
    let mut room = vec![0; bytes];
    let keep = |at: u64, chunks: &[Bytes]| {
        let mut at = usize::try_from(at).expect("it fits");
        for chunk in chunks {
            room[at..at + chunk.len()].copy_from_slice(chunk);
            at += chunk.len();
        }
        Ok(())
    };
    let fetched = mesh.fetch_range(of, Bytes::from_static(words.as_bytes()), bytes as u64, keep);
    tokio::time::timeout(LIMIT, fetched).await.expect("it ends").map(|()| room)
}

async fn pair() -> (Node, Node) {
    let authority = authority();
    let (a, b) = (Node::start(&authority, 1).await, Node::start(&authority, 2).await);
    a.knows(&b);
    // The bulk connection follows the main one, by whoever made that.
    a.mesh.send(node(2), mobula_net::Lane::Calls, mobula_wire::FrameKind::Parcel, Bytes::new()).unwrap();
    (a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_comes_whole_to_who_may_have_it() {
    let (a, b) = pair().await;
    let memory = memory();
    assert!(matches!(fetch(&a.mesh, node(2), "all of it", BYTES).await, Err(RangeError::Refused)), "nothing is served");
    a.mesh.serve_ranges(Arc::new(Memory(memory.clone())));
    b.mesh.serve_ranges(Arc::new(Memory(memory.clone())));
    assert!(fetch(&a.mesh, node(2), "all of it", BYTES).await.unwrap() == *memory);
    for (refused, why) in [
        (fetch(&a.mesh, node(2), "more", BYTES).await, "there is no such range"),
        (fetch(&b.mesh, node(1), "all of it", BYTES).await, "it is not for this peer"),
    ] {
        assert!(matches!(refused, Err(RangeError::Refused)), "{why}");
    }
    for wanted in [BYTES - 1, BYTES + 1] {
        let other = fetch(&a.mesh, node(2), "all of it", wanted).await;
        assert!(matches!(other, Err(RangeError::Length { .. })), "it has another length");
    }
    let nobody = fetch(&a.mesh, node(9), "all of it", BYTES).await;
    assert!(matches!(nobody, Err(RangeError::Cut { .. })), "nobody is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_read_to_its_end_is_let_go() {
    let (a, b) = pair().await;
    let memory = memory();
    b.mesh.serve_ranges(Arc::new(Memory(memory.clone())));
    for is_dropped in [false, true] {
        let (begun, first) = tokio::sync::oneshot::channel();
        let mut begun = Some(begun);
        let keep = move |_: u64, _: &[Bytes]| {
            begun.take().expect("nothing follows an error").send(()).ok();
            if is_dropped { Ok(()) } else { Err(io::Error::other("no room")) }
        };
        let mesh = a.mesh.clone();
        let fetching = tokio::spawn(async move {
            let words = Bytes::from_static(b"all of it");
            mesh.fetch_range(node(2), words, BYTES as u64, keep).await
        });
        first.await.expect("something comes");
        if is_dropped {
            fetching.abort();
        } else {
            assert!(matches!(fetching.await.unwrap(), Err(RangeError::Kept(_))));
        }
        let let_go = async {
            // One is held by this test, one by what is served.
            while Arc::strong_count(&memory) > 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LIMIT, let_go).await.expect("it is let go");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_ends_what_is_on_its_way_and_the_next_goes_another_way() {
    let (a, b) = pair().await;
    let memory = memory();
    b.mesh.serve_ranges(Arc::new(Memory(memory.clone())));
    assert!(fetch(&a.mesh, node(2), "all of it", BYTES).await.unwrap() == *memory);
    let mesh = a.mesh.clone();
    let keep = move |_: u64, _: &[Bytes]| {
        mesh.reconnect(node(2));
        Ok(())
    };
    let words = Bytes::from_static(b"all of it");
    let cut = tokio::time::timeout(LIMIT, a.mesh.fetch_range(node(2), words, BYTES as u64, keep)).await.unwrap();
    assert!(matches!(cut, Err(RangeError::Cut { .. })), "{cut:?}");
    assert!(fetch(&a.mesh, node(2), "all of it", BYTES).await.unwrap() == *memory);
}
