//! Tables of inputs and expected outputs, a line each: the time in milliseconds, what happens, what the task asks for.

use super::*;

fn ms(millis: u64) -> Time {
    Time::ZERO + Duration::from_millis(millis)
}

fn check(spec: TaskSpec, table: &[(u64, &str, &str)]) {
    let mut task = Task::new(spec);
    for &(at_ms, input, expect) in table {
        task.handle(ms(at_ms), parse(input));
        let outputs: Vec<_> = std::iter::from_fn(|| task.poll_output()).map(say).collect();
        assert_eq!(outputs.join(", "), expect, "{at_ms} ms: {input}");
        super::check(&task).unwrap();
    }
}

fn parse(input: &str) -> Input {
    let mut words = input.split(' ');
    let (verb, attempt) = (words.next(), words.next().and_then(|attempt| attempt.parse().ok()));
    let attempt = Attempt(attempt.unwrap_or_default());
    match verb {
        Some("ready") => Input::Ready,
        Some("unrunnable") => Input::Unrunnable,
        Some("started") => Input::Started { attempt },
        Some("ok") => Input::Finished { attempt, end: End::Ok },
        Some("error") => Input::Finished { attempt, end: End::ApplicationError },
        Some("panicked") => Input::Finished { attempt, end: End::Panicked },
        Some("final") => Input::Finished { attempt, end: End::Final },
        Some("away") => Input::TurnedAway { attempt },
        Some("culprit") => Input::SystemFailed { attempt, culprit: true },
        Some("bystander") => Input::SystemFailed { attempt, culprit: false },
        Some("cancel") => Input::Cancel,
        Some("tick") => Input::Tick,
        other => panic!("no input {other:?}"),
    }
}

fn say(output: Output) -> String {
    match output {
        Output::Run { attempt } => format!("run {}", attempt.0),
        Output::CancelAttempt { attempt } => format!("cancel {}", attempt.0),
        Output::Resolve { outcome, attempt: None } => outcome.name().into(),
        Output::Resolve { outcome, attempt: Some(attempt) } => format!("{} by {}", outcome.name(), attempt.0),
    }
}

const PLAIN: TaskSpec = TaskSpec {
    system_max: 3,
    application_max: 0,
    at_most_once: false,
    deadline: Deadline::NEVER,
    priority: 0,
    seed: 0,
};
const ONCE: TaskSpec = TaskSpec { at_most_once: true, ..PLAIN };

#[test]
fn a_run_ends_in_its_own_outcome() {
    check(PLAIN, &[(0, "ready", "run 1"), (1, "started 1", ""), (2, "ok 1", "ok by 1")]);
    check(PLAIN, &[(0, "ready", "run 1"), (2, "error 1", "failed by 1")]);
    check(PLAIN, &[(0, "ready", "run 1"), (2, "panicked 1", "failed by 1")]);
    check(PLAIN, &[(0, "unrunnable", "not_started"), (1, "ready", "")]);
}

#[test]
fn system_failures_are_retried_three_times() {
    check(
        PLAIN,
        &[
            (0, "ready", "run 1"),
            (1, "culprit 1", "run 2"),
            (2, "culprit 2", ""),
            (101, "tick", ""),
            (202, "tick", "run 3"),
            (203, "culprit 3", ""),
            (303, "tick", ""),
            (603, "tick", "run 4"),
            (604, "culprit 4", "may_have_run"),
        ],
    );
}

#[test]
fn waits_are_spread_within_the_promised_bounds() {
    let spec = TaskSpec { system_max: 100, ..PLAIN };
    let mut distinct = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let mut task = Task::new(TaskSpec { seed, ..spec });
        let mut now = Time::ZERO;
        task.handle(now, Input::Ready);
        for nth in 1..=100 {
            task.handle(now, Input::SystemFailed { attempt: Attempt(nth), culprit: true });
            let wait = task.next_timeout().unwrap_or(now) - now;
            assert!(if nth == 1 { wait.is_zero() } else { (WAIT_MIN..=WAIT_MAX).contains(&wait) }, "{nth}: {wait:?}");
            distinct.insert(wait);
            now = now + wait;
            task.handle(now, Input::Tick);
        }
    }
    assert!(distinct.len() > 4_000, "{} waits of 5,000 differ", distinct.len());
    assert!(distinct.last().unwrap() > &Duration::from_millis(4_900));
}

