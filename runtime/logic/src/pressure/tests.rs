use std::collections::{BTreeMap, BTreeSet};

use mobula_types::{NodeId, ProcessId};

use super::*;

/// What the model test is to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    IgnoreReaders,
    EvictUnderReader,
    ForgetUnread,
}

const BUDGET: u64 = 100;

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
    let mut machine = Pressure::new(BUDGET);
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
    let mut machine = Pressure::new(BUDGET);
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
    let mut machine = Pressure::new(BUDGET);
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
    let mut machine = Pressure::new(BUDGET);
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
    let mut machine = Pressure::new(BUDGET);
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
    let mut machine = Pressure::new(BUDGET);
    after(&mut machine, 0, kept(1, 1, true));
    assert_eq!(after(&mut machine, 0, arena(&[(1, 60)])), []);
    assert_eq!(after(&mut machine, 0, Input::Refused { bytes: 40 }), [Output::Spill { object: object(1) }]);
    assert_eq!(machine.next_timeout(), Some(at(500)));
    assert_eq!(after(&mut machine, 500, Input::Tick), []);
    after(&mut machine, 600, kept(2, 2, true));
    assert_eq!(after(&mut machine, 600, arena(&[(1, 30), (2, 30)])), [], "nobody waits any more");
}

/// Small numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("it has 31 bits") % bound.max(1)
    }
}

/// A node with the machine: what is in memory, in files and being read, as it truly is.
struct World {
    machine: Pressure,
    random: Random,
    now: u64,
    /// Where the bytes of an object truly are.
    truth: BTreeMap<ObjectId, Truth>,
    /// Segments with their length, and what is in each.
    segments: BTreeMap<SegmentId, (u64, BTreeSet<ObjectId>)>,
    last: SegmentId,
    spilling: Vec<ObjectId>,
    restoring: Vec<(ObjectId, bool)>,
    /// Since when somebody waits for an object.
    wanted: BTreeMap<ObjectId, u64>,
    is_disk_full: bool,
    /// Nobody reads for long any more.
    is_idle: bool,
}

#[derive(Clone, Default)]
struct Truth {
    bytes: u64,
    is_primary: bool,
    segment: Option<SegmentId>,
    has_file: bool,
    readers: u32,
}

type Seen = Result<(), String>;

