use std::time::Duration;

use bytes::Bytes;
use mobula_wire::bulk::PART_BYTES_MAX;
use mobula_wire::frame::{CONTROL_BYTES_MAX, PARCEL_BYTES_MAX};
use mobula_wire::{FrameHead, FrameKind, HeadError};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::{
    Closed, Connection, Frame, Incoming, PARTS_BYTES_MAX, Pace, QUEUED_BYTES_MAX, SendError, over, over_socket,
};
use crate::unix::{Listener, UnixError, connect};

/// A hang shows as this, not as a test that never ends.
const LIMIT: Duration = Duration::from_secs(10);

fn pair() -> ((Connection, Incoming), (Connection, Incoming)) {
    let (a, b) = tokio::io::duplex(1 << 16);
    let ((ar, aw), (br, bw)) = (tokio::io::split(a), tokio::io::split(b));
    (over(ar, aw), over(br, bw))
}

async fn next(incoming: &mut Incoming) -> Result<Frame, Closed> {
    timeout(LIMIT, incoming.next()).await.expect("a frame or an end comes in time")
}

#[tokio::test]
async fn frames_come_in_order_whatever_their_size() {
    let ((a, _a), (_b, mut b)) = pair();
    let sizes = [0, 1, 5, 4095, 4096, 4097, 70_000, 300_000, 3, 0, CONTROL_BYTES_MAX];
    for (at, size) in sizes.iter().enumerate() {
        a.send(FrameKind::Cluster, vec![at as u8; *size].into()).unwrap();
    }
    for (at, size) in sizes.iter().enumerate() {
        let frame = next(&mut b).await.unwrap();
        assert_eq!((frame.kind, frame.body), (FrameKind::Cluster, Bytes::from(vec![at as u8; *size])));
    }
}

/// Lone frames are written by their sender's thread, the others go through the queue; a socket that is full takes the
/// beginning of a frame and leaves the rest to the writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_come_in_order_whoever_writes_them() {
    const FRAMES: usize = 20_000;
    const SIZES: [usize; 5] = [0, 7, 300, 4088, 5000];
    let (a, b) = tokio::net::UnixStream::pair().unwrap();
    let ((a, _a), (_b, mut b)) = (over_socket(a).unwrap(), over_socket(b).unwrap());
    let sender = std::thread::spawn(move || {
        for at in 0..FRAMES {
            let mut body = at.to_le_bytes().to_vec();
            body.resize(8 + SIZES[at % SIZES.len()], at as u8);
            let pace = if (at / 100) % 2 == 0 { Pace::Lone } else { Pace::Burst };
            a.send_at(pace, FrameKind::Parcel, body.into()).unwrap();
        }
        a.close("all is said");
    });
    // The sender is done, and the socket full, before the first is read.
    tokio::task::spawn_blocking(move || sender.join().unwrap()).await.unwrap();
    for at in 0..FRAMES {
        let body = next(&mut b).await.unwrap().body;
        assert_eq!(body[..8], at.to_le_bytes(), "frame {at}");
        assert_eq!(body.len(), 8 + SIZES[at % SIZES.len()]);
        assert!(body[8..].iter().all(|byte| *byte == at as u8), "frame {at}");
    }
    assert!(matches!(next(&mut b).await, Err(Closed::There)));
}

/// What is lone goes out from its sender's thread: the runtime, which would have to write it, does not run meanwhile.
#[tokio::test]
async fn a_lone_frame_waits_for_nobody() {
    use std::io::Read;
    let (a, b) = tokio::net::UnixStream::pair().unwrap();
    let (a, _a) = over_socket(a).unwrap();
    // The writer finds nothing to do, and sleeps.
    tokio::task::yield_now().await;
    let mut b = b.into_std().unwrap();
    let mut read = [0; 64];
    a.send(FrameKind::Parcel, Bytes::from_static(b"one of many")).unwrap();
    assert!(b.read(&mut read).is_err(), "it waits for the writer");
    tokio::task::yield_now().await;
    let count = b.read(&mut read).unwrap();
    assert!(read[..count].ends_with(b"one of many"));
    tokio::task::yield_now().await;
    a.send_at(Pace::Lone, FrameKind::Parcel, Bytes::from_static(b"alone")).unwrap();
    let count = b.read(&mut read).unwrap();
    assert!(read[..count].ends_with(b"alone"));
}

#[tokio::test]
async fn a_queue_that_nobody_reads_is_bounded_and_gives_room_again() {
    let ((a, _a), (_b, mut b)) = pair();
    let body = Bytes::from(vec![7; 1 << 20]);
    let mut sent = 0;
    let full = loop {
        match a.send(FrameKind::Parcel, body.clone()) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, SendError::Full { bytes, .. } if bytes <= QUEUED_BYTES_MAX), "{full}");
    let waiting = {
        let (a, body) = (a.clone(), body.clone());
        tokio::spawn(async move { a.send_when_room(FrameKind::Parcel, body).await })
    };
    for _ in 0..=sent {
        assert_eq!(next(&mut b).await.unwrap().body.len(), 1 << 20);
    }
    assert_eq!(timeout(LIMIT, waiting).await.unwrap().unwrap(), Ok(()));
}

