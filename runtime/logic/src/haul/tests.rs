use mobula_types::NodeId;

use super::*;

const NEAR: NodeId = NodeId(1);
const FAR: NodeId = NodeId(2);

const LENDER: ProcessId = ProcessId::new(FAR, 1);

const BOUNDS: Bounds = Bounds { range_bytes: 10, haul_ranges_max: 2, ranges_max: 3, hauls_max: 3, failures_max: 2 };

fn haul(to: u32, transfer: TransferId) -> HaulId {
    HaulId { to: ProcessId::new(NEAR, to), what: What::Lent { from: LENDER, transfer } }
}

fn outputs(machine: &mut Hauls) -> Vec<Output> {
    std::iter::from_fn(|| machine.poll_output()).collect()
}

/// What follows `input`.
fn after(machine: &mut Hauls, input: Input) -> Vec<Output> {
    machine.handle(Time::ZERO, input);
    outputs(machine)
}

fn ask(haul: HaulId, offset: u64, bytes: u32) -> Output {
    Output::Ask { haul, offset, bytes, source: FAR }
}

fn begin(haul: HaulId, bytes: u64) -> Input {
    Input::Begin { haul, bytes, sources: Sources::one(FAR) }
}

fn end(haul: HaulId, is_whole: bool, bytes: u64) -> Output {
    Output::End { haul, is_whole, bytes, is_told: true }
}

#[test]
fn a_payload_comes_range_by_range() {
    let (mut machine, a) = (Hauls::bounded(BOUNDS), haul(1, 7));
    assert_eq!(after(&mut machine, begin(a, 25)), [ask(a, 0, 10), ask(a, 10, 10)]);
    assert_eq!(after(&mut machine, Input::Came { haul: a, offset: 10 }), [ask(a, 20, 5)]);
    assert_eq!(after(&mut machine, Input::Came { haul: a, offset: 10 }), [], "it has come before");
    assert_eq!(after(&mut machine, Input::Came { haul: a, offset: 0 }), []);
    assert_eq!(after(&mut machine, Input::Came { haul: a, offset: 20 }), [end(a, true, 25)]);
    assert_eq!(machine.count(), 0);
}

#[test]
fn several_take_turns_within_their_bound() {
    let (mut machine, a, b) = (Hauls::bounded(BOUNDS), haul(1, 7), haul(2, 7));
    after(&mut machine, begin(a, 100));
    assert_eq!(after(&mut machine, begin(b, 100)), [ask(b, 0, 10)], "two of three are the first's");
    assert_eq!(after(&mut machine, Input::Came { haul: a, offset: 0 }), [ask(a, 20, 10)]);
    assert_eq!(after(&mut machine, Input::Came { haul: a, offset: 10 }), [ask(b, 10, 10)]);
    after(&mut machine, begin(haul(3, 7), 1));
    let beyond = haul(4, 7);
    assert_eq!(after(&mut machine, begin(beyond, 1)), [end(beyond, false, 1)], "it takes another road");
    assert_eq!(after(&mut machine, begin(a, 1)), [], "it is begun");
}

#[test]
fn a_range_that_failed_is_asked_for_again_but_not_for_ever() {
    let (mut machine, a) = (Hauls::bounded(BOUNDS), haul(1, 7));
    after(&mut machine, begin(a, 20));
    let failed = |offset, is_final| Input::Failed { haul: a, offset, is_final };
    assert_eq!(after(&mut machine, failed(0, false)), [ask(a, 0, 10)]);
    assert_eq!(after(&mut machine, failed(10, false)), [ask(a, 10, 10)]);
    assert_eq!(after(&mut machine, failed(0, false)), [Output::GiveUp { haul: a, source: None }], "the third");
    assert_eq!(after(&mut machine, failed(10, false)), [end(a, false, 20)], "when nothing is in flight");
}

