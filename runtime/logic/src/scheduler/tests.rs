mod bundles;

use std::time::Duration;

use mobula_types::resources::Request;
use mobula_types::{LabelRule, LabelSelector, PlacementStrategy};

use super::*;

const HERE: NodeId = NodeId(1);
const THERE: NodeId = NodeId(2);
const JOB: JobId = JobId(1);

fn at(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

fn process(number: u32) -> ProcessId {
    ProcessId::new(HERE, number)
}

fn key(number: u64) -> RequestKey {
    RequestKey { holder: process(1), number }
}

fn has(cpus: u64, gpus: u64) -> Resources {
    Resources { cpus: Amount::whole(cpus), gpus: Amount::whole(gpus), ..Resources::default() }
}

fn cpus(count: u64) -> PlacementSpec {
    let request = Request { cpus: Amount::whole(count), ..Request::default() };
    PlacementSpec { request, ..PlacementSpec::default() }
}

fn gpus(count: f64) -> PlacementSpec {
    let request = Request { gpus: Amount::new(count).unwrap(), ..Request::default() };
    PlacementSpec { request, ..PlacementSpec::default() }
}

fn on(spec: PlacementSpec, strategy: PlacementStrategy) -> PlacementSpec {
    PlacementSpec { strategy, ..spec }
}

fn asked(number: u64, spec: PlacementSpec) -> Input {
    Input::Asked(Wanted { request: key(number), job: JOB, spec, avoid: Vec::new(), lives_on: false, waits: false })
}

fn seen(node: NodeId, total: u64, free: u64) -> Input {
    Input::Seen { node, load: NodeLoad { total: has(total, 0), free: has(free, 0), ..NodeLoad::default() } }
}

fn outputs(scheduler: &mut Scheduler) -> Vec<Output> {
    std::iter::from_fn(|| scheduler.poll_output()).collect()
}

/// What is said, without the words about capacity.
fn said(scheduler: &mut Scheduler) -> Vec<Output> {
    let mut said = outputs(scheduler);
    said.retain(|output| !matches!(output, Output::Capacity { .. }));
    said
}

/// What goes to wait on which node; nothing else is said.
fn waits(scheduler: &mut Scheduler) -> Vec<(u64, NodeId)> {
    let said = said(scheduler).into_iter().map(|output| match output {
        Output::AskPeer { node, wanted } if wanted.waits => (wanted.request.number, node),
        other => panic!("{other:?}"),
    });
    said.collect()
}

fn lease(count: u64) -> LeaseId {
    LeaseId(HERE.0 << LEASE_BITS | count)
}

fn grant(number: u64, count: u64, worker: u32) -> Output {
    Output::Grant { request: key(number), lease: lease(count), process: process(worker) }
}

/// A scheduler of so many CPUs whose shared worker, process 10, runs.
fn with_worker(cpus_of_node: u64) -> Scheduler {
    let mut scheduler = Scheduler::new(HERE, &has(cpus_of_node, 0), BTreeMap::new());
    scheduler.handle(at(0), asked(0, cpus(0)));
    scheduler.handle(at(0), Input::WorkerStarted { start: StartId(1), process: process(10) });
    assert_eq!(said(&mut scheduler).last(), Some(&grant(0, 1, 10)));
    scheduler
}

#[test]
fn one_worker_of_a_job_serves_its_leases_as_far_as_they_fit() {
    let mut scheduler = Scheduler::new(HERE, &has(2, 0), BTreeMap::new());
    (1..=3).for_each(|number| scheduler.handle(at(0), asked(number, cpus(1))));
    let start = Output::StartWorker { start: StartId(1), job: JOB, isolated: false, gpus: vec![] };
    assert_eq!(outputs(&mut scheduler), [start], "one worker for all");
    scheduler.handle(at(5), Input::WorkerStarted { start: StartId(1), process: process(10) });
    assert_eq!(said(&mut scheduler), [grant(1, 1, 10), grant(2, 2, 10)]);
    let why = scheduler.why(at(5), key(3)).unwrap();
    assert_eq!(why, "num_cpus = 1, 0 of 2 are free on node-1 (job-1 uses 2)");
    scheduler.handle(at(6), Input::Returned { lease: lease(1) });
    scheduler.handle(at(6), Input::Returned { lease: lease(1) });
    let capacity = |resources| Output::Capacity { process: process(10), resources };
    assert_eq!(outputs(&mut scheduler), [capacity(has(1, 0)), capacity(has(2, 0)), grant(3, 3, 10)]);
    assert_eq!((scheduler.waiting(), scheduler.leases()), (0, 2));
}

#[test]
fn what_takes_nothing_is_granted_at_once() {
    let mut scheduler = with_worker(0);
    scheduler.handle(at(1), asked(1, PlacementSpec::default()));
    assert_eq!(outputs(&mut scheduler), [grant(1, 2, 10)]);
}

#[test]
fn an_isolated_worker_ends_with_its_lease_and_a_shared_one_stays() {
    let mut scheduler = with_worker(1);
    let isolated = PlacementSpec { isolated: true, ..PlacementSpec::default() };
    scheduler.handle(at(1), asked(1, isolated));
    scheduler.handle(at(2), Input::WorkerStarted { start: StartId(2), process: process(11) });
    assert_eq!(said(&mut scheduler).last(), Some(&grant(1, 2, 11)));
    scheduler.handle(at(3), Input::Returned { lease: lease(2) });
    scheduler.handle(at(3), Input::Returned { lease: lease(1) });
    assert_eq!(said(&mut scheduler), [Output::EndWorker { process: process(11) }]);
    scheduler.handle(at(4), Input::JobEnded { job: JOB });
    assert_eq!(said(&mut scheduler), [Output::EndWorker { process: process(10) }]);
    for number in [10, 11] {
        scheduler.handle(at(5), Input::Died { process: process(number) });
    }
    assert!(scheduler.workers.is_empty() && scheduler.by_process.is_empty());
}

#[test]
fn gpus_are_given_by_number_and_come_back() {
    let mut scheduler = Scheduler::new(HERE, &has(0, 2), BTreeMap::new());
    (1..=3).for_each(|number| scheduler.handle(at(0), asked(number, gpus(if number < 3 { 0.6 } else { 1.0 }))));
    let start = |start, gpu| Output::StartWorker { start: StartId(start), job: JOB, isolated: true, gpus: vec![gpu] };
    assert_eq!(outputs(&mut scheduler), [start(1, 0), start(2, 1)]);
    let why = scheduler.why(at(0), key(3)).unwrap();
    assert_eq!(why, "num_gpus = 1, 0.8 of 2 are free on node-1 (job-1 uses 1.2)");
    scheduler.handle(at(1), Input::TakenBack { request: key(1) });
    assert_eq!(outputs(&mut scheduler), [start(3, 0)]);
    scheduler.handle(at(2), Input::WorkerStarted { start: StartId(1), process: process(10) });
    assert_eq!(outputs(&mut scheduler), [Output::EndWorker { process: process(10) }], "nobody wants it any more");
}

#[test]
fn a_full_node_hands_on_and_hears_the_answer_of_the_one_it_asked() {
    let mut scheduler = with_worker(1);
    scheduler.handle(at(1), seen(THERE, 4, 4));
    scheduler.handle(at(1), asked(1, cpus(1)));
    scheduler.handle(at(1), asked(2, cpus(3)));
    let said_now = said(&mut scheduler);
    let ask = |number, spec| {
        let wanted = Wanted { request: key(number), job: JOB, spec, avoid: vec![], lives_on: false, waits: false };
        Output::AskPeer { node: THERE, wanted }
    };
    assert_eq!(said_now, [grant(1, 2, 10), ask(2, cpus(3))], "its own while less than half used, then the other");
    assert_eq!(scheduler.why(at(1), key(2)).unwrap(), "node-2 has been asked for a place");
    let far = ProcessId::new(THERE, 7);
    let granted = |node, number| Input::PeerGranted { node, request: key(number), lease: LeaseId(99), process: far };
    scheduler.handle(at(2), granted(NodeId(3), 2));
    assert_eq!(outputs(&mut scheduler), [Output::ReturnToPeer { node: NodeId(3), lease: LeaseId(99) }], "SCHED-5");
    scheduler.handle(at(2), granted(THERE, 2));
    assert_eq!(outputs(&mut scheduler), [Output::Grant { request: key(2), lease: LeaseId(99), process: far }]);
    scheduler.handle(at(3), granted(THERE, 2));
    assert!(matches!(outputs(&mut scheduler)[..], [Output::ReturnToPeer { .. }]), "twice is once too often");
}

#[test]
fn a_refusal_corrects_the_view_and_a_dead_node_gives_its_requests_back() {
    let mut scheduler = Scheduler::new(HERE, &has(0, 0), BTreeMap::new());
    scheduler.handle(at(0), seen(THERE, 4, 4));
    scheduler.handle(at(0), asked(1, cpus(1)));
    assert!(matches!(outputs(&mut scheduler)[..], [Output::AskPeer { node: THERE, .. }]));
    let refused =
        Input::PeerRefused { node: THERE, request: key(1), load: None, why: "full".into(), worker_failed: false };
    scheduler.handle(at(1), refused.clone());
    assert_eq!(outputs(&mut scheduler), [], "not again at once");
    let again = scheduler.next_timeout().unwrap();
    scheduler.handle(again, Input::Tick);
    assert!(matches!(outputs(&mut scheduler)[..], [Output::AskPeer { node: THERE, .. }]));
    scheduler.handle(again, Input::NodeDied { node: THERE });
    assert_eq!(outputs(&mut scheduler), []);
    assert_eq!(scheduler.why(again, key(1)).unwrap(), "num_cpus = 1, node-1 has 0");
    scheduler.handle(again, seen(NodeId(3), 1, 1));
    assert!(matches!(outputs(&mut scheduler)[..], [Output::AskPeer { node: NodeId(3), .. }]));
}

#[test]
fn what_a_refusal_says_counts_for_a_while_only() {
    let mut scheduler = Scheduler::new(HERE, &has(0, 0), BTreeMap::new());
    scheduler.handle(at(0), seen(THERE, 4, 4));
    scheduler.handle(at(0), asked(1, cpus(1)));
    outputs(&mut scheduler);
    let load = Some(NodeLoad { total: has(4, 0), ..NodeLoad::default() });
    let refused = Input::PeerRefused { node: THERE, request: key(1), load, why: "full".into(), worker_failed: false };
    scheduler.handle(at(1), refused);
    scheduler.handle(at(500), Input::Tick);
    assert_eq!(waits(&mut scheduler), [(1, THERE)], "it had nothing free");
    let why = scheduler.why(at(500), key(1)).unwrap();
    assert_eq!(why, "it waits on node-2: num_cpus = 1, 0 of 4 are free there");
    // The view does not change when all is as it was before.
    scheduler.handle(at(1) + GRANTED_COUNTS, Input::Tick);
    assert_eq!(scheduler.why(at(1_001), key(1)).unwrap(), "it waits on node-2, where others come first");
    scheduler.handle(at(1_001), asked(2, on(cpus(1), PlacementStrategy::Spread)));
    let asked_there = |output: &Output| matches!(output, Output::AskPeer { node: THERE, wanted } if !wanted.waits);
    assert!(outputs(&mut scheduler).iter().any(asked_there), "another shape does not wait there");
}

#[test]
fn another_nodes_request_is_answered_at_once() {
    let mut scheduler = with_worker(1);
    let far = |number| RequestKey { holder: ProcessId::new(THERE, 4), number };
    let asked = |number| {
        Input::Asked(Wanted {
            request: far(number),
            job: JOB,
            spec: cpus(1),
            avoid: vec![],
            lives_on: false,
            waits: false,
        })
    };
    scheduler.handle(at(1), asked(1));
    scheduler.handle(at(1), asked(2));
    let said_now = said(&mut scheduler);
    assert_eq!(said_now[0], Output::Grant { request: far(1), lease: lease(2), process: process(10) });
    let Output::Refuse { request, why } = &said_now[1] else { panic!("{said_now:?}") };
    assert_eq!((*request, why.is_for_ever()), (far(2), false));
    let text = "node-1 has no room now: num_cpus = 1, 0 of 1 are free on node-1 (job-1 uses 1)";
    assert_eq!((why.to_string().as_str(), scheduler.waiting()), (text, 0));
    scheduler.handle(at(2), Input::NodeDied { node: THERE });
    assert_eq!(scheduler.leases(), 1, "what processes of a dead node held is free");
}

#[test]
fn only_a_dead_node_is_no_for_ever() {
    let mut scheduler = with_worker(1);
    scheduler.handle(at(0), seen(THERE, 4, 0));
    let node = |node| PlacementStrategy::Node { node: NodeId(node) };
    scheduler.handle(at(1), asked(1, on(cpus(1), node(2))));
    scheduler.handle(at(1), asked(2, on(cpus(1), node(7))));
    scheduler.handle(at(1), asked(3, cpus(64)));
    let labels = LabelRule::equal("zone", "eu").into();
    scheduler.handle(at(1), asked(4, PlacementSpec { labels, ..cpus(1) }));
    assert_eq!(waits(&mut scheduler), [(1, THERE)]);
    let why = |number| scheduler.why(at(1), key(number)).unwrap();
    assert_eq!(why(1), "it waits on node-2: num_cpus = 1, 0 of 4 are free there");
    assert_eq!(why(2), "node-7 was asked for and is not known");
    assert_eq!(why(3), "num_cpus = 64: no node has so much, the most is 4 on node-2");
    assert_eq!(why(4), "no node of the cluster carries zone=eu");
    scheduler.handle(at(2), Input::NodeDied { node: THERE });
    let refused = Output::Refuse { request: key(1), why: Refusal::NodeIsDead { node: THERE } };
    assert_eq!(said(&mut scheduler), [refused]);
}

#[test]
fn strategies_choose_among_the_nodes_that_fit() {
    let place = |strategy, avoid: &[u64]| {
        let mut scheduler = with_worker(4);
        scheduler.handle(at(0), seen(THERE, 4, 3));
        scheduler.handle(at(0), seen(NodeId(3), 4, 2));
        let avoid = avoid.iter().copied().map(NodeId).collect();
        let wanted =
            Wanted { request: key(1), job: JOB, spec: on(cpus(1), strategy), avoid, lives_on: false, waits: false };
        scheduler.handle(at(1), Input::Asked(wanted));
        match said(&mut scheduler)[..] {
            [Output::AskPeer { node, .. }] => node.0,
            [Output::Grant { .. }] => 1,
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!(place(PlacementStrategy::Hybrid, &[]), 1);
    assert_eq!(place(PlacementStrategy::Hybrid, &[1]), 2);
    assert_eq!(place(PlacementStrategy::Hybrid, &[1, 2, 3]), 1, "what is avoided is better than nothing");
    assert_eq!(place(PlacementStrategy::Spread, &[]), 1);
    assert_eq!(place(PlacementStrategy::Spread, &[1]), 2);
    assert_eq!(place(PlacementStrategy::Pack, &[]), 3);
    assert_eq!(place(PlacementStrategy::Node { node: THERE }, &[]), 2);
    assert_eq!(place(PlacementStrategy::Prefer { node: NodeId(3) }, &[]), 3);
    assert_eq!(place(PlacementStrategy::Prefer { node: NodeId(9) }, &[]), 1);
    assert_eq!(place(PlacementStrategy::NodeSoft { node: THERE }, &[]), 2);
    assert_eq!(place(PlacementStrategy::NodeSoft { node: NodeId(9) }, &[]), 1, "such a node is not known");
}

#[test]
fn a_node_that_is_preferred_is_waited_for_while_it_can_do() {
    let soft = |spec| on(spec, PlacementStrategy::NodeSoft { node: THERE });
    let mut scheduler = with_worker(4);
    scheduler.handle(at(0), seen(THERE, 2, 0));
    scheduler.handle(at(1), asked(1, soft(cpus(1))));
    assert_eq!(waits(&mut scheduler), [(1, THERE)], "others use it now");
    scheduler.handle(at(1), asked(2, soft(cpus(3))));
    assert!(matches!(said(&mut scheduler)[..], [Output::Grant { .. }]), "it has too little in all");
    let load = NodeLoad { total: has(2, 0), free: has(2, 0), is_draining: true, ..NodeLoad::default() };
    scheduler.handle(at(2), Input::Seen { node: THERE, load });
    assert!(
        matches!(said(&mut scheduler)[..], [Output::TakeBackFromPeer { node: THERE, .. }, Output::Grant { .. }]),
        "it is being drained"
    );
    scheduler.handle(at(3), Input::NodeDied { node: THERE });
    scheduler.handle(at(3), asked(3, soft(cpus(0))));
    assert!(matches!(said(&mut scheduler)[..], [Output::Grant { .. }]), "it is dead");
}

#[test]
fn labels_are_read_by_their_rules_and_fall_back_to_what_there_is() {
    let zone = |zone: &str| NodeLoad {
        total: has(4, 0),
        free: has(4, 0),
        labels: BTreeMap::from([("zone".to_owned(), zone.to_owned())]),
        ..NodeLoad::default()
    };
    let with = |rule: &str, fallbacks: &[&str]| {
        let selector = |rule: &&str| LabelSelector::from(rule.parse::<LabelRule>().unwrap());
        let fallbacks = fallbacks.iter().map(selector).collect();
        PlacementSpec { labels: selector(&rule), fallbacks, ..cpus(1) }
    };
    let mut scheduler = with_worker(4);
    scheduler.handle(at(0), Input::Seen { node: THERE, load: zone("b") });
    scheduler.handle(at(0), Input::Seen { node: NodeId(3), load: zone("c") });
    let mut number = 0;
    let mut place = |scheduler: &mut Scheduler, spec| {
        number += 1;
        scheduler.handle(at(1), asked(number, spec));
        match said(scheduler)[..] {
            [Output::AskPeer { node, .. }] => Ok(node.0),
            [Output::Grant { .. }] => Ok(1),
            [] => Err(scheduler.why(at(1), key(number)).unwrap()),
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!(place(&mut scheduler, with("zone = c", &[])), Ok(3));
    assert_eq!(place(&mut scheduler, with("zone != c", &[])), Ok(1), "what carries no such label is no c");
    assert_eq!(place(&mut scheduler, with("zone in (a, c)", &[])), Ok(3));
    let no_a = with("zone not in (c, d)", &["zone = c"]);
    assert_eq!(place(&mut scheduler, no_a), Ok(1), "a fallback does not count while the first will do");
    let fallen = with("zone = x", &["zone in (y, z)", "zone = b", "zone = c"]);
    assert_eq!(place(&mut scheduler, fallen.clone()), Ok(2), "the first that any node is as it says");
    let nowhere = with("zone = x", &["zone in (y, z)"]);
    let why = "no node of the cluster carries zone=x, nor zone in (y, z)";
    assert_eq!(place(&mut scheduler, nowhere), Err(why.to_owned()));
    scheduler.handle(at(2), Input::NodeDied { node: THERE });
    assert!(matches!(said(&mut scheduler)[..], [Output::AskPeer { node: NodeId(3), .. }]), "what was with it goes on");
    assert_eq!(place(&mut scheduler, fallen), Ok(3), "the second is dead");
    assert_eq!(check(&scheduler), Ok(()));
}

#[test]
fn a_busy_node_of_the_first_rules_is_waited_for() {
    let labels = BTreeMap::from([("zone".to_owned(), "b".to_owned())]);
    let mut scheduler = with_worker(4);
    let load = NodeLoad { total: has(2, 0), free: has(0, 0), labels, ..NodeLoad::default() };
    scheduler.handle(at(0), Input::Seen { node: THERE, load: load.clone() });
    let labels = LabelRule::equal("zone", "b").into();
    let fallbacks = vec![LabelRule::not_equal("zone", "b").into()];
    scheduler.handle(at(1), asked(1, PlacementSpec { labels, fallbacks, ..cpus(1) }));
    assert_eq!(waits(&mut scheduler), [(1, THERE)], "a node is as the first rules say, however busy");
    scheduler.handle(at(2), Input::Seen { node: THERE, load: NodeLoad { is_draining: true, ..load } });
    assert!(
        matches!(said(&mut scheduler)[..], [Output::TakeBackFromPeer { node: THERE, .. }, Output::Grant { .. }]),
        "it will not take anything any more"
    );
}

#[test]
fn what_takes_nothing_is_spread_by_count() {
    let mut scheduler = with_worker(1);
    scheduler.handle(at(0), seen(THERE, 1, 1));
    scheduler.handle(at(0), seen(NodeId(3), 1, 1));
    for number in 1..=6 {
        scheduler.handle(at(1), asked(number, on(cpus(0), PlacementStrategy::Spread)));
    }
    let said_now = said(&mut scheduler);
    let peers = said_now.iter().filter(|output| matches!(output, Output::AskPeer { .. })).count();
    assert_eq!((peers, said_now.len()), (4, 6), "{said_now:?}");
}

#[test]
fn what_others_pass_is_kept_room_for_and_not_for_ever() {
    let mut scheduler = with_worker(2);
    let mut now = 1;
    scheduler.handle(at(now), asked(1, cpus(1)));
    scheduler.handle(at(now), asked(2, cpus(2)));
    let mut passed = 0;
    // One CPU is held for good; on the other one, small ones come and go.
    for number in 10.. {
        now += 1;
        scheduler.handle(at(now), asked(number, cpus(1)));
        let granted = said(&mut scheduler).into_iter().find_map(|output| match output {
            Output::Grant { request, lease, .. } if request == key(number) => Some(lease),
            _ => None,
        });
        let Some(lease) = granted else { break };
        passed += 1;
        scheduler.handle(at(now), Input::Returned { lease });
    }
    assert_eq!(passed, PASSED_MAX);
    let last = key(10 + u64::from(PASSED_MAX));
    let why = scheduler.why(at(now), last).unwrap();
    assert_eq!(why, "what comes free on node-1 is kept for an older request of 1:1");
    // What it waits for is not given back: in the end the others go on.
    let until = scheduler.next_timeout().unwrap();
    scheduler.handle(until, Input::Tick);
    assert!(
        said(&mut scheduler).iter().any(|output| matches!(output, Output::Grant { request, .. } if *request == last))
    );
}

#[test]
fn a_worker_that_does_not_start_is_tried_again_and_then_it_is_said() {
    let mut scheduler = Scheduler::new(HERE, &has(1, 0), BTreeMap::new());
    scheduler.handle(at(0), asked(1, cpus(1)));
    let mut now = at(0);
    for start in 1..=STARTS_MAX {
        let said_now = outputs(&mut scheduler);
        assert!(matches!(said_now[..], [Output::StartWorker { .. }]), "{start}: {said_now:?}");
        scheduler.handle(now, Input::WorkerFailed { start: StartId(start.into()), why: "no such file".into() });
        if let Some(again) = scheduler.next_timeout().filter(|_| start < STARTS_MAX) {
            let why = scheduler.why(now, key(1)).unwrap();
            assert!(
                why.starts_with("its worker did not start on node-1 (no such file); it is tried again in"),
                "{why}"
            );
            assert!(again >= now + START_WAIT_MIN);
            now = again;
            scheduler.handle(now, Input::Tick);
        }
    }
    let why = Refusal::WorkerFailed { node: HERE, why: "no such file".into() };
    assert_eq!(outputs(&mut scheduler), [Output::Refuse { request: key(1), why }]);
    assert_eq!((scheduler.waiting(), scheduler.leases()), (0, 0));
}

#[test]
fn cpus_that_wait_are_lent_and_taken_again() {
    let mut scheduler = with_worker(1);
    scheduler.handle(at(1), asked(1, cpus(1)));
    scheduler.handle(at(1), asked(2, cpus(1)));
    assert_eq!(said(&mut scheduler), [grant(1, 2, 10)]);
    let capacity = |cpus| Output::Capacity { process: process(10), resources: has(cpus, 0) };
    scheduler.handle(at(2), Input::Waiting { process: process(10), cpus: Amount::whole(7) });
    assert_eq!(
        outputs(&mut scheduler),
        [capacity(2), grant(2, 3, 10), capacity(1)],
        "a task that waits for its child does not keep it from a place, and what stands behind it does not take that"
    );
    scheduler.handle(at(3), Input::Waiting { process: process(10), cpus: Amount::ZERO });
    assert_eq!(outputs(&mut scheduler), [capacity(2)], "it goes on");
    scheduler.handle(at(3), asked(3, cpus(1)));
    scheduler.handle(at(4), Input::Returned { lease: lease(3) });
    assert_eq!(said(&mut scheduler), [], "what was lent comes back first");
    scheduler.handle(at(5), Input::Returned { lease: lease(2) });
    assert_eq!(said(&mut scheduler), [grant(3, 4, 10)]);
}

#[test]
fn a_death_frees_what_the_dead_held_and_what_was_held_in_it() {
    let mut scheduler = with_worker(2);
    scheduler.handle(at(1), asked(1, cpus(2)));
    scheduler.handle(at(1), asked(2, cpus(2)));
    scheduler.handle(at(1), Input::Died { process: process(10) });
    let start = Output::StartWorker { start: StartId(2), job: JOB, isolated: false, gpus: vec![] };
    assert_eq!(said(&mut scheduler), [grant(1, 2, 10), start]);
    scheduler.handle(at(2), Input::Died { process: process(1) });
    assert_eq!((scheduler.waiting(), scheduler.leases()), (0, 0));
    assert_eq!(scheduler.load().free, has(2, 0));
}

#[test]
fn a_drained_node_takes_nothing_and_hands_on() {
    let mut scheduler = with_worker(1);
    scheduler.handle(at(1), seen(THERE, 1, 1));
    scheduler.handle(at(1), Input::Drain);
    scheduler.handle(at(1), Input::Drain);
    assert_eq!(said(&mut scheduler), [Output::Recall { holder: process(1), lease: lease(1) }], "said once");
    scheduler.handle(at(1), asked(1, cpus(0)));
    assert!(matches!(said(&mut scheduler)[..], [Output::AskPeer { node: THERE, .. }]));
    assert!(scheduler.load().is_draining);
}

#[test]
fn what_waits_for_a_worker_of_a_drained_node_goes_elsewhere() {
    let mut scheduler = Scheduler::new(HERE, &has(4, 0), BTreeMap::new());
    let far = RequestKey { holder: ProcessId::new(THERE, 1), number: 1 };
    scheduler.handle(at(0), asked(1, cpus(1)));
    scheduler.handle(
        at(0),
        Input::Asked(Wanted {
            request: far,
            job: JOB,
            spec: cpus(1),
            avoid: Vec::new(),
            lives_on: false,
            waits: false,
        }),
    );
    scheduler.handle(at(0), seen(THERE, 4, 4));
    said(&mut scheduler);
    scheduler.handle(at(1), Input::Drain);
    let said = said(&mut scheduler);
    let refused =
        |output: &Output| matches!(output, Output::Refuse { request, why: Refusal::NoRoom { .. } } if *request == far);
    assert!(said.iter().any(refused), "{said:?}");
    assert!(said.iter().any(|output| matches!(output, Output::AskPeer { node: THERE, .. })), "{said:?}");
    assert_eq!((scheduler.leases(), scheduler.waiting(), scheduler.load().free), (0, 1, has(4, 0)));
}

#[test]
fn thousands_of_requests_cost_no_more_each() {
    let mut scheduler = with_worker(8);
    for number in 1..=20_000 {
        scheduler.handle(at(1), asked(number, cpus(1)));
    }
    let mut served = 0;
    loop {
        let leases: Vec<LeaseId> = outputs(&mut scheduler)
            .into_iter()
            .filter_map(|output| match output {
                Output::Grant { lease, .. } => Some(lease),
                _ => None,
            })
            .collect();
        if leases.is_empty() {
            break;
        }
        served += leases.len();
        leases.into_iter().for_each(|lease| scheduler.handle(at(2), Input::Returned { lease }));
    }
    assert_eq!((served, scheduler.waiting(), scheduler.leases()), (20_000, 0, 1));
}
