//! Tables of inputs and expected outputs, a line each: the time in milliseconds, what happens, what the group asks for.

use std::time::Duration;

use mobula_types::{Backoff, Intensity, StateMachine, Strategy, Time};

use super::*;

/// Runs `table` on a group that bears `restarts_max` restarts in 10 s, and waits 100 ms to 1 s between them.
fn check_with(strategy: Strategy, restarts_max: u32, table: &[(u64, &str, &str)]) {
    let intensity = Intensity { restarts_max, period: Duration::from_secs(10) };
    let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1) };
    let mut group = Supervision::new(strategy, intensity, backoff);
    for &(at_ms, input, expect) in table {
        group.handle(Time::ZERO + Duration::from_millis(at_ms), parse(input));
        let outputs: Vec<_> = std::iter::from_fn(|| group.poll_output()).map(|output| say(&output)).collect();
        assert_eq!(outputs.join(", "), expect, "{strategy:?}, {at_ms} ms: {input}");
        super::check(&group).unwrap();
    }
}

fn check(strategy: Strategy, table: &[(u64, &str, &str)]) {
    check_with(strategy, 3, table);
}

fn parse(input: &str) -> Input {
    let mut words = input.split(' ');
    let (verb, child, word) = (words.next(), words.next().and_then(|key| key.parse().ok()), words.next());
    let child = child.unwrap_or_default();
    let reason = || match word {
        Some("normal") => ExitReason::Normal,
        Some("shutdown") => ExitReason::Shutdown,
        Some("killed") => ExitReason::Killed,
        other => panic!("no reason {other:?}"),
    };
    match verb {
        Some("add") => {
            let restart = match word {
                Some("permanent") => Restart::Permanent,
                Some("transient") => Restart::Transient,
                Some("temporary") => Restart::Temporary,
                other => panic!("no kind of child {other:?}"),
            };
            Input::Add { child, restart }
        }
        Some("started") => Input::Started { child },
        Some("failed") => Input::StartFailed { child, reason: reason() },
        Some("exited") => Input::Exited { child, reason: reason() },
        Some("remove") => Input::Remove { child },
        Some("stop") => Input::Stop,
        Some("tick") => Input::Tick,
        other => panic!("no input {other:?}"),
    }
}

fn say(output: &Output) -> String {
    let word = |reason: &ExitReason| match reason {
        ExitReason::Normal => "normal",
        ExitReason::Shutdown => "shutdown",
        ExitReason::Killed => "killed",
        other => panic!("no word for {other:?}"),
    };
    match output {
        Output::Start { child } => format!("start {child}"),
        Output::Stop { child } => format!("stop {child}"),
        Output::Ended { child, reason } => format!("ended {child} {}", word(reason)),
        Output::Escalate { child, cause } => format!("escalate {child} {}", word(cause)),
        Output::Stopped => "stopped".into(),
    }
}

/// Three children that run.
fn three<'a>(kinds: [&'a str; 3], rest: &[(u64, &'a str, &'a str)]) -> Vec<(u64, &'a str, &'a str)> {
    let mut table = Vec::new();
    for (kind, (start, started)) in
        kinds.into_iter().zip([("start 1", "started 1"), ("start 2", "started 2"), ("start 3", "started 3")])
    {
        table.extend([(0, kind, start), (0, started, "")]);
    }
    table.extend(rest);
    table
}

const PERMANENT: [&str; 3] = ["add 1 permanent", "add 2 permanent", "add 3 permanent"];

#[test]
fn one_for_one_touches_nobody_else() {
    check(
        Strategy::OneForOne,
        &three(
            PERMANENT,
            &[
                (10, "exited 2 killed", "start 2"),
                (10, "started 2", ""),
                (20, "exited 1 normal", "start 1"),
                (20, "started 1", ""),
                // The second restart of child 2 in a row: after 100 ms.
                (30, "exited 2 killed", ""),
                (129, "tick", ""),
                (130, "tick", "start 2"),
            ],
        ),
    );
}

#[test]
fn one_for_all_stops_in_reverse_and_starts_in_order() {
    check(
        Strategy::OneForAll,
        &three(
            PERMANENT,
            &[
                (10, "exited 2 killed", "stop 3"),
                (20, "exited 3 shutdown", "stop 1"),
                (30, "exited 1 shutdown", "start 1"),
                (40, "started 1", "start 2"),
                (50, "started 2", "start 3"),
                (60, "started 3", ""),
                // The group's second restart in a row.
                (70, "exited 3 killed", "stop 2"),
                (80, "exited 2 shutdown", "stop 1"),
                (90, "exited 1 shutdown", ""),
                (169, "tick", ""),
                (170, "tick", "start 1"),
            ],
        ),
    );
}

#[test]
fn rest_for_one_leaves_those_before_alone() {
    check(
        Strategy::RestForOne,
        &three(
            PERMANENT,
            &[
                (10, "exited 2 killed", "stop 3"),
                (20, "exited 3 shutdown", "start 2"),
                (30, "started 2", "start 3"),
                (40, "started 3", ""),
                (50, "exited 3 killed", ""),
                (150, "tick", "start 3"),
            ],
        ),
    );
}