#[test]
fn a_bystander_is_not_counted() {
    check(
        TaskSpec { system_max: 0, ..PLAIN },
        &[(0, "ready", "run 1"), (1, "bystander 1", "run 2"), (2, "culprit 2", "may_have_run")],
    );
    let mut task = Task::new(PLAIN);
    task.handle(Time::ZERO, Input::Ready);
    for nth in 1..=BYSTANDER_MAX {
        let now = ms(u64::from(nth) * 10_000);
        task.handle(now, Input::SystemFailed { attempt: Attempt(nth), culprit: false });
        task.handle(now + WAIT_MAX, Input::Tick);
        assert_eq!(task.attempt(), Some(Attempt(nth + 1)));
    }
    let last = Attempt(BYSTANDER_MAX + 1);
    task.handle(ms(1_000_000), Input::SystemFailed { attempt: last, culprit: false });
    assert_eq!(task.outcome(), Some(Outcome::MayHaveRun));
}

#[test]
fn application_errors_are_retried_when_asked_for() {
    let spec = TaskSpec { application_max: 1, ..PLAIN };
    check(spec, &[(0, "ready", "run 1"), (1, "error 1", "run 2"), (2, "panicked 2", "failed by 2")]);
    check(spec, &[(0, "ready", "run 1"), (1, "panicked 1", "run 2"), (2, "ok 2", "ok by 2")]);
    // After an error that its submitter does not name there is no other run.
    check(spec, &[(0, "ready", "run 1"), (1, "final 1", "failed by 1"), (2, "ok 1", "")]);
}

#[test]
fn at_most_once_runs_again_only_when_it_never_began() {
    check(ONCE, &[(0, "ready", "run 1"), (1, "culprit 1", "may_have_run")]);
    check(ONCE, &[(0, "ready", "run 1"), (1, "bystander 1", "may_have_run")]);
    check(
        TaskSpec { application_max: 5, ..ONCE },
        &[(0, "ready", "run 1"), (1, "started 1", ""), (1, "error 1", "failed by 1")],
    );
    check(ONCE, &[(0, "ready", "run 1"), (1, "away 1", "run 2"), (2, "ok 2", "ok by 2")]);
}

#[test]
fn what_was_only_turned_away_is_safe_to_try_again() {
    let spec = TaskSpec { system_max: 1, ..PLAIN };
    check(spec, &[(0, "ready", "run 1"), (1, "away 1", "run 2"), (2, "away 2", "not_started")]);
    check(spec, &[(0, "ready", "run 1"), (1, "culprit 1", "run 2"), (2, "away 2", "may_have_run")]);
}

#[test]
fn superseded_attempts_are_refused() {
    check(
        PLAIN,
        &[
            (0, "ready", "run 1"),
            (1, "culprit 1", "run 2"),
            (2, "ok 1", ""),
            (2, "culprit 1", ""),
            (2, "away 1", ""),
            (3, "culprit 2", ""),
            // Its place is lost, and then its result comes after all.
            (4, "ok 2", ""),
            (300, "tick", "run 3"),
            (301, "ok 2", ""),
            (302, "ok 7", ""),
            (303, "ok 3", "ok by 3"),
        ],
    );
}

#[test]
fn there_is_one_outcome() {
    let after = [
        (5, "ok 1", ""),
        (5, "error 1", ""),
        (5, "culprit 1", ""),
        (5, "away 1", ""),
        (5, "cancel", ""),
        (5, "ready", ""),
        (5, "unrunnable", ""),
        (100_000, "tick", ""),
    ];
    let spec = TaskSpec { deadline: Deadline::at(ms(1_000)), ..PLAIN };
    check(spec, &[&[(0, "ready", "run 1"), (1, "ok 1", "ok by 1")][..], &after].concat());
    check(spec, &[&[(0, "ready", "run 1"), (1, "cancel", "cancel 1, cancelled")][..], &after].concat());
    check(spec, &[&[(0, "cancel", "cancelled")][..], &after].concat());
}

#[test]
fn the_deadline_ends_whatever_goes_on() {
    let spec = TaskSpec { deadline: Deadline::at(ms(50)), ..PLAIN };
    check(spec, &[(49, "tick", ""), (50, "tick", "deadline_exceeded")]);
    check(spec, &[(0, "ready", "run 1"), (49, "ok 1", "ok by 1")]);
    check(spec, &[(0, "ready", "run 1"), (50, "ok 1", "cancel 1, deadline_exceeded")]);
    check(
        spec,
        &[
            (0, "ready", "run 1"),
            (1, "culprit 1", "run 2"),
            (2, "culprit 2", ""),
            (60, "tick", "deadline_exceeded"),
            (500, "tick", ""),
        ],
    );
    let mut task = Task::new(spec);
    assert_eq!(task.next_timeout(), Some(ms(50)));
    task.handle(ms(0), Input::Cancel);
    assert_eq!(task.next_timeout(), None);
}
