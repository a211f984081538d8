use std::time::Duration;

use mobula_types::{Deadline, NodeId};

use super::*;

const NODE: NodeId = NodeId(1);

fn at(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

fn id(seq: u64) -> TaskId {
    TaskId { process: ProcessId::from(NODE), seq }
}

fn worker(number: u32) -> ProcessId {
    ProcessId::new(NODE, number)
}

fn outputs(dispatch: &mut Dispatch) -> Vec<Output> {
    std::iter::from_fn(|| dispatch.poll_output()).collect()
}

/// A dispatch with one lease and `tasks` tasks in flight on it.
fn busy(tasks: u64) -> Dispatch {
    let mut dispatch = Dispatch::default();
    for seq in 0..tasks {
        dispatch.submit(at(0), id(seq), 0, TaskSpec::default());
    }
    dispatch.handle(at(0), Input::Granted { request: 1, lease: LeaseId(1), process: worker(1) });
    outputs(&mut dispatch);
    dispatch
}

fn send(key: Key, attempt: u32, lease: u64, number: u32) -> Output {
    Output::Send { key, attempt: Attempt(attempt), lease: LeaseId(lease), process: worker(number) }
}

#[test]
fn a_task_waits_for_a_lease_runs_there_and_ends_once() {
    let mut dispatch = Dispatch::default();
    let key = dispatch.submit(at(0), id(7), 0, TaskSpec::default());
    assert_eq!(outputs(&mut dispatch), [Output::AskLease { request: 1, shape: 0 }]);
    dispatch.handle(at(1), Input::Granted { request: 1, lease: LeaseId(5), process: worker(2) });
    assert_eq!(outputs(&mut dispatch), [send(key, 1, 5, 2)]);
    let finished = Input::Finished { key, attempt: Attempt(1), end: End::Ok };
    dispatch.handle(at(2), finished.clone());
    let resolved = Output::Resolve { key, outcome: Outcome::Ok, attempt: Some(Attempt(1)) };
    assert_eq!(outputs(&mut dispatch), [resolved]);
    dispatch.handle(at(3), finished);
    assert_eq!((outputs(&mut dispatch), dispatch.len()), (vec![], 0), "what is said twice is heard once");
    assert_eq!(dispatch.next_timeout(), Some(at(2) + IDLE_MAX));
    dispatch.handle(at(2) + IDLE_MAX, Input::Tick);
    assert_eq!(outputs(&mut dispatch), [Output::ReturnLease { lease: LeaseId(5) }]);
    assert_eq!(dispatch.next_timeout(), None);
}

#[test]
fn tasks_go_to_the_lease_with_the_fewest_and_no_lease_is_overfull() {
    let mut dispatch = Dispatch::default();
    let tasks = DEPTH as u64 * 2 + 3;
    for seq in 0..tasks {
        dispatch.submit(at(0), id(seq), 0, TaskSpec::default());
    }
    let asked = outputs(&mut dispatch).len();
    assert_eq!(asked, ASKED_MAX, "so many at a time");
    dispatch.handle(at(0), Input::Granted { request: 1, lease: LeaseId(1), process: worker(1) });
    dispatch.handle(at(0), Input::Granted { request: 2, lease: LeaseId(2), process: worker(1) });
    let sent: Vec<_> = outputs(&mut dispatch)
        .into_iter()
        .filter_map(|output| match output {
            Output::Send { lease, .. } => Some(lease),
            _ => None,
        })
        .collect();
    let on = |lease| sent.iter().filter(|id| **id == LeaseId(lease)).count();
    assert_eq!((on(1), on(2)), (DEPTH, DEPTH));
    dispatch.handle(at(1), Input::Finished { key: 0, attempt: Attempt(1), end: End::Ok });
    assert!(outputs(&mut dispatch).contains(&send(DEPTH * 2, 1, 1, 1)), "the place that is free takes the next");
}

#[test]
fn a_death_sends_its_tasks_elsewhere_and_counts_only_against_culprits() {
    let mut dispatch = busy(2);
    dispatch.handle(at(1), Input::ProcessDied { process: worker(1), culprits: Some(vec![id(0)]) });
    let said = outputs(&mut dispatch);
    let asks = said.iter().filter(|output| matches!(output, Output::AskLease { .. })).count();
    assert_eq!((asks, said.len()), (said.len(), asks), "nothing but new places is asked for: {said:?}");
    let request = *dispatch.requests.keys().min().unwrap();
    dispatch.handle(at(1), Input::Granted { request, lease: LeaseId(9), process: worker(2) });
    assert_eq!(outputs(&mut dispatch).iter().filter(|output| matches!(output, Output::Send { .. })).count(), 2);
    // The result of the first run comes after all: it is not accepted.
    dispatch.handle(at(2), Input::Finished { key: 0, attempt: Attempt(1), end: End::Ok });
    assert_eq!(outputs(&mut dispatch), []);
    dispatch.handle(at(3), Input::Finished { key: 0, attempt: Attempt(2), end: End::Ok });
    assert_eq!(outputs(&mut dispatch), [Output::Resolve { key: 0, outcome: Outcome::Ok, attempt: Some(Attempt(2)) }]);
}

#[test]
fn a_whole_node_is_its_processes() {
    let mut dispatch = busy(1);
    dispatch.handle(at(1), Input::ProcessDied { process: ProcessId::from(NodeId(2)), culprits: None });
    assert_eq!(outputs(&mut dispatch), [], "another node's death is nothing to it");
    dispatch.handle(at(1), Input::ProcessDied { process: ProcessId::from(NODE), culprits: None });
    assert!(matches!(outputs(&mut dispatch)[..], [Output::AskLease { .. }, ..]));
}

#[test]
fn a_task_that_kills_its_process_again_and_again_ends_as_may_have_run() {
    let mut dispatch = busy(1);
    let (mut now, mut request) = (at(1), 1);
    for death in 0.. {
        dispatch.handle(now, Input::ProcessDied { process: worker(1), culprits: None });
        let said = outputs(&mut dispatch);
        if said.contains(&Output::Resolve { key: 0, outcome: Outcome::MayHaveRun, attempt: None }) {
            assert_eq!(death, 3, "three retries (G2)");
            return;
        }
        while dispatch.tasks[0].at.is_none() {
            for open in dispatch.requests.keys().copied().collect::<Vec<_>>() {
                request += 1;
                let lease = LeaseId(100 + request);
                dispatch.handle(now, Input::Granted { request: open, lease, process: worker(1) });
            }
            now = now + Duration::from_millis(100);
            dispatch.handle(now, Input::Tick);
        }
        assert!(death < 10, "it ends");
    }
}

#[test]
fn no_place_for_ever_is_an_outcome_and_no_place_now_is_a_wait() {
    let mut dispatch = Dispatch::default();
    let key = dispatch.submit(at(0), id(1), 0, TaskSpec::default());
    outputs(&mut dispatch);
    dispatch.handle(at(1), Input::NoPlace { request: 1, for_ever: false });
    assert_eq!(outputs(&mut dispatch), [], "DISP-11");
    let again = at(1) + ASK_AGAIN;
    assert_eq!(dispatch.next_timeout(), Some(again));
    dispatch.handle(again, Input::Tick);
    assert_eq!(outputs(&mut dispatch), [Output::AskLease { request: 2, shape: 0 }]);
    dispatch.handle(again, Input::NoPlace { request: 2, for_ever: true });
    assert_eq!(outputs(&mut dispatch), [Output::Resolve { key, outcome: Outcome::NotStarted, attempt: None }]);
}

#[test]
fn cancellation_and_deadlines_end_a_task_wherever_it_is() {
    let mut dispatch = busy(1);
    let late = TaskSpec { deadline: Deadline::at(at(50)), ..TaskSpec::default() };
    let waiting = dispatch.submit(at(0), id(8), 1, late);
    outputs(&mut dispatch);
    dispatch.handle(at(1), Input::Cancel { key: 0 });
    let cancel = Output::CancelAttempt { key: 0, attempt: Attempt(1), process: worker(1) };
    let resolved = Output::Resolve { key: 0, outcome: Outcome::Cancelled, attempt: None };
    assert_eq!(outputs(&mut dispatch), [cancel, resolved]);
    assert_eq!(dispatch.next_timeout(), Some(at(50)));
    dispatch.handle(at(50), Input::Tick);
    let passed = Output::Resolve { key: waiting, outcome: Outcome::DeadlineExceeded, attempt: None };
    assert_eq!(outputs(&mut dispatch), [passed]);
    let granted = Input::Granted { request: 99, lease: LeaseId(4), process: worker(1) };
    dispatch.handle(at(51), granted);
    assert_eq!(outputs(&mut dispatch), [Output::ReturnLease { lease: LeaseId(4) }], "what nobody asked for goes back");
}

#[test]
fn requests_that_nothing_wants_any_more_are_taken_back() {
    let mut dispatch = Dispatch::default();
    let key = dispatch.submit(at(0), id(1), 0, TaskSpec::default());
    assert_eq!(outputs(&mut dispatch), [Output::AskLease { request: 1, shape: 0 }]);
    dispatch.handle(at(10), Input::Cancel { key });
    outputs(&mut dispatch);
    assert_eq!(dispatch.next_timeout(), Some(at(10) + IDLE_MAX));
    dispatch.handle(at(10) + IDLE_MAX, Input::Tick);
    assert_eq!(outputs(&mut dispatch), [Output::TakeBack { request: 1 }]);
    assert_eq!((dispatch.places(), dispatch.next_timeout()), ((0, 0), None));
    let lease = LeaseId(3);
    dispatch.handle(at(600), Input::Granted { request: 1, lease, process: worker(2) });
    assert_eq!(outputs(&mut dispatch), [Output::ReturnLease { lease }], "the grant had crossed it");
}

#[test]
fn a_recalled_lease_gets_nothing_more_and_goes_back_when_it_is_empty() {
    let mut dispatch = busy(2);
    dispatch.handle(at(1), Input::Recalled { lease: LeaseId(77) });
    assert_eq!(outputs(&mut dispatch), [], "one that is not held is none of ours");
    dispatch.handle(at(1), Input::Recalled { lease: LeaseId(1) });
    let third = dispatch.submit(at(1), id(2), 0, TaskSpec::default());
    let said = outputs(&mut dispatch);
    assert!(!said.iter().any(|output| matches!(output, Output::Send { .. })), "DISP-7: {said:?}");
    dispatch.handle(at(2), Input::Finished { key: 0, attempt: Attempt(1), end: End::Ok });
    // The other had not begun there: it comes back, and the lease goes.
    dispatch.handle(at(2), Input::Withdrawn { key: 1, attempt: Attempt(1) });
    let said = outputs(&mut dispatch);
    assert_eq!(said.iter().filter(|output| **output == Output::ReturnLease { lease: LeaseId(1) }).count(), 1);
    let request = *dispatch.requests.keys().next().unwrap();
    dispatch.handle(at(3), Input::Granted { request, lease: LeaseId(2), process: worker(2) });
    let said = outputs(&mut dispatch);
    assert!(said.contains(&send(third, 1, 2, 2)) && said.contains(&send(1, 2, 2, 2)), "{said:?}");
}

#[test]
fn an_idle_lease_that_is_recalled_goes_at_once_and_once() {
    let mut dispatch = busy(1);
    dispatch.handle(at(1), Input::Finished { key: 0, attempt: Attempt(1), end: End::Ok });
    outputs(&mut dispatch);
    dispatch.handle(at(2), Input::Recalled { lease: LeaseId(1) });
    dispatch.handle(at(2), Input::Recalled { lease: LeaseId(1) });
    assert_eq!(outputs(&mut dispatch), [Output::ReturnLease { lease: LeaseId(1) }]);
    dispatch.handle(at(2) + IDLE_MAX, Input::Tick);
    assert_eq!(outputs(&mut dispatch), []);
}

#[test]
fn what_is_withdrawn_recalls_all_places_of_its_process_and_counts_against_nothing() {
    let mut dispatch = Dispatch::default();
    let spec = TaskSpec { system_max: 0, at_most_once: true, ..TaskSpec::default() };
    let key = dispatch.submit(at(0), id(1), 0, spec);
    let other = dispatch.submit(at(0), id(2), 0, spec);
    for (request, lease) in [(1, 1), (2, 2)] {
        dispatch.handle(at(0), Input::Granted { request, lease: LeaseId(lease), process: worker(1) });
    }
    outputs(&mut dispatch);
    // Again and again: a rolling restart may meet a task at every node.
    for attempt in 1..40 {
        let withdrawn = Input::Withdrawn { key, attempt: Attempt(attempt) };
        dispatch.handle(at(1), withdrawn.clone());
        dispatch.handle(at(1), withdrawn);
        let said = outputs(&mut dispatch);
        assert!(!said.iter().any(|output| matches!(output, Output::Resolve { .. } | Output::Send { .. })), "{said:?}");
        let request = *dispatch.requests.keys().next().unwrap();
        let (lease, process) = (LeaseId(100 + u64::from(attempt)), worker(1 + attempt));
        dispatch.handle(at(1), Input::Granted { request, lease, process });
        assert!(outputs(&mut dispatch).contains(&send(key, attempt + 1, lease.0, 1 + attempt)));
    }
    dispatch.handle(at(2), Input::Finished { key: other, attempt: Attempt(1), end: End::Ok });
    let said = outputs(&mut dispatch);
    assert!(
        said.contains(&Output::ReturnLease { lease: LeaseId(1) })
            || said.contains(&Output::ReturnLease { lease: LeaseId(2) })
    );
}

#[test]
fn a_culprit_runs_alone_the_next_time_and_a_bystander_does_not() {
    let mut dispatch = busy(3);
    dispatch.keep_apart(0, 1);
    dispatch.handle(at(1), Input::ProcessDied { process: worker(1), culprits: Some(vec![id(0), id(2)]) });
    let asked = |said: &[Output], of| {
        let of_shape = |output: &Output| match output {
            Output::AskLease { request, shape } if *shape == of => Some(*request),
            _ => None,
        };
        said.iter().find_map(of_shape)
    };
    let said = outputs(&mut dispatch);
    let (shared, own) = (asked(&said, 0).unwrap_or(2), asked(&said, 1).expect("a place of its own is asked for"));
    dispatch.handle(at(1), Input::Granted { request: shared, lease: LeaseId(2), process: worker(2) });
    assert!(outputs(&mut dispatch).contains(&send(1, 2, 2, 2)), "DISP-8");
    dispatch.handle(at(1), Input::Granted { request: own, lease: LeaseId(3), process: worker(3) });
    let said = outputs(&mut dispatch);
    let sent = said.iter().filter(|output| matches!(output, Output::Send { .. })).count();
    assert!(said.contains(&send(0, 2, 3, 3)) && sent == 1, "one at a time: {said:?}");
    dispatch.handle(at(2), Input::Finished { key: 0, attempt: Attempt(2), end: End::Ok });
    assert!(outputs(&mut dispatch).contains(&send(2, 2, 3, 3)));
}

#[test]
fn every_task_stands_somewhere() {
    let mut dispatch = busy(2);
    for seq in 2..4 {
        dispatch.submit(at(1), id(seq), 1, TaskSpec::default());
    }
    let standings: Vec<_> = dispatch.standings().collect();
    let waits = |key, before| (key, Standing::Waits { shape: 1, before });
    let sent = |key, before| (key, Standing::Sent { process: worker(1), before });
    assert_eq!(standings, [waits(2, 0), waits(3, 1), sent(0, 0), sent(1, 1)]);
    dispatch.handle(at(2), Input::TurnedAway { key: 0, attempt: Attempt(1) });
    dispatch.handle(at(2), Input::TurnedAway { key: 0, attempt: Attempt(2) });
    let retry = dispatch.standings().find(|(key, _)| *key == 0);
    assert!(matches!(retry, Some((_, Standing::Retry { again_at })) if again_at >= at(102)), "{retry:?}");
}

#[test]
fn alarms_of_tasks_that_ended_do_not_pile_up() {
    let mut dispatch = busy(1);
    let spec = TaskSpec { deadline: Deadline::at(at(1_000_000)), ..TaskSpec::default() };
    for seq in 1..10_000 {
        let key = dispatch.submit(at(1), id(seq), 0, spec);
        dispatch.handle(at(1), Input::Finished { key, attempt: Attempt(1), end: End::Ok });
    }
    assert_eq!(dispatch.len(), 1);
    assert!(dispatch.alarms.len() <= ALARMS_SPARE + 8, "{}", dispatch.alarms.len());
}

/// A dispatch with `tasks` tasks in flight on one lease and another lease, granted a moment later, elsewhere.
fn lopsided(tasks: u64) -> Dispatch {
    let mut dispatch = busy(tasks);
    dispatch.handle(at(1), Input::Granted { request: 2, lease: LeaseId(2), process: worker(2) });
    dispatch
}

fn asked_back(dispatch: &mut Dispatch) -> Vec<Key> {
    let said = outputs(dispatch).into_iter();
    said.filter_map(|output| match output {
        Output::AskBack { key, .. } => Some(key),
        _ => None,
    })
    .collect()
}

#[test]
fn a_place_with_nothing_to_do_takes_half_of_what_waits_at_another() {
    let mut dispatch = lopsided(8);
    assert_eq!(asked_back(&mut dispatch), []);
    let due = dispatch.next_timeout().unwrap();
    assert_eq!(due, at(1) + STEAL_AFTER);
    dispatch.handle(due, Input::Tick);
    let asked = asked_back(&mut dispatch);
    assert_eq!(asked, [4, 5, 6, 7], "the newest half of those that wait: one runs");
    for key in [7, 6] {
        dispatch.handle(due, Input::HandedBack { key, attempt: Attempt(1) });
    }
    assert_eq!(outputs(&mut dispatch), [send(7, 2, 2, 2), send(6, 2, 2, 2)]);
    // The others had begun: their ends are theirs, and count for nothing else.
    for key in [5, 4] {
        dispatch.handle(due, Input::Finished { key, attempt: Attempt(1), end: End::Ok });
        let resolved = Output::Resolve { key, outcome: Outcome::Ok, attempt: Some(Attempt(1)) };
        assert_eq!(outputs(&mut dispatch), [resolved]);
    }
    // Said late or twice, it is nothing.
    dispatch.handle(due, Input::HandedBack { key: 7, attempt: Attempt(1) });
    assert_eq!(outputs(&mut dispatch), []);
}

#[test]
fn nothing_is_asked_back_twice_or_at_once() {
    let mut dispatch = lopsided(2);
    dispatch.handle(at(2), Input::Finished { key: 0, attempt: Attempt(1), end: End::Ok });
    dispatch.handle(at(1) + STEAL_AFTER, Input::Tick);
    assert_eq!(asked_back(&mut dispatch), [], "one that runs is left where it is");
    let mut dispatch = lopsided(4);
    let mut asked = Vec::new();
    for round in 0..10 {
        dispatch.handle(at(20 + 10 * round), Input::Tick);
        asked.extend(asked_back(&mut dispatch));
    }
    assert_eq!(asked, [2, 3, 1], "each once, some at a time");
}

#[test]
fn what_has_not_begun_at_a_recalled_place_comes_back_to_the_front() {
    let mut dispatch = busy(3);
    let waiting = dispatch.submit(at(1), id(9), 1, TaskSpec::default());
    outputs(&mut dispatch);
    dispatch.handle(at(1), Input::Recalled { lease: LeaseId(1) });
    assert_eq!(asked_back(&mut dispatch), [0, 1, 2]);
    for key in [2, 1] {
        dispatch.handle(at(2), Input::HandedBack { key, attempt: Attempt(1) });
    }
    dispatch.handle(at(3), Input::Finished { key: 0, attempt: Attempt(1), end: End::Ok });
    let said = outputs(&mut dispatch);
    assert!(said.contains(&Output::ReturnLease { lease: LeaseId(1) }), "{said:?}");
    let younger = dispatch.submit(at(4), id(10), 0, TaskSpec::default());
    let request = *dispatch.requests.iter().find(|(_, shape)| **shape == 0).unwrap().0;
    dispatch.handle(at(5), Input::Granted { request, lease: LeaseId(3), process: worker(3) });
    let sent: Vec<_> = outputs(&mut dispatch)
        .into_iter()
        .filter_map(|output| match output {
            Output::Send { key, .. } => Some(key),
            _ => None,
        })
        .collect();
    assert_eq!(sent, [1, 2, younger], "what came back stands before what came later");
    assert!(dispatch.tasks[waiting].is_queued, "another shape has a queue of its own");
}

#[test]
fn a_place_takes_as_many_tasks_as_it_is_good_for_and_then_goes() {
    let mut dispatch = Dispatch::default();
    dispatch.keep_apart(0, 0);
    dispatch.retire_after(0, 2);
    for seq in 0..3 {
        dispatch.submit(at(0), id(seq), 0, TaskSpec::default());
    }
    dispatch.handle(at(0), Input::Granted { request: 1, lease: LeaseId(1), process: worker(1) });
    outputs(&mut dispatch);
    let finished = |key| Input::Finished { key, attempt: Attempt(1), end: End::Ok };
    let resolved = |key| Output::Resolve { key, outcome: Outcome::Ok, attempt: Some(Attempt(1)) };
    dispatch.handle(at(1), finished(0));
    assert_eq!(outputs(&mut dispatch), [resolved(0), send(1, 1, 1, 1)]);
    dispatch.handle(at(2), finished(1));
    let returned = Output::ReturnLease { lease: LeaseId(1) };
    assert_eq!(outputs(&mut dispatch), [returned, resolved(1)], "the third goes elsewhere");
    dispatch.handle(at(3), Input::Granted { request: 2, lease: LeaseId(2), process: worker(2) });
    assert_eq!(outputs(&mut dispatch), [send(2, 1, 2, 2)]);
}

#[test]
fn what_is_ended_by_force_takes_its_place_with_it() {
    let mut dispatch = busy(2);
    dispatch.handle(at(1), Input::Force { key: 0 });
    let said = outputs(&mut dispatch);
    assert!(said.contains(&Output::CancelAttempt { key: 0, attempt: Attempt(1), process: worker(1) }), "{said:?}");
    assert!(said.contains(&Output::Resolve { key: 0, outcome: Outcome::Cancelled, attempt: None }), "{said:?}");
    assert!(said.contains(&Output::AskBack { key: 1, attempt: Attempt(1), process: worker(1) }), "{said:?}");
    dispatch.handle(at(2), Input::HandedBack { key: 1, attempt: Attempt(1) });
    assert_eq!(outputs(&mut dispatch)[0], Output::ReturnLease { lease: LeaseId(1) }, "what had not begun is elsewhere");
    // What is at no place yet only ends.
    let key = dispatch.submit(at(3), id(9), 1, TaskSpec::default());
    outputs(&mut dispatch);
    dispatch.handle(at(3), Input::Force { key });
    assert_eq!(outputs(&mut dispatch), [Output::Resolve { key, outcome: Outcome::Cancelled, attempt: None }]);
}

#[test]
fn what_runs_at_a_spent_place_asks_for_no_other() {
    let mut dispatch = Dispatch::default();
    dispatch.keep_apart(0, 0);
    dispatch.retire_after(0, 1);
    let key = dispatch.submit(at(0), id(0), 0, TaskSpec::default());
    dispatch.handle(at(0), Input::Granted { request: 1, lease: LeaseId(1), process: worker(1) });
    assert_eq!(dispatch.places(), (1, 0), "nobody waits for a place");
    // Its process dies with the task, which needs another.
    dispatch.handle(at(1), Input::ProcessDied { process: worker(1), culprits: None });
    dispatch.handle(at(2), Input::Granted { request: 2, lease: LeaseId(2), process: worker(2) });
    outputs(&mut dispatch);
    dispatch.handle(at(3), Input::Recalled { lease: LeaseId(2) });
    assert_eq!(asked_back(&mut dispatch), [key], "wanted back, it may not have begun");
    dispatch.handle(at(4), Input::HandedBack { key, attempt: Attempt(2) });
    assert_eq!(outputs(&mut dispatch)[0], Output::ReturnLease { lease: LeaseId(2) });
    assert_eq!(dispatch.places(), (0, 1));
}

#[test]
fn the_leases_of_one_process_are_one_place() {
    let mut dispatch = busy(4);
    dispatch.handle(at(1), Input::Granted { request: 2, lease: LeaseId(2), process: worker(1) });
    dispatch.handle(at(1) + STEAL_AFTER, Input::Tick);
    assert_eq!(asked_back(&mut dispatch), [], "its second lease runs what came there for the first");
    dispatch.handle(at(20), Input::Granted { request: 3, lease: LeaseId(3), process: worker(2) });
    dispatch.handle(at(20) + STEAL_AFTER, Input::Tick);
    assert_eq!(asked_back(&mut dispatch), [3], "two run, and of two that wait one goes");
    dispatch.handle(at(31), Input::HandedBack { key: 3, attempt: Attempt(1) });
    assert_eq!(outputs(&mut dispatch), [send(3, 2, 3, 2)], "not back to where it waited");
}

fn submit(dispatch: &mut Dispatch, seq: u64, priority: i32) -> Key {
    dispatch.submit(at(1), id(seq), 0, TaskSpec { priority, ..TaskSpec::default() })
}

fn sent(dispatch: &mut Dispatch) -> Vec<Key> {
    let said = outputs(dispatch).into_iter();
    said.filter_map(|output| if let Output::Send { key, .. } = output { Some(key) } else { None }).collect()
}

#[test]
fn the_most_urgent_goes_first_and_of_one_priority_the_oldest() {
    let mut dispatch = Dispatch::default();
    let priorities = [0, -1, 7, 0, 7];
    for (seq, priority) in (0..).zip(priorities) {
        assert_eq!(submit(&mut dispatch, seq, priority), seq as usize);
    }
    dispatch.handle(at(1), Input::Granted { request: 1, lease: LeaseId(1), process: worker(1) });
    assert_eq!(sent(&mut dispatch), [2, 4, 0, 3, 1]);
}

#[test]
fn an_urgent_task_does_not_wait_behind_what_fills_a_place() {
    let depth = DEPTH as u64;
    let mut dispatch = busy(depth + 100);
    let equal = submit(&mut dispatch, 1_000, 0);
    assert_eq!(sent(&mut dispatch), [], "DISP-4");
    let urgent: Vec<Key> = (0..=OVERTAKING_MAX as u64).map(|n| submit(&mut dispatch, 2_000 + n, 1)).collect();
    assert_eq!(sent(&mut dispatch), urgent[..OVERTAKING_MAX], "so many and no more");
    dispatch.handle(at(2), Input::Finished { key: 0, attempt: Attempt(1), end: End::Ok });
    assert_eq!(sent(&mut dispatch), urgent[OVERTAKING_MAX..], "the last of them before all that is older");
    for key in 1..=OVERTAKING_MAX {
        dispatch.handle(at(2), Input::Finished { key, attempt: Attempt(1), end: End::Ok });
        assert_eq!(sent(&mut dispatch), [], "the place is full without those that overtook");
    }
    dispatch.handle(at(2), Input::Finished { key: OVERTAKING_MAX + 1, attempt: Attempt(1), end: End::Ok });
    assert_eq!(sent(&mut dispatch), [DEPTH]);
    assert!(dispatch.tasks[equal].is_queued);
}

#[test]
fn an_urgent_task_has_its_order_again_when_its_process_has_died() {
    let mut dispatch = busy(3);
    let urgent = submit(&mut dispatch, 9, 1);
    outputs(&mut dispatch);
    dispatch.handle(at(2), Input::ProcessDied { process: worker(1), culprits: Some(vec![]) });
    let request = *dispatch.requests.keys().min().unwrap();
    dispatch.handle(at(2), Input::Granted { request, lease: LeaseId(9), process: worker(2) });
    assert_eq!(sent(&mut dispatch), [urgent, 0, 1, 2]);
}

#[test]
fn what_is_least_urgent_comes_back_last() {
    let mut dispatch = lopsided(6);
    for seq in 10..12 {
        submit(&mut dispatch, seq, 1);
    }
    // The place with nothing to do took those: it has less to do still.
    let low = submit(&mut dispatch, 20, -1);
    outputs(&mut dispatch);
    let at_first = dispatch.tasks[low].at;
    dispatch.handle(at(2), Input::Recalled { lease: LeaseId(2) });
    let asked = asked_back(&mut dispatch);
    assert_eq!((at_first.map(|(lease, _)| lease), asked.last()), (Some(1), Some(&low)));
}
