//! What is sent arrives once and in order, whatever happens to connections.

use std::time::Duration;

use bytes::Bytes;
use mobula_net::mesh::SendError;
use mobula_net::{Event, Lane, Mesh};
use mobula_wire::FrameKind;

use crate::cluster::{LIMIT, Node, authority, config, hello, node};

fn body(event: Event) -> Option<(Lane, Bytes)> {
    match event {
        Event::Frame { lane, body, .. } => Some((lane, body)),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_peer_is_connected_to_at_first_use_and_answers() {
    let authority = authority();
    let (mut a, mut b) = (Node::start(&authority, 1).await, Node::start(&authority, 2).await);
    a.knows(&b);
    for lane in Lane::ALL {
        let text = format!("to {lane:?}");
        a.mesh.send(node(2), lane, FrameKind::Cluster, text.clone().into()).unwrap();
        let from = node(1);
        let got = b.wait(|event| matches!(event, Event::Frame { .. }).then_some(event)).await;
        assert_eq!(got, Event::Frame { from, lane, kind: FrameKind::Cluster, body: text.clone().into() });
        b.mesh.send(node(1), lane, FrameKind::Cluster, text.clone().into()).unwrap();
        assert_eq!(a.wait(body).await, (lane, text.into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_enters_is_told_who_is_there_and_welcomed() {
    let authority = authority();
    let (mut head, mut b) = (Node::start(&authority, 1).await, Node::start(&authority, 2).await);
    let (peer, welcome) = b.mesh.enter(head.addr, hello(2), LIMIT).await.unwrap();
    assert_eq!((peer, welcome), (node(1), Bytes::from("welcome 2")));
    assert_eq!(b.next().await, Event::Up { peer: node(1) });
    assert_eq!(head.next().await, Event::Up { peer: node(2) });
    head.mesh.send(node(2), Lane::Bulk, FrameKind::Part, Bytes::from(vec![5; 1 << 20])).unwrap();
    assert_eq!(b.wait(body).await, (Lane::Bulk, Bytes::from(vec![5; 1 << 20])));
}

/// What `from` has sent to `to`, and `to` has got: each lane in order.
async fn exchange(mut a: Node, mut b: Node, frames: u64, cut_every: u64) {
    let (to_a, to_b) = (node(a.number), node(b.number));
    let send = |mesh: Mesh, to, cuts: bool| async move {
        let mut last = 0;
        for number in 0..frames {
            let lane = [Lane::Calls, Lane::Control, Lane::Bulk][(number % 3) as usize];
            let bytes = if lane == Lane::Bulk { 3000 } else { 8 };
            let mut body = number.to_le_bytes().to_vec();
            body.resize(bytes, 1);
            mesh.send(to, lane, FrameKind::Parcel, body.into()).unwrap();
            if number % 97 == 0 {
                tokio::task::yield_now().await;
            }
            if cuts && number % cut_every == cut_every - 1 {
                // Those of the last cut have been replaced, or this would be no cut.
                let connected = async {
                    while mesh.counts().connections == last {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                tokio::time::timeout(LIMIT, connected).await.expect("they connect again");
                // The frames that are on their way now are lost with their connections.
                tokio::time::sleep(Duration::from_millis(2)).await;
                last = mesh.counts().connections;
                mesh.reconnect(to);
            }
        }
    };
    let receive = async |node: &mut Node| {
        let mut next = [1, 0, 2];
        for _ in 0..frames {
            let (lane, body) = node.wait(body).await;
            let number = u64::from_le_bytes(body[..8].try_into().unwrap());
            assert_eq!(number, next[lane as usize], "{lane:?} of node {}", node.number);
            next[lane as usize] += 3;
        }
    };
    let sends = (tokio::spawn(send(a.mesh.clone(), to_b, true)), tokio::spawn(send(b.mesh.clone(), to_a, false)));
    tokio::join!(receive(&mut a), receive(&mut b));
    sends.0.await.unwrap();
    sends.1.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_frame_arrives_once_and_in_order_while_connections_are_cut() {
    let authority = authority();
    let (a, b) = (Node::start(&authority, 1).await, Node::start(&authority, 2).await);
    a.knows(&b);
    b.knows(&a);
    let mesh = a.mesh.clone();
    exchange(a, b, 10_002, 1000).await;
    let counts = mesh.counts();
    assert!(counts.connections >= 10 && counts.resent > 0, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_dial_at_once_are_connected_by_one_of_both() {
    let authority = authority();
    for _ in 0..10 {
        let (mut a, mut b) = (Node::start(&authority, 1).await, Node::start(&authority, 2).await);
        a.knows(&b);
        b.knows(&a);
        a.mesh.send(node(2), Lane::Calls, FrameKind::Cluster, Bytes::from_static(b"from a")).unwrap();
        b.mesh.send(node(1), Lane::Calls, FrameKind::Cluster, Bytes::from_static(b"from b")).unwrap();
        assert_eq!(a.wait(body).await.1, "from b");
        assert_eq!(b.wait(body).await.1, "from a");
        a.mesh.send(node(2), Lane::Bulk, FrameKind::Cluster, Bytes::from_static(b"bulk")).unwrap();
        assert_eq!(b.wait(body).await.1, "bulk");
        a.mesh.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_peer_is_told_and_comes_back_only_as_another() {
    let authority = authority();
    let (mut head, mut b) = (Node::start(&authority, 1).await, Node::start(&authority, 2).await);
    b.mesh.enter(head.addr, hello(2), LIMIT).await.unwrap();
    head.mesh.end(node(2));
    let is_ended = |event| match event {
        Event::Ended { peer, undelivered } => Some((peer, undelivered.len())),
        _ => None,
    };
    assert_eq!(head.wait(is_ended).await, (node(2), 0));
    assert_eq!(b.wait(is_ended).await, (node(1), 0));
    assert!(head.mesh.send(node(2), Lane::Calls, FrameKind::Cluster, Bytes::new()).is_err());
    // A new session is let in by the gate or not: here it is.
    b.mesh.enter(head.addr, hello(3), LIMIT).await.unwrap();
    let is_up = |event| matches!(event, Event::Up { .. }).then_some(event);
    while head.wait(is_up).await != (Event::Up { peer: node(3) }) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_started_again_ends_the_session_with_the_one_before() {
    let authority = authority();
    let (mut a, b) = (Node::start(&authority, 1).await, Node::start(&authority, 2).await);
    a.knows(&b);
    a.mesh.send(node(2), Lane::Calls, FrameKind::Cluster, Bytes::new()).unwrap();
    a.wait(|event| matches!(event, Event::Up { .. }).then_some(())).await;
    b.mesh.close().await;
    // Whoever holds the mesh before does not hold its port.
    let (_before, addr) = (b.mesh.clone(), b.addr);
    let mut b = Node::with(config(&authority, 2, addr), 2).await;
    a.wait(|event| matches!(event, Event::Ended { .. }).then_some(())).await;
    a.mesh.send(node(2), Lane::Calls, FrameKind::Cluster, Bytes::from_static(b"again")).unwrap();
    assert_eq!(b.wait(body).await.1, "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_port_is_free_at_once_also_under_load() {
    let authority = authority();
    let (mut a, mut b) = (Node::start(&authority, 1).await, Node::start(&authority, 2).await);
    let addr = b.addr;
    let mut before = Vec::new();
    for _ in 0..20 {
        a.knows(&b);
        a.mesh.send(node(2), Lane::Bulk, FrameKind::Parcel, vec![7; 1 << 20].into()).unwrap();
        b.mesh.send(node(1), Lane::Bulk, FrameKind::Parcel, vec![7; 1 << 20].into()).ok();
        a.wait(|event| matches!(event, Event::Up { .. }).then_some(())).await;
        b.mesh.close().await;
        let again = Node::with(config(&authority, 2, addr), 2).await;
        before.push(std::mem::replace(&mut b, again));
        a.mesh.end(node(2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_holds_up_the_sender_and_loses_nothing_and_is_not_silent() {
    let authority = authority();
    let (mut a, mut b) = (Node::start(&authority, 1).await, Node::start(&authority, 2).await);
    a.knows(&b);
    let megabyte = Bytes::from(vec![7; 1 << 20]);
    let mut sent = 0u64;
    let mut full = 0;
    // What the queue of the reader and the windows take, and then what waits here.
    while full < 5 {
        match a.mesh.send(node(2), Lane::Bulk, FrameKind::Parcel, megabyte.clone()) {
            Ok(()) => sent += 1,
            Err(SendError::Full { .. }) => {
                full += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(other) => panic!("{other}"),
        }
        assert!(sent < 1000, "it is bounded");
    }
    a.mesh.send(node(2), Lane::Control, FrameKind::Cluster, Bytes::from_static(b"soon")).unwrap();
    let waiting = {
        let (mesh, body) = (a.mesh.clone(), megabyte.clone());
        tokio::spawn(async move { mesh.send_when_room(node(2), Lane::Bulk, FrameKind::Parcel, body).await })
    };
    sent += 1;
    let mut got = 0;
    while got < sent {
        match b.wait(body).await {
            (Lane::Bulk, body) => {
                assert_eq!(body, megabyte);
                got += 1;
            }
            (lane, body) => assert_eq!((lane, &body[..]), (Lane::Control, &b"soon"[..])),
        }
    }
    waiting.await.unwrap().unwrap();
    while let Some(event) = a.events.try_next() {
        assert!(matches!(event, Event::Up { .. }), "the reader was heard all the time, but {event:?}");
    }
}
