use mobula_types::NodeId;

use super::*;

const ME: ProcessId = ProcessId::new(NodeId(1), 1);
const FAR: ProcessId = ProcessId::new(NodeId(2), 1);
const NEAR: ProcessId = ProcessId::new(NodeId(1), 2);
const MIB: u64 = 1 << 20;

type Machine = Intake<&'static str>;

fn actor(slot: u32) -> Option<Line> {
    Some(Line::Actor(ActorId { process: ME, slot, generation: 0 }))
}

fn came(
    from: ProcessId,
    line: Option<Line>,
    message: &'static str,
    large: Option<(TransferId, u64)>,
) -> Input<&'static str> {
    let large = large.map(|(transfer, bytes)| Announced { transfer, bytes, is_lent: false });
    Input::Came { from, line, exchange: None, message, large, always_fits: false }
}

fn outputs(machine: &mut Machine) -> Vec<Output<&'static str>> {
    std::iter::from_fn(|| machine.poll_output()).collect()
}

/// Makes the room that is asked for; what else is said.
fn with_room(machine: &mut Machine) -> Vec<Output<&'static str>> {
    let mut said = Vec::new();
    while let Some(output) = machine.poll_output() {
        match output {
            Output::Open { from, transfer, .. } => {
                machine.handle(Time::ZERO, Input::Ready { from, transfer, road: Road::Parts })
            }
            output => said.push(output),
        }
    }
    said
}

/// What was asked for, after what `input` did.
fn pulls(machine: &mut Machine, input: Input<&'static str>) -> Vec<(ProcessId, TransferId, u64, u32)> {
    machine.handle(Time::ZERO, input);
    let pulls = with_room(machine).into_iter().filter_map(|output| match output {
        Output::Pull { from, transfer, offset, bytes } => Some((from, transfer, offset, bytes)),
        _ => None,
    });
    pulls.collect()
}

/// Messages in the order in which they are handed on while a sender answers all that is asked.
fn handed_on(machine: &mut Machine) -> Vec<(&'static str, Option<usize>)> {
    let mut handed = Vec::new();
    let mut asked = VecDeque::new();
    let mut kept = BTreeMap::new();
    loop {
        while let Some(output) = machine.poll_output() {
            match output {
                Output::Pull { from, transfer, offset, bytes } => asked.push_back((from, transfer, offset, bytes)),
                Output::Deliver { from, message, payload, .. } => {
                    handed.push((message, payload.and_then(|transfer| kept.remove(&(from, transfer)))));
                }
                Output::Open { from, transfer, .. } => {
                    machine.handle(Time::ZERO, Input::Ready { from, transfer, road: Road::Parts })
                }
                Output::Keep { from, transfer, offset, bytes } => {
                    let kept = kept.entry((from, transfer)).or_default();
                    assert_eq!(*kept, usize::try_from(offset).unwrap(), "each part behind the one before");
                    *kept += bytes.len();
                }
                Output::Dropped { message, .. } => panic!("{message} was dropped"),
                Output::Haul { transfer, .. } => panic!("{transfer} is not lent"),
                Output::Taken { .. } => {}
            }
        }
        let Some((from, transfer, offset, bytes)) = asked.pop_front() else { return handed };
        let bytes = vec![transfer as u8; bytes as usize].into();
        machine.handle(Time::ZERO, Input::Part { from, transfer, offset, bytes });
    }
}

#[test]
fn what_comes_whole_is_handed_on_at_once() {
    let mut machine = Machine::new(ME);
    machine.handle(Time::ZERO, came(FAR, actor(1), "a", None));
    let expect = Output::Deliver { from: FAR, message: "a", payload: None, waited: Duration::ZERO };
    assert_eq!(outputs(&mut machine), [expect]);
    assert!(machine.is_empty());
}

#[test]
fn a_line_waits_for_its_first_and_others_pass() {
    let mut machine = Machine::new(ME);
    let seconds = Time::from_nanos;
    machine.handle(seconds(1), came(FAR, actor(1), "large", Some((7, 3))));
    machine.handle(seconds(2), came(FAR, actor(1), "behind", None));
    machine.handle(seconds(3), came(FAR, actor(2), "of another actor", None));
    machine.handle(seconds(3), came(NEAR, actor(1), "of another sender", None));
    let deliver = |from, message, payload: Option<TransferId>, waited| Output::Deliver {
        from,
        message,
        payload,
        waited: Duration::from_nanos(waited),
    };
    assert_eq!(
        with_room(&mut machine),
        [
            deliver(FAR, "of another actor", None, 0),
            deliver(NEAR, "of another sender", None, 0),
            Output::Pull { from: FAR, transfer: 7, offset: 0, bytes: 3 },
        ]
    );
    machine.handle(seconds(9), Input::Part { from: FAR, transfer: 7, offset: 0, bytes: Bytes::from_static(b"abc") });
    assert_eq!(
        outputs(&mut machine),
        [
            Output::Keep { from: FAR, transfer: 7, offset: 0, bytes: Bytes::from_static(b"abc") },
            Output::Taken { from: FAR, transfer: 7 },
            deliver(FAR, "large", Some(7), 8),
            deliver(FAR, "behind", None, 7),
        ]
    );
    assert!(machine.is_empty());
}

