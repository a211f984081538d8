use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use mobula_wire::bulk::PART_BYTES_MAX;
use mobula_wire::frame::{CONTROL_BYTES_MAX, PARCEL_BYTES_MAX};
use mobula_wire::{FrameHead, FrameKind, HeadError};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::{Closed, Connection, Frame, Incoming, PARTS_BYTES_MAX, QUEUED_BYTES_MAX, SendError, over, over_unix};
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

/// Slow senders write by themselves, fast ones through the queue; a socket that is full takes the beginning of a frame and
/// leaves the rest to the writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_come_in_order_whoever_writes_them() {
    let (a, b) = tokio::net::UnixStream::pair().unwrap();
    let ((a, _a), (_b, mut b)) = (over_unix(a), over_unix(b));
    let sender = std::thread::spawn(move || {
        for at in 0..20_000usize {
            let size = [0, 7, 300, 4096, 5000][at % 5];
            let mut body = at.to_le_bytes().to_vec();
            body.resize(8 + size, at as u8);
            a.send(FrameKind::Parcel, body.into()).unwrap();
            let slow = (at / 100) % 2 == 0;
            let until = std::time::Instant::now() + Duration::from_micros(if slow { 25 } else { 0 });
            while std::time::Instant::now() < until {
                std::hint::spin_loop();
            }
        }
        a.close("all is said");
    });
    // The socket fills meanwhile.
    while !sender.is_finished() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for at in 0..20_000usize {
        let body = next(&mut b).await.unwrap().body;
        assert_eq!(body[..8], at.to_le_bytes(), "frame {at}");
        assert_eq!(body.len(), 8 + [0, 7, 300, 4096, 5000][at % 5]);
        assert!(body[8..].iter().all(|byte| *byte == at as u8), "frame {at}");
    }
    assert!(matches!(next(&mut b).await, Err(Closed::There)));
    sender.join().unwrap();
}

/// A frame that comes alone needs no writer: it is in the socket when `send` returns, on a runtime that has had no turn since.
#[tokio::test]
async fn a_lone_frame_is_written_by_its_sender() {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    b.set_nonblocking(true).unwrap();
    let (a, _a) = over_unix(tokio::net::UnixStream::from_std(a).unwrap());
    let read = || {
        let mut bytes = [0; 64];
        (&b).read(&mut bytes).map(|count| bytes[..count].to_vec())
    };
    // Whether a stream can be written is known once the runtime has looked.
    a.send(FrameKind::Local, Bytes::from_static(b"word")).unwrap();
    let first = timeout(LIMIT, async {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if let Ok(bytes) = read() {
                return bytes;
            }
        }
    });
    let first = first.await.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        a.send(FrameKind::Local, Bytes::from_static(b"word")).unwrap();
        assert_eq!(read().unwrap(), first);
    }
}

/// The other end has gone: a sender that writes finds that out as the writer does.
#[tokio::test]
async fn a_stream_that_broke_ends_the_connection_whoever_writes() {
    let (a, b) = tokio::net::UnixStream::pair().unwrap();
    let (a, _a) = over_unix(a);
    drop(b);
    a.send(FrameKind::Local, Bytes::from_static(b"lost")).unwrap();
    assert_eq!(timeout(LIMIT, a.closed()).await.unwrap(), Closed::There);
    let refused = a.send(FrameKind::Local, Bytes::new());
    assert_eq!(refused, Err(SendError::Closed(Closed::There)));
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