#[tokio::test]
async fn what_is_small_waits_for_one_part_of_a_large_payload_at_most() {
    let ((a, _a), (_b, mut b)) = pair();
    let part = |n: u8| Bytes::from(vec![n; PART_BYTES_MAX]);
    for n in 0..8 {
        a.send(FrameKind::Part, part(n)).unwrap();
    }
    assert_eq!(next(&mut b).await.unwrap().body, part(0));
    // The second is being written.
    a.send(FrameKind::Parcel, Bytes::from_static(b"small")).unwrap();
    let kinds = [next(&mut b).await.unwrap().kind, next(&mut b).await.unwrap().kind];
    assert_eq!(kinds, [FrameKind::Part, FrameKind::Parcel]);
    for n in 2..8 {
        assert_eq!(next(&mut b).await.unwrap().body, part(n), "parts keep their order");
    }
}

#[tokio::test]
async fn parts_that_nobody_reads_are_bounded_and_do_not_shut_out_others() {
    let ((a, _a), _b) = pair();
    let part = Bytes::from(vec![0; PART_BYTES_MAX]);
    let sent = (0..).find(|_| a.send(FrameKind::Part, part.clone()).is_err()).unwrap();
    assert_eq!(sent, PARTS_BYTES_MAX / PART_BYTES_MAX);
    assert_eq!(a.send(FrameKind::Local, Bytes::from_static(b"small")), Ok(()));
}

#[tokio::test]
async fn what_is_queued_before_a_close_arrives() {
    let ((a, mut a_in), (b, mut b_in)) = pair();
    for n in 0..100u8 {
        a.send(FrameKind::Local, vec![n].into()).unwrap();
    }
    a.close("all is said");
    assert!(matches!(a.send(FrameKind::Local, Bytes::new()), Err(SendError::Closed(Closed::Here { .. }))));
    for n in 0..100u8 {
        assert_eq!(next(&mut b_in).await.unwrap().body, [n].as_slice());
    }
    assert_eq!(next(&mut b_in).await, Err(Closed::There));
    assert_eq!(timeout(LIMIT, b.closed()).await.unwrap(), Closed::There);
    assert_eq!(next(&mut a_in).await, Err(Closed::Here { reason: "all is said".into() }));
}

#[tokio::test]
async fn too_large_a_body_is_refused_before_it_is_queued() {
    let ((a, _a), _b) = pair();
    let refused = a.send(FrameKind::Local, vec![0; CONTROL_BYTES_MAX + 1].into());
    assert_eq!(refused, Err(SendError::TooLarge { bytes: CONTROL_BYTES_MAX + 1, max: CONTROL_BYTES_MAX }));
}

#[tokio::test]
async fn bytes_that_are_no_frame_end_the_connection_with_their_fault() {
    let good = FrameHead { kind: FrameKind::Local, body_bytes: 0 }.bytes();
    let cases: [(Vec<u8>, HeadError); 3] = [
        (vec![2, 0, 0, 0, 99, 3], HeadError::Version { theirs: 99 }),
        (vec![2, 0, 0, 0, good[4], 77], HeadError::Kind { found: 77 }),
        (
            vec![255, 255, 255, 255, good[4], 2],
            HeadError::Length { length: u32::MAX as usize - 2, max: PARCEL_BYTES_MAX },
        ),
    ];
    for (bytes, expect) in cases {
        let (mut raw, end) = tokio::io::duplex(64);
        let (read, write) = tokio::io::split(end);
        let (connection, mut incoming) = over(read, write);
        raw.write_all(&good).await.unwrap();
        raw.write_all(&bytes).await.unwrap();
        assert_eq!(next(&mut incoming).await.unwrap().kind, FrameKind::Local);
        assert_eq!(next(&mut incoming).await, Err(Closed::Protocol(expect.clone())));
        assert_eq!(timeout(LIMIT, connection.closed()).await.unwrap(), Closed::Protocol(expect));
    }
}

#[tokio::test]
async fn a_socket_is_for_one_listener_and_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/node.sock");
    assert!(matches!(connect(&path, LIMIT).await, Err(UnixError::Nobody { .. })));
    let listener = Listener::bind(&path).await.unwrap();
    let (there, accepted) = tokio::join!(connect(&path, LIMIT), listener.accept());
    let ((there, mut there_in), (here, mut here_in, peer)) = (there.unwrap(), accepted.unwrap());
    assert_eq!(peer.pid, std::process::id() as i32);
    there.send(FrameKind::Greeting, Bytes::from_static(b"hello")).unwrap();
    here.send(FrameKind::Greeting, Bytes::from_static(b"welcome")).unwrap();
    assert_eq!(next(&mut here_in).await.unwrap().body, b"hello".as_slice());
    assert_eq!(next(&mut there_in).await.unwrap().body, b"welcome".as_slice());
    assert!(matches!(Listener::bind(&path).await, Err(UnixError::InUse { .. })));
    drop(listener);
    assert!(!path.exists(), "the socket goes with its listener");
    let left_over = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(left_over);
    Listener::bind(&path).await.expect("a socket that is left over is replaced");
}
