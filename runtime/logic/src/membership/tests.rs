use mobula_types::resources::{Amount, Resources};
use mobula_types::{Epoch, HeadId};

use super::*;
use crate::record::Record;

fn at(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

fn head(epoch: u64) -> HeadId {
    HeadId { epoch: Epoch(epoch), nonce: 1 }
}

fn registration(member: u8, start: u64, node: Option<u64>) -> Registration {
    let addr = format!("host-{member}:6379");
    Registration { member: MemberId([member; 16]), start, node: node.map(NodeId), addr, ..Registration::default() }
}

/// A membership whose store is as quick as it is asked to be.
struct World {
    membership: Membership,
    records: BTreeMap<NodeId, NodeRecord>,
    said: Vec<Output>,
}

impl World {
    fn new() -> Self {
        let membership = Membership::new(head(1), Calendar::new(Time::ZERO, 1_000));
        Self { membership, records: BTreeMap::new(), said: Vec::new() }
    }

    /// A head that starts at `ms` with what this one has kept.
    fn restarted(&self, epoch: u64, ms: u64) -> Self {
        let records = self.records.values().cloned();
        let calendar = Calendar::new(Time::ZERO, 1_000);
        let (last, bounds) = (self.membership.last_id(), self.membership.bounds);
        let membership = Membership::restore(head(epoch), calendar, at(ms), last, records, bounds);
        Self { membership, records: self.records.clone(), said: Vec::new() }
    }

    /// Hands over an input, writes what is to be kept, and returns the rest.
    fn run(&mut self, ms: u64, input: Input) -> Vec<Output> {
        self.membership.handle(at(ms), input);
        let mut said = Vec::new();
        while let Some(output) = self.membership.poll_output() {
            match output {
                Output::Keep(Change { key: RecordKey::Node(node), record }) => match record {
                    Some(Record::Node(record)) => {
                        let is_dead = record.death.is_some();
                        self.records.insert(node, record);
                        self.membership.handle(at(ms), Input::Kept { node, is_dead });
                    }
                    _ => drop(self.records.remove(&node)),
                },
                other => said.push(other),
            }
        }
        check(&self.membership).unwrap();
        self.said.extend(said.clone());
        said
    }

    fn register(&mut self, ms: u64, member: u8, start: u64, node: Option<u64>) -> Vec<Output> {
        self.run(ms, Input::Register { ask: ms, registration: registration(member, start, node) })
    }

    fn beat(&mut self, ms: u64, node: u64, view: u64) -> ViewChange {
        let beat = Beat { number: ms, view, ..Beat::default() };
        match &self.run(ms, Input::Heartbeat { node: NodeId(node), beat })[..] {
            [Output::Spread { change, .. }] => change.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Beats of `nodes` every 200 ms from `from` to `to`.
    fn beats(&mut self, from: u64, to: u64, nodes: &[u64]) -> Vec<Output> {
        let mut said = Vec::new();
        for ms in (from..to).step_by(200) {
            for node in nodes {
                let beat = Beat { number: ms, view: u64::MAX, ..Beat::default() };
                said.extend(self.run(ms, Input::Heartbeat { node: NodeId(*node), beat }));
            }
        }
        said.retain(|output| !matches!(output, Output::Spread { .. }));
        said
    }
}

fn died(said: &[Output]) -> Vec<(u64, &DeathCause)> {
    fn death(output: &Output) -> Option<(u64, &DeathCause)> {
        match output {
            Output::DeclareDead { death } => Some((death.process.node().0, &death.cause)),
            _ => None,
        }
    }
    said.iter().filter_map(death).collect()
}

fn admitted(said: &[Output]) -> Option<(u64, u32, Option<u64>)> {
    said.iter().find_map(|output| match output {
        Output::Admit { node, incarnation, stopped, .. } => Some((node.0, incarnation.0, stopped.map(|node| node.0))),
        _ => None,
    })
}

fn refused(said: &[Output]) -> Option<&Refusal> {
    said.iter().find_map(|output| match output {
        Output::Refuse { why, .. } => Some(why),
        _ => None,
    })
}

#[test]
fn a_killed_node_is_known_within_a_second() {
    let mut world = World::new();
    world.register(0, 1, 7, None);
    world.beats(0, 1_000, &[1]);
    let refused = |silent| Input::Silent { node: NodeId(1), silent: Duration::from_millis(silent), refused: true };
    assert_eq!(died(&world.run(1_000, refused(290))), [], "MEM-3: a refusal without silence can be forged");
    assert_eq!(died(&world.run(1_150, refused(350))), []);
    assert_eq!(died(&world.run(1_250, refused(450))), [(1, &DeathCause::NodeKilled)], "the last beat was at 800 ms");
    assert_eq!(died(&world.run(1_350, refused(550))), [], "once");
}

#[test]
fn refusals_count_in_a_row_only() {
    let mut world = World::new();
    world.register(0, 1, 7, None);
    let probe = |refused| Input::Silent { node: NodeId(1), silent: Duration::from_millis(400), refused };
    for round in 0..5 {
        let now = 1_000 + round * 1_000;
        assert_eq!(died(&world.run(now, probe(true))), []);
        match round % 2 {
            0 => drop(world.run(now + 50, probe(false))),
            _ => drop(world.beat(now + 50, 1, 0)),
        }
        world.beat(now + 60, 1, 0);
    }
}

#[test]
fn a_silent_node_is_known_within_five_seconds_and_not_within_four() {
    let mut world = World::new();
    world.register(0, 1, 7, None);
    world.register(0, 2, 7, None);
    world.beats(0, 1_001, &[1, 2]);
    assert_eq!(died(&world.beats(1_200, 5_401, &[2])), []);
    let said = world.beats(5_600, 6_001, &[2]);
    assert_eq!(died(&said), [(1, &DeathCause::NodeSilent { silent_ms: 4_600 })]);
}

#[test]
fn the_heads_own_silence_is_nobodys() {
    let mut world = World::new();
    world.register(0, 1, 7, None);
    world.beat(100, 1, 0);
    // The head is stopped for 8 s; its own timer is what it sees first.
    assert_eq!(died(&world.run(8_100, Input::Tick)), [], "MEM-3");
    world.beat(8_101, 1, 0);
    assert_eq!(died(&world.beats(8_200, 20_000, &[1])), []);
}

#[test]
fn a_dead_node_is_fenced_and_comes_back_as_another() {
    let mut world = World::new();
    world.register(0, 1, 7, None);
    world.register(0, 2, 7, None);
    world.beats(0, 6_000, &[2]);
    assert_eq!(
        world.run(6_000, Input::Heartbeat { node: NodeId(1), beat: Beat::default() }),
        [Output::Fence { node: NodeId(1) }]
    );
    assert_eq!(refused(&world.register(6_000, 1, 7, Some(1))), Some(&Refusal::Fenced { node: NodeId(1) }), "MEM-1");
    assert_eq!(admitted(&world.register(6_100, 1, 7, None)), Some((3, 2, Some(1))), "it has stopped what it ran");
    assert_eq!(admitted(&world.register(6_200, 1, 7, None)), Some((3, 2, None)), "said twice, answered twice");
    assert_eq!(refused(&world.register(6_300, 1, 7, Some(1))), Some(&Refusal::Fenced { node: NodeId(1) }));
}

#[test]
fn a_member_that_starts_again_ends_the_node_before_and_never_the_one_after() {
    let mut world = World::new();
    world.register(0, 1, 7, None);
    let said = world.register(100, 1, 8, None);
    assert_eq!((died(&said), admitted(&said)), (vec![(1, &DeathCause::NodeKilled)], Some((2, 2, None))));
    for node in [None, Some(1)] {
        let said = world.register(200, 1, 7, node);
        assert_eq!(refused(&said), Some(&Refusal::Replaced { by: NodeId(2) }), "MEM-2");
    }
}

#[test]
fn nobody_is_told_before_the_record_is_kept() {
    let mut membership = Membership::new(head(1), Calendar::default());
    let outputs = |membership: &mut Membership| std::iter::from_fn(|| membership.poll_output()).collect::<Vec<_>>();
    for ask in 0..20 {
        membership.handle(at(0), Input::Register { ask, registration: registration(1, 7, None) });
    }
    let said = outputs(&mut membership);
    assert!(matches!(said[0], Output::Keep(_)));
    assert_eq!(
        said.iter().filter(|output| matches!(output, Output::Refuse { why: Refusal::AskedAgain, .. })).count(),
        4
    );
    membership.handle(at(10), Input::Kept { node: NodeId(1), is_dead: false });
    assert_eq!(outputs(&mut membership).len(), ASKS_MAX, "MEM-5: all that asked are answered then");
    membership.handle(at(10), Input::Drained { node: NodeId(1) });
    assert!(matches!(outputs(&mut membership)[..], [Output::Keep(_)]));
    membership.handle(at(10), Input::Kept { node: NodeId(1), is_dead: false });
    assert_eq!(outputs(&mut membership), [], "the record of its birth");
    membership.handle(at(10), Input::Kept { node: NodeId(1), is_dead: true });
    assert!(matches!(outputs(&mut membership)[..], [Output::DeclareDead { .. }]));
}

#[test]
fn after_a_restart_of_the_head_nodes_have_a_grace_to_come_back() {
    let mut world = World::new();
    (1..=3).for_each(|member| drop(world.register(0, member, 7, None)));
    world.run(10, Input::Drained { node: NodeId(3) });
    let mut world = world.restarted(2, 100_000);
    assert_eq!(admitted(&world.register(101_000, 1, 7, Some(1))), Some((1, 1, None)));
    assert_eq!(refused(&world.register(101_000, 3, 7, Some(3))), Some(&Refusal::Fenced { node: NodeId(3) }));
    assert_eq!(died(&world.beats(101_200, 104_800, &[1])), []);
    assert_eq!(died(&world.beats(105_000, 105_400, &[1])), [(2, &DeathCause::NodeSilent { silent_ms: 5_000 })]);
    assert_eq!(admitted(&world.register(106_000, 9, 1, None)), Some((4, 1, None)), "MEM-1: 3 is not given again");
}

/// The view in an admission.
fn view_of(said: &[Output]) -> ViewChange {
    let view = said.iter().find_map(|output| match output {
        Output::Admit { view, .. } => Some(view.clone()),
        _ => None,
    });
    view.expect("it is admitted")
}

#[test]
fn nobody_is_taken_for_dead_because_a_new_head_has_not_heard_of_it_yet() {
    let mut world = World::new();
    let mut view = View::default();
    (1..=3).for_each(|member| drop(world.register(0, member, 7, None)));
    view.apply(world.beat(10, 1, 0));
    let known = |view: &View| view.members().map(|member| member.node.0).collect::<Vec<_>>();
    assert_eq!(known(&view), [1, 2, 3]);
    // Two heads in a row: the first to register is told of a cluster in which nobody else is back.
    for epoch in 2..4 {
        world = world.restarted(epoch, epoch * 10_000);
        let first = view_of(&world.register(epoch * 10_000, 1, 7, Some(1)));
        assert_eq!(view.apply(first), [], "head {epoch} waits for the others");
        assert_eq!(known(&view), [1, 2, 3], "head {epoch}");
        assert_eq!(view.apply(world.beat(epoch * 10_000 + 100, 1, view.version())), []);
    }
    world.register(30_200, 2, 7, Some(2));
    assert_eq!(view.apply(world.beat(30_400, 1, view.version())), [], "it is what it was");
    // The third never comes back: that is told when it is kept, and not before.
    world.beats(30_600, 35_000, &[1, 2]);
    let change = world.beat(34_990, 1, view.version());
    assert_eq!((view.apply(change), known(&view)), (vec![], vec![1, 2, 3]));
    world.membership.handle(at(35_000), Input::Tick);
    assert!(matches!(world.membership.poll_output(), Some(Output::Keep(_))));
    let mut late = view.clone();
    let full = world.membership.change_since(NodeId(1), None);
    assert_eq!(late.apply(full), [], "MEM-5");
    world.membership.handle(at(35_010), Input::Kept { node: NodeId(3), is_dead: true });
    let change = world.membership.change_since(NodeId(1), Some(view.version()));
    assert!(matches!(&view.apply(change)[..], [Seen::Died(death)] if death.process.node() == NodeId(3)));
}

#[test]
fn a_node_leaves_when_it_is_drained() {
    let mut world = World::new();
    world.register(0, 1, 7, None);
    assert_eq!(
        world.run(1, Input::Drain { ask: 5, node: NodeId(9) }),
        [Output::DrainAnswered { ask: 5, is_known: false }]
    );
    let said = world.run(2, Input::Drain { ask: 6, node: NodeId(1) });
    assert_eq!(said, [Output::Drain { node: NodeId(1) }, Output::DrainAnswered { ask: 6, is_known: true }]);
    assert!(world.beat(3, 1, 0).alive[0].load.is_draining);
    let said = world.register(4, 1, 7, Some(1));
    assert!(said.contains(&Output::Drain { node: NodeId(1) }), "said again to a node that may have missed it");
    assert_eq!(died(&world.run(5, Input::Drained { node: NodeId(1) })), [(1, &DeathCause::Drained)]);
}

#[test]
fn beats_are_answered_with_what_has_changed() {
    let mut world = World::new();
    world.register(0, 1, 7, None);
    world.register(0, 2, 7, None);
    let all = world.beat(10, 1, 0);
    assert_eq!((all.is_full, all.alive.len()), (true, 2));
    assert_eq!(world.beat(20, 1, all.to), ViewChange { from: all.to, to: all.to, ..ViewChange::default() });
    let total = Resources { cpus: Amount::ONE, ..Resources::default() };
    let load = NodeLoad { total, ..NodeLoad::default() };
    let beat = Beat { load: Some(load), ..Beat::default() };
    world.run(30, Input::Heartbeat { node: NodeId(2), beat: beat.clone() });
    world.run(35, Input::Heartbeat { node: NodeId(2), beat });
    let change = world.beat(40, 1, all.to);
    assert_eq!((change.alive.len(), change.alive[0].node, change.to), (1, NodeId(2), all.to + 1));
    world.run(50, Input::Drained { node: NodeId(2) });
    let change = world.beat(60, 1, change.to);
    assert_eq!((change.alive.len(), change.dead.len(), change.is_full), (0, 1, false));
}

#[test]
fn a_view_too_large_for_a_frame_comes_in_parts() {
    let mut world = World::new();
    for member in 0..40u8 {
        let mut registration = registration(member, 7, None);
        registration.load.labels.insert("note".into(), "x".repeat(50_000));
        world.run(0, Input::Register { ask: 0, registration });
    }
    let mut view = View::default();
    let said = world.register(5, 1, 7, None);
    let [Output::Admit { view: first, .. }] = &said[..] else { panic!("{said:?}") };
    assert!(mobula_wire::encode(first).unwrap().len() < mobula_wire::frame::GREETING_BYTES_MAX && first.has_more);
    view.apply(first.clone());
    let mut parts = 0;
    loop {
        let change = world.beat(10, 1, view.version());
        let has_more = change.has_more;
        assert!(mobula_wire::encode(&change).unwrap().len() < mobula_wire::frame::CONTROL_BYTES_MAX);
        view.apply(change);
        parts += 1;
        if !has_more {
            break;
        }
    }
    assert_eq!((view.members().count(), parts), (40, 4));
}

#[test]
fn who_dies_and_is_forgotten_between_two_parts_of_a_view_is_not_taken_for_alive() {
    let mut world = World::new();
    (1..=4).for_each(|member| drop(world.register(0, member, 7, None)));
    world.membership.bounds = Bounds { dead_max: 0, change_bytes_max: 1, ..Bounds::default() };
    let mut view = View::default();
    let known = |view: &View| view.members().map(|member| member.node.0).collect::<Vec<_>>();
    fn tell(world: &mut World, view: &mut View) -> bool {
        let change = world.beat(10, 1, view.version());
        let has_more = change.has_more;
        view.apply(change);
        has_more
    }
    // In the parts of all that there is,
    assert!(tell(&mut world, &mut view) && tell(&mut world, &mut view));
    assert_eq!(known(&view), [1, 2]);
    world.run(10, Input::Drained { node: NodeId(2) });
    while tell(&mut world, &mut view) {}
    assert_eq!(known(&view), [1, 3, 4], "MEM-6");
    // and in those of what has changed.
    [1, 3].into_iter().for_each(|node| drop(world.run(10, Input::Leaving { node: NodeId(node) })));
    assert!(tell(&mut world, &mut view));
    world.run(10, Input::Drained { node: NodeId(4) });
    while tell(&mut world, &mut view) {}
    assert_eq!(known(&view), [1, 3], "MEM-6");
}

#[test]
fn the_dead_are_kept_for_an_hour_and_bounded() {
    let mut world = World::new();
    world.register(0, 1, 7, None);
    world.register(0, 2, 7, None);
    let seen = world.beat(1, 1, 0).to;
    world.run(2, Input::Drained { node: NodeId(2) });
    let later = 2 + DEAD_KEPT.as_millis() as u64;
    let mut now = 100;
    while now < later + 1_000 {
        world.beats(now, now + 1, &[1]);
        now += 900;
    }
    assert_eq!((world.membership.nodes().count(), world.records.len()), (1, 1));
    assert!(world.beat(now, 1, seen).is_full, "MEM-6: the death it has not seen cannot be told but by absence");
    for start in 0..DEAD_MAX as u64 + 50 {
        world.membership.handle(at(now), Input::Register { ask: 0, registration: registration(3, start, None) });
        while let Some(output) = world.membership.poll_output() {
            if let Output::Keep(Change { key: RecordKey::Node(node), record: Some(Record::Node(record)) }) = output {
                let is_dead = record.death.is_some();
                world.membership.handle(at(now), Input::Kept { node, is_dead });
            }
        }
    }
    let dead = world.membership.nodes().filter(|node| matches!(node.standing, Standing::Dead(_))).count();
    assert_eq!(dead, DEAD_MAX, "MEM-7");
}

#[test]
fn a_head_that_fell_before_it_had_forgotten_forgets_when_it_starts() {
    let mut world = World::new();
    for node in 1..=3 {
        world.register(0, node as u8, 1, None);
        world.run(1, Input::Drained { node: NodeId(node) });
    }
    world.membership.bounds = Bounds { dead_max: 2, ..Bounds::default() };
    let mut world = world.restarted(2, 5);
    assert_eq!(check(&world.membership), Ok(()), "MEM-7");
    world.run(6, Input::Tick);
    assert_eq!(world.records.keys().copied().collect::<Vec<_>>(), [NodeId(2), NodeId(3)]);
}
