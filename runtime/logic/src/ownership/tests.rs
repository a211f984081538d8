use mobula_types::TaskId;
use mobula_wire::objects::{Letter, Word};

use super::*;

const OWNER: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const MAKER: ProcessId = ProcessId::new(OWNER, 1);
const NEIGHBOUR: ProcessId = ProcessId::new(OWNER, 2);
const READER: ProcessId = ProcessId::new(OTHER, 1);

fn ms(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn object(seq: u64) -> ObjectId {
    ObjectId { owner: MAKER, seq }
}

fn machine(node: NodeId, process: ProcessId) -> Ownership {
    let mut machine = Ownership::bounded(node, Bounds { lineage_bytes_max: 100, ..Bounds::default() });
    machine.handle(ms(0), Input::Attached { process });
    machine
}

fn said(machine: &mut Ownership, at: u64, input: Input) -> Vec<Output> {
    machine.handle(ms(at), input);
    std::iter::from_fn(|| machine.poll_output()).collect()
}

fn word(number: u64, word: HolderWord) -> Input {
    Input::Holds { process: MAKER, number, word }
}

fn seal(at: NodeId, digest: u128) -> Seal {
    Seal { at, place: Place::Arena, bytes: 9, digest: Digest(digest), inner: vec![] }
}

fn put(seq: u64) -> HolderWord {
    HolderWord::New { object: object(seq), birth: Birth::Put(seal(OWNER, 7)) }
}

fn task(seq: u64, arguments: &[ObjectId], runs_max: u32) -> HolderWord {
    let task = TaskId { process: MAKER, seq };
    let recipe = Recipe { task, arguments: arguments.to_vec(), bytes: 50, runs_max };
    HolderWord::New { object: object(seq), birth: Birth::Task(recipe) }
}

fn run(seq: u64, run: u32) -> Output {
    Output::Run { object: object(seq), task: TaskId { process: MAKER, seq }, run }
}

/// Passes letters between two machines until neither says anything for a while.
fn converse(
    at: u64,
    owner: &mut Ownership,
    other: &mut Ownership,
    first: Vec<(NodeId, Output)>,
) -> Vec<(NodeId, Output)> {
    let (mut open, mut rest) = (VecDeque::from(first), Vec::new());
    for tick in 0..20 {
        let now = at + 20 * tick;
        while let Some((from, output)) = open.pop_front() {
            let Output::Say { letter, .. } = output else {
                rest.push((from, output));
                continue;
            };
            let (to, machine) = if from == OWNER { (OTHER, &mut *other) } else { (OWNER, &mut *owner) };
            open.extend(said(machine, now, Input::Said { from, letter }).into_iter().map(|output| (to, output)));
        }
        open.extend(said(owner, now, Input::Tick).into_iter().map(|output| (OWNER, output)));
        open.extend(said(other, now, Input::Tick).into_iter().map(|output| (OTHER, output)));
    }
    rest
}

#[test]
fn the_last_holder_frees_and_a_repeated_word_is_not_heard() {
    let mut owner = machine(OWNER, MAKER);
    assert_eq!(said(&mut owner, 0, word(1, put(1))), []);
    assert_eq!(said(&mut owner, 1, word(1, HolderWord::Release { object: object(1) })), [], "number 1 has been heard");
    let release = word(2, HolderWord::Release { object: object(1) });
    assert_eq!(said(&mut owner, 2, release), [Output::Free { object: object(1) }]);
    assert_eq!((owner.open(), owner.counters().repeats), ((0, 0, 0), 1));
}

#[test]
fn what_a_dead_worker_owned_is_there_while_another_holds_it() {
    let (mut owner, mut other) = (machine(OWNER, MAKER), machine(OTHER, READER));
    said(&mut owner, 0, word(1, put(1)));
    let number = owner.send(OTHER, &[object(1)]).unwrap();
    assert_eq!(said(&mut owner, 1, Input::Died { process: MAKER }), [], "the message holds it");
    let arrived = Input::Arrived { from: OWNER, number, process: READER, objects: vec![object(1)] };
    let asks = said(&mut other, 2, arrived).into_iter().map(|output| (OTHER, output)).collect();
    assert_eq!(converse(2, &mut owner, &mut other, asks), []);
    assert!(owner.sent.is_empty() && owner.is_held(object(1)), "{owner:?}");
    said(&mut other, 500, Input::Holds { process: READER, number: 1, word: HolderWord::Hold { object: object(1) } });
    said(&mut other, 500, Input::Taken { from: OWNER, number });
    let asks = said(&mut other, 500, Input::Wanted { process: READER, object: object(1) });
    let asks = asks.into_iter().map(|output| (OTHER, output)).collect();
    let pull = Output::Pull { object: object(1), bytes: 9, sources: Sources::one(OWNER) };
    assert_eq!(converse(500, &mut owner, &mut other, asks), [(OTHER, pull)]);
    let copied = Input::Copied { object: object(1), digest: Digest(7), is_primary: false };
    assert_eq!(said(&mut other, 1000, copied)[0], Output::Ready { process: READER, object: object(1) });
    let told = said(&mut other, 1001, Input::Died { process: READER }).into_iter().map(|it| (OTHER, it)).collect();
    let freed = converse(1001, &mut owner, &mut other, told);
    assert!(freed.contains(&(OWNER, Output::Free { object: object(1) })), "{freed:?}");
    assert!(freed.contains(&(OTHER, Output::Free { object: object(1) })), "{freed:?}");
    assert_eq!((owner.open(), other.open()), ((0, 0, 0), (0, 0, 0)));
}

#[test]
fn a_lost_object_is_made_again_after_what_it_is_made_of() {
    let mut owner = machine(OWNER, MAKER);
    said(&mut owner, 0, word(1, task(1, &[], 2)));
    said(&mut owner, 0, Input::Made { object: object(1), run: 1, seal: seal(OTHER, 7) });
    said(&mut owner, 0, word(2, task(2, &[object(1)], 2)));
    said(&mut owner, 0, Input::Made { object: object(2), run: 1, seal: seal(OTHER, 8) });
    assert_eq!(said(&mut owner, 1, Input::Died { process: OTHER.into() }), [], "nobody wants it");
    let wanted = Input::Wanted { process: MAKER, object: object(2) };
    assert_eq!(said(&mut owner, 2, wanted.clone()), [run(1, 2)]);
    assert_eq!(said(&mut owner, 2, wanted.clone()), [], "once for all who want it");
    let stale = Input::Made { object: object(1), run: 1, seal: seal(OWNER, 7) };
    assert_eq!(said(&mut owner, 3, stale), [Output::Free { object: object(1) }]);
    let made = Input::Made { object: object(1), run: 2, seal: seal(OWNER, 7) };
    assert_eq!(said(&mut owner, 4, made), [run(2, 2)]);
    let loss = Loss::NonDeterministicReplay { first: Digest(8), again: Digest(9) };
    let lost = Output::Lost { process: MAKER, object: object(2), loss };
    let made = Input::Made { object: object(2), run: 2, seal: seal(OWNER, 9) };
    let forgotten = Output::Forgotten { object: object(2) };
    assert_eq!(said(&mut owner, 5, made), [Output::Free { object: object(2) }, forgotten, lost.clone()]);
    assert_eq!(said(&mut owner, 6, wanted), [lost]);
}

#[test]
fn a_recipe_that_is_forgotten_is_named_and_so_are_spent_runs() {
    let mut owner = machine(OWNER, MAKER);
    for seq in 1..=2 {
        said(&mut owner, 0, word(seq, task(seq, &[], 1)));
        said(&mut owner, 0, Input::Made { object: object(seq), run: 1, seal: seal(OTHER, 7) });
    }
    let forgotten = |seq| Output::Forgotten { object: object(seq) };
    let evicted = Output::LineageEvicted { object: object(1) };
    assert_eq!(said(&mut owner, 1, word(3, task(3, &[], 1))), [forgotten(1), evicted]);
    said(&mut owner, 2, Input::Died { process: OTHER.into() });
    let wanted = |seq| Input::Wanted { process: MAKER, object: object(seq) };
    let lost = |seq, loss| Output::Lost { process: MAKER, object: object(seq), loss };
    assert_eq!(said(&mut owner, 3, wanted(1)), [lost(1, Loss::LineageEvicted)]);
    assert_eq!(said(&mut owner, 3, wanted(2)), [forgotten(2), lost(2, Loss::RunsSpent { runs: 1 })]);
}

#[test]
fn who_waits_for_bytes_that_do_not_come_is_told_so_in_time() {
    let mut owner = machine(OWNER, MAKER);
    said(&mut owner, 0, word(1, task(1, &[], 1)));
    said(&mut owner, 0, Input::Made { object: object(1), run: 1, seal: seal(OTHER, 7) });
    let pull = Output::Pull { object: object(1), bytes: 9, sources: Sources::one(OTHER) };
    assert_eq!(said(&mut owner, 0, Input::Wanted { process: MAKER, object: object(1) }), std::slice::from_ref(&pull));
    assert_eq!(said(&mut owner, 1, Input::NotPulled { object: object(1) }), []);
    assert_eq!(said(&mut owner, 201, Input::Tick), [pull]);
    let lost = Output::Lost { process: MAKER, object: object(1), loss: Loss::Unreachable { seconds: 60 } };
    assert_eq!(said(&mut owner, 60_000, Input::Tick), [lost]);
}

#[test]
fn who_waits_for_bytes_that_come_slowly_or_are_made_again_goes_on_waiting() {
    let mut owner = machine(OWNER, MAKER);
    said(&mut owner, 0, word(1, task(1, &[], 2)));
    said(&mut owner, 0, Input::Made { object: object(1), run: 1, seal: seal(OTHER, 7) });
    said(&mut owner, 0, Input::Wanted { process: MAKER, object: object(1) });
    for second in [40, 80] {
        assert_eq!(said(&mut owner, second * 1_000, Input::Coming { object: object(1) }), []);
    }
    let forgotten = |said: &Output| matches!(said, Output::Forgotten { .. });
    assert_eq!(said(&mut owner, 139_000, Input::NotPulled { object: object(1) }), []);
    let mut again = said(&mut owner, 139_100, Input::Died { process: OTHER.into() });
    again.retain(|said| !forgotten(said));
    assert_eq!(again, [run(1, 2)]);
    assert_eq!(said(&mut owner, 200_000, Input::Tick), [], "it runs");
    assert_eq!(said(&mut owner, 200_000, Input::Coming { object: object(1) }), [], "from nowhere");
}

#[test]
fn who_waits_for_what_finds_no_room_is_told_so_once_and_may_ask_again() {
    let mut owner = machine(OWNER, MAKER);
    said(&mut owner, 0, word(1, task(1, &[], 1)));
    said(&mut owner, 0, Input::Made { object: object(1), run: 1, seal: seal(OTHER, 7) });
    let pull = Output::Pull { object: object(1), bytes: 9, sources: Sources::one(OTHER) };
    let wanted = Input::Wanted { process: MAKER, object: object(1) };
    let no_room = Input::NoRoom { object: object(1), bytes: 9 };
    assert_eq!(said(&mut owner, 0, no_room.clone()), [], "it was not asked for");
    assert_eq!(said(&mut owner, 0, wanted.clone()), std::slice::from_ref(&pull));
    let told = Output::NoRoom { process: MAKER, object: object(1), bytes: 9 };
    assert_eq!(said(&mut owner, 1, no_room.clone()), [told]);
    assert_eq!(said(&mut owner, 1, no_room), []);
    assert_eq!(said(&mut owner, 60_000, Input::Tick), [], "nobody waits any more");
    assert_eq!(said(&mut owner, 60_001, wanted), [pull]);
}

#[test]
fn who_hears_of_an_object_before_its_makers_word_waits_for_that_and_not_for_ever() {
    let mut owner = machine(OWNER, MAKER);
    said(&mut owner, 0, Input::Attached { process: NEIGHBOUR });
    let held =
        |number, seq| Input::Holds { process: NEIGHBOUR, number, word: HolderWord::Hold { object: object(seq) } };
    let wanted = |seq| Input::Wanted { process: NEIGHBOUR, object: object(seq) };
    for seq in 1..=2 {
        assert_eq!(said(&mut owner, 0, held(seq, seq)), []);
        assert_eq!(said(&mut owner, 0, wanted(seq)), []);
    }
    let later = HolderWord::New { object: object(1), birth: Birth::Later { site: 0 } };
    assert_eq!(said(&mut owner, 1, Input::Holds { process: MAKER, number: 1, word: later }), []);
    let made = Input::Made { object: object(1), run: 1, seal: seal(OWNER, 0) };
    assert_eq!(said(&mut owner, 2, made), [Output::Ready { process: NEIGHBOUR, object: object(1) }]);
    let late = u64::try_from(UNBORN_MAX.as_millis()).unwrap();
    let lost = Output::Lost { process: NEIGHBOUR, object: object(2), loss: Loss::NotHeld };
    assert_eq!(said(&mut owner, late, Input::Tick), [lost]);
}

#[test]
fn what_a_process_was_still_to_make_is_lost_with_it() {
    let mut owner = machine(OWNER, MAKER);
    said(&mut owner, 0, Input::Attached { process: NEIGHBOUR });
    let later = HolderWord::New { object: object(1), birth: Birth::Later { site: 0 } };
    said(&mut owner, 0, Input::Holds { process: MAKER, number: 1, word: later });
    let hold = HolderWord::Hold { object: object(1) };
    said(&mut owner, 0, Input::Holds { process: NEIGHBOUR, number: 1, word: hold });
    said(&mut owner, 0, Input::Wanted { process: NEIGHBOUR, object: object(1) });
    let death = Box::new(Death::of(MAKER, DeathCause::Disconnected));
    let lost = Output::Lost { process: NEIGHBOUR, object: object(1), loss: Loss::MakerDied { death } };
    assert_eq!(said(&mut owner, 1, Input::Died { process: MAKER }), [lost]);
}

/// What is said of an object's holders to its owner.
fn claims(outputs: &[Output]) -> Vec<(bool, bool)> {
    let letters = outputs.iter().filter_map(|output| match output {
        Output::Say { letter, .. } => Some(&letter.words),
        _ => None,
    });
    let claim = |word: &Word| match word {
        Word::Claim { object: of, holds, copy } if *of == object(1) => Some((*holds, copy.is_some())),
        _ => None,
    };
    letters.flatten().filter_map(claim).collect()
}

#[test]
fn a_copy_that_nobody_held_is_held_by_what_names_it() {
    let copied = Input::Copied { object: object(1), digest: Digest(7), is_primary: true };
    let mut sender = machine(OTHER, READER);
    said(&mut sender, 0, copied.clone());
    assert_eq!(claims(&said(&mut sender, 50, Input::Tick)), [(false, true)]);
    assert!(sender.send(NodeId(3), &[object(1)]).is_some());
    assert_eq!(claims(&said(&mut sender, 51, Input::Tick)), [(true, true)]);

    let mut maker = machine(OTHER, READER);
    said(&mut maker, 0, copied);
    assert_eq!(claims(&said(&mut maker, 50, Input::Tick)), [(false, true)]);
    let task = TaskId { process: READER, seq: 1 };
    let recipe = Recipe { task, arguments: vec![object(1)], bytes: 50, runs_max: 1 };
    let new = HolderWord::New { object: ObjectId { owner: READER, seq: 1 }, birth: Birth::Task(recipe) };
    let told = said(&mut maker, 51, Input::Holds { process: READER, number: 1, word: new });
    assert_eq!(claims(&told), [(true, true)]);
}

#[test]
fn what_its_owner_has_given_up_is_known_while_it_is_held() {
    let mut other = machine(OTHER, READER);
    said(&mut other, 0, Input::Holds { process: READER, number: 1, word: HolderWord::Hold { object: object(1) } });
    said(&mut other, 0, Input::Copied { object: object(1), digest: Digest(7), is_primary: false });
    said(&mut other, 50, Input::Tick);
    let words = vec![Word::Drop { object: object(1) }, Word::Gone { object: object(1) }];
    said(&mut other, 60, Input::Said { from: OWNER, letter: Letter { first: 1, words, heard: 0 } });
    said(&mut other, 100, Input::Tick);
    assert!(other.is_held(object(1)), "{other:?}");
    said(&mut other, 101, Input::Holds { process: READER, number: 2, word: HolderWord::Release { object: object(1) } });
    assert!(!other.is_held(object(1)));
}

#[test]
fn a_claim_that_crosses_the_word_that_it_is_gone_is_taken_back() {
    let taken_back = |heard| {
        let mut other = machine(OTHER, READER);
        let hold = HolderWord::Hold { object: object(1) };
        said(&mut other, 0, Input::Holds { process: READER, number: 1, word: hold });
        said(&mut other, 0, Input::Wanted { process: READER, object: object(1) });
        let words = vec![Word::Gone { object: object(1) }];
        said(&mut other, 1, Input::Said { from: OWNER, letter: Letter { first: 1, words, heard } });
        let release = HolderWord::Release { object: object(1) };
        let mut outputs = said(&mut other, 2, Input::Holds { process: READER, number: 2, word: release });
        outputs.extend(said(&mut other, 100, Input::Tick));
        let word = Word::Claim { object: object(1), holds: false, copy: None };
        let says = |output| matches!(output, Output::Say { letter, .. } if letter.words.contains(&word));
        outputs.into_iter().any(says)
    };
    assert!(taken_back(0), "the owner hears the claim later, and counts it");
    assert!(!taken_back(1), "the owner had heard it");
}

#[test]
fn a_copy_with_the_bytes_of_another_run_is_asked_for_again() {
    let mut other = machine(OTHER, READER);
    said(&mut other, 0, Input::Holds { process: READER, number: 1, word: HolderWord::Hold { object: object(1) } });
    said(&mut other, 0, Input::Wanted { process: READER, object: object(1) });
    let at = |number| {
        let (copies, spare) = (vec![NodeId(3)], vec![]);
        let word = Word::At { object: object(1), bytes: 9, digest: Digest(7), is_inline: false, copies, spare };
        Input::Said { from: OWNER, letter: Letter { first: number, words: vec![word], heard: 0 } }
    };
    let pull = Output::Pull { object: object(1), bytes: 9, sources: Sources::one(NodeId(3)) };
    assert!(said(&mut other, 1, at(1)).contains(&pull));
    let copied = |digest| Input::Copied { object: object(1), digest: Digest(digest), is_primary: false };
    let freed = said(&mut other, 2, copied(8));
    assert!(freed.contains(&Output::Free { object: object(1) }), "{freed:?}");
    assert!(!freed.iter().any(|output| matches!(output, Output::Ready { .. })), "{freed:?}");
    said(&mut other, 1_000, Input::Tick);
    assert!(said(&mut other, 1_001, at(2)).contains(&pull));
    assert!(said(&mut other, 1_002, copied(7)).contains(&Output::Ready { process: READER, object: object(1) }));
}
