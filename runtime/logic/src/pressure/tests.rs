use mobula_types::{NodeId, ProcessId};

use super::*;

const BUDGET: u64 = 100;
const SEGMENTS_MAX: usize = 8;

fn object(sequence: u64) -> ObjectId {
    ObjectId { owner: ProcessId::new(NodeId(1), 1), seq: sequence }
}

fn at(millis: u64) -> Time {
    Time::ZERO + Duration::from_millis(millis)
}

fn outputs(machine: &mut Pressure) -> Vec<Output> {
    check(machine).unwrap();
    std::iter::from_fn(|| machine.poll_output()).collect()
}

fn after(machine: &mut Pressure, millis: u64, input: Input) -> Vec<Output> {
    machine.handle(at(millis), input);
    outputs(machine)
}

fn kept(sequence: u64, segment: SegmentId, is_primary: bool) -> Input {
    Input::Kept { object: object(sequence), segment, bytes: 10, is_primary }
}

fn arena(segments: &[(SegmentId, u64)]) -> Input {
    let leased = segments.iter().map(|(_, bytes)| *bytes).sum();
    Input::Arena { leased, segments: segments.iter().copied().collect() }
}

fn whole(sequence: u64) -> Input {
    Input::Spilled { object: object(sequence), written: Written::Whole }
}

#[test]
fn what_is_elsewhere_goes_first_then_the_oldest() {
    let mut machine = Pressure::new(BUDGET, SEGMENTS_MAX);
    for (sequence, is_primary) in [(1, true), (2, true), (3, false)] {
        assert_eq!(after(&mut machine, 0, kept(sequence, sequence, is_primary)), []);
    }
    let segments = [(1, 30), (2, 30), (3, 30)];
    assert_eq!(after(&mut machine, 0, arena(&segments)), [Output::GiveUp { object: object(3) }]);
    assert_eq!(after(&mut machine, 0, arena(&segments[..2])), [], "it has room now");
    let more = [(1, 30), (2, 30), (4, 30)];
    assert_eq!(after(&mut machine, 0, arena(&more)), [Output::Spill { object: object(1) }]);
    assert_eq!(after(&mut machine, 0, whole(1)), [Output::Evict { object: object(1) }]);
    assert_eq!(machine.spilled_bytes(), 10);
}

#[test]
fn what_is_read_stays_and_its_readers_are_asked() {
    let mut machine = Pressure::new(BUDGET, SEGMENTS_MAX);
    after(&mut machine, 0, kept(1, 1, true));
    after(&mut machine, 0, Input::Read { object: object(1) });
    let asked = [Output::LetGo { object: object(1) }];
    assert_eq!(after(&mut machine, 0, arena(&[(1, 90)])), asked);
    assert_eq!(after(&mut machine, 10, Input::Tick), [], "they have been asked");
    assert_eq!(after(&mut machine, 1_010, Input::Tick), asked);
    assert_eq!(after(&mut machine, 1_020, Input::Unread { object: object(1) }), [Output::Spill { object: object(1) }]);
    after(&mut machine, 1_030, Input::Read { object: object(1) });
    assert_eq!(after(&mut machine, 1_040, whole(1)), asked, "somebody reads it again");
    let evicted = [Output::Evict { object: object(1) }];
    assert_eq!(after(&mut machine, 1_050, Input::Unread { object: object(1) }), evicted, "it is written already");
}

