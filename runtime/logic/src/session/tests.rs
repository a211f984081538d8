use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::lane::{HELD_BYTES_MAX, IN_FLIGHT_FRAMES_MAX};
use super::*;
use crate::invariant::{Violation, ensure};

type Frame = u64;

fn at(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

fn outputs(session: &mut Session<Frame>) -> Vec<Output<Frame>> {
    std::iter::from_fn(|| session.poll_output()).collect()
}

fn offer(half: u64, knows: Option<u64>, number: u64) -> Offer {
    Offer { half, knows, link: Link::Main, made: Made { number, seen: 0 }, received: [0; 3] }
}

/// A session with half 1 that has dialed and was answered by half 9, on connection 5.
fn up() -> Session<Frame> {
    let mut session = Session::new(at(0), 1, true);
    session.want(at(0));
    session.handle(at(0), Input::Answered { connection: 5, number: 1, offer: offer(9, Some(1), 1) });
    outputs(&mut session);
    session
}

#[test]
fn the_first_frame_dials_and_goes_when_there_is_a_connection() {
    let mut session = Session::new(at(0), 1, true);
    assert_eq!(session.next_timeout(), None, "nobody wants anything");
    session.send(at(3), Lane::Calls, 42, 10).unwrap();
    let dial = Output::Dial { offer: offer(1, None, 1) };
    assert_eq!(outputs(&mut session), [dial]);
    session.handle(at(4), Input::Answered { connection: 5, number: 1, offer: offer(9, Some(1), 1) });
    let bulk = Offer { link: Link::Bulk, ..offer(1, Some(9), 1) };
    let begin = |lane| Output::Begin { connection: 5, lane, number: 0 };
    let expect = [
        begin(Lane::Control),
        begin(Lane::Calls),
        Output::Up,
        Output::Dial { offer: bulk },
        Output::Transmit { connection: 5, lane: Lane::Calls, frame: 42 },
    ];
    assert_eq!(outputs(&mut session), expect);
}

#[test]
fn a_failed_dial_is_tried_again_later_and_later() {
    let mut session = Session::new(at(0), 1, true);
    session.want(at(0));
    let (mut now, mut number, mut waits) = (at(0), 1, Vec::new());
    for _ in 0..6 {
        session.handle(now, Input::DialFailed { link: Link::Main, number, is_alive: true });
        let begun = now;
        outputs(&mut session);
        loop {
            now = session.next_timeout().unwrap();
            session.handle(now, Input::Tick);
            if outputs(&mut session).iter().any(|output| matches!(output, Output::Dial { .. })) {
                break;
            }
        }
        number += 1;
        waits.push(now.since(begun).as_millis());
    }
    assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
}

#[test]
fn what_was_in_flight_is_sent_again_and_what_arrived_is_not() {
    let mut session = up();
    for frame in 0..5 {
        session.send(at(1), Lane::Calls, frame, 10).unwrap();
    }
    session.handle(at(2), Input::Heartbeat { connection: 5, received: [0, 2, 0] });
    assert_eq!(session.held(Lane::Calls), (3, 30));
    session.handle(at(3), Input::Lost { connection: 5 });
    outputs(&mut session);
    let received = Offer { received: [0, 3, 0], ..offer(9, Some(1), 2) };
    session.handle(at(200), Input::Tick);
    session.handle(at(201), Input::Answered { connection: 6, number: 2, offer: received });
    let said = outputs(&mut session);
    assert!(said.contains(&Output::Begin { connection: 6, lane: Lane::Calls, number: 3 }), "{said:?}");
    let sent: Vec<_> = said.iter().filter(|output| matches!(output, Output::Transmit { .. })).collect();
    let expect = [3, 4].map(|frame| Output::Transmit { connection: 6, lane: Lane::Calls, frame });
    assert_eq!(sent, expect.iter().collect::<Vec<_>>());
}

#[test]
fn repeats_are_dropped_and_a_hole_ends_the_connection() {
    let mut session = up();
    let frame = |connection, frame| Input::Frame { connection, lane: Lane::Control, frame, bytes: 1 };
    session.handle(at(1), Input::Begin { connection: 5, lane: Lane::Control, number: 0 });
    session.handle(at(1), frame(5, 7));
    assert_eq!(outputs(&mut session), [Output::Deliver { lane: Lane::Control, frame: 7 }]);
    session.handle(at(2), Input::Accepted { connection: 6, offer: offer(9, Some(1), 1) });
    session.handle(at(2), Input::Begin { connection: 6, lane: Lane::Control, number: 0 });
    outputs(&mut session);
    session.handle(at(3), frame(6, 7));
    assert_eq!(outputs(&mut session), [], "SES-2");
    session.handle(at(3), frame(6, 8));
    assert_eq!(outputs(&mut session), [Output::Deliver { lane: Lane::Control, frame: 8 }]);
    session.handle(at(4), Input::Begin { connection: 6, lane: Lane::Calls, number: 1 });
    let said = outputs(&mut session);
    assert_eq!(said[0], Output::Close { connection: 6, why: CloseReason::Violated }, "SES-3");
    assert_eq!(said[1], Output::Down);
}

#[test]
fn words_that_cannot_be_true_end_the_connection() {
    let mut session = up();
    session.send(at(1), Lane::Calls, 1, 1).unwrap();
    outputs(&mut session);
    session.handle(at(2), Input::Heartbeat { connection: 5, received: [0, 2, 0] });
    assert_eq!(outputs(&mut session)[0], Output::Close { connection: 5, why: CloseReason::Violated });
    let more = Offer { received: [0, 2, 0], ..offer(9, Some(1), 1) };
    session.handle(at(3), Input::Accepted { connection: 6, offer: more });
    assert_eq!(outputs(&mut session).last(), Some(&Output::Close { connection: 6, why: CloseReason::Violated }));
    session.handle(at(3), Input::Frame { connection: 6, lane: Lane::Calls, frame: 1, bytes: 1 });
    assert_eq!(outputs(&mut session), [], "a connection that was closed says nothing any more");
}

#[test]
fn the_same_one_of_two_connections_stays_on_both_sides() {
    let made = |number, seen| Made { number, seen };
    let (this, other) = (Dialer::This, Dialer::Other);
    let table = [
        // Of one dialer's the later.
        ((this, made(2, 0)), (this, made(1, 0)), true),
        ((other, made(1, 0)), (other, made(2, 0)), false),
        ((other, made(1, 0)), (other, made(1, 0)), false),
        // Of two dialers' the one that knew of the other.
        ((this, made(1, 1)), (other, made(1, 0)), true),
        ((other, made(1, 0)), (this, made(1, 1)), false),
    ];
    for (new, current, expect) in table {
        for this_wins in [true, false] {
            assert_eq!(supersedes(new, current, this_wins), expect, "{new:?} over {current:?}");
        }
    }
    // Neither knew: the larger half's, whichever came first, as both sides see it.
    let (mine, yours) = ((this, made(3, 1)), (other, made(2, 2)));
    for this_wins in [true, false] {
        assert_eq!(supersedes(mine, yours, this_wins), this_wins);
        assert_eq!(supersedes(yours, mine, this_wins), !this_wins);
    }
}

#[test]
fn silence_is_probed_reported_and_ends_the_connection_but_not_the_session() {
    let mut session = up();
    let (mut now, mut said) = (at(0), Vec::new());
    while now < at(2000) {
        now = session.next_timeout().unwrap();
        session.handle(now, Input::Tick);
        for output in outputs(&mut session) {
            if output == Output::Probe {
                session.handle(now, Input::Probed { refused: false });
            }
            match output {
                Output::Silent { silent, refused } => said.push((silent.as_millis(), refused)),
                Output::Close { why, .. } => assert_eq!((why, now), (CloseReason::Silent, at(2000))),
                _ => {}
            }
        }
    }
    said.extend(outputs(&mut session).iter().filter_map(|output| match output {
        Output::Silent { silent, refused } => Some((silent.as_millis(), *refused)),
        _ => None,
    }));
    assert_eq!(said, [(300, false), (1300, false)]);
    assert!(!session.is_up(Link::Main) && !session.is_over());
}

#[test]
fn time_in_which_this_side_slept_is_no_silence() {
    let mut session = up();
    session.handle(at(100), Input::Tick);
    outputs(&mut session);
    assert_eq!(session.silent(at(300)).as_millis(), 300);
    assert_eq!(session.silent(at(8000)).as_millis(), 200, "whoever asks before it has looked is told no other");
    session.handle(at(8000), Input::Tick);
    assert_eq!(session.silent(at(8000)).as_millis(), 200);
    assert_eq!(outputs(&mut session), [Output::Heartbeat { connection: 5, received: [0; 3] }], "SES-7");
    session.handle(at(8100), Input::Tick);
    assert!(outputs(&mut session).contains(&Output::Probe), "200 ms before its sleep and 100 after count");
}

#[test]
fn the_window_holds_frames_back_and_one_large_frame_always_goes() {
    let mut session = up();
    let sent = |session: &mut Session<Frame>| {
        outputs(session).iter().filter(|output| matches!(output, Output::Transmit { .. })).count()
    };
    for frame in 0..8 {
        session.send(at(1), Lane::Calls, frame, 1 << 20).unwrap();
    }
    assert_eq!(sent(&mut session), 6, "SES-6");
    session.handle(at(2), Input::Heartbeat { connection: 5, received: [0, 1, 0] });
    assert_eq!(sent(&mut session), 1);
    let mut session = up();
    session.send(at(1), Lane::Calls, 0, 1).unwrap();
    session.handle(at(2), Input::Heartbeat { connection: 5, received: [0, 1, 0] });
    session.send(at(2), Lane::Calls, 1, 4 * HELD_BYTES_MAX).unwrap();
    assert_eq!(sent(&mut session), 2);
    let full = session.send(at(2), Lane::Calls, 2, 1).unwrap_err();
    assert_eq!(full, Full { frames: 1, bytes: 4 * HELD_BYTES_MAX });
    let mut session = up();
    for frame in 0..IN_FLIGHT_FRAMES_MAX as u64 + 1 {
        session.send(at(1), Lane::Calls, frame, 1).unwrap();
        assert_eq!(outputs(&mut session).is_empty(), frame == IN_FLIGHT_FRAMES_MAX as u64);
    }
}

#[test]
fn an_ended_session_says_what_may_not_have_arrived_and_nothing_after() {
    let mut session = up();
    session.send(at(1), Lane::Calls, 3, 1).unwrap();
    session.send(at(1), Lane::Bulk, 4, 1).unwrap();
    session.send(at(1), Lane::Control, 5, 1).unwrap();
    outputs(&mut session);
    session.handle(at(2), Input::End);
    let close = Output::Close { connection: 5, why: CloseReason::Ended };
    let ended = Output::Ended { undelivered: vec![(Lane::Control, 5), (Lane::Calls, 3), (Lane::Bulk, 4)] };
    assert_eq!(outputs(&mut session), [close, ended]);
    session.handle(at(3), Input::End);
    session.handle(at(3), Input::Accepted { connection: 8, offer: offer(9, Some(1), 1) });
    assert_eq!(outputs(&mut session), [Output::Close { connection: 8, why: CloseReason::Ended }], "SES-5");
    assert!(session.send(at(4), Lane::Calls, 6, 1).is_err());
    assert_eq!((session.next_timeout(), session.is_over()), (None, true));
}

#[test]
fn another_half_is_another_session() {
    let mut session = up();
    assert!(session.recognises(&offer(9, Some(1), 1)) && session.recognises(&offer(9, None, 1)));
    assert!(!session.recognises(&offer(8, None, 1)), "the other side has begun anew");
    assert!(!session.recognises(&offer(9, Some(2), 1)), "it speaks to one that was here before");
    session.handle(at(1), Input::Accepted { connection: 7, offer: offer(8, None, 1) });
    assert_eq!(outputs(&mut session), [Output::Close { connection: 7, why: CloseReason::Ended }], "SES-5");
    assert!(session.is_up(Link::Main));
}

/// Numbers that a seed decides (Knuth's MMIX).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

#[derive(Clone, Debug)]
enum Word {
    Answer(Offer),
    Begin(u64),
    Frame(Frame),
    Heartbeat(Received),
}

/// A connection as the network has it: what each side wrote to each lane and the other has not read.
struct Wire {
    dialer: usize,
    offer: Offer,
    /// The dialer's words have arrived.
    is_accepted: bool,
    /// The dialer has its answer.
    is_answered: bool,
    /// Which sides still hold it open.
    is_open: [bool; 2],
    written: [[VecDeque<Word>; 3]; 2],
}

/// Two sides and the network between them.
struct World {
    numbers: Numbers,
    now: Time,
    sides: [Session<Frame>; 2],
    wires: BTreeMap<ConnectionId, Wire>,
    wires_made: u64,
    sent: [[Frame; 3]; 2],
    got: [[Frame; 3]; 2],
    fault: Option<Violation>,
    cuts: usize,
    superseded: usize,
}

impl World {
    fn new(seed: u64, plant: impl Fn(Session<Frame>) -> Session<Frame>) -> Self {
        let mut numbers = Numbers(seed);
        let halves = if numbers.below(2) == 0 { [10, 20] } else { [20, 10] };
        // Sometimes only one side may dial, as when the other is behind a router.
        let may_dial = [true, numbers.below(3) > 0];
        let sides = [0, 1].map(|side| plant(Session::new(Time::ZERO, halves[side], may_dial[side])));
        let (sent, got) = ([[0; 3]; 2], [[0; 3]; 2]);
        let (wires, now) = (BTreeMap::new(), Time::ZERO);
        Self { numbers, now, sides, wires, wires_made: 0, sent, got, fault: None, cuts: 0, superseded: 0 }
    }

    fn ensure(&mut self, holds: bool, invariant: &'static str, seen: impl FnOnce() -> String) {
        if let Err(violation) = ensure(holds, invariant, seen) {
            self.fault.get_or_insert(violation);
        }
    }

    fn input(&mut self, side: usize, input: Input<Frame>) {
        self.sides[side].handle(self.now, input);
        self.perform(side);
    }

    fn perform(&mut self, side: usize) {
        while let Some(output) = self.sides[side].poll_output() {
            match output {
                Output::Dial { offer } => {
                    self.wires_made += 1;
                    let (is_open, written) = ([true; 2], Default::default());
                    let wire = Wire { dialer: side, offer, is_accepted: false, is_answered: false, is_open, written };
                    self.wires.insert(self.wires_made, wire);
                }
                Output::Answer { connection, offer } => {
                    let lane = Lane::ALL.iter().position(|lane| lane.link() == offer.link).unwrap();
                    self.write(side, connection, Lane::ALL[lane], Word::Answer(offer));
                }
                Output::Begin { connection, lane, number } => self.write(side, connection, lane, Word::Begin(number)),
                Output::Transmit { connection, lane, frame } => self.write(side, connection, lane, Word::Frame(frame)),
                Output::Heartbeat { connection, received } => {
                    self.write(side, connection, Lane::Control, Word::Heartbeat(received));
                }
                Output::Close { connection, why } => {
                    self.ensure(why != CloseReason::Violated, "SES-3", || "nobody breaks the rules here".into());
                    self.superseded += usize::from(why == CloseReason::Superseded);
                    self.close(side, connection);
                }
                Output::Deliver { lane, frame } => {
                    let got = self.got[side][lane as usize];
                    self.ensure(frame <= got, "SES-1", || format!("{frame} came and not {got}"));
                    self.ensure(frame >= got, "SES-2", || format!("{frame} came again, where {got} was next"));
                    self.got[side][lane as usize] = frame + 1;
                }
                Output::Probe => self.sides[side].handle(self.now, Input::Probed { refused: false }),
                Output::Up | Output::Down | Output::Silent { .. } => {}
                Output::Ended { .. } => self.ensure(false, "SES-5", || "nobody ended the session".into()),
            }
        }
    }

    fn write(&mut self, side: usize, connection: ConnectionId, lane: Lane, word: Word) {
        if let Some(wire) = self.wires.get_mut(&connection) {
            wire.written[side][lane as usize].push_back(word);
        }
    }

    fn close(&mut self, side: usize, connection: ConnectionId) {
        let Some(wire) = self.wires.get_mut(&connection) else { return };
        wire.is_open[side] = false;
        wire.written[side] = Default::default();
    }

    /// One step of the network: a word arrives, or an end is noticed. Whether there was anything to do.
    fn step(&mut self) -> bool {
        let ids: Vec<_> = self.wires.keys().copied().collect();
        if ids.is_empty() {
            return false;
        }
        let first = self.numbers.below(ids.len());
        (0..ids.len()).any(|at| self.step_on(ids[(first + at) % ids.len()]))
    }

    fn step_on(&mut self, id: ConnectionId) -> bool {
        let wire = self.wires.get_mut(&id).unwrap();
        let dialer = wire.dialer;
        if !wire.is_accepted {
            if !wire.is_open.contains(&false) {
                wire.is_accepted = true;
                let offer = wire.offer;
                self.input(1 - dialer, Input::Accepted { connection: id, offer });
                return true;
            }
            wire.is_open[1 - dialer] = false;
        }
        for side in [0, 1] {
            let wire = self.wires.get_mut(&id).unwrap();
            if wire.is_open[side] && !wire.is_open[1 - side] {
                wire.is_open[side] = false;
                let (number, link) = (wire.offer.made.number, wire.offer.link);
                let is_dial = side == dialer && !wire.is_answered;
                let failed = Input::DialFailed { link, number, is_alive: false };
                self.input(side, if is_dial { failed } else { Input::Lost { connection: id } });
                return true;
            }
        }
        let wire = self.wires.get_mut(&id).unwrap();
        if wire.is_open == [false; 2] {
            self.wires.remove(&id);
            return true;
        }
        let first = self.numbers.below(6);
        for at in 0..6 {
            let (side, lane) = ((first + at) % 2, Lane::ALL[(first + at) % 3]);
            let wire = self.wires.get_mut(&id).unwrap();
            let words = &mut wire.written[1 - side][lane as usize];
            let is_answer = matches!(words.front(), Some(Word::Answer(_)));
            if side == dialer && !wire.is_answered && !is_answer {
                continue;
            }
            let Some(word) = words.pop_front() else { continue };
            let input = match word {
                Word::Answer(offer) => {
                    wire.is_answered = true;
                    Input::Answered { connection: id, number: wire.offer.made.number, offer }
                }
                Word::Begin(number) => Input::Begin { connection: id, lane, number },
                Word::Frame(frame) => Input::Frame { connection: id, lane, frame, bytes: 1000 },
                Word::Heartbeat(received) => Input::Heartbeat { connection: id, received },
            };
            self.input(side, input);
            return true;
        }
        false
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        for side in [0, 1] {
            if self.sides[side].next_timeout().is_some_and(|at| at <= self.now) {
                self.input(side, Input::Tick);
            }
        }
    }

    fn send(&mut self) {
        let (side, lane) = (self.numbers.below(2), Lane::ALL[self.numbers.below(3)]);
        let next = &mut self.sent[side][lane as usize];
        // Sometimes more than the window, so that frames wait in the session too.
        let bytes = [1000, 3 << 20][usize::from(self.numbers.below(20) == 0)];
        if self.sides[side].send(self.now, lane, *next, bytes).is_ok() {
            *next += 1;
        }
        self.perform(side);
    }

    fn cut(&mut self) {
        let ids: Vec<_> = self.wires.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let connection = ids[self.numbers.below(ids.len())];
        let side = self.numbers.below(2);
        let wire = self.wires.get_mut(&connection).unwrap();
        if !wire.is_open[side] {
            return;
        }
        self.cuts += 1;
        // One side's words are lost, and it may be the first to know.
        wire.written = Default::default();
        wire.is_open[side] = false;
        let (number, link, dialer) = (wire.offer.made.number, wire.offer.link, wire.dialer);
        let is_dial = side == dialer && !wire.is_answered;
        let failed = Input::DialFailed { link, number, is_alive: false };
        self.input(side, if is_dial { failed } else { Input::Lost { connection } });
    }

    fn run(&mut self) -> Result<(), Violation> {
        for _ in 0..400 {
            match self.numbers.below(100) {
                0..35 => self.send(),
                35..90 => {
                    self.step();
                }
                90..96 => {
                    let ms = self.numbers.below(300) as u64;
                    self.pass(ms);
                }
                _ => self.cut(),
            }
            self.fault.take().map_or(Ok(()), Err)?;
        }
        // Quiet: everything must arrive.
        for _ in 0..100 {
            while self.step() {}
            self.pass(100);
        }
        for (side, lane) in [0, 1].into_iter().flat_map(|side| Lane::ALL.map(|lane| (side, lane))) {
            let (sent, got) = (self.sent[side][lane as usize], self.got[1 - side][lane as usize]);
            self.ensure(sent == got, "SES-1", || format!("of {sent} frames {got} have come"));
            let held = self.sides[side].held(lane);
            self.ensure(held == (0, 0), "SES-1", || format!("{held:?} are not known to have come"));
        }
        self.fault.take().map_or(Ok(()), Err)
    }
}

#[test]
fn frames_survive_every_misfortune_of_connections() {
    let (mut cuts, mut superseded) = (0, 0);
    for seed in 0..400 {
        let mut world = World::new(seed, |session| session);
        assert_eq!(world.run(), Ok(()), "seed {seed}");
        cuts += world.cuts;
        superseded += world.superseded;
    }
    assert!(cuts > 1000 && superseded > 100, "{cuts} cuts, {superseded} connections superseded");
}

#[cfg(feature = "mutants")]
#[test]
fn planted_faults_are_found() {
    use crate::Mutant;
    for mutant in [Mutant::ForgetUnacknowledged, Mutant::DeliverRepeats] {
        let plant = |session| Session { planted: Planted::new(mutant), ..session };
        assert!((0..100).any(|seed| World::new(seed, plant).run().is_err()), "{mutant:?}");
    }
}
