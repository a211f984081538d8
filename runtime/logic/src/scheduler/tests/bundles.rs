//! Bundles: what is kept apart, granted out of it, and given back.

use mobula_types::resources::{Amount, Request};
use mobula_types::{Bundle, BundleLoad, BundleStrategy, GroupId, GroupSpec, Within};
use mobula_wire::groups::GroupOrder;

use super::*;

const GROUP: GroupId = GroupId { process: ProcessId::HEAD, number: 1 };

fn group(bundles: &[u64]) -> GroupSpec {
    let bundle = |count: &u64| {
        let request = Request { cpus: Amount::whole(*count), ..Request::default() };
        Bundle { request, ..Bundle::default() }
    };
    GroupSpec { bundles: bundles.iter().map(bundle).collect(), strategy: BundleStrategy::Pack }
}

fn prepare(round: u64, bundles: &[u64]) -> Input {
    let indices = (0..bundles.len() as u32).collect();
    Input::Bundles(GroupOrder::Prepare { group: GROUP, round, job: JOB, spec: group(bundles), bundles: indices })
}

fn commit(round: u64) -> Input {
    Input::Bundles(GroupOrder::Commit { group: GROUP, round })
}

fn within(spec: PlacementSpec, bundle: Option<u32>) -> PlacementSpec {
    PlacementSpec { within: Some(Within { group: GROUP, bundle }), ..spec }
}

/// Every worker that was to be started runs, from process 10 on.
fn start_all(scheduler: &mut Scheduler) -> Vec<ProcessId> {
    let starts = said(scheduler).into_iter().filter_map(|output| match output {
        Output::StartWorker { start, .. } => Some(start),
        _ => None,
    });
    let starts: Vec<(StartId, ProcessId)> = starts.zip((10..).map(process)).collect();
    for (start, process) in &starts {
        scheduler.handle(at(1), Input::WorkerStarted { start: *start, process: *process });
    }
    starts.into_iter().map(|(_, process)| process).collect()
}

fn here(cpus: u64, gpus: u64) -> Scheduler {
    Scheduler::new(HERE, &has(cpus, gpus), BTreeMap::new())
}

fn keeping(total: u64, bundles: &[u64]) -> Scheduler {
    let mut scheduler = here(total, 0);
    scheduler.handle(at(0), prepare(1, bundles));
    scheduler.handle(at(0), commit(1));
    assert_eq!(said(&mut scheduler), [Output::Prepared { group: GROUP, round: 1 }]);
    scheduler
}

#[test]
fn what_is_prepared_is_taken_all_or_nothing_and_given_back_when_nobody_commits_it() {
    let mut scheduler = here(3, 0);
    scheduler.handle(at(0), prepare(1, &[2, 2]));
    assert_eq!(said(&mut scheduler), [Output::NotPrepared { group: GROUP, round: 1 }]);
    assert_eq!(scheduler.load().free.cpus, Amount::whole(3));
    scheduler.handle(at(1), prepare(2, &[1, 1]));
    assert_eq!(said(&mut scheduler), [Output::Prepared { group: GROUP, round: 2 }]);
    assert_eq!(scheduler.load().free.cpus, Amount::ONE);
    assert_eq!(scheduler.load().bundles, [], "nobody may use it yet");
    let due = scheduler.next_timeout().unwrap();
    assert_eq!(due, at(1) + crate::groups::PREPARED_MAX);
    scheduler.handle(due, Input::Tick);
    assert_eq!(scheduler.load().free.cpus, Amount::whole(3));
    scheduler.handle(due, commit(2));
    assert_eq!(said(&mut scheduler), [Output::NotPrepared { group: GROUP, round: 2 }]);
    scheduler.handle(due, prepare(3, &[1]));
    scheduler.handle(due, Input::Bundles(GroupOrder::Abort { group: GROUP, round: 3 }));
    assert_eq!(scheduler.load().free.cpus, Amount::whole(3));
}