#[test]
fn a_full_disk_is_tried_again() {
    let mut machine = Pressure::new(BUDGET, SEGMENTS_MAX);
    after(&mut machine, 0, kept(1, 1, true));
    let spill = [Output::Spill { object: object(1) }];
    assert_eq!(after(&mut machine, 0, arena(&[(1, 90)])), spill);
    let full = Input::Spilled { object: object(1), written: Written::DiskFull };
    assert_eq!(after(&mut machine, 0, full.clone()), [Output::Disk { is_full: true }]);
    assert_eq!(machine.next_timeout(), Some(at(2_000)));
    assert_eq!(after(&mut machine, 1_999, Input::Tick), []);
    assert_eq!(after(&mut machine, 2_000, Input::Tick), spill);
    assert_eq!(after(&mut machine, 2_001, full), [], "that is known");
    assert_eq!(after(&mut machine, 2_002, Input::FileFreed), spill, "there may be room at once");
    let written = [Output::Disk { is_full: false }, Output::Evict { object: object(1) }];
    assert_eq!(after(&mut machine, 2_003, whole(1)), written);
}

#[test]
fn what_is_wanted_comes_back_when_there_is_room_or_is_said_to_have_none() {
    let mut machine = Pressure::new(BUDGET, SEGMENTS_MAX);
    for sequence in [1, 2] {
        after(&mut machine, 0, kept(sequence, sequence, true));
    }
    after(&mut machine, 0, arena(&[(1, 50), (2, 50)]));
    after(&mut machine, 0, whole(1));
    after(&mut machine, 0, arena(&[(2, 95)]));
    after(&mut machine, 0, whole(2));
    let back = after(&mut machine, 0, Input::Wanted { object: object(1) });
    assert_eq!(back, [], "its room is not there yet");
    assert_eq!(after(&mut machine, 9_999, Input::Tick), []);
    assert_eq!(after(&mut machine, 10_000, Input::Tick), [Output::NoRoom { object: object(1) }]);
    assert_eq!(after(&mut machine, 10_000, Input::Wanted { object: object(1) }), []);
    assert_eq!(after(&mut machine, 10_001, arena(&[])), [Output::Restore { object: object(1), is_beyond: false }]);
    assert_eq!(after(&mut machine, 10_002, Input::Restored { object: object(1), segment: Some(7) }), []);
    let evicted = [Output::Evict { object: object(1) }];
    assert_eq!(after(&mut machine, 10_003, arena(&[(7, 10), (8, 80)])), evicted, "it is in its file still");
}

#[test]
fn what_is_in_files_is_read_one_after_another_while_the_disk_is_full() {
    let mut machine = Pressure::new(BUDGET, SEGMENTS_MAX);
    for sequence in 1..=3 {
        after(&mut machine, 0, kept(sequence, sequence, true));
    }
    after(&mut machine, 0, arena(&[(1, 10), (2, 10), (3, 95)]));
    after(&mut machine, 0, whole(1));
    after(&mut machine, 0, whole(2));
    after(&mut machine, 0, Input::Spilled { object: object(3), written: Written::DiskFull });
    after(&mut machine, 0, arena(&[(3, 95)]));
    let beyond = |sequence| Output::Restore { object: object(sequence), is_beyond: true };
    assert_eq!(after(&mut machine, 10, Input::Wanted { object: object(1) }), [beyond(1)]);
    assert_eq!(after(&mut machine, 11, Input::Wanted { object: object(2) }), [], "one after another");
    after(&mut machine, 12, Input::Read { object: object(1) });
    let asked = [Output::LetGo { object: object(1) }];
    assert_eq!(after(&mut machine, 12, Input::Restored { object: object(1), segment: Some(7) }), asked);
    assert_eq!(after(&mut machine, 13, arena(&[(3, 95), (7, 10)])), []);
    assert_eq!(after(&mut machine, 62, Input::Tick), asked, "they may have been asked too early");
    let evicted = [Output::Evict { object: object(1) }];
    assert_eq!(after(&mut machine, 63, Input::Unread { object: object(1) }), evicted);
    assert_eq!(after(&mut machine, 64, arena(&[(3, 95)])), [beyond(2)]);
}