#[test]
fn large_ones_of_one_line_keep_their_order_whatever_comes_first() {
    let mut machine = Machine::new(ME);
    machine.handle(Time::ZERO, came(FAR, actor(1), "first", Some((1, 20 * MIB))));
    machine.handle(Time::ZERO, came(FAR, actor(1), "second", Some((2, 1))));
    machine.handle(Time::ZERO, came(FAR, None, "a task", Some((3, 1))));
    assert_eq!(handed_on(&mut machine), [("a task", Some(1)), ("first", Some(20 << 20)), ("second", Some(1))]);
    assert!(machine.is_empty());
}

#[test]
fn parts_are_asked_for_ahead_and_in_turn() {
    let mut machine = Machine::new(ME);
    let far = u64::from(FAR_PART_BYTES);
    let asked = pulls(&mut machine, came(FAR, None, "a", Some((1, 20 * MIB))));
    let expect: Vec<_> = (0..8).map(|part| (FAR, 1, part * far, FAR_PART_BYTES)).collect();
    assert_eq!(asked, expect, "no further than is allowed ahead");
    let asked = pulls(&mut machine, came(NEAR, None, "b", Some((1, MIB))));
    assert_eq!(asked.len(), 4, "parts of this host are smaller: {asked:?}");
    let part = vec![0; FAR_PART_BYTES as usize];
    let asked = pulls(&mut machine, Input::Part { from: FAR, transfer: 1, offset: 0, bytes: part.into() });
    assert_eq!(asked, [(FAR, 1, 8 * far, FAR_PART_BYTES)]);
}

#[test]
fn what_is_asked_for_is_bounded_over_all_peers() {
    let mut machine = Machine::new(ME);
    let mut asked = 0;
    for peer in 2..20 {
        let from = ProcessId::new(NodeId(peer), 1);
        let pulls = pulls(&mut machine, came(from, None, "a", Some((1, 20 * MIB))));
        asked += pulls.iter().map(|(.., bytes)| u64::from(*bytes)).sum::<u64>();
    }
    assert_eq!(asked, ASKED_BYTES_MAX);
    assert_eq!(handed_on(&mut machine).len(), 0, "nobody has answered");
}

#[test]
fn payloads_of_one_peer_beyond_its_room_wait_for_one_another() {
    let mut machine = Machine::new(ME);
    let half = PEER_BYTES_MAX / 2 + 1;
    assert!(!pulls(&mut machine, came(FAR, actor(1), "a", Some((1, half)))).is_empty());
    assert!(pulls(&mut machine, came(FAR, actor(1), "b", Some((2, half)))).is_empty());
    assert!(pulls(&mut machine, came(FAR, actor(1), "c", Some((3, 1)))).is_empty(), "it would keep the room of b");
    assert_eq!(pulls(&mut machine, came(NEAR, None, "d", Some((1, 1)))).len(), 1, "others have their own");
    let asked = pulls(&mut machine, Input::Gone { process: NodeId(1).into() });
    assert!(asked.is_empty());
    machine.handle(Time::ZERO, Input::Gone { process: FAR });
    assert!(machine.is_empty());
    assert_eq!((machine.open_bytes, machine.asked_bytes), (0, 0));
}

#[test]
fn what_is_given_up_leaves_and_what_waited_behind_goes_on() {
    let mut machine = Machine::new(ME);
    let exchange = Some(Exchange::Theirs(5));
    let large = Some(Announced { transfer: 1, bytes: 10, is_lent: false });
    machine.handle(
        Time::ZERO,
        Input::Came { from: FAR, line: actor(1), exchange, message: "given up", large, always_fits: false },
    );
    machine.handle(Time::ZERO, came(FAR, actor(1), "behind", None));
    with_room(&mut machine);
    machine.handle(Time::ZERO, Input::Unwanted { from: FAR, exchange: Exchange::Ours(5) });
    assert_eq!(outputs(&mut machine), [], "an exchange of the same number that the other side did not begin");
    machine.handle(Time::ZERO, Input::Unwanted { from: FAR, exchange: Exchange::Theirs(5) });
    let deliver = Output::Deliver { from: FAR, message: "behind", payload: None, waited: Duration::ZERO };
    assert_eq!(
        outputs(&mut machine),
        [
            Output::Taken { from: FAR, transfer: 1 },
            Output::Dropped { from: FAR, message: "given up", payload: Some(1) },
            deliver
        ]
    );
    assert!(machine.is_empty());
    // What was on its way then is of nobody.
    machine.handle(Time::ZERO, Input::Part { from: FAR, transfer: 1, offset: 0, bytes: Bytes::from_static(b"late") });
    assert_eq!(outputs(&mut machine), []);
}

