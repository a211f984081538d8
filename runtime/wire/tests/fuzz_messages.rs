//! Every message type and frame head, fed with bytes that nobody meant: no panic, no memory beyond what has come.
//!
//! A run prints its seed; `MOBULA_FUZZ_SEED` repeats it. Half of the inputs are bytes that are mostly zeros and small numbers
//! behind a variant's number, because the layout says `None`, empty and false with zeros: so they reach deep into a type.
//! The other half are what was accepted before, with some bytes changed, cut or repeated.

use std::collections::BTreeSet;
use std::fmt::Debug;

use bytes::Bytes;
use mobula_types::{HeadId, Incarnation, JobId, NodeId, ObjectId, ViewChange};
use mobula_wire::cluster::{Admission, ClusterTalk, DriverWelcome, Greeting};
use mobula_wire::frame::{CONTROL_BYTES_MAX, FRAME_HEAD_BYTES};
use mobula_wire::local::{FromNode, Hello, PeerHello, ToNode, Welcome};
use mobula_wire::plain::{self, Plain};
use mobula_wire::segments::{FromStore, ToStore};
use mobula_wire::{
    CallFrame, CallHeader, DecodeError, FrameHead, Parcel, Part, Talk, Viewable, decode_limited, encode,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Inputs for each type.
const INPUTS: usize = 20_000;
/// Bytes of an input, before changes.
const INPUT_BYTES_MAX: usize = 400;
/// Accepted inputs that are kept to be changed.
const KEPT_MAX: usize = 256;
/// Memory that a whole run may add: inputs are small, so what they make is small, whatever they announce.
const GROWTH_KIB_MAX: u64 = 64 << 10;

struct Numbers(u64);

impl Numbers {
    fn seeded(door: &str) -> Self {
        let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
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

    fn byte(&mut self) -> u8 {
        match self.below(20) {
            0..14 => 0,
            14..16 => 1,
            16..18 => self.below(8) as u8,
            18 => b'a' + self.below(26) as u8,
            _ => self.below(256) as u8,
        }
    }

    fn fresh(&mut self) -> Vec<u8> {
        let mut bytes = (self.below(40) as u32).to_le_bytes().to_vec();
        let more = self.below(INPUT_BYTES_MAX);
        bytes.extend((0..more).map(|_| self.byte()));
        bytes
    }

    fn changed(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            match self.below(5) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.byte()),
                2 => bytes.extend_from_within(at.min(bytes.len())..),
                _ if at < bytes.len() => bytes[at] = self.below(256) as u8,
                _ => bytes.push(255),
            }
            bytes.truncate(4 * INPUT_BYTES_MAX);
        }
        bytes
    }
}

/// Feeds `door`, which says what came in when something did, in bytes of its own; how many inputs were accepted.
fn feed(name: &str, mut kept: Vec<Vec<u8>>, door: impl Fn(&[u8]) -> Option<Vec<u8>>) -> usize {
    let mut numbers = Numbers::seeded(name);
    let mut accepted = 0;
    let before = peak_kib();
    for _ in 0..INPUTS {
        let input = if kept.is_empty() || numbers.below(2) == 0 {
            numbers.fresh()
        } else {
            let at = numbers.below(kept.len());
            numbers.changed(kept[at].clone())
        };
        let Some(again) = door(&input) else { continue };
        accepted += 1;
        if kept.len() < KEPT_MAX {
            kept.push(again);
        } else {
            let at = numbers.below(KEPT_MAX);
            kept[at] = again;
        }
    }
    let growth = peak_kib().saturating_sub(before);
    println!("{name}: {accepted} of {INPUTS} accepted, {growth} KiB more");
    assert!(growth < GROWTH_KIB_MAX, "{name} took {growth} KiB");
    accepted
}

/// The most memory that this process has had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Feeds the decoder of a message type; what it accepts must read back from its own bytes.
fn message<T: Serialize + DeserializeOwned + Debug>(name: &str) {
    message_like::<T>(name, None);
}

/// The same, with a value whose bytes are changed from the start: of a type into which few other inputs reach.
fn message_like<T: Serialize + DeserializeOwned + Debug>(name: &str, sample: Option<&T>) {
    let kept = sample.map(|value| encode(value).expect("a sample can be written")).into_iter().collect();
    let accepted = feed(name, kept, |bytes| {
        let value = match decode_limited::<T, CONTROL_BYTES_MAX>(bytes) {
            // A value with bytes behind it is as good as one without.
            Err(DecodeError::Trailing { bytes: over }) => {
                decode_limited::<T, CONTROL_BYTES_MAX>(&bytes[..bytes.len() - over]).expect("without them it is whole")
            }
            read => read.ok()?,
        };
        let again = encode(&value).expect("what was read can be written");
        let read: T = decode_limited::<T, CONTROL_BYTES_MAX>(&again).expect("what was written can be read");
        assert_eq!(encode(&read).expect("it can be written twice"), again, "{value:?}");
        Some(again)
    });
    assert!(accepted > 0, "{name}: the inputs reach into the type");
}