impl World {
    fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut machine = Pressure::new(BUDGET);
        machine.fault = fault;
        Self {
            machine,
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            now: 0,
            truth: BTreeMap::new(),
            segments: BTreeMap::new(),
            last: 0,
            spilling: Vec::new(),
            restoring: Vec::new(),
            wanted: BTreeMap::new(),
            is_disk_full: false,
            is_idle: false,
        }
    }

    fn leased(&self) -> u64 {
        self.segments.values().map(|(bytes, _)| *bytes).sum()
    }

    fn say(&mut self, input: Input) -> Seen {
        self.machine.handle(at(self.now), input);
        if self.machine.fault.is_none() {
            check(&self.machine).map_err(|violation| violation.to_string())?;
        }
        while let Some(output) = self.machine.poll_output() {
            self.perform(output)?;
        }
        Ok(())
    }

    fn perform(&mut self, output: Output) -> Seen {
        match output {
            Output::Spill { object } => {
                let truth = self.truth.get(&object).ok_or("what is gone is written")?;
                if truth.segment.is_none() || truth.readers > 0 {
                    return Err(format!("{object} is written and is not idle in memory"));
                }
                self.spilling.push(object);
            }
            Output::Evict { object } => self.vacate(object, true)?,
            Output::GiveUp { object } => {
                self.vacate(object, false)?;
                self.truth.remove(&object);
            }
            Output::Restore { object, is_beyond } => {
                if is_beyond && (self.leased() > BUDGET || !self.machine.is_disk_full()) {
                    return Err(format!("PRESS-6: {object} is read beyond {} of {BUDGET} bytes", self.leased()));
                }
                self.restoring.push((object, is_beyond));
            }
            Output::NoRoom { object } => {
                self.wanted.remove(&object).ok_or("nobody wanted it")?;
                if self.is_idle {
                    return Err(format!("there is no room for {object}, and nobody reads anything"));
                }
            }
            Output::LetGo { .. } | Output::Disk { .. } => {}
        }
        Ok(())
    }

    fn vacate(&mut self, object: ObjectId, to_file: bool) -> Seen {
        let truth = self.truth.get_mut(&object).ok_or("what is gone leaves")?;
        if truth.readers > 0 {
            return Err(format!("{object} leaves while it is read"));
        }
        if to_file && !truth.has_file || !to_file && truth.is_primary {
            return Err(format!("the only copy of {object} is given up"));
        }
        let segment = truth.segment.take().ok_or("it has left before")?;
        if let Some((_, inside)) = self.segments.get_mut(&segment) {
            inside.remove(&object);
        }
        Ok(())
    }

    /// Segments of which nothing is left go back.
    fn sweep(&mut self) -> Seen {
        self.segments.retain(|_, (_, inside)| !inside.is_empty());
        let segments = self.segments.iter().map(|(id, (bytes, _))| (*id, *bytes)).collect();
        self.say(Input::Arena { leased: self.leased(), segments })
    }

    fn any(&mut self, among: Vec<ObjectId>) -> Option<ObjectId> {
        let index = self.random.below(among.len());
        among.get(index).copied()
    }

    fn step(&mut self) -> Seen {
        self.now += self.random.below(200) as u64;
        match self.random.below(12) {
            0..3 => self.put(),
            3 => {
                let here = self.truth.iter().filter(|(_, it)| it.segment.is_some()).map(|(object, _)| *object);
                let Some(object) = self.any(here.collect()) else { return Ok(()) };
                self.truth.get_mut(&object).expect("it is there").readers += 1;
                self.say(Input::Read { object })
            }
            4..6 => {
                let read = self.truth.iter().filter(|(_, it)| it.readers > 0).map(|(object, _)| *object);
                let Some(object) = self.any(read.collect()) else { return Ok(()) };
                self.truth.get_mut(&object).expect("it is there").readers -= 1;
                self.say(Input::Unread { object })
            }
            6 => {
                let away = self.truth.iter().filter(|(_, it)| it.segment.is_none()).map(|(object, _)| *object);
                let Some(object) = self.any(away.collect()) else { return Ok(()) };
                self.wanted.entry(object).or_insert(self.now);
                self.say(Input::Wanted { object })
            }
            7 => {
                let free = self.truth.iter().filter(|(_, it)| it.readers == 0).map(|(object, _)| *object);
                let Some(object) = self.any(free.collect()) else { return Ok(()) };
                self.free(object)
            }
            8 => {
                self.is_disk_full = self.random.below(3) == 0;
                self.say(Input::Tick)
            }
            9 => self.sweep(),
            10 => self.written(),
            _ => self.read_back(),
        }
    }

    fn put(&mut self) -> Seen {
        self.last += 1;
        let (segment, bytes) = (self.last, 5 + self.random.below(20) as u64);
        if self.leased() + bytes > part(BUDGET, FULL_PART) {
            return self.say(Input::Refused { bytes });
        }
        let objects: Vec<ObjectId> = (0..=self.random.below(2) as u64).map(|i| object(self.last * 8 + i)).collect();
        self.segments.insert(segment, (bytes, objects.iter().copied().collect()));
        let segments = self.segments.iter().map(|(id, (bytes, _))| (*id, *bytes)).collect();
        for object in objects {
            let is_primary = self.random.below(4) > 0;
            let truth = Truth { bytes: 5, is_primary, segment: Some(segment), ..Truth::default() };
            self.truth.insert(object, truth);
            self.say(Input::Kept { object, segment, bytes: 5, is_primary })?;
        }
        self.say(Input::Arena { leased: self.leased(), segments })
    }

    fn free(&mut self, object: ObjectId) -> Seen {
        let truth = self.truth.remove(&object).ok_or("it is there")?;
        self.wanted.remove(&object);
        if let Some((_, inside)) = truth.segment.and_then(|segment| self.segments.get_mut(&segment)) {
            inside.remove(&object);
        }
        self.say(Input::Freed { object })?;
        if truth.has_file { self.say(Input::FileFreed) } else { Ok(()) }
    }

    fn written(&mut self) -> Seen {
        let Some(object) = self.spilling.pop() else { return Ok(()) };
        let is_there = self.truth.get_mut(&object).map(|truth| truth.has_file |= !self.is_disk_full).is_some();
        let written = if self.is_disk_full { Written::DiskFull } else { Written::Whole };
        if is_there { self.say(Input::Spilled { object, written }) } else { Ok(()) }
    }

    fn read_back(&mut self) -> Seen {
        let Some((object, is_beyond)) = self.restoring.pop() else { return Ok(()) };
        let Some(bytes) = self.truth.get(&object).map(|truth| truth.bytes) else { return Ok(()) };
        if self.leased() + if is_beyond { 0 } else { bytes } > BUDGET {
            return self.say(Input::Restored { object, segment: None });
        }
        self.last += 1;
        let segment = self.last;
        self.segments.insert(segment, (bytes, BTreeSet::from([object])));
        self.truth.get_mut(&object).expect("it is there").segment = Some(segment);
        self.wanted.remove(&object);
        self.say(Input::Restored { object, segment: Some(segment) })
    }

    /// The disk stays as it is, and nobody reads: all that is in files can be read.
    fn read_all(&mut self) -> Seen {
        self.read_no_more()?;
        // What was wanted before may have waited for too long.
        self.go_on(120)?;
        self.is_idle = true;
        let away: Vec<ObjectId> =
            self.truth.iter().filter(|(_, it)| it.segment.is_none()).map(|(object, _)| *object).collect();
        for object in away {
            if self.truth.get(&object).is_none_or(|truth| truth.segment.is_some()) {
                continue;
            }
            self.wanted.entry(object).or_insert(self.now);
            self.say(Input::Wanted { object })?;
            self.go_on(30)?;
            if self.wanted.contains_key(&object) {
                return Err(format!("{object} does not come back, full: {}", self.is_disk_full));
            }
        }
        Ok(())
    }

    /// No faults any more, and nobody reads: all who wait are answered, and there is room.
    fn heal(&mut self) -> Seen {
        self.is_disk_full = false;
        self.read_no_more()?;
        self.go_on(200)?;
        if let Some((object, since)) = self.wanted.iter().next() {
            return Err(format!("{object} is waited for since {since}, it is {}", self.now));
        }
        let leased = self.leased();
        if leased > part(BUDGET, SPILL_PART) {
            return Err(format!("{leased} of {BUDGET} bytes are still leased"));
        }
        if self.machine.is_disk_full() {
            return Err("the disk is still said to be full".to_owned());
        }
        Ok(())
    }

    fn read_no_more(&mut self) -> Seen {
        let reading: Vec<ObjectId> = self.truth.keys().copied().collect();
        for object in reading {
            while self.truth.get(&object).is_some_and(|truth| truth.readers > 0) {
                self.truth.get_mut(&object).expect("it is there").readers -= 1;
                self.say(Input::Unread { object })?;
            }
        }
        Ok(())
    }

    /// So many tenths of a second pass in which the disk, the arena and the clock do what they do.
    fn go_on(&mut self, tenths: usize) -> Seen {
        for _ in 0..tenths {
            self.now += 100;
            for _ in 0..8 {
                self.written()?;
                self.read_back()?;
            }
            self.sweep()?;
            self.say(Input::Tick)?;
        }
        Ok(())
    }
}

const SEEDS: u64 = 400;
const STEPS: usize = 300;

fn run(seed: u64, fault: Option<Fault>) -> Seen {
    let mut world = World::new(seed, fault);
    for _ in 0..STEPS {
        world.step()?;
        let late = world.wanted.iter().find(|(_, since)| world.now > **since + 60_000);
        if let Some((object, since)) = late {
            return Err(format!("{object} is waited for since {since}, it is {}", world.now));
        }
    }
    world.read_all()?;
    world.heal()
}

#[test]
fn nothing_is_lost_and_all_who_wait_are_answered() {
    for seed in 0..SEEDS {
        run(seed, None).unwrap_or_else(|seen| panic!("seed {seed}: {seen}"));
    }
}

#[test]
fn each_fault_is_found() {
    for fault in [Fault::IgnoreReaders, Fault::EvictUnderReader, Fault::ForgetUnread] {
        let found = (0..SEEDS).find_map(|seed| run(seed, Some(fault)).err());
        println!("{fault:?}: {found:?}");
        assert!(found.is_some(), "{fault:?} was not found in {SEEDS} seeds");
    }
}