#[test]
fn what_is_in_a_group_takes_of_its_bundles_and_what_is_not_takes_of_the_rest() {
    let mut scheduler = keeping(3, &[1, 1]);
    assert_eq!(scheduler.load().free.cpus, Amount::ONE);
    let free = scheduler.load().bundles.iter().map(|load| (load.bundle, load.free.cpus)).collect::<Vec<_>>();
    assert_eq!(free, [(0, Amount::ONE), (1, Amount::ONE)]);
    scheduler.handle(at(1), asked(1, cpus(1)));
    scheduler.handle(at(1), asked(2, cpus(1)));
    for (number, bundle) in [(3, None), (4, Some(1)), (5, Some(1)), (6, None)] {
        scheduler.handle(at(1), asked(number, within(cpus(1), bundle)));
    }
    let starts = said(&mut scheduler);
    assert_eq!(starts.len(), 3, "one outside, and one in each bundle: {starts:?}");
    let why = |number| scheduler.why(at(2), key(number)).unwrap();
    assert!(why(2).starts_with("num_cpus = 1, 0 of 3 are free"), "{}", why(2));
    assert_eq!(why(5), format!("num_cpus = 1, 0 of 1 are free in bundle 1 of {GROUP} on {HERE}"));
    assert!(why(6).contains("in bundle"), "{}", why(6));
    assert_eq!(scheduler.load().free.cpus, Amount::ZERO);
    check(&scheduler).unwrap();
}

#[test]
fn a_group_that_ends_ends_what_is_in_it_and_refuses_the_rest() {
    let mut scheduler = keeping(2, &[1]);
    scheduler.handle(at(1), asked(1, within(cpus(1), None)));
    let worker = start_all(&mut scheduler)[0];
    scheduler.handle(at(2), asked(2, within(cpus(1), None)));
    said(&mut scheduler);
    scheduler.handle(at(3), Input::Bundles(GroupOrder::End { group: GROUP }));
    let refused = |number| Output::Refuse { request: key(number), why: Refusal::GroupEnded { group: GROUP } };
    assert_eq!(said(&mut scheduler), [Output::EndInGroup { process: worker, group: GROUP, is_over: true }, refused(2)]);
    assert_eq!(scheduler.load().free.cpus, Amount::whole(2));
    scheduler.handle(at(4), asked(3, within(cpus(1), Some(0))));
    assert_eq!(said(&mut scheduler), [refused(3)]);
    scheduler.handle(at(4), prepare(2, &[1]));
    assert_eq!(said(&mut scheduler), [Output::NotPrepared { group: GROUP, round: 2 }], "it does not come back");
    assert_eq!(scheduler.groups_ended().collect::<Vec<_>>(), [GROUP]);
    assert_eq!(scheduler.bundles_held(), []);
}

#[test]
fn a_job_that_ends_takes_its_bundles_along() {
    let mut scheduler = keeping(2, &[2]);
    assert_eq!(scheduler.load().free.cpus, Amount::ZERO);
    scheduler.handle(at(1), Input::JobEnded { job: JOB });
    assert_eq!(scheduler.load().free.cpus, Amount::whole(2));
}

#[test]
fn cpus_that_wait_in_a_bundle_are_lent_in_it_alone() {
    let mut scheduler = keeping(2, &[1]);
    scheduler.handle(at(1), asked(1, within(cpus(1), None)));
    let worker = start_all(&mut scheduler)[0];
    said(&mut scheduler);
    scheduler.handle(at(2), Input::Waiting { process: worker, cpus: Amount::ONE });
    assert_eq!(scheduler.load().free.cpus, Amount::ONE, "nobody else may use it");
    scheduler.handle(at(3), asked(2, within(cpus(1), None)));
    let said = said(&mut scheduler);
    assert!(
        said.iter().any(|output| matches!(output, Output::Grant { request, .. } if *request == key(2))),
        "{said:?}"
    );
    check(&scheduler).unwrap();
}

#[test]
fn a_bundle_elsewhere_is_asked_while_the_view_shows_room_in_it() {
    let mut scheduler = here(2, 0);
    scheduler.handle(at(1), asked(1, within(cpus(1), Some(3))));
    let why = scheduler.why(at(1), key(1)).unwrap();
    assert!(why.starts_with(&format!("no living node has told that it keeps bundle 3 of {GROUP}")), "{why}");
    let seen = |free| {
        let bundles = vec![BundleLoad { group: GROUP, bundle: 3, free: has(free, 0) }];
        Input::Seen { node: THERE, load: NodeLoad { total: has(2, 0), bundles, ..NodeLoad::default() } }
    };
    scheduler.handle(at(2), seen(0));
    assert_eq!(said(&mut scheduler), []);
    let why = scheduler.why(at(2), key(1)).unwrap();
    assert!(why.contains(&format!("0 is free in bundle 3 on {THERE}")), "{why}");
    scheduler.handle(at(3), seen(1));
    assert!(matches!(&said(&mut scheduler)[..], [Output::AskPeer { node, .. }] if *node == THERE));
    scheduler.handle(at(4), asked(2, within(cpus(1), Some(3))));
    assert_eq!(said(&mut scheduler), [], "what is asked for counts as in use");
}