/// The door of a node for its processes, and theirs.
#[test]
fn what_a_process_and_its_node_say() {
    message::<Hello>("Hello");
    message::<ToNode>("ToNode");
    message::<FromNode>("FromNode");
    message::<Welcome>("Welcome");
    message::<PeerHello>("PeerHello");
    message::<ToStore>("ToStore");
    message::<FromStore>("FromStore");
}

#[test]
fn what_nodes_and_heads_say() {
    message::<Greeting>("Greeting");
    // Many lists in a row, of which each must be short.
    let admission = Admission {
        head: HeadId::default(),
        head_node: NodeId(1),
        node: NodeId(2),
        incarnation: Incarnation(1),
        term: 3,
        view: ViewChange::default(),
        ended_jobs: vec![JobId(4)],
        detached_jobs: vec![JobId(5)],
    };
    message_like("Admission", Some(&admission));
    message::<DriverWelcome>("DriverWelcome");
    message::<ClusterTalk>("ClusterTalk");
}

#[test]
fn what_processes_say() {
    message::<Talk>("Talk");
    message::<CallHeader>("CallHeader");
    let accepted = feed("Parcel", Vec::new(), |bytes| {
        let parcel = Parcel::decode(&Bytes::copy_from_slice(bytes)).ok()?;
        assert_eq!(Parcel::address(bytes), Ok((parcel.to, parcel.from)));
        Some(parcel.encode().expect("what was read can be written"))
    });
    assert!(accepted > 0);
    let accepted = feed("Part", Vec::new(), |bytes| Some(Part::decode(&Bytes::copy_from_slice(bytes)).ok()?.encode()));
    assert!(accepted > 0);
    let accepted = feed("CallFrame", Vec::new(), |bytes| {
        Some(CallFrame::decode(bytes).ok()?.encode().expect("it can be written"))
    });
    assert!(accepted > 0);
}

/// The bytes of an object: what is read where it lies, and what is decoded, are the same or neither.
fn value<T: Serialize + DeserializeOwned + 'static>(name: &str, view: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let accepted = feed(name, Vec::new(), |bytes| {
        let read = plain::decode::<T>(&Bytes::copy_from_slice(bytes)).ok();
        // An encoded value lies so that it can be viewed; a copy of it does too, for this purpose.
        let mut lies = vec![0u128; bytes.len() / 16 + 2];
        let at = 16 - plain::LENGTH_BYTES;
        let place = &mut bytemuck::cast_slice_mut::<u128, u8>(&mut lies)[at..at + bytes.len()];
        place.copy_from_slice(bytes);
        let seen = view(place);
        let again = read.as_ref().map(|value| plain::encode(value, usize::MAX).expect("what was read can be written"));
        assert_eq!(seen, again, "{name}");
        again
    });
    assert!(accepted > 0, "{name}");
}

fn array<P: Plain>(bytes: &[u8]) -> Option<Vec<u8>> {
    plain::view::<P>(bytes).map(|seen| plain::encode(&seen.to_vec(), usize::MAX).expect("it is an array"))
}

#[test]
fn what_objects_hold() {
    value::<Vec<u8>>("Vec<u8>", array::<u8>);
    value::<Vec<f32>>("Vec<f32>", array::<f32>);
    value::<Vec<u128>>("Vec<u128>", array::<u128>);
    value::<String>("String", |bytes| {
        String::view(bytes).map(|text| plain::encode(&text.to_owned(), usize::MAX).expect("it is text"))
    });
    // What a value has of references: ids, read one by one.
    message::<Vec<ObjectId>>("Vec<ObjectId>");
}

#[test]
fn heads_of_frames() {
    let mut kinds = BTreeSet::new();
    for version in 0..=255 {
        for kind in 0..=255 {
            for length in [0u32, 1, 2, 3, 64 << 10, (64 << 10) + 3, 1 << 20, (1 << 20) + 3, 1 << 30, u32::MAX] {
                let [a, b, c, d] = length.to_le_bytes();
                let bytes: [u8; FRAME_HEAD_BYTES] = [a, b, c, d, version, kind];
                if let Ok(head) = FrameHead::read(bytes) {
                    assert!(head.body_bytes <= head.kind.body_bytes_max(), "{bytes:?}");
                    assert_eq!(head.bytes(), bytes);
                    kinds.insert(kind);
                }
            }
        }
    }
    assert_eq!(kinds.len(), 6, "every kind is reached");
}