#[test]
fn a_refused_lease_has_room_made_for_it_for_a_while() {
    let mut machine = Pressure::new(BUDGET, SEGMENTS_MAX);
    after(&mut machine, 0, kept(1, 1, true));
    assert_eq!(after(&mut machine, 0, arena(&[(1, 60)])), []);
    assert_eq!(after(&mut machine, 0, Input::Refused { bytes: 40 }), [Output::Spill { object: object(1) }]);
    assert_eq!(machine.next_timeout(), Some(at(500)));
    assert_eq!(after(&mut machine, 500, Input::Tick), []);
    after(&mut machine, 600, kept(2, 2, true));
    assert_eq!(after(&mut machine, 600, arena(&[(1, 30), (2, 30)])), [], "nobody waits any more");
}

/// A machine with values 1 and 2 in their files, and nothing in memory.
fn with_files() -> Pressure {
    let mut machine = Pressure::new(BUDGET, SEGMENTS_MAX);
    for sequence in [1, 2] {
        after(&mut machine, 0, kept(sequence, sequence, true));
    }
    after(&mut machine, 0, arena(&[(1, 90), (2, 90)]));
    after(&mut machine, 0, whole(1));
    after(&mut machine, 0, whole(2));
    after(&mut machine, 0, arena(&[]));
    machine
}

#[test]
fn what_finds_no_room_is_tried_again_soon_and_waits_no_longer_for_it() {
    let mut machine = with_files();
    let restore = |sequence| Output::Restore { object: object(sequence), is_beyond: false };
    let none = |sequence| Input::Restored { object: object(sequence), segment: None };
    assert_eq!(after(&mut machine, 0, Input::Wanted { object: object(1) }), [restore(1)]);
    assert_eq!(after(&mut machine, 5, Input::Wanted { object: object(2) }), [restore(2)]);
    assert_eq!(after(&mut machine, 10, none(2)), [], "not at once");
    assert_eq!(after(&mut machine, 20, none(1)), []);
    assert_eq!(machine.next_timeout(), Some(at(70)));
    assert_eq!(after(&mut machine, 70, Input::Tick), [restore(1), restore(2)], "in the order of their asking");
    after(&mut machine, 80, none(2));
    after(&mut machine, 80, none(1));
    assert_eq!(after(&mut machine, 81, arena(&[])), [restore(1), restore(2)], "something has changed");
    after(&mut machine, 9_999, none(1));
    assert_eq!(machine.next_timeout(), Some(at(10_000)));
    let no_room = [Output::NoRoom { object: object(1) }];
    assert_eq!(after(&mut machine, 10_000, Input::Tick), no_room, "it has waited since it was wanted");
    assert_eq!(after(&mut machine, 10_006, none(2)), [Output::NoRoom { object: object(2) }]);
}

#[test]
fn where_only_segments_are_short_one_is_emptied() {
    let mut machine = with_files();
    let mut segments: Vec<(SegmentId, u64)> = (11..11 + SEGMENTS_MAX as u64).map(|segment| (segment, 1)).collect();
    for (segment, _) in &segments {
        after(&mut machine, 1, kept(*segment, *segment, true));
    }
    assert_eq!(after(&mut machine, 1, arena(&segments)), [], "nobody is in need");
    let spill = |sequence| [Output::Spill { object: object(sequence) }];
    assert_eq!(after(&mut machine, 2, Input::Wanted { object: object(1) }), spill(11));
    assert_eq!(after(&mut machine, 3, whole(11)), [Output::Evict { object: object(11) }]);
    segments.remove(0);
    let restore = Output::Restore { object: object(1), is_beyond: false };
    assert_eq!(after(&mut machine, 4, arena(&segments)), [restore]);
    after(&mut machine, 5, Input::Restored { object: object(1), segment: Some(30) });
    segments.push((30, 10));
    assert_eq!(after(&mut machine, 6, arena(&segments)), []);
    let evict = [Output::Evict { object: object(1) }];
    assert_eq!(after(&mut machine, 7, Input::Refused { bytes: 1 }), evict, "a process needs one");
}