#[test]
fn rest_for_one_widens_when_an_earlier_one_fails_meanwhile() {
    // While the others stop.
    check(
        Strategy::RestForOne,
        &three(
            PERMANENT,
            &[
                (10, "exited 2 killed", "stop 3"),
                (20, "exited 1 killed", ""),
                (30, "exited 3 shutdown", ""),
                (120, "tick", "start 1"),
                (130, "started 1", "start 2"),
                (140, "started 2", "start 3"),
            ],
        ),
    );
    // While they wait.
    check(
        Strategy::RestForOne,
        &three(
            PERMANENT,
            &[
                (10, "exited 3 killed", "start 3"),
                (10, "started 3", ""),
                (20, "exited 3 killed", ""),
                (30, "exited 1 killed", "stop 2"),
                (40, "exited 2 shutdown", ""),
                (229, "tick", ""),
                (230, "tick", "start 1"),
            ],
        ),
    );
}

#[test]
fn the_kind_of_child_decides() {
    let kinds = ["add 1 permanent", "add 2 transient", "add 3 temporary"];
    check(
        Strategy::OneForOne,
        &three(
            kinds,
            &[
                (1, "exited 1 normal", "start 1"),
                (1, "exited 3 killed", "ended 3 killed"),
                (1, "exited 2 shutdown", "ended 2 shutdown"),
            ],
        ),
    );
    check(Strategy::OneForOne, &three(kinds, &[(1, "exited 2 killed", "start 2")]));
    // In a group: one that stays ended touches nobody, a temporary one does not come back with the others.
    check(Strategy::OneForAll, &three(kinds, &[(1, "exited 3 killed", "ended 3 killed")]));
    check(Strategy::OneForAll, &three(kinds, &[(1, "exited 2 normal", "ended 2 normal")]));
    check(
        Strategy::OneForAll,
        &three(
            kinds,
            &[
                (1, "exited 2 killed", "stop 3"),
                (2, "exited 3 shutdown", "ended 3 shutdown, stop 1"),
                (3, "exited 1 shutdown", "start 1"),
                (4, "started 1", "start 2"),
                (5, "started 2", ""),
            ],
        ),
    );
}

#[test]
fn once_too_often_stops_all_and_escalates() {
    check_with(
        Strategy::OneForOne,
        1,
        &three(
            PERMANENT,
            &[
                (1, "exited 2 killed", "start 2"),
                (1, "started 2", ""),
                (2, "exited 1 killed", "ended 1 killed, stop 3"),
                (3, "exited 3 shutdown", "ended 3 shutdown, stop 2"),
                (4, "exited 2 killed", "ended 2 killed, escalate 1 killed"),
                (5, "add 4 permanent", "ended 4 shutdown"),
                (6, "stop", "stopped"),
            ],
        ),
    );
    check_with(
        Strategy::OneForAll,
        0,
        &three(
            PERMANENT,
            &[
                (1, "exited 1 killed", "ended 1 killed, stop 3"),
                (2, "exited 3 shutdown", "ended 3 shutdown, stop 2"),
                (3, "exited 2 shutdown", "ended 2 shutdown, escalate 1 killed"),
            ],
        ),
    );
}

#[test]
fn those_that_are_down_end_with_the_supervisor() {
    check_with(
        Strategy::OneForOne,
        2,
        &three(
            PERMANENT,
            &[
                (1, "exited 2 killed", "start 2"),
                (1, "started 2", ""),
                (2, "exited 2 killed", ""),
                (3, "exited 1 killed", "ended 1 killed, ended 2 killed, stop 3"),
                (4, "exited 3 shutdown", "ended 3 shutdown, escalate 1 killed"),
            ],
        ),
    );
}

#[test]
fn the_very_first_start_is_told_and_not_tried_again() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        check(
            strategy,
            &[
                (0, "add 1 permanent", "start 1"),
                (0, "started 1", ""),
                (0, "add 2 permanent", "start 2"),
                (1, "failed 2 killed", "ended 2 killed"),
                (2, "exited 1 killed", "start 1"),
                // From now on a start that fails is one more failure.
                (3, "failed 1 killed", ""),
                (103, "tick", "start 1"),
                (104, "failed 1 killed", ""),
                (304, "tick", "start 1"),
                (305, "failed 1 killed", "ended 1 killed, escalate 1 killed"),
            ],
        );
    }
}

#[test]
fn dependent_children_start_one_after_another() {
    check(
        Strategy::RestForOne,
        &[
            (0, "add 1 permanent", "start 1"),
            (0, "add 2 permanent", ""),
            (0, "add 3 permanent", ""),
            (1, "started 1", "start 2"),
            (2, "failed 2 killed", "ended 2 killed, start 3"),
        ],
    );
    check(Strategy::OneForOne, &[(0, "add 1 permanent", "start 1"), (0, "add 2 permanent", "start 2")]);
}

