//! Two processes of a job and their node, over real sockets and real memory files; here they are threads.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use mobula_store::client::KEPT_EMPTY;
use mobula_store::{Arena, Client, StoreError, pass};
use mobula_types::{JobId, NodeId, ProcessId};
use mobula_wire::Extent;
use mobula_wire::segments::{NoSegment, PACKET_BYTES_MAX, STORE_SOCKET};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, socket_with};

const BUDGET: u64 = 64 << 20;

fn process(number: u32) -> ProcessId {
    ProcessId::new(NodeId(1), number)
}

/// A node's arena behind its socket, for as many connections as are made.
fn node(folder: &Path) -> Arc<Arena> {
    let arena = Arc::new(Arena::new(BUDGET));
    let flags = SocketFlags::CLOEXEC;
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(folder.join(STORE_SOCKET)).unwrap()).unwrap();
    listen(&listener, 8).unwrap();
    let of_door = arena.clone();
    thread::spawn(move || {
        while let Ok(socket) = accept(&listener) {
            let arena = of_door.clone();
            thread::spawn(move || {
                let mut speaker = None;
                let mut packet = [0; PACKET_BYTES_MAX];
                while let Ok((len @ 1.., _)) = pass::receive(&socket, &mut packet) {
                    let (answer, file) = arena.answer(&mut speaker, mobula_wire::decode(&packet[..len]).unwrap());
                    let answer = mobula_wire::encode(&answer).unwrap();
                    pass::send(&socket, &answer, file.as_ref().map(AsFd::as_fd)).unwrap();
                }
            });
        }
    });
    for (number, job) in [(1, 1), (2, 1), (3, 2)] {
        arena.admit(process(number), JobId(job), "secret");
    }
    arena
}

fn client(folder: &Path, number: u32) -> Client {
    Client::new(process(number), folder, "secret".to_owned())
}

#[test]
fn one_process_reads_what_another_has_sealed_where_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    let arena = node(folder.path());
    let (writer, reader, stranger) = (client(folder.path(), 1), client(folder.path(), 2), client(folder.path(), 3));
    let mut room = writer.room(1 << 20).unwrap();
    room.fill(7);
    let sealed = room.seal();
    let at = writer.place_of(sealed.as_ref()).unwrap();
    assert_eq!(writer.place_of(&[0; 100]), None, "other memory is in no segment");
    let view = reader.view(at, 1 << 20).unwrap();
    assert!(view.as_ref().iter().all(|byte| *byte == 7));
    assert_eq!(reader.place_of(&view.as_ref()[100..]), Some(Extent { offset: at.offset + 100, ..at }), "to pass it on");
    let beyond = Extent { offset: 1 << 40, ..at };
    assert!(matches!(reader.view(beyond, 1), Err(StoreError::NoSuch { .. })));
    let none_of_its = stranger.view(at, 1 << 20).unwrap_err();
    assert!(matches!(none_of_its, StoreError::Refused(NoSegment::NoSuch { .. })), "{none_of_its}");

    // Nothing in use is given back, whatever the time; what is not is, after a while.
    let now = Instant::now();
    for client in [&writer, &reader] {
        assert!(client.sweep(now) && client.sweep(now + 2 * KEPT_EMPTY));
    }
    assert!(view.as_ref().iter().all(|byte| *byte == 7));
    drop((view, sealed));
    let later = now + 3 * KEPT_EMPTY;
    for client in [&reader, &writer] {
        assert!(client.sweep(later), "it is kept warm for a while");
        assert!(!client.sweep(later + KEPT_EMPTY), "and then not");
    }
    assert_eq!(arena.usage().leased, 0, "the store is empty");
}

