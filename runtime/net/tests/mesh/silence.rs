//! A process that is gone is seen to be gone, and one that is busy is not.

use std::time::{Duration, Instant};

use bytes::Bytes;
use mobula_net::{Authority, Event, Lane};
use mobula_wire::FrameKind;

use crate::cluster::{Node, authority, hello, node};

/// A node on a runtime of its own, which ends without a word as a killed process does.
async fn in_another_process(authority: Authority, number: u64) -> (tokio::runtime::Runtime, Node) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let node = runtime.spawn(async move { Node::start(&authority, number).await }).await.unwrap();
    (runtime, node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_is_refused_by_its_host_within_a_second() {
    let authority = authority();
    let mut one = Node::start(&authority, 1).await;
    let (runtime, two) = in_another_process(authority, 2).await;
    one.knows(&two);
    one.mesh.send(node(2), Lane::Calls, FrameKind::Cluster, Bytes::new()).unwrap();
    one.wait(|event| matches!(event, Event::Up { .. }).then_some(())).await;
    let killed = Instant::now();
    runtime.shutdown_background();
    drop(two);
    loop {
        let (silent, refused) = one
            .wait(|event| match event {
                Event::Silent { peer, silent, refused } => {
                    assert_eq!(peer, node(2));
                    Some((silent, refused))
                }
                _ => None,
            })
            .await;
        assert!(silent >= Duration::from_millis(300), "silent for {silent:?}");
        // The runtime may have closed its socket only after the first probe.
        if refused {
            break;
        }
    }
    // Known within 1 s (G11), ten times that where the machine is busy.
    assert!(killed.elapsed() < Duration::from_secs(10), "after {:?}", killed.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_say_nothing_are_not_silent() {
    let authority = authority();
    let (mut one, two) = (Node::start(&authority, 1).await, Node::start(&authority, 2).await);
    two.mesh.enter(one.addr, hello(2), crate::cluster::LIMIT).await.unwrap();
    one.wait(|event| matches!(event, Event::Up { .. }).then_some(())).await;
    // Longer than the first probe and a step after it.
    let quiet = tokio::time::timeout(Duration::from_millis(1500), one.events.next()).await;
    assert!(quiet.is_err(), "nothing happens, but {quiet:?}");
}
