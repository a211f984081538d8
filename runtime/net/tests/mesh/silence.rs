//! A process that is gone is seen to be gone, and one that is busy is not.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use mobula_net::{Authority, Credentials, Event, Identity, Lane, Mesh, MeshConfig};
use mobula_types::Role;
use mobula_wire::FrameKind;

use crate::cluster::{Node, Numbers, authority, hello, loopback, member, node};

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
    // Longer than the first probe and a step after it: whoever is silent is told of within this. A machine that is busy may
    // keep both from their CPUs for as long; then not for ever.
    let quiet = Duration::from_millis(1500);
    let begun = Instant::now();
    while let Ok(event) = tokio::time::timeout(quiet, one.events.next()).await {
        assert!(begun.elapsed() < crate::cluster::LIMIT, "nothing happens, but {event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_killed_and_started_again_ends_its_sessions_without_a_silence() {
    // On a machine that is busy the silence may come first: not five times.
    for _ in 0..5 {
        if ends_before_silence().await {
            return;
        }
    }
    panic!("a stateless reset ends the connections of a process that was started again");
}

async fn ends_before_silence() -> bool {
    let authority = authority();
    let mut one = Node::start(&authority, 1).await;
    let identity = Identity::issue(&authority, member(2), Role::Node, SystemTime::now()).unwrap();
    let start = |addr| {
        let mut config = MeshConfig::new(addr, Credentials::new(&identity).unwrap());
        (config.process, config.hello) = (Some(node(2)), hello(2));
        Mesh::bind(config, Arc::new(Numbers))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = {
        let _inside = runtime.enter();
        start(loopback()).await.unwrap()
    };
    let addr = first.0.local_addr().unwrap();
    one.mesh.know(node(2), addr, member(2));
    one.mesh.send(node(2), Lane::Calls, FrameKind::Cluster, Bytes::new()).unwrap();
    one.wait(|event| matches!(event, Event::Up { .. }).then_some(())).await;
    runtime.shutdown_background();
    drop(first);
    let _second = loop {
        match start(addr).await {
            Ok(second) => break second,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    one.wait(|event| match event {
        Event::Ended { .. } => Some(true),
        Event::Silent { .. } => Some(false),
        _ => None,
    })
    .await
}
