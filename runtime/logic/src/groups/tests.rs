use mobula_types::resources::{Amount, Request};
use mobula_types::{Bundle, Epoch, LabelRule, ProcessId};

use super::*;

const JOB: JobId = JobId(1);

fn at(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

fn id(number: u64) -> GroupId {
    GroupId { process: ProcessId::new(NodeId(1), 1), number }
}

fn cpus(count: u64) -> Resources {
    Resources { cpus: Amount::whole(count), ..Resources::default() }
}

fn bundle(count: u64) -> Bundle {
    Bundle { request: Request { cpus: Amount::whole(count), ..Request::default() }, ..Bundle::default() }
}

fn spec(strategy: BundleStrategy, bundles: &[u64]) -> GroupSpec {
    GroupSpec { bundles: bundles.iter().map(|count| bundle(*count)).collect(), strategy }
}

fn seen(node: u64, total: u64, free: u64) -> Input {
    Input::Seen { node: NodeId(node), load: load(total, free) }
}

fn load(total: u64, free: u64) -> NodeLoad {
    NodeLoad { total: cpus(total), free: cpus(free), ..NodeLoad::default() }
}

fn create(number: u64, spec: GroupSpec) -> Input {
    Input::Create { group: id(number), job: JOB, spec }
}

fn said(groups: &mut Groups) -> Vec<Output> {
    std::iter::from_fn(|| groups.poll_output()).collect()
}

/// Nodes 1, 2, … with so many free CPUs, and a head whose rounds are 1, 2, …
fn with(free: &[u64]) -> Groups {
    with_head(Epoch(0), free)
}

fn with_head(epoch: Epoch, free: &[u64]) -> Groups {
    let mut groups = Groups::new(Time::ZERO, epoch);
    for (node, free) in (1..).zip(free) {
        groups.handle(at(0), seen(node, *free, *free));
    }
    groups
}

/// Prepares all that is asked for, and gives the nodes of the bundles of the group that becomes ready.
fn settle(groups: &mut Groups, now: Time) -> Option<Vec<NodeId>> {
    let mut ready = None;
    while let Some(output) = groups.poll_output() {
        match output {
            Output::Prepare { node, group, round, .. } => {
                groups.handle(now, Input::Prepared { node, group, round });
            }
            Output::Ready { nodes, .. } => ready = Some(nodes),
            _ => {}
        }
    }
    ready
}

/// Free CPUs of the nodes, what is asked for, and the nodes of the bundles.
type Case = (&'static [u64], BundleStrategy, &'static [u64], Option<&'static [u64]>);

#[test]
fn each_strategy_lays_bundles_its_own_way() {
    use BundleStrategy::{Pack, Spread, StrictPack, StrictSpread};
    let cases: [Case; 9] = [
        (&[4, 2], Pack, &[1, 1], Some(&[2, 2])),
        (&[2, 2], Pack, &[2, 1, 1], Some(&[1, 2, 2])),
        (&[2, 2], StrictPack, &[1, 1, 1], None),
        (&[2, 3], StrictPack, &[1, 1, 1], Some(&[2, 2, 2])),
        (&[4, 4], Spread, &[1, 1, 1], Some(&[1, 2, 1])),
        (&[4], Spread, &[1, 1], Some(&[1, 1])),
        (&[4, 4], StrictSpread, &[1, 1, 1], None),
        // The first that fits would take node 2 from the only one that needs it.
        (&[4, 1, 2], StrictSpread, &[1, 4, 2], Some(&[2, 1, 3])),
        (&[1, 1], Pack, &[3], None),
    ];
    for (nodes, strategy, bundles, expected) in cases {
        let mut groups = with(nodes);
        groups.handle(at(1), create(1, spec(strategy, bundles)));
        let places = settle(&mut groups, at(1)).map(|nodes| nodes.iter().map(|node| node.0).collect::<Vec<_>>());
        assert_eq!(places.as_deref(), expected, "{strategy:?} of {bundles:?} on {nodes:?}");
        assert_eq!(groups.why(at(1), id(1)).is_none(), expected.is_some());
    }
}

#[test]
fn labels_and_what_can_never_be_are_reasons() {
    let mut groups = with(&[2]);
    let zoned = Bundle { labels: LabelRule::equal("zone", "a").into(), ..bundle(1) };
    groups.handle(at(1), create(1, GroupSpec { bundles: vec![bundle(1), zoned], ..GroupSpec::default() }));
    groups.handle(at(1), create(2, spec(BundleStrategy::Pack, &[3])));
    assert_eq!(said(&mut groups), []);
    let why = |number| groups.why(at(1), id(number)).unwrap();
    assert_eq!(why(1), "no node of the cluster can ever hold bundle 1: num_cpus = 1 and zone=a");
    assert_eq!(why(2), "no node of the cluster can ever hold bundle 0: num_cpus = 3");
    let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    groups.handle(at(2), Input::Seen { node: NodeId(2), load: NodeLoad { labels, ..load(2, 2) } });
    assert!(matches!(said(&mut groups)[..], [Output::Prepare { node: NodeId(2), .. }]));
}

#[test]
fn one_refusal_gives_all_back_and_it_is_tried_again() {
    let mut groups = with(&[2, 2]);
    groups.handle(at(1), create(1, spec(BundleStrategy::StrictSpread, &[2, 2])));
    assert_eq!(said(&mut groups).len(), 2);
    let (group, round) = (id(1), 1);
    groups.handle(at(2), Input::Prepared { node: NodeId(1), group, round });
    assert_eq!(said(&mut groups), [], "GRP-3");
    groups.handle(at(3), Input::Refused { node: NodeId(2), group, round, load: load(2, 0) });
    let abort = |node| Output::Abort { node: NodeId(node), group, round };
    assert_eq!(said(&mut groups), [abort(1), abort(2)], "GRP-2");
    groups.handle(at(4), Input::Prepared { node: NodeId(1), group, round: 0 });
    assert_eq!(said(&mut groups), [Output::Abort { node: NodeId(1), group, round: 0 }]);
    groups.handle(at(300), seen(1, 2, 2));
    assert_eq!(said(&mut groups), [], "the other one has no room");
    groups.handle(at(400), seen(2, 2, 2));
    assert_eq!(settle(&mut groups, at(401)), Some(vec![NodeId(1), NodeId(2)]));
}

#[test]
fn who_does_not_answer_is_not_waited_for() {
    let mut groups = with(&[2]);
    groups.handle(at(0), create(1, spec(BundleStrategy::Pack, &[2])));
    said(&mut groups);
    let until = groups.next_timeout().unwrap();
    assert_eq!(until, at(0) + PREPARE_MAX);
    groups.handle(until, Input::Tick);
    assert_eq!(said(&mut groups), [Output::Abort { node: NodeId(1), group: id(1), round: 1 }]);
    groups.handle(until, Input::Prepared { node: NodeId(1), group: id(1), round: 1 });
    assert_eq!(groups.all().next().unwrap().2, [Slot::Unplaced], "that round is over");
}

#[test]
fn only_what_a_dead_node_had_is_placed_again() {
    let mut groups = with(&[2, 2, 2]);
    let late = at(0) + RECOVER_MAX;
    groups.handle(late, create(1, spec(BundleStrategy::StrictSpread, &[2, 2])));
    assert_eq!(settle(&mut groups, late), Some(vec![NodeId(1), NodeId(2)]));
    groups.handle(late, Input::NodeDied { node: NodeId(2) });
    let asked = said(&mut groups);
    assert!(matches!(asked[..], [Output::Prepare { node: NodeId(3), round: 2, .. }]), "GRP-4: {asked:?}");
    groups.handle(late, Input::Prepared { node: NodeId(1), group: id(1), round: 1 });
    assert_eq!(said(&mut groups), [], "what is kept is not given back because its word comes again");
    groups.handle(late, Input::Prepared { node: NodeId(3), group: id(1), round: 2 });
    assert_eq!(settle(&mut groups, late), Some(vec![NodeId(1), NodeId(3)]));
    groups.handle(late, Input::NodeDied { node: NodeId(3) });
    assert_eq!(settle(&mut groups, late), None, "strictly, or not at all");
    assert!(groups.why(late, id(1)).unwrap().starts_with("strict_spread: 1 bundles want a node each"));
}

#[test]
fn a_job_takes_its_groups_along_and_a_removed_one_does_not_come_back() {
    let mut groups = with(&[2]);
    groups.handle(at(1), create(1, spec(BundleStrategy::Pack, &[1])));
    settle(&mut groups, at(1));
    groups.handle(at(2), Input::JobEnded { job: JOB });
    let (node, group) = (NodeId(1), id(1));
    let ended = Output::Ended { group, why: Ended::JobEnded { job: JOB } };
    assert_eq!(said(&mut groups), [Output::Return { node, group }, ended]);
    let spec = spec(BundleStrategy::Pack, &[1]);
    groups.handle(at(3), Input::Held { node, group, job: JOB, spec: spec.clone(), bundles: vec![0] });
    groups.handle(at(3), create(1, spec));
    let ended = Output::Ended { group, why: Ended::Removed { waited: None } };
    assert_eq!(said(&mut groups), [Output::Return { node, group }, ended]);
}

#[test]
fn a_restarted_head_learns_its_groups_from_the_nodes() {
    let mut groups = with(&[2, 2]);
    let spec = spec(BundleStrategy::StrictSpread, &[2, 2]);
    let held = |node, bundle| {
        let (node, group, spec) = (NodeId(node), id(1), spec.clone());
        Input::Held { node, group, job: JOB, spec, bundles: vec![bundle] }
    };
    groups.handle(at(100), held(2, 1));
    groups.handle(at(200), seen(1, 2, 2));
    assert_eq!(said(&mut groups), [], "the other node may come yet");
    groups.handle(at(300), held(1, 0));
    let ready = Output::Ready { group: id(1), nodes: vec![NodeId(1), NodeId(2)] };
    assert_eq!(said(&mut groups), std::slice::from_ref(&ready));
    let Input::Held { node, group, job, spec, .. } = held(1, 0) else { unreachable!() };
    groups.handle(at(400), Input::Held { node, group, job, spec, bundles: vec![0, 1] });
    let some = Output::ReturnSome { node: NodeId(1), group: id(1), bundles: vec![1] };
    assert_eq!(said(&mut groups), [some, ready], "GRP-5");
}

#[test]
fn what_a_node_does_not_name_it_does_not_have() {
    let late = at(0) + RECOVER_MAX;
    let (node, group) = (NodeId(1), id(1));
    let spec = spec(BundleStrategy::Pack, &[1, 1]);
    let whole = || {
        let mut groups = with(&[2]);
        groups.handle(late, create(1, spec.clone()));
        assert_eq!(settle(&mut groups, late), Some(vec![node, node]));
        groups
    };
    let mut groups = whole();
    let (spec, whole_spec) = (spec.clone(), spec.clone());
    groups.handle(late, Input::Held { node, group, job: JOB, spec, bundles: vec![0] });
    assert_eq!(said(&mut groups), [Output::ReturnSome { node, group, bundles: vec![1] }], "GRP-6");
    assert!(groups.why(late, group).is_some(), "it waits for the other one");
    let named = Input::Held { node, group, job: JOB, spec: whole_spec, bundles: vec![0, 1] };
    groups.handle(late, named);
    assert_eq!(said(&mut groups), [Output::ReturnSome { node, group, bundles: vec![1] }], "GRP-6: it has crossed that");
    assert!(groups.why(late, group).is_some(), "it waits still");
    groups.handle(late, seen(1, 2, 1));
    assert!(matches!(&said(&mut groups)[..], [Output::Prepare { bundles, .. }] if *bundles == [1]));
    let mut groups = whole();
    groups.handle(late, Input::HoldsOnly { node, groups: vec![group], ended: vec![] });
    assert_eq!(said(&mut groups), [], "what it has of it is said next");
    groups.handle(late, Input::HoldsOnly { node, groups: vec![], ended: vec![] });
    assert!(matches!(&said(&mut groups)[..], [Output::ReturnSome { bundles, .. }, ..] if *bundles == [0, 1]), "GRP-6");
}

#[test]
fn a_restarted_head_is_told_of_groups_that_are_over() {
    let mut groups = with(&[2, 2]);
    let spec = spec(BundleStrategy::Spread, &[1, 1]);
    let held = |node, bundle| {
        let (node, spec) = (NodeId(node), spec.clone());
        Input::Held { node, group: id(1), job: JOB, spec, bundles: vec![bundle] }
    };
    // One node was away when the group was removed, and comes before one that has heard of it.
    groups.handle(at(100), held(2, 1));
    groups.handle(at(200), Input::HoldsOnly { node: NodeId(1), groups: vec![], ended: vec![id(1), id(2)] });
    let ended = Output::Ended { group: id(1), why: Ended::Removed { waited: None } };
    assert_eq!(said(&mut groups), [Output::Return { node: NodeId(2), group: id(1) }, ended.clone()]);
    // Or after it.
    let Input::Held { node, job, spec, bundles, .. } = held(2, 1) else { unreachable!() };
    groups.handle(at(300), Input::Held { node, group: id(2), job, spec, bundles });
    assert_eq!(said(&mut groups), [Output::Return { node, group: id(2) }]);
    groups.handle(at(400), Input::Remove { group: id(1) });
    assert_eq!(said(&mut groups), [ended], "whoever says it again is answered again");
}

#[test]
fn what_is_given_back_is_free_again_although_its_node_says_nothing_new() {
    let mut groups = with(&[2, 2]);
    groups.handle(at(1), create(1, spec(BundleStrategy::StrictSpread, &[2, 2])));
    said(&mut groups);
    let (group, round) = (id(1), 1);
    groups.handle(at(2), Input::Refused { node: NodeId(2), group, round, load: load(2, 2) });
    said(&mut groups);
    let now = at(2) + AGAIN;
    groups.handle(now, Input::Tick);
    assert_eq!(settle(&mut groups, now), Some(vec![NodeId(1), NodeId(2)]));
    // Made and removed between two beats.
    groups.handle(now, Input::Remove { group });
    said(&mut groups);
    groups.handle(now, create(2, spec(BundleStrategy::StrictSpread, &[2, 2])));
    assert_eq!(settle(&mut groups, now), Some(vec![NodeId(1), NodeId(2)]));
}

/// A head, and nodes that take and give as they are told: messages are lost, late and repeated, nodes die.
#[test]
fn whatever_happens_nodes_never_take_more_than_they_have_and_all_come_to_rest() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        (0..300).for_each(|_| world.step());
        world.rest();
    }
}