#[test]
fn a_failure_while_the_group_starts_begins_again() {
    check(
        Strategy::OneForAll,
        &three(
            PERMANENT,
            &[
                (10, "exited 3 killed", "stop 2"),
                (11, "exited 2 shutdown", "stop 1"),
                (12, "exited 1 shutdown", "start 1"),
                (13, "started 1", "start 2"),
                // Child 2 is still starting.
                (14, "exited 1 killed", "stop 2"),
                (15, "started 2", ""),
                (16, "exited 2 shutdown", ""),
                (114, "tick", "start 1"),
                (115, "started 1", "start 2"),
                (116, "failed 2 killed", "stop 1"),
                (117, "exited 1 shutdown", ""),
                (316, "tick", "start 1"),
            ],
        ),
    );
}

#[test]
fn what_siblings_say_while_they_stop_is_no_failure() {
    check_with(
        Strategy::OneForAll,
        1,
        &three(
            ["add 1 transient", "add 2 transient", "add 3 transient"],
            &[
                (1, "exited 3 killed", "stop 2"),
                // Not asked yet, and ends for good.
                (2, "exited 1 normal", "ended 1 normal"),
                (3, "exited 2 killed", "start 2"),
                (4, "started 2", "start 3"),
                (5, "started 3", ""),
            ],
        ),
    );
}

#[test]
fn a_child_that_joins_during_a_restart_waits_for_its_turn() {
    check(
        Strategy::OneForAll,
        &[
            (0, "add 1 permanent", "start 1"),
            (0, "started 1", ""),
            (0, "add 2 permanent", "start 2"),
            // Stopped before it ever started: it is started again, and its adder is told then.
            (1, "exited 1 killed", "stop 2"),
            (2, "add 3 permanent", ""),
            (3, "exited 2 shutdown", "start 1"),
            (4, "started 1", "start 2"),
            (5, "failed 2 killed", "ended 2 killed, start 3"),
            (6, "started 3", ""),
        ],
    );
}

#[test]
fn stop_ends_all_in_reverse_order() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        check(
            strategy,
            &three(
                PERMANENT,
                &[
                    (1, "stop", "stop 3"),
                    (1, "exited 1 killed", "ended 1 killed"),
                    (2, "stop", ""),
                    (2, "exited 3 shutdown", "ended 3 shutdown, stop 2"),
                    (3, "exited 2 shutdown", "ended 2 shutdown, stopped"),
                ],
            ),
        );
        check(strategy, &[(0, "stop", "stopped")]);
    }
    // A stop while the supervisor fails is answered as a stop.
    check_with(
        Strategy::OneForOne,
        0,
        &three(
            PERMANENT,
            &[
                (1, "exited 2 killed", "ended 2 killed, stop 3"),
                (2, "stop", ""),
                (3, "exited 3 shutdown", "ended 3 shutdown, stop 1"),
                (4, "exited 1 shutdown", "ended 1 shutdown, stopped"),
            ],
        ),
    );
}

#[test]
fn a_removed_child_is_forgotten_whatever_it_does() {
    check(
        Strategy::OneForAll,
        &three(
            PERMANENT,
            &[
                (1, "remove 2", "stop 2"),
                (2, "exited 2 killed", "ended 2 killed"),
                (2, "remove 2", ""),
                (3, "add 2 permanent", "start 2"),
                (4, "remove 2", "stop 2"),
                (5, "failed 2 killed", "ended 2 killed"),
                // Down, and stopping for a sibling.
                (6, "exited 3 killed", "stop 1"),
                (7, "remove 3", "ended 3 killed"),
                (8, "remove 1", ""),
                (9, "exited 1 shutdown", "ended 1 shutdown"),
            ],
        ),
    );
}

#[test]
fn what_comes_twice_or_from_nobody_changes_nothing() {
    check(
        Strategy::OneForOne,
        &[
            (0, "started 9", ""),
            (0, "exited 9 killed", ""),
            (0, "failed 9 killed", ""),
            (0, "remove 9", ""),
            (0, "add 1 permanent", "start 1"),
            (0, "add 1 temporary", ""),
            (0, "started 1", ""),
            (0, "started 1", ""),
            (0, "exited 1 killed", "start 1"),
            (0, "started 1", ""),
            (1, "exited 1 killed", ""),
            (1, "exited 1 killed", ""),
            (1, "started 1", ""),
        ],
    );
}

#[test]
fn many_children_cost_no_more_each() {
    let mut group = Supervision::new(Strategy::OneForOne, Intensity::default(), Backoff::default());
    for child in 0..20_000 {
        group.handle(Time::ZERO, Input::Add { child, restart: Restart::Temporary });
        group.handle(Time::ZERO, Input::Started { child });
    }
    group.handle(Time::ZERO, Input::Stop);
    let mut ended = 0;
    while let Some(output) = group.poll_output() {
        match output {
            Output::Stop { child } => group.handle(Time::ZERO, Input::Exited { child, reason: ExitReason::Shutdown }),
            Output::Ended { .. } => ended += 1,
            _ => {}
        }
    }
    assert_eq!(ended, 20_000);
}
