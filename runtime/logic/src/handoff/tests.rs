use mobula_types::NodeId;

use super::*;

const SENDER: ProcessId = ProcessId::new(NodeId(1), 1);
const RECEIVER: ProcessId = ProcessId::new(NodeId(2), 1);
const OWNER: ProcessId = ProcessId::new(NodeId(3), 1);
const OTHER_OWNER: ProcessId = ProcessId::new(NodeId(3), 2);

fn object(owner: ProcessId, seq: u64) -> ObjectId {
    ObjectId { owner, seq }
}

fn ms(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn said(machine: &mut Handoff, at: u64, input: Input) -> Vec<Output> {
    machine.handle(ms(at), input);
    std::iter::from_fn(|| machine.poll_output()).collect()
}

fn arrived(number: Option<u64>, objects: &[ObjectId]) -> Input {
    Input::Arrived { from: SENDER, number, objects: objects.to_vec() }
}

#[test]
fn a_sender_holds_until_its_receiver_says_so() {
    let mut sender = Handoff::default();
    let numbers = [sender.send(RECEIVER).unwrap(), sender.send(RECEIVER).unwrap(), sender.send(OWNER).unwrap()];
    let acknowledged = |by| Input::Acknowledged { by, numbers: numbers[..2].to_vec() };
    assert_eq!(said(&mut sender, 1, acknowledged(OWNER)), [], "another's are not its to acknowledge");
    let let_go = |at: usize| Output::LetGo { number: numbers[at] };
    assert_eq!(said(&mut sender, 2, acknowledged(RECEIVER)), [let_go(0), let_go(1)]);
    assert_eq!(said(&mut sender, 3, acknowledged(RECEIVER)), [], "said twice");
    assert_eq!(said(&mut sender, 4, Input::NotSent { number: numbers[2] }), [let_go(2)]);
    assert_eq!(sender.open(), (0, 0));
}

#[test]
fn what_goes_to_the_dead_is_let_go() {
    for process in [RECEIVER, RECEIVER.node().into()] {
        let mut sender = Handoff::default();
        let (number, other) = (sender.send(RECEIVER).unwrap(), sender.send(OWNER).unwrap());
        assert_eq!(said(&mut sender, 1, Input::Gone { process }), [Output::LetGo { number }]);
        assert_eq!(said(&mut sender, 2, Input::Gone { process: OWNER }), [Output::LetGo { number: other }]);
    }
}

#[test]
fn a_receiver_asks_every_owner_and_says_so_in_the_end() {
    let mut receiver = Handoff::default();
    let objects = [object(OWNER, 1), object(OTHER_OWNER, 1), object(OWNER, 2)];
    let hold = |owner, receipt, objects: &[ObjectId]| Output::Hold { owner, receipt, objects: objects.to_vec() };
    assert_eq!(
        said(&mut receiver, 0, arrived(Some(7), &objects)),
        [hold(OWNER, 1, &[objects[0], objects[2]]), hold(OTHER_OWNER, 2, &[objects[1]])]
    );
    assert_eq!(said(&mut receiver, 1, Input::Held { by: OWNER, receipt: 1 }), []);
    assert_eq!(said(&mut receiver, 1, Input::Held { by: OWNER, receipt: 2 }), [], "it was not asked that");
    assert_eq!(said(&mut receiver, 2, Input::Held { by: OTHER_OWNER, receipt: 2 }), []);
    assert_eq!(receiver.next_timeout(), Some(ms(2) + ACKNOWLEDGE_AFTER));
    assert_eq!(said(&mut receiver, 21, Input::Tick), []);
    assert_eq!(said(&mut receiver, 22, Input::Tick), [Output::Acknowledge { to: SENDER, numbers: vec![7] }]);
    assert_eq!((receiver.open(), receiver.next_timeout()), ((0, 0), None));
}

#[test]
fn acknowledgements_go_together() {
    let mut receiver = Handoff::default();
    let mut words = Vec::new();
    for number in 1..=ACKNOWLEDGED_MAX as u64 + 3 {
        said(&mut receiver, 0, arrived(Some(number), &[object(OWNER, number)]));
        words.extend(said(&mut receiver, 0, Input::Held { by: OWNER, receipt: number }));
    }
    words.extend(said(&mut receiver, 20, Input::Tick));
    let lengths = words.iter().map(|word| match word {
        Output::Acknowledge { to: SENDER, numbers } => numbers.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(lengths.collect::<Vec<_>>(), [ACKNOWLEDGED_MAX, 3]);
}

#[test]
fn a_dead_owner_has_nothing_to_count_and_a_dead_sender_wants_no_word() {
    let mut receiver = Handoff::default();
    said(&mut receiver, 0, arrived(Some(7), &[object(OWNER, 1), object(OTHER_OWNER, 1)]));
    said(&mut receiver, 0, Input::Held { by: OTHER_OWNER, receipt: 2 });
    said(&mut receiver, 0, Input::Gone { process: OWNER });
    assert_eq!(said(&mut receiver, 20, Input::Tick), [Output::Acknowledge { to: SENDER, numbers: vec![7] }]);
    said(&mut receiver, 30, arrived(Some(8), &[object(OTHER_OWNER, 1)]));
    said(&mut receiver, 30, arrived(Some(9), &[object(OTHER_OWNER, 1)]));
    said(&mut receiver, 30, Input::Held { by: OTHER_OWNER, receipt: 3 });
    assert_eq!(receiver.open(), (0, 2));
    assert_eq!(said(&mut receiver, 31, Input::Gone { process: SENDER }), []);
    assert_eq!((receiver.open(), receiver.next_timeout()), ((0, 0), None));
    assert_eq!(said(&mut receiver, 32, Input::Held { by: OTHER_OWNER, receipt: 4 }), []);
}

#[test]
fn without_a_number_owners_are_asked_and_nobody_is_told() {
    let mut receiver = Handoff::default();
    let object = object(OWNER, 1);
    let hold = Output::Hold { owner: OWNER, receipt: 1, objects: vec![object] };
    assert_eq!(said(&mut receiver, 0, arrived(None, &[object])), [hold]);
    assert_eq!(said(&mut receiver, 0, Input::Held { by: OWNER, receipt: 1 }), []);
    assert_eq!((receiver.open(), receiver.next_timeout()), ((0, 0), None));
}

#[test]
fn what_is_held_for_others_is_bounded() {
    let mut sender = Handoff::default();
    let sent = (0..).take_while(|_| sender.send(RECEIVER).is_some()).count();
    assert_eq!(sent, HELD_MAX);
}