const TOTAL: u64 = 4;

type Taken = BTreeMap<(u64, GroupId), (bool, Vec<u64>)>;

/// What each node has taken, by round and group: whether it is committed, and how many CPUs.
struct World {
    seed: u64,
    random: u64,
    now: Time,
    groups: Groups,
    nodes: BTreeMap<NodeId, Taken>,
    mail: VecDeque<Output>,
    made: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut groups = with(&[TOTAL, TOTAL, TOTAL]);
        said(&mut groups);
        let nodes = (1..=3).map(|node| (NodeId(node), Taken::new())).collect();
        let now = at(0) + RECOVER_MAX;
        Self { seed, random: seed * 2 + 1, now, groups, nodes, mail: VecDeque::new(), made: 0 }
    }

    /// splitmix64.
    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)) >> 7) % below
    }

    fn tell(&mut self, input: Input) {
        self.groups.handle(self.now, input);
        self.mail.extend(said(&mut self.groups));
        check(&self.groups).unwrap_or_else(|violation| panic!("seed {}: {violation}", self.seed));
    }

    fn step(&mut self) {
        self.now = self.now + Duration::from_millis(self.draw(100));
        match self.draw(10) {
            0 | 1 => {
                self.made += 1;
                let strategy = [
                    BundleStrategy::Pack,
                    BundleStrategy::Spread,
                    BundleStrategy::StrictPack,
                    BundleStrategy::StrictSpread,
                ][self.draw(4) as usize];
                let bundles: Vec<u64> = (0..=self.draw(3)).map(|_| 1 + self.draw(2)).collect();
                self.tell(create(self.made, spec(strategy, &bundles)));
            }
            2 if self.made > 0 => {
                let group = id(1 + self.draw(self.made));
                self.tell(Input::Remove { group });
            }
            3 => {
                let node = NodeId(1 + self.draw(3));
                self.nodes.insert(node, Taken::new());
                self.tell(Input::NodeDied { node });
                // What was on its way to it is gone with it.
                let was_to_it = |output: &Output| matches!(output, Output::Prepare { node: to, .. } | Output::Commit { node: to, .. } if *to == node);
                self.mail.retain(|output| !was_to_it(output));
                self.beat(node);
            }
            4 | 5 => {
                let node = NodeId(1 + self.draw(3));
                self.beat(node);
            }
            6 => {
                // Nobody has committed it in time.
                let node = NodeId(1 + self.draw(3));
                self.nodes.get_mut(&node).unwrap().retain(|_, (is_committed, _)| *is_committed);
            }
            _ => self.deliver(true),
        }
    }

    fn beat(&mut self, node: NodeId) {
        let load = load(TOTAL, self.free(node));
        self.tell(Input::Seen { node, load });
    }

    fn free(&self, node: NodeId) -> u64 {
        let taken: u64 = self.nodes[&node].values().flat_map(|(_, cpus)| cpus).sum();
        TOTAL.checked_sub(taken).unwrap_or_else(|| panic!("seed {}: {node} has given {taken} of {TOTAL}", self.seed))
    }

    fn deliver(&mut self, may_lose: bool) {
        let Some(output) = self.mail.pop_front() else { return };
        match output {
            Output::Prepare { node, group, round, spec, bundles, .. } => {
                // An answer that is lost is one that nobody gave: the node has taken it all the same.
                let is_lost = may_lose && self.draw(5) == 0;
                let cpus: Vec<u64> =
                    bundles.iter().map(|at| spec.bundles[*at as usize].request.cpus.steps() / Amount::STEPS).collect();
                let fits = cpus.iter().sum::<u64>() <= self.free(node);
                if fits {
                    self.nodes.get_mut(&node).unwrap().insert((round, group), (false, cpus));
                }
                let load = load(TOTAL, self.free(node));
                match fits {
                    _ if is_lost => {}
                    true => self.tell(Input::Prepared { node, group, round }),
                    false => self.tell(Input::Refused { node, group, round, load }),
                }
            }
            Output::Commit { node, group, round } => {
                let load = load(TOTAL, self.free(node));
                match self.nodes.get_mut(&node).unwrap().get_mut(&(round, group)) {
                    Some((is_committed, _)) => *is_committed = true,
                    None => self.tell(Input::Refused { node, group, round, load }),
                }
            }
            Output::Abort { node, group, round } => {
                self.nodes.get_mut(&node).unwrap().remove(&(round, group));
            }
            Output::Return { node, group } => {
                self.nodes.get_mut(&node).unwrap().retain(|(_, of), _| *of != group);
            }
            Output::ReturnSome { .. } => panic!("seed {}: no head has restarted", self.seed),
            Output::Ready { .. } | Output::Ended { .. } => {}
        }
    }

    /// The misfortunes stop: what is taken is what groups have, and nothing that would fit waits.
    fn rest(&mut self) {
        for _ in 0..50 {
            self.now = self.now + PREPARE_MAX + AGAIN;
            while !self.mail.is_empty() {
                self.deliver(false);
            }
            (1..=3).for_each(|node| self.beat(NodeId(node)));
        }
        while !self.mail.is_empty() {
            self.deliver(false);
        }
        let all: Vec<(GroupId, Vec<Slot>)> = self.groups.all().map(|(id, _, slots)| (id, slots.to_vec())).collect();
        for (node, taken) in &self.nodes {
            for ((_, group), (is_committed, _)) in taken {
                assert!(is_committed, "seed {}: {group} is prepared on {node} for ever", self.seed);
            }
            let held: usize = taken.values().map(|(_, cpus)| cpus.len()).sum();
            let known = all.iter().flat_map(|(_, slots)| slots).filter(|slot| **slot == Slot::Reserved(*node)).count();
            assert_eq!(held, known, "seed {}: {node} has other bundles than is known", self.seed);
        }
        for (id, slots) in &all {
            let is_whole = slots.iter().all(|slot| matches!(slot, Slot::Reserved(_)));
            let why = self.groups.why(self.now, *id);
            assert_eq!(is_whole, why.is_none(), "seed {}: {id} is {slots:?} and says {why:?}", self.seed);
        }
    }
}

