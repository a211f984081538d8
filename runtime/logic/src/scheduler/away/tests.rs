use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_types::resources::{Amount, Request, Resources};
use mobula_types::{JobId, LeaseId, NodeId, PlacementSpec, PlacementStrategy, ProcessId, StateMachine, Time};

use super::super::{Input, Output, REFUSED_WAIT, RequestKey, Scheduler, Wanted, check, granting_node};
use super::{AWAY_MAX, TURN};

fn at(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

fn cpus(count: u64) -> PlacementSpec {
    let request = Request { cpus: Amount::whole(count), ..Request::default() };
    PlacementSpec { request, ..PlacementSpec::default() }
}

/// A request of the one process of a job, on the node where that is.
fn key(job: u64, node: u64, number: u64) -> RequestKey {
    RequestKey { holder: ProcessId::new(NodeId(node), u32::try_from(job).unwrap()), number }
}

/// Nodes that hear each other at once, and whose workers start at once.
struct Cluster {
    nodes: BTreeMap<u64, Scheduler>,
    now: Time,
    /// Of which job each lease is, and since when.
    held: BTreeMap<LeaseId, (u64, Time)>,
    recalled: BTreeSet<LeaseId>,
    /// What went to wait where.
    went: Vec<(u64, u64)>,
    called_back: Vec<(u64, u64)>,
    /// How many places each job was given.
    granted: BTreeMap<u64, u64>,
    returned: usize,
    /// Words between nodes are kept here while it is some.
    on_their_way: Option<Vec<(u64, Input)>>,
}

impl Cluster {
    fn new(of_nodes: &[u64]) -> Self {
        let has = |cpus| Resources { cpus: Amount::whole(cpus), ..Resources::default() };
        let nodes = (1..).zip(of_nodes);
        let nodes = nodes.map(|(node, cpus)| (node, Scheduler::new(NodeId(node), &has(*cpus), BTreeMap::new())));
        let mut cluster = Self {
            nodes: nodes.collect(),
            now: at(0),
            held: BTreeMap::new(),
            recalled: BTreeSet::new(),
            went: Vec::new(),
            called_back: Vec::new(),
            granted: BTreeMap::new(),
            returned: 0,
            on_their_way: None,
        };
        cluster.beat();
        cluster
    }

    /// All hear what the others have.
    fn beat(&mut self) {
        let loads: Vec<_> = self.nodes.iter().map(|(node, scheduler)| (*node, scheduler.load())).collect();
        for to in self.nodes.keys().copied().collect::<Vec<_>>() {
            for (node, load) in loads.iter().filter(|(node, _)| *node != to) {
                self.tell(to, Input::Seen { node: NodeId(*node), load: load.clone() });
            }
        }
    }

    fn tell_other(&mut self, node: NodeId, input: Input) {
        match &mut self.on_their_way {
            Some(words) => words.push((node.0, input)),
            None => self.tell(node.0, input),
        }
    }

    /// What was kept arrives.
    fn arrive(&mut self) {
        for (node, input) in self.on_their_way.take().unwrap() {
            self.tell(node, input);
        }
    }

    fn tell(&mut self, node: u64, input: Input) {
        let Some(scheduler) = self.nodes.get_mut(&node) else { return };
        scheduler.handle(self.now, input);
        assert_eq!(check(scheduler), Ok(()));
        let here = NodeId(node);
        for output in std::iter::from_fn(|| scheduler.poll_output()).collect::<Vec<_>>() {
            match output {
                Output::StartWorker { start, .. } => {
                    let process = ProcessId::new(here, 100 + u32::try_from(start.0).unwrap());
                    self.tell(node, Input::WorkerStarted { start, process });
                }
                Output::Grant { request, lease, process } if request.holder.node() != here => {
                    self.tell_other(request.holder.node(), Input::PeerGranted { node: here, request, lease, process });
                }
                Output::Grant { request, lease, .. } => {
                    let job = request.holder.number().into();
                    self.held.insert(lease, (job, self.now));
                    *self.granted.entry(job).or_default() += 1;
                }
                Output::Refuse { request, why } if request.holder.node() != here => {
                    let load = self.nodes.get(&node).map(Scheduler::load);
                    let (why, worker_failed) = (why.to_string(), false);
                    let refused = Input::PeerRefused { node: here, request, load, why, worker_failed };
                    self.tell_other(request.holder.node(), refused);
                }
                Output::Recall { lease, .. } => _ = self.recalled.insert(lease),
                Output::AskPeer { node: peer, wanted } => {
                    if wanted.waits {
                        self.went.push((wanted.request.number, peer.0));
                    }
                    self.tell_other(peer, Input::Asked(wanted));
                }
                Output::TakeBackFromPeer { node: peer, request } => {
                    self.called_back.push((request.number, peer.0));
                    self.tell_other(peer, Input::TakenBack { request });
                }
                Output::ReturnToPeer { node: peer, lease } => {
                    self.returned += 1;
                    self.tell_other(peer, Input::Returned { lease });
                }
                _ => {}
            }
        }
    }

    fn ask_for(&mut self, job: u64, node: u64, number: u64, spec: PlacementSpec, lives_on: bool) {
        let (request, job, avoid) = (key(job, node, number), JobId(job), Vec::new());
        self.tell(node, Input::Asked(Wanted { request, job, spec, avoid, lives_on, waits: false }));
    }

    fn ask(&mut self, job: u64, node: u64, numbers: std::ops::RangeInclusive<u64>) {
        numbers.for_each(|number| self.ask_for(job, node, number, cpus(1), false));
    }

    fn give_back(&mut self, lease: LeaseId) {
        self.held.remove(&lease);
        self.recalled.remove(&lease);
        self.tell(granting_node(lease).0, Input::Returned { lease });
    }

    /// Gives back the first lease of a job on a node.
    fn end_one(&mut self, job: u64, node: u64) {
        let is_it = |(lease, (of, _)): &(&LeaseId, &(u64, Time))| granting_node(**lease).0 == node && *of == job;
        let lease = *self.held.iter().find(is_it).unwrap().0;
        self.give_back(lease);
    }

    fn until(&mut self, now: Time) {
        self.now = now;
        self.nodes.keys().copied().collect::<Vec<_>>().into_iter().for_each(|node| self.tell(node, Input::Tick));
    }

    fn has(&self, job: u64, node: u64) -> usize {
        let is_it = |(lease, (of, _)): &(&LeaseId, &(u64, Time))| granting_node(**lease).0 == node && *of == job;
        self.held.iter().filter(is_it).count()
    }

    fn granted(&self, job: u64) -> u64 {
        self.granted.get(&job).copied().unwrap_or_default()
    }

    fn has_in_all(&self, job: u64) -> usize {
        self.nodes.keys().map(|node| self.has(job, *node)).sum()
    }

    fn waiting(&self, node: u64) -> usize {
        self.nodes[&node].waiting()
    }

    fn why(&self, job: u64, node: u64, number: u64) -> String {
        self.nodes[&node].why(self.now, key(job, node, number)).unwrap()
    }
}

/// Two jobs whose processes are on different nodes, with tasks of a second that end at all times: what the second has, a
/// second and a half after it has come.
fn share_of_second(of_nodes: &[u64], first_on: u64, second_on: u64) -> usize {
    let mut cluster = Cluster::new(of_nodes);
    let step = Duration::from_millis(50);
    let mut asked = BTreeMap::from([((1, first_on), 0), ((2, second_on), 0)]);
    while cluster.now < at(4_500) {
        cluster.until(cluster.now + step);
        if cluster.now.as_nanos().is_multiple_of(200_000_000) {
            cluster.beat();
        }
        let ends = |lease: &LeaseId| {
            let begun_ms = cluster.held[lease].1.since(at(0)).as_millis() as u64 + lease.0 * 350;
            (cluster.now.since(at(0)).as_millis() as u64).abs_diff(begun_ms).is_multiple_of(1_000)
        };
        let over: Vec<LeaseId> = cluster.recalled.iter().copied().filter(ends).collect();
        over.into_iter().for_each(|lease| cluster.give_back(lease));
        for ((job, node), asked) in &mut asked {
            // A process has so many requests that wait.
            while (*job == 1 || cluster.now >= at(3_000)) && *asked < cluster.granted(*job) + 4 {
                *asked += 1;
                cluster.ask(*job, *node, *asked..=*asked);
            }
        }
    }
    cluster.has_in_all(2)
}

#[test]
fn a_job_has_its_share_of_nodes_on_which_it_has_no_process() {
    for (of_nodes, first_on, second_on) in [
        (&[4, 4][..], 1, 2),
        (&[4, 4, 4, 4], 1, 2),
        (&[4, 4, 4, 4], 2, 1),
        (&[0, 8], 1, 1),
        (&[8, 0], 1, 2),
        (&[0, 4, 4, 4], 1, 1),
    ] {
        let (has, of) = (share_of_second(of_nodes, first_on, second_on), of_nodes.iter().sum::<u64>());
        assert!(
            has * 10 >= usize::try_from(of).unwrap() * 4,
            "{has} of {of}: {of_nodes:?}, {first_on} then {second_on}"
        );
    }
}

#[test]
fn what_waits_elsewhere_is_spread_and_has_bounds() {
    let mut cluster = Cluster::new(&[1, 1, 1]);
    cluster.ask(1, 1, 1..=3);
    cluster.beat();
    assert_eq!((cluster.has_in_all(1), &cluster.went[..]), (3, &[][..]));
    cluster.ask(1, 1, 4..=7);
    assert_eq!(cluster.went, [(5, 2), (6, 3)], "fewer than wait here, and each node has its turn");
    assert_eq!(cluster.why(1, 1, 6), "it waits on node-3: num_cpus = 1, 0 of 1 are free there");
    cluster.ask(1, 1, 8..=100);
    assert_eq!((cluster.waiting(2), cluster.waiting(3)), (AWAY_MAX, AWAY_MAX));
    let went = cluster.went.len();
    cluster.end_one(1, 3);
    assert_eq!((cluster.has(1, 3), cluster.waiting(3)), (1, AWAY_MAX), "another goes there in its stead");
    assert_eq!(cluster.went[went..], [(100, 3)], "the youngest");
}

#[test]
fn what_waits_elsewhere_is_called_back_when_there_is_room() {
    let mut cluster = Cluster::new(&[1, 1]);
    cluster.ask(1, 1, 1..=2);
    cluster.beat();
    cluster.ask(1, 1, 3..=4);
    cluster.end_one(1, 1);
    assert_eq!((&cluster.went[..], &cluster.called_back[..]), (&[(4, 2)][..], &[][..]), "3 has waited here");
    cluster.end_one(1, 1);
    assert_eq!((cluster.has(1, 1), cluster.has(1, 2)), (1, 1));
    assert_eq!((&cluster.called_back[..], cluster.waiting(1), cluster.waiting(2)), (&[(4, 2)][..], 0, 0));
}

#[test]
fn a_grant_that_crosses_a_call_goes_back() {
    let mut cluster = Cluster::new(&[1, 1]);
    cluster.ask(1, 1, 1..=2);
    cluster.beat();
    cluster.ask(1, 1, 3..=4);
    cluster.end_one(1, 1);
    cluster.on_their_way = Some(Vec::new());
    cluster.end_one(1, 2);
    cluster.end_one(1, 1);
    assert_eq!((&cluster.called_back[..], cluster.has(1, 1)), (&[(4, 2)][..], 1));
    cluster.arrive();
    assert_eq!((cluster.returned, cluster.nodes[&2].leases(), cluster.waiting(2)), (1, 0, 0));
}

#[test]
fn what_waits_elsewhere_goes_to_a_third_node_that_has_room() {
    let mut cluster = Cluster::new(&[0, 1, 1]);
    cluster.ask(1, 1, 1..=3);
    assert_eq!(cluster.went, [(3, 2)]);
    cluster.end_one(1, 3);
    cluster.beat();
    assert_eq!((&cluster.called_back[..], cluster.has(1, 3), cluster.waiting(2)), (&[(3, 2)][..], 1, 0));
}

#[test]
fn a_node_that_leaves_or_is_full_refuses_what_waits() {
    let mut cluster = Cluster::new(&[1, 1]);
    cluster.ask(1, 1, 1..=2);
    cluster.beat();
    cluster.ask(1, 1, 3..=4);
    assert_eq!((&cluster.went[..], cluster.waiting(2)), (&[(4, 2)][..], 1));
    cluster.tell(2, Input::Drain);
    assert_eq!((cluster.waiting(1), cluster.waiting(2)), (2, 0));
    cluster.beat();
    cluster.until(at(0) + REFUSED_WAIT);
    assert_eq!(cluster.went.len(), 1);

    let mut cluster = Cluster::new(&[1, 1]);
    let has = Resources { cpus: Amount::ONE, ..Resources::default() };
    cluster.nodes.insert(2, Scheduler::new(NodeId(2), &has, BTreeMap::new()).with_queue_max(1));
    cluster.ask(1, 1, 1..=2);
    cluster.ask_for(2, 2, 1, cpus(1), false);
    cluster.beat();
    cluster.ask(1, 1, 3..=4);
    assert_eq!((&cluster.went[..], cluster.waiting(1), cluster.waiting(2)), (&[(4, 2)][..], 2, 1), "it was refused");
    cluster.until(at(199));
    assert_eq!(cluster.went.len(), 1, "and does not go again at once");
    cluster.until(at(0) + REFUSED_WAIT);
    assert_eq!(cluster.went, [(4, 2), (4, 2)]);
}

#[test]
fn who_waits_elsewhere_no_more_is_forgotten_there() {
    let taken_back = Input::TakenBack { request: key(1, 1, 4) };
    let died = Input::Died { process: key(1, 1, 0).holder };
    let ended = Input::JobEnded { job: JobId(1) };
    let dead = |node| Input::NodeDied { node: NodeId(node) };
    for (hears, input, wait_here) in [
        (1, taken_back, 1),
        (1, died.clone(), 0),
        (2, died, 2),
        (1, ended.clone(), 0),
        (2, ended, 2),
        (1, dead(2), 2),
        (2, dead(1), 2),
    ] {
        let mut cluster = Cluster::new(&[1, 1]);
        cluster.ask(1, 1, 1..=2);
        cluster.beat();
        cluster.ask(1, 1, 3..=4);
        assert_eq!((cluster.waiting(1), cluster.waiting(2)), (2, 1));
        cluster.tell(hears, input.clone());
        let wait_there = usize::from(input == dead(2));
        assert_eq!((cluster.waiting(1), cluster.waiting(2)), (wait_here, wait_there), "{hears} hears {input:?}");
    }
}

#[test]
fn what_waits_in_vain_goes_on() {
    // Actors have all there is.
    let mut cluster = Cluster::new(&[0, 1, 1]);
    (1..=2).for_each(|number| cluster.ask_for(1, 1, number, cpus(1), true));
    cluster.beat();
    cluster.ask(2, 1, 1..=1);
    (1..=3).for_each(|nth| cluster.until(at(0) + TURN * nth));
    assert_eq!(cluster.went, [(1, 2), (1, 3), (1, 2), (1, 3)]);
    let mut cluster = Cluster::new(&[1, 1]);
    (1..=2).for_each(|number| cluster.ask_for(1, 1, number, cpus(1), true));
    cluster.beat();
    cluster.ask(2, 1, 1..=1);
    assert_eq!(cluster.went, []);
    (1..=3).for_each(|nth| cluster.until(at(0) + TURN * nth));
    assert_eq!((&cluster.went[..], &cluster.called_back[..]), (&[(1, 2), (1, 2)][..], &[(1, 2)][..]));
}

#[test]
fn a_request_waits_only_where_it_may_be() {
    let went = |spec: PlacementSpec, avoid: &[u64]| {
        let mut cluster = Cluster::new(&[0, 1, 1, 1]);
        cluster.ask(1, 1, 1..=3);
        cluster.beat();
        let avoid = avoid.iter().copied().map(NodeId).collect();
        let wanted = Wanted { request: key(1, 1, 4), job: JobId(1), spec, avoid, lives_on: false, waits: false };
        cluster.tell(1, Input::Asked(wanted));
        (1..=6).for_each(|nth| cluster.until(at(0) + TURN * nth));
        cluster.went.into_iter().map(|(_, node)| node).collect::<BTreeSet<_>>()
    };
    let on = |strategy| PlacementSpec { strategy, ..cpus(1) };
    assert_eq!(went(cpus(1), &[]), BTreeSet::from([2, 3, 4]));
    assert_eq!(went(cpus(1), &[3]), BTreeSet::from([2, 4]));
    assert_eq!(went(on(PlacementStrategy::Node { node: NodeId(3) }), &[]), BTreeSet::from([3]));
    assert_eq!(went(on(PlacementStrategy::NodeSoft { node: NodeId(4) }), &[]), BTreeSet::from([4]));
    assert_eq!(went(on(PlacementStrategy::NodeSoft { node: NodeId(9) }), &[]), BTreeSet::from([2, 3, 4]));
    assert_eq!(went(cpus(2), &[]), BTreeSet::new());
}

#[test]
fn what_is_asked_again_waits_once() {
    let mut cluster = Cluster::new(&[1, 1]);
    cluster.ask(1, 1, 1..=2);
    cluster.beat();
    let (spec, avoid) = (cpus(1), Vec::new());
    let wanted = Wanted { request: key(1, 1, 9), job: JobId(1), spec, avoid, lives_on: false, waits: true };
    cluster.tell(2, Input::Asked(wanted.clone()));
    cluster.tell(2, Input::Asked(wanted));
    assert_eq!(cluster.waiting(2), 1);
}