#[test]
fn what_is_refused_or_not_wanted_ends_when_nothing_is_in_flight() {
    for input in [
        |haul| Input::Failed { haul, offset: 0, is_final: true },
        |haul| Input::Stop { haul },
        |_| Input::Gone { process: LENDER },
        |_| Input::Gone { process: FAR.into() },
    ] {
        let (mut machine, a, b) = (Hauls::bounded(BOUNDS), haul(1, 7), haul(1, 8));
        after(&mut machine, begin(a, 30));
        let ends = after(&mut machine, input(a));
        assert_eq!(ends, [Output::GiveUp { haul: a, source: None }]);
        assert_eq!(after(&mut machine, Input::Stop { haul: a }), [], "it ends");
        after(&mut machine, Input::Failed { haul: a, offset: 0, is_final: false });
        assert_eq!(after(&mut machine, Input::Came { haul: a, offset: 10 }), [end(a, false, 30)]);
        assert_eq!(after(&mut machine, begin(b, 5)), [ask(b, 0, 5)]);
    }
}

#[test]
fn nobody_is_told_where_the_reader_has_ended() {
    let (mut machine, a, b) = (Hauls::bounded(BOUNDS), haul(1, 7), haul(2, 7));
    after(&mut machine, begin(a, 30));
    after(&mut machine, begin(b, 30));
    let ends = after(&mut machine, Input::Gone { process: a.to });
    assert_eq!(ends, [Output::GiveUp { haul: a, source: None }]);
    after(&mut machine, Input::Failed { haul: a, offset: 0, is_final: true });
    let ended = after(&mut machine, Input::Failed { haul: a, offset: 10, is_final: true });
    assert_eq!(ended, [Output::End { haul: a, is_whole: false, bytes: 30, is_told: false }]);
    assert_eq!(machine.count(), 1, "the other's goes on");
}

/// Whatever happens to ranges and ends, in any order: each payload ends once, and nothing of it is written after that.
#[test]
fn each_ends_once_whatever_happens() {
    let mut seed = 1u64;
    let mut random = |below: u64| {
        // Knuth, The Art of Computer Programming 2, 3.3.4: MMIX's multiplier.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let (mut wholes, mut others) = (0, 0);
    for round in 0..500 {
        let mut machine = Hauls::bounded(BOUNDS);
        let mut in_flight: Vec<(HaulId, u64)> = Vec::new();
        let mut open: Vec<HaulId> = Vec::new();
        let mut begun = 0;
        while begun < 6 || !open.is_empty() {
            let input = match random(12) {
                0 | 1 if begun < 6 => {
                    begun += 1;
                    let haul = haul(begun as u32 % 3 + 1, begun);
                    open.push(haul);
                    begin(haul, random(60))
                }
                2 if random(4) == 0 && !open.is_empty() => {
                    Input::Stop { haul: open[random(open.len() as u64) as usize] }
                }
                _ if in_flight.is_empty() => continue,
                of => {
                    let (haul, offset) = in_flight.swap_remove(random(in_flight.len() as u64) as usize);
                    match of {
                        3 => Input::Failed { haul, offset, is_final: random(3) == 0 },
                        _ => Input::Came { haul, offset },
                    }
                }
            };
            for output in after(&mut machine, input) {
                match output {
                    Output::Ask { haul, offset, .. } => in_flight.push((haul, offset)),
                    Output::GiveUp { .. } => {}
                    Output::End { haul, is_whole, .. } => {
                        assert!(
                            in_flight.iter().all(|(of, _)| *of != haul),
                            "round {round}: {haul:?} is still written"
                        );
                        let at = open.iter().position(|it| *it == haul);
                        open.swap_remove(at.unwrap_or_else(|| panic!("round {round}: {haul:?} ends twice")));
                        if is_whole { wholes += 1 } else { others += 1 }
                    }
                }
            }
        }
        assert_eq!(machine.count(), 0);
    }
    assert!(wholes > 1_000 && others > 100, "{wholes} whole, {others} not");
}