#[test]
fn a_group_whose_nodes_are_gone_with_the_head_is_placed_by_the_next_one() {
    let made = || Input::Made { group: id(1), job: JOB, spec: spec(BundleStrategy::Pack, &[1, 1]) };
    let mut groups = with(&[2]);
    groups.handle(at(0), made());
    groups.handle(at(4_900), Input::Tick);
    assert_eq!(said(&mut groups), [], "its nodes have time to register");
    assert!(groups.why(at(4_900), id(1)).unwrap().contains("restarted"));
    groups.handle(at(5_000), Input::Tick);
    assert_eq!(settle(&mut groups, at(5_000)), Some(vec![NodeId(1); 2]), "GRP-9");

    let mut groups = with(&[2]);
    groups.handle(at(0), made());
    let held = Input::Held {
        node: NodeId(2),
        group: id(1),
        job: JOB,
        spec: spec(BundleStrategy::Pack, &[1, 1]),
        bundles: vec![0, 1],
    };
    groups.handle(at(1), held);
    assert_eq!(said(&mut groups), [Output::Ready { group: id(1), nodes: vec![NodeId(2); 2] }], "it is where it was");

    let mut groups = with(&[2]);
    groups.handle(at(5_000), made());
    let ended = Output::Ended { group: id(1), why: Ended::Removed { waited: None } };
    assert_eq!(said(&mut groups), [ended], "a head that has recovered would know it");
}

#[test]
fn a_group_that_is_removed_while_a_head_recovers_does_not_come_back() {
    let mut groups = with(&[2]);
    groups.handle(at(0), Input::Remove { group: id(1) });
    let ended = Output::Ended { group: id(1), why: Ended::Removed { waited: None } };
    assert_eq!(said(&mut groups), [ended]);
    let spec = spec(BundleStrategy::Pack, &[1]);
    groups.handle(at(1), Input::Held { node: NodeId(2), group: id(1), job: JOB, spec, bundles: vec![0] });
    assert_eq!(said(&mut groups), [Output::Return { node: NodeId(2), group: id(1) }], "GRP-8");
}

#[test]
fn no_round_of_a_head_is_one_of_the_head_before() {
    let asked = |epoch| {
        let mut groups = with_head(Epoch(epoch), &[2]);
        groups.handle(at(0), create(1, spec(BundleStrategy::Pack, &[1])));
        match said(&mut groups)[..] {
            [Output::Prepare { round, .. }] => round,
            ref other => panic!("{other:?}"),
        }
    };
    assert!(asked(1) + u64::from(u32::MAX) <= asked(2), "GRP-10");
}
