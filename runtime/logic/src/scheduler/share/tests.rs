use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_types::resources::{Amount, Request, Resources};
use mobula_types::{JobId, LabelRule, LeaseId, NodeId, PlacementSpec, ProcessId, StateMachine, Time};

use super::super::{Input, Output, RequestKey, Scheduler, Wanted};
use super::TURN;

const HERE: NodeId = NodeId(1);

fn at(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

fn cpus(count: u64) -> PlacementSpec {
    let request = Request { cpus: Amount::whole(count), ..Request::default() };
    PlacementSpec { request, ..PlacementSpec::default() }
}

/// A request of the one process of a job.
fn key(job: u64, number: u64) -> RequestKey {
    RequestKey { holder: ProcessId::new(HERE, u32::try_from(job).unwrap()), number }
}

fn job_of(process: ProcessId) -> u64 {
    process.number().into()
}

/// A scheduler whose workers start at once, and what it has said of places.
struct Node {
    scheduler: Scheduler,
    now: Time,
    /// What each job holds, and what of it is wanted back.
    held: BTreeMap<LeaseId, u64>,
    recalled: BTreeSet<LeaseId>,
}

impl Node {
    fn new(cpus: u64) -> Self {
        let has = Resources { cpus: Amount::whole(cpus), ..Resources::default() };
        let scheduler = Scheduler::new(HERE, &has, BTreeMap::new());
        Self { scheduler, now: Time::ZERO, held: BTreeMap::new(), recalled: BTreeSet::new() }
    }

    fn tell(&mut self, input: Input) {
        self.scheduler.handle(self.now, input);
        while let Some(output) = self.scheduler.poll_output() {
            match output {
                Output::StartWorker { start, job, .. } => {
                    let process = ProcessId::new(HERE, 100 + u32::try_from(start.0).unwrap());
                    assert!(job.0 < 100);
                    self.scheduler.handle(self.now, Input::WorkerStarted { start, process });
                }
                Output::Grant { request, lease, .. } => _ = self.held.insert(lease, job_of(request.holder)),
                Output::Recall { holder, lease } => {
                    assert_eq!(self.held[&lease], job_of(holder));
                    assert!(self.recalled.insert(lease), "{lease} is recalled once");
                }
                _ => {}
            }
        }
    }

    fn ask_for(&mut self, job: u64, number: u64, spec: PlacementSpec, lives_on: bool) {
        let request = key(job, number);
        self.tell(Input::Asked(Wanted { request, job: JobId(job), spec, avoid: vec![], lives_on, waits: false }));
    }

    fn ask(&mut self, job: u64, numbers: std::ops::RangeInclusive<u64>) {
        numbers.for_each(|number| self.ask_for(job, number, cpus(1), false));
    }

    fn give_back(&mut self, lease: LeaseId) {
        self.held.remove(&lease);
        self.recalled.remove(&lease);
        self.tell(Input::Returned { lease });
    }

    fn give_back_recalled(&mut self) {
        std::mem::take(&mut self.recalled).into_iter().for_each(|lease| self.give_back(lease));
    }

    fn tick(&mut self, now: Time) {
        self.now = now;
        self.tell(Input::Tick);
    }

    fn has(&self, job: u64) -> usize {
        self.held.values().filter(|of| **of == job).count()
    }

    fn why(&self, job: u64, number: u64) -> String {
        self.scheduler.why(self.now, key(job, number)).unwrap()
    }
}

#[test]
fn half_of_what_one_job_has_goes_to_another_that_waits() {
    let mut node = Node::new(4);
    node.ask(1, 1..=8);
    assert_eq!((node.has(1), node.recalled.len()), (4, 0), "alone it has all");
    node.now = at(10);
    node.ask(2, 1..=1);
    assert_eq!(node.recalled.len(), 1, "as much as is wanted");
    assert_eq!(node.why(2, 1), "num_cpus = 1, 0 of 4 are free on node-1 (job-1 uses 4)");
    node.ask(2, 2..=4);
    assert_eq!(node.recalled.len(), 2, "and no more than half");
    node.give_back_recalled();
    assert_eq!((node.has(1), node.has(2)), (2, 2));
    // What comes free is the poorer's, whoever has waited longer.
    let lease = *node.held.iter().find(|(_, job)| **job == 2).unwrap().0;
    node.give_back(lease);
    assert_eq!((node.has(1), node.has(2)), (2, 2));
    node.tick(at(10) + TURN);
    assert_eq!(node.recalled.len(), 0, "who has as much as another takes nothing of it");
    node.tell(Input::JobEnded { job: JobId(2) });
    assert_eq!(node.has(1), 4, "and alone it has all again");
}

#[test]
fn who_has_more_waits_for_who_has_less_and_is_told_so() {
    let mut node = Node::new(4);
    node.ask(1, 1..=4);
    node.ask_for(2, 1, cpus(2), false);
    assert_eq!(node.recalled.len(), 2);
    let first = *node.recalled.first().unwrap();
    node.give_back(first);
    node.ask(1, 5..=5);
    assert_eq!((node.has(1), node.has(2)), (3, 0), "one is free, and kept for who lacks one more");
    assert_eq!(node.why(1, 5), "what comes free on node-1 goes first to job-2, which uses less of it and waits");
    assert_eq!(node.why(2, 1), "num_cpus = 2, 1 of 4 are free on node-1 (job-1 uses 3)");
    node.tell(Input::TakenBack { request: key(2, 1) });
    assert_eq!((node.has(1), node.has(2)), (4, 0), "nobody waits for it any more");
}

#[test]
fn one_place_goes_from_job_to_job() {
    let mut node = Node::new(1);
    node.ask(1, 1..=2);
    node.now = at(5_000);
    for job in [2, 3] {
        node.ask(job, 1..=20);
    }
    assert_eq!(node.recalled.len(), 1, "it has had it for long");
    node.give_back_recalled();
    let mut turns = vec![];
    for _ in 0..6 {
        turns.push((node.now.since(Time::ZERO).as_secs(), *node.held.values().next().unwrap()));
        assert_eq!(node.recalled.len(), 0, "each has its turn");
        let again = node.scheduler.next_timeout().unwrap();
        node.tick(again);
        node.ask(1, 100 + turns.len() as u64..=100 + turns.len() as u64);
        node.give_back_recalled();
    }
    assert_eq!(turns, [(5, 2), (6, 3), (7, 1), (8, 2), (9, 3), (10, 1)]);
}

#[test]
fn what_lives_on_is_counted_and_not_recalled() {
    let mut node = Node::new(4);
    (1..=3).for_each(|number| node.ask_for(1, number, cpus(1), true));
    node.ask(1, 4..=4);
    node.ask(2, 1..=1);
    let of_tasks: Vec<LeaseId> = node.recalled.iter().copied().collect();
    assert_eq!(of_tasks, [*node.held.last_key_value().unwrap().0], "the one that is of tasks");
    node.give_back_recalled();
    node.ask(2, 2..=3);
    assert_eq!((node.has(1), node.has(2), node.recalled.len()), (3, 1, 0));
}

#[test]
fn nothing_is_recalled_for_what_it_would_not_help() {
    let mut node = Node::new(4);
    node.ask_for(1, 1, cpus(1), true);
    node.ask(1, 2..=4);
    node.ask_for(2, 1, cpus(4), false);
    node.ask_for(2, 2, cpus(5), false);
    node.ask_for(2, 3, PlacementSpec { labels: LabelRule::equal("zone", "b").into(), ..cpus(1) }, false);
    node.tick(at(10_000));
    assert_eq!(node.recalled.len(), 0);
    let lease = *node.held.last_key_value().unwrap().0;
    node.give_back(lease);
    node.ask(1, 5..=5);
    assert_eq!(node.has(1), 4, "and nothing waits for it");
}

#[test]
fn a_lease_that_does_not_come_back_is_not_counted_on() {
    let mut node = Node::new(4);
    node.ask(1, 1..=4);
    node.ask(2, 1..=1);
    let first: Vec<LeaseId> = node.recalled.iter().copied().collect();
    node.tick(at(999));
    assert_eq!((first.len(), node.recalled.len()), (1, 1));
    let late = node.scheduler.next_timeout().unwrap();
    assert_eq!(late, Time::ZERO + TURN);
    node.tick(late);
    assert_eq!(node.recalled.len(), 2, "something runs there for long; another may be done sooner");
    let second = *node.recalled.iter().find(|lease| !first.contains(lease)).unwrap();
    node.give_back(second);
    assert_eq!((node.has(1), node.has(2)), (3, 1));
}

#[test]
fn a_large_request_gathers_what_others_hold_in_parts() {
    let mut node = Node::new(2);
    node.ask(1, 1..=1);
    node.ask(2, 1..=1);
    node.now = at(100);
    node.ask_for(3, 1, cpus(2), false);
    assert_eq!(node.recalled.len(), 0, "they have just begun");
    node.tick(Time::ZERO + TURN);
    assert_eq!(node.recalled.len(), 2);
    // What they gave back they do not get again before it.
    for lease in std::mem::take(&mut node.recalled) {
        let job = node.held[&lease];
        node.give_back(lease);
        node.ask(job, 2..=2);
    }
    assert_eq!((node.has(1), node.has(2), node.has(3)), (0, 0, 1));
}

#[test]
fn what_waits_for_its_own_tasks_is_not_counted() {
    let mut node = Node::new(2);
    node.ask(1, 1..=2);
    let worker = ProcessId::new(HERE, 101);
    node.tell(Input::Waiting { process: worker, cpus: Amount::whole(2) });
    node.ask(2, 1..=2);
    assert_eq!((node.has(1), node.has(2)), (2, 2), "what waits is lent");
    node.ask(1, 3..=4);
    assert_eq!(node.recalled.len(), 1, "those for which it waits have their share");
    node.give_back_recalled();
    assert_eq!((node.has(1), node.has(2)), (3, 1));
}

/// Jobs that always want more, whose tasks take a tenth of a second: what each has had after half a minute.
fn use_of(cpus: u64, jobs: u64) -> Vec<Duration> {
    let step = Duration::from_millis(100);
    let mut node = Node::new(cpus);
    let mut used = vec![Duration::ZERO; usize::try_from(jobs).unwrap()];
    let mut asked = 0;
    for job in 1..=jobs {
        // The first has all of it before the others come.
        asked += 8;
        node.ask(job, asked..=asked + 7);
    }
    while node.now < at(30_000) {
        node.tick(node.now + step);
        for job in node.held.values() {
            used[usize::try_from(*job).unwrap() - 1] += step;
        }
        for lease in std::mem::take(&mut node.recalled) {
            let job = node.held[&lease];
            node.give_back(lease);
            asked += 8;
            node.ask(job, asked..=asked);
        }
    }
    used
}

#[test]
fn all_have_as_much_in_the_end() {
    for (cpus, jobs) in [(4, 2), (3, 2), (1, 2), (8, 3), (2, 3), (1, 5), (7, 4)] {
        let used = use_of(cpus, jobs);
        let fair = Duration::from_secs(30) * u32::try_from(cpus).unwrap() / u32::try_from(jobs).unwrap();
        let is_fair = |used: &Duration| used.abs_diff(fair) <= fair / 10 + TURN;
        assert!(used.iter().all(is_fair), "{cpus} CPUs, {jobs} jobs: {used:?}, {fair:?} would be fair");
    }
}
