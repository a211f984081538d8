//! What is sent arrives once and in order, whatever happens to connections.

use bytes::Bytes;
use mobula_net::{Event, Lane};
use mobula_wire::FrameKind;

use crate::cluster::{LIMIT, Node, authority, hello, node};

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
    head.mesh.send(node(2), Lane::Bulk, FrameKind::Parcel, Bytes::from(vec![5; 3 << 20])).unwrap();
    assert_eq!(b.wait(body).await, (Lane::Bulk, Bytes::from(vec![5; 3 << 20])));
}