#[test]
fn readers_that_come_at_once_share_one_mapping() {
    let folder = tempfile::tempdir().unwrap();
    let _arena = node(folder.path());
    let (writer, reader) = (client(folder.path(), 1), client(folder.path(), 2));
    let sealed = writer.room(1 << 20).unwrap().seal();
    let at = writer.place_of(sealed.as_ref()).unwrap();
    let together = Barrier::new(8);
    let places: Vec<usize> = thread::scope(|scope| {
        let read = || {
            together.wait();
            reader.view(at, 1 << 20).unwrap().as_ref().as_ptr() as usize
        };
        let readers: Vec<_> = (0..8).map(|_| scope.spawn(read)).collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
}

#[test]
fn room_is_used_again_before_more_is_leased() {
    let folder = tempfile::tempdir().unwrap();
    let arena = node(folder.path());
    let writer = client(folder.path(), 1);
    for _ in 0..100 {
        drop(writer.room(3 << 20).unwrap().seal());
    }
    assert_eq!(arena.usage().segments, 1);
    let all: Vec<_> = (0..10).map(|_| writer.room(3 << 20).unwrap()).collect();
    assert!(arena.usage().segments <= 4, "segments grow: {:?}", arena.usage());
    let (used, leased) = writer.usage();
    assert!(used >= 30 << 20 && leased == arena.usage().leased);
    drop(all);
}

#[test]
fn a_full_store_says_so_and_has_room_again() {
    let folder = tempfile::tempdir().unwrap();
    let _arena = node(folder.path());
    let writer = client(folder.path(), 1);
    let most = writer.room(40 << 20).unwrap();
    let full = writer.room(40 << 20).unwrap_err();
    assert!(matches!(full, StoreError::Refused(NoSegment::Full { budget: BUDGET, .. })), "{full}");
    assert!(full.to_string().contains("--object-store-memory"), "it says what to do: {full}");
    drop(most);
    assert!(writer.room(40 << 20).is_ok());
}

#[test]
fn who_ends_leaves_nothing_and_harms_no_reader() {
    let folder = tempfile::tempdir().unwrap();
    let arena = node(folder.path());
    let (writer, reader) = (client(folder.path(), 1), client(folder.path(), 2));
    let mut room = writer.room(1 << 20).unwrap();
    room.fill(9);
    let sealed = room.seal();
    let at = writer.place_of(sealed.as_ref()).unwrap();
    let view = reader.view(at, 1 << 20).unwrap();
    arena.gone(process(1), |_| false);
    assert_eq!(arena.usage().leased, 0);
    drop((sealed, writer));
    assert!(view.as_ref().iter().all(|byte| *byte == 9), "who reads goes on reading");
    let lost = client(folder.path(), 2).view(at, 1).unwrap_err();
    assert!(matches!(lost, StoreError::Refused(NoSegment::NoSuch { .. })), "{lost}");
}

#[test]
fn who_cannot_prove_who_it_is_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let arena = node(folder.path());
    let liar = Client::new(process(1), folder.path(), "guess".to_owned());
    assert!(matches!(liar.room(1), Err(StoreError::Refused(NoSegment::Unknown))));
    let nobody = Client::new(process(1), &folder.path().join("elsewhere"), "secret".to_owned());
    assert!(matches!(nobody.room(1), Err(StoreError::Io(_))));
    assert_eq!(arena.usage().leased, 0);
}

#[test]
fn a_node_fills_the_room_of_a_process() {
    let folder = tempfile::tempdir().unwrap();
    let arena = node(folder.path());
    let (reader, other) = (client(folder.path(), 1), client(folder.path(), 2));
    let (filling, at) = reader.hand_over(reader.room(1 << 20).unwrap()).unwrap();
    let room = arena.room(process(1), at, 1 << 20).unwrap();
    assert!(arena.room(process(2), at, 1 << 20).is_err(), "another's");
    room.write(0, &[vec![7; 1 << 19], vec![8; 1 << 19]]).unwrap();
    let sealed = filling.seal();
    assert_eq!((sealed.as_ref()[0], sealed.as_ref()[(1 << 20) - 1]), (7, 8));
    assert_eq!(other.view(at, 1 << 20).unwrap().as_ref(), sealed.as_ref(), "others of the job read it there");

    let (filling, _) = reader.hand_over(reader.room(1 << 20).unwrap()).unwrap();
    let mut taken_back = filling.take_back();
    taken_back.fill(9);
    assert_eq!(taken_back.seal().as_ref()[5], 9, "the process writes it itself");
    let foreign = other.room(1).unwrap();
    assert!(reader.hand_over(foreign).is_err(), "another's room");
    assert!(reader.usage().0 > 0);
    drop(sealed);
    assert_eq!(reader.usage().0, 0, "all of it is free");
    let room = reader.room(1 << 20).unwrap();
    reader.hand_over(room).map(|_| "forgotten").unwrap();
    assert!(reader.usage().0 >= 1 << 20, "the node may write it still");
}