/// A payload that the nodes move, in a line, with another behind it.
fn moved_by_nodes() -> Machine {
    let mut machine = Machine::new(ME);
    let large = Some(Announced { transfer: 1, bytes: 10, is_lent: true });
    let (line, exchange) = (actor(1), Some(Exchange::Theirs(5)));
    machine.handle(Time::ZERO, Input::Came { from: FAR, line, exchange, message: "lent", large, always_fits: false });
    machine.handle(Time::ZERO, came(FAR, actor(1), "behind", None));
    assert_eq!(outputs(&mut machine), [Output::Open { from: FAR, transfer: 1, bytes: 10, is_lent: true }]);
    machine.handle(Time::ZERO, Input::Hauled { from: FAR, transfer: 1, is_whole: true });
    assert_eq!(outputs(&mut machine), [], "nobody has asked them to");
    machine.handle(Time::ZERO, Input::Ready { from: FAR, transfer: 1, road: Road::Nodes });
    assert_eq!(outputs(&mut machine), [Output::Haul { from: FAR, transfer: 1 }]);
    let part = Input::Part { from: FAR, transfer: 1, offset: 0, bytes: Bytes::from_static(b"part") };
    machine.handle(Time::ZERO, part);
    assert_eq!((outputs(&mut machine), machine.held_bytes()), (vec![], 0), "no part was asked for");
    machine
}

fn delivered(message: &'static str, payload: Option<TransferId>) -> Output<&'static str> {
    Output::Deliver { from: FAR, message, payload, waited: Duration::ZERO }
}

#[test]
fn what_the_nodes_have_moved_is_whole() {
    let mut machine = moved_by_nodes();
    machine.handle(Time::ZERO, Input::Hauled { from: FAR, transfer: 1, is_whole: true });
    let taken = Output::Taken { from: FAR, transfer: 1 };
    assert_eq!(outputs(&mut machine), [taken, delivered("lent", Some(1)), delivered("behind", None)]);
    assert!(machine.is_empty());
    assert_eq!((machine.open_bytes, machine.asked_bytes), (0, 0));
}

#[test]
fn what_the_nodes_do_not_move_is_pulled() {
    let mut machine = moved_by_nodes();
    let asked = pulls(&mut machine, Input::Hauled { from: FAR, transfer: 1, is_whole: false });
    assert_eq!(asked, [(FAR, 1, 0, 10)]);
    machine.handle(Time::ZERO, Input::Hauled { from: FAR, transfer: 1, is_whole: true });
    assert_eq!(outputs(&mut machine), [], "they said before that they do not");
    let bytes = Bytes::from_static(b"0123456789");
    machine.handle(Time::ZERO, Input::Part { from: FAR, transfer: 1, offset: 0, bytes });
    let said = outputs(&mut machine);
    assert_eq!(said[2..], [delivered("lent", Some(1)), delivered("behind", None)], "{said:?}");
}

#[test]
fn what_the_nodes_are_moving_may_be_given_up() {
    for (input, is_alive) in
        [(Input::Unwanted { from: FAR, exchange: Exchange::Theirs(5) }, true), (Input::Gone { process: FAR }, false)]
    {
        let mut machine = moved_by_nodes();
        machine.handle(Time::ZERO, input);
        let said = outputs(&mut machine);
        let dropped = Output::Dropped { from: FAR, message: "lent", payload: Some(1) };
        assert!(said.contains(&dropped), "{said:?}");
        assert_eq!(said.contains(&delivered("behind", None)), is_alive, "{said:?}");
        assert!(machine.is_empty());
        machine.handle(Time::ZERO, Input::Hauled { from: FAR, transfer: 1, is_whole: false });
        assert_eq!(outputs(&mut machine), [], "what comes of it is of nobody");
    }
}

#[test]
fn the_dead_leave_nothing_and_make_room() {
    let mut machine = Machine::new(ME);
    machine.handle(Time::ZERO, came(FAR, actor(1), "large", Some((1, 10))));
    machine.handle(Time::ZERO, came(FAR, actor(1), "behind", None));
    outputs(&mut machine);
    machine.handle(Time::ZERO, Input::Gone { process: NodeId(2).into() });
    let dropped = |message, payload| Output::Dropped { from: FAR, message, payload };
    assert_eq!(outputs(&mut machine), [dropped("large", Some(1)), dropped("behind", None)]);
    assert!(machine.is_empty());
    machine.handle(Time::ZERO, Input::Ready { from: FAR, transfer: 1, road: Road::Parts });
    assert_eq!(outputs(&mut machine), [], "room that was being made then is of no use");
}

#[test]
fn what_was_not_asked_for_is_not_taken() {
    let mut machine = Machine::new(ME);
    machine.handle(Time::ZERO, came(FAR, None, "a", Some((1, 4))));
    machine.handle(Time::ZERO, Input::Part { from: FAR, transfer: 1, offset: 0, bytes: Bytes::from_static(b"a") });
    assert_eq!(machine.held_bytes(), 0, "there is no room yet");
    with_room(&mut machine);
    let part = |transfer, offset, bytes: &'static [u8]| Input::Part {
        from: FAR,
        transfer,
        offset,
        bytes: Bytes::from_static(bytes),
    };
    for wrong in [part(2, 0, b"abcd"), part(1, 1, b"bcd"), part(1, 0, b"abcde"), part(1, 0, b"")] {
        machine.handle(Time::ZERO, wrong);
        assert_eq!((outputs(&mut machine), machine.held_bytes()), (vec![], 0));
    }
    machine.handle(Time::ZERO, part(1, 0, b"ab"));
    outputs(&mut machine);
    machine.handle(Time::ZERO, part(1, 0, b"ab"));
    assert_eq!(machine.held_bytes(), 2, "what came before does not come again");
    machine.handle(Time::ZERO, part(1, 2, b"cd"));
    assert!(machine.is_empty());
}

