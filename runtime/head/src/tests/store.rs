//! What a store keeps when it is cut off, full or broken.

use std::collections::BTreeMap;

use mobula_logic::record::{Change, NodeRecord, Record, RecordKey};
use mobula_types::{Incarnation, JobId, MemberId, NodeId};

use super::disk::{Disk, Step, after};
use crate::layout::{self, Unreadable};
use crate::store::{OpenError, Store, WriteError};

fn value(key: usize, bytes: Vec<u8>) -> Change {
    Record::Value(bytes).into_change(RecordKey::Value(JobId(1), format!("key-{key}")))
}

/// Batch `n` writes its number under `key-n`, changes `key-0`, and removes `key-(n-3)`: all of it or nothing.
fn batch(n: usize) -> Vec<Change> {
    let big = vec![n as u8; 500 * (n % 7)];
    let mut changes = vec![value(n, big), value(0, vec![n as u8])];
    if n > 3 {
        changes.push(Change::gone(RecordKey::Value(JobId(1), format!("key-{}", n - 3))));
    }
    changes
}

/// What there is after the first `n` batches.
fn expected(n: usize) -> BTreeMap<RecordKey, Record> {
    let mut all = BTreeMap::new();
    for Change { key, record } in (1..=n).flat_map(batch) {
        match record {
            Some(record) => all.insert(key, record),
            None => all.remove(&key),
        };
    }
    all
}

fn kept(disk: Disk) -> Result<BTreeMap<RecordKey, Record>, OpenError> {
    Ok(Store::open_on(Box::new(disk))?.1.records.into_iter().collect())
}

#[test]
fn whenever_it_is_cut_off_all_that_was_acknowledged_is_there_and_nothing_by_halves() {
    const BATCHES: usize = 14;
    let disk = Disk::default();
    let (mut store, _) = Store::open_on(Box::new(disk.clone())).unwrap();
    disk.mark(0);
    for n in 1..=BATCHES {
        store.commit(&batch(n)).unwrap();
        disk.mark(n);
    }
    let steps = disk.steps();
    let begun = steps.iter().position(|step| matches!(step, Step::Mark(0))).unwrap();
    let mut random = 1u64;
    let mut seen = [0usize; BATCHES + 1];
    for cut in begun + 1..=steps.len() {
        let steps = &steps[..cut];
        let acknowledged = steps.iter().rev().find_map(|step| match step {
            Step::Mark(n) => Some(*n),
            _ => None,
        });
        let acknowledged = acknowledged.unwrap();
        // The process is killed and the system lives; the power is cut; and some of what was not synced got there.
        for kind in 0..4 {
            let bytes = after(steps, |_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                match kind {
                    0 => true,
                    1 => false,
                    _ => random & 1 == 0,
                }
            });
            let found = kept(Disk::of(bytes)).unwrap_or_else(|error| panic!("cut at {cut}, {kind}: {error}"));
            let n = (acknowledged..=BATCHES).find(|n| found == expected(*n));
            let n = n.unwrap_or_else(|| panic!("cut at {cut}, {kind}: {acknowledged} batches were acknowledged"));
            assert!(n <= acknowledged + 1, "cut at {cut}: only one batch is on its way");
            seen[n] += 1;
        }
    }
    assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
}

#[test]
fn a_full_disk_is_said_and_nothing_is_lost() {
    let disk = Disk::default();
    let (mut store, _) = Store::open_on(Box::new(disk.clone())).unwrap();
    store.commit(&batch(1)).unwrap();
    disk.set_full_at(Some(disk.len()));
    let large = || vec![value(99, vec![7; 4 << 20])];
    for _ in 0..3 {
        let error = store.commit(&large()).unwrap_err();
        assert!(matches!(error, WriteError::DiskFull { .. }), "{error}");
        assert!(error.to_string().contains("test.redb"), "{error}");
    }
    assert_eq!(kept(Disk::of(disk.bytes())).unwrap(), expected(1));
    disk.set_full_at(None);
    store.commit(&large()).unwrap();
    assert_eq!(kept(Disk::of(disk.bytes())).unwrap().len(), expected(1).len() + 1);
}

#[test]
fn a_broken_disk_is_another_error_and_the_store_goes_on_when_it_is_whole() {
    let disk = Disk::default();
    let (mut store, _) = Store::open_on(Box::new(disk.clone())).unwrap();
    disk.set_broken(true);
    assert!(matches!(store.commit(&batch(1)).unwrap_err(), WriteError::Io { .. }));
    assert!(matches!(store.commit(&batch(1)).unwrap_err(), WriteError::Io { .. }));
    disk.set_broken(false);
    store.commit(&batch(1)).unwrap();
    store.commit(&batch(2)).unwrap();
    assert_eq!(kept(Disk::of(disk.bytes())).unwrap(), expected(2));
}

#[test]
fn a_record_under_the_key_of_another_is_damage() {
    let key = |node| layout::place(&RecordKey::Node(NodeId(node))).unwrap();
    let (member, addr) = (MemberId([1; 16]), String::new());
    let record = NodeRecord { node: NodeId(1), member, start: 0, incarnation: Incarnation(1), addr, death: None };
    let bytes = layout::record_bytes(&Record::Node(record.clone())).unwrap();
    let (table, right) = key(1);
    assert_eq!(layout::read(table, &right, &bytes), Ok((RecordKey::Node(NodeId(1)), Record::Node(record))));
    assert_eq!(layout::read(table, &key(2).1, &bytes), Err(Unreadable::Misplaced { table }));
    let newer = [&[layout::LAYOUT + 1][..], &bytes[1..]].concat();
    assert_eq!(layout::read(table, &right, &newer), Err(Unreadable::Newer { found: layout::LAYOUT + 1 }));
}

#[test]
fn damage_is_a_typed_error_wherever_it_is() {
    let disk = Disk::default();
    let (mut store, _) = Store::open_on(Box::new(disk.clone())).unwrap();
    (1..=8).for_each(|n| store.commit(&batch(n)).unwrap());
    drop(store);
    let whole = disk.bytes();
    assert_eq!(kept(Disk::of(whole.clone())).unwrap(), expected(8));
    let mut noticed = 0;
    for at in (0..whole.len()).step_by(whole.len() / 300) {
        let mut bytes = whole.clone();
        bytes[at..].iter_mut().take(64).for_each(|byte| *byte ^= 0x5a);
        match kept(Disk::of(bytes)) {
            // A page that nothing uses.
            Ok(found) => assert_eq!(found, expected(8), "damaged at {at}"),
            Err(OpenError::Corrupted { path, .. }) => {
                assert_eq!(path.to_str(), Some("test.redb"));
                noticed += 1;
            }
            Err(OpenError::Newer { .. }) => noticed += 1,
            Err(other) => panic!("damaged at {at}: {other}"),
        }
    }
    assert!(noticed > 0, "some of the file is in use");
    for bytes in [vec![1; 100], vec![0; 10_000], whole[..whole.len() / 2].to_vec()] {
        let error = kept(Disk::of(bytes)).unwrap_err();
        assert!(matches!(error, OpenError::Corrupted { .. }), "{error:?}");
    }
}