#[test]
fn what_is_beyond_all_bounds_is_dropped() {
    let mut machine = Machine::new(ME);
    for wrong in [PAYLOAD_BYTES_MAX as u64 + 1, u64::MAX, 0] {
        machine.handle(Time::ZERO, came(FAR, None, "wrong", Some((1, wrong))));
        assert_eq!(outputs(&mut machine), [Output::Dropped { from: FAR, message: "wrong", payload: None }]);
    }
    assert!(machine.is_empty());
    let large = Some(Announced { transfer: 9, bytes: PAYLOAD_BYTES_MAX as u64 + 1, is_lent: false });
    let answer = |exchange| Input::Came {
        from: NEAR,
        line: None,
        exchange: Some(exchange),
        message: "answer",
        large,
        always_fits: false,
    };
    machine.handle(Time::ZERO, answer(Exchange::Theirs(1)));
    assert_eq!(outputs(&mut machine), [Output::Dropped { from: NEAR, message: "answer", payload: None }]);
    machine.handle(Time::ZERO, answer(Exchange::Ours(1)));
    assert!(matches!(outputs(&mut machine)[..], [Output::Open { .. }]), "what was asked for may be larger");
    machine.handle(Time::ZERO, came(FAR, None, "right", Some((1, PAYLOAD_BYTES_MAX as u64))));
    machine.handle(Time::ZERO, came(FAR, None, "twice", Some((1, 1))));
    let dropped = Output::Dropped { from: FAR, message: "twice", payload: None };
    assert!(outputs(&mut machine).contains(&dropped), "a name is given once");
}

#[test]
fn what_is_dropped_for_want_of_room_does_not_keep_back_what_comes_later() {
    let mut machine = Machine::bounded(ME, Bounds { held_max: 2, ..Bounds::default() });
    machine.handle(Time::ZERO, came(FAR, actor(1), "large", Some((1, 4))));
    machine.handle(Time::ZERO, came(FAR, actor(1), "behind", None));
    with_room(&mut machine);
    machine.handle(Time::ZERO, came(FAR, actor(1), "beyond", None));
    assert_eq!(outputs(&mut machine), [Output::Dropped { from: FAR, message: "beyond", payload: None }]);
    machine.handle(Time::ZERO, came(FAR, actor(1), "beyond too", Some((2, 4))));
    let taken = Output::Taken { from: FAR, transfer: 2 };
    assert_eq!(outputs(&mut machine), [taken, Output::Dropped { from: FAR, message: "beyond too", payload: None }]);
    let kill =
        Input::Came { from: FAR, line: actor(1), exchange: None, message: "kill", large: None, always_fits: true };
    machine.handle(Time::ZERO, kill);
    assert_eq!(outputs(&mut machine), [], "it has its place in the line");
    machine.handle(Time::ZERO, Input::Part { from: FAR, transfer: 1, offset: 0, bytes: Bytes::from_static(b"abcd") });
    machine.handle(Time::ZERO, came(FAR, actor(1), "later", None));
    // Whoever may not pass what was dropped is told by its receiver (OUT-6): here nobody knows of a hole.
    assert_eq!(handed_on(&mut machine), [("large", Some(4)), ("behind", None), ("kill", None), ("later", None)]);
}
