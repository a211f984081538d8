use std::time::Duration;

use mobula_types::{ActorId, Beat, Epoch, JobId, MemberId, NameKey, Registration, Role};

use super::*;
use crate::directory::Claim;
use crate::record::{JobSpec, TokenId};

fn at(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

fn id(epoch: u64) -> HeadId {
    HeadId { epoch: Epoch(epoch), nonce: epoch }
}

/// A head and its disk, which syncs when it is told to.
struct World {
    head: Head,
    disk: BTreeMap<RecordKey, Record>,
    writing: Option<(u64, Vec<Change>)>,
    epoch: u64,
}

impl World {
    fn new() -> Self {
        Self::restore(1, 0, BTreeMap::new(), None)
    }

    fn restore(epoch: u64, ms: u64, disk: BTreeMap<RecordKey, Record>, mutant: Option<Mutant>) -> Self {
        let head = Head::restore(id(epoch), Calendar::default(), at(ms), disk.clone(), mutant);
        Self { head, disk, writing: None, epoch }
    }

    fn run(&mut self, ms: u64, input: impl Into<Input>) -> Vec<Output> {
        self.head.handle(at(ms), input.into());
        self.said()
    }

    fn said(&mut self) -> Vec<Output> {
        let mut said = Vec::new();
        while let Some(output) = self.head.poll_output() {
            match output {
                Output::Commit { batch, changes } => {
                    assert!(self.writing.is_none(), "one at a time");
                    self.writing = Some((batch, changes));
                }
                output => said.push(output),
            }
        }
        said
    }

    fn sync(&mut self, ms: u64) -> Vec<Output> {
        let Some((batch, changes)) = self.writing.take() else { return Vec::new() };
        for Change { key, record } in changes {
            match record {
                Some(record) => self.disk.insert(key, record),
                None => self.disk.remove(&key),
            };
        }
        self.run(ms, Input::Synced { batch })
    }

    fn fail(&mut self, ms: u64) -> Vec<Output> {
        let (batch, _) = self.writing.as_ref().expect("something is being written");
        let (batch, cause) = (*batch, "the disk is full".to_owned());
        self.run(ms, Input::Failed { batch, cause })
    }

    /// Hands over an input and syncs until nothing waits.
    fn done(&mut self, ms: u64, input: impl Into<Input>) -> Vec<Output> {
        let mut said = self.run(ms, input);
        while self.writing.is_some() {
            said.extend(self.sync(ms));
        }
        said
    }
}

fn register(ask: u64, member: u8, node: Option<NodeId>) -> membership::Input {
    let registration = Registration { member: MemberId([member; 16]), node, ..Registration::default() };
    membership::Input::Register { ask, registration }
}

fn beat(node: u64, number: u64) -> membership::Input {
    membership::Input::Heartbeat { node: NodeId(node), beat: Beat { number, ..Beat::default() } }
}

fn key() -> NameKey {
    NameKey::shared("default", "x")
}

fn actor(node: u64) -> ActorId {
    ActorId { process: ProcessId::new(NodeId(node), 1), slot: 0, generation: 0 }
}

fn claim(ask: u64, node: u64, incarnation: u32) -> directory::Input {
    let incarnation = Incarnation(incarnation);
    let (process, interface) = (actor(node).process, Default::default());
    let claim = Claim { key: key(), actor: actor(node), incarnation, job: None, detached: None, process, interface };
    directory::Input::Claim { ask, node: NodeId(node), claim }
}

fn look_up(ask: u64) -> directory::Input {
    directory::Input::LookUp { ask, key: key() }
}

#[test]
fn nothing_is_said_before_it_is_synced() {
    let mut world = World::new();
    assert_eq!(world.run(0, register(1, 1, None)), []);
    assert_eq!(world.run(0, register(2, 2, None)), [], "waits for the next batch");
    assert!(matches!(world.sync(5)[..], [Output::Admit { ask: 1, node: NodeId(1), term: 1, .. }]));
    assert!(matches!(world.sync(9)[..], [Output::Admit { ask: 2, node: NodeId(2), .. }]));
    assert_eq!(world.run(10, claim(3, 1, 1)), []);
    assert_eq!(world.run(10, claim(4, 1, 1)), [], "nor to who asks again");
    assert_eq!(world.run(10, look_up(5)), [], "nor to who looks");
    assert!(matches!(world.run(10, beat(1, 7))[..], [Output::Beat { node: NodeId(1), .. }]), "a beat does not wait");
    let said = world.sync(12);
    assert_eq!(said.len(), 3);
    assert!(said.iter().all(|output| matches!(output, Output::Directory(_))), "{said:?}");
    assert!(matches!(world.run(13, look_up(6))[..], [Output::Directory(_)]), "what is durable is said at once");
}

#[test]
fn many_changes_are_one_sync() {
    let mut world = World::new();
    world.done(0, register(1, 1, None));
    let job = |number| JobSpec { driver: ProcessId::new(NodeId(1), number), ..JobSpec::default() };
    for number in 1..=500 {
        assert_eq!(world.run(1, directory::Input::JobStart { ask: 0, spec: job(number) }), []);
    }
    assert_eq!(world.sync(2).len(), 1);
    assert_eq!(world.sync(3).len(), 499);
    assert_eq!(world.disk.len(), 502, "jobs, the node and the counters");
}

#[test]
fn a_full_disk_stops_what_is_new_and_nothing_else() {
    let mut world = World::new();
    world.done(0, register(1, 1, None));
    world.done(0, register(2, 2, None));
    world.done(0, claim(3, 2, 1));
    assert_eq!(world.run(1, claim(4, 1, 1)).len(), 1, "the name is taken");
    let spec = JobSpec { driver: actor(1).process, ..JobSpec::default() };
    assert_eq!(world.run(1, directory::Input::JobStart { ask: 5, spec: spec.clone() }), []);
    assert_eq!(world.fail(2), []);
    assert_eq!(world.head.read_only(), Some("the disk is full"));
    let spec = JobSpec { driver: actor(2).process, ..spec };
    let said = world.run(3, directory::Input::JobStart { ask: 6, spec: spec.clone() });
    assert_eq!(said, [Output::ReadOnly { ask: 6, cause: "the disk is full".into() }]);
    assert!(matches!(world.run(3, register(7, 3, None))[..], [Output::ReadOnly { ask: 7, .. }]));
    let token = directory::Input::TokenUse { ask: 8, id: TokenId([0; 8]), hash: [0; 32], by: [0; 32] };
    assert!(matches!(world.run(3, token)[..], [Output::ReadOnly { ask: 8, .. }]), "it could be used twice");
    assert!(matches!(world.run(4, look_up(9))[..], [Output::Directory(_)]));
    assert!(matches!(world.run(4, beat(1, 1))[..], [Output::Beat { .. }]));
    assert!(matches!(world.run(4, register(10, 1, Some(NodeId(1))))[..], [Output::Admit { ask: 10, .. }, ..]));
    let said = world.run(5, membership::Input::Drained { node: NodeId(2) });
    assert!(said.iter().any(|output| matches!(output, Output::Died { .. })), "HEAD-2: {said:?}");
    // There is room again.
    assert!(matches!(world.sync(6)[..], [Output::Directory(directory::Output::JobStarted { ask: 5, result: Ok(_) })]));
    assert_eq!(world.head.read_only(), None);
    world.sync(7);
    assert!(matches!(world.disk.get(&RecordKey::Node(NodeId(2))), Some(Record::Node(node)) if node.death.is_some()));
    world.run(8, directory::Input::JobStart { ask: 11, spec });
    assert_eq!(world.sync(8).len(), 1);
}

#[test]
fn a_grant_that_has_ended_before_it_could_be_said_is_not_said() {
    let mut world = World::new();
    world.done(0, register(1, 1, None));
    world.done(0, register(2, 2, None));
    world.run(1, directory::Input::JobStart { ask: 3, spec: JobSpec::default() });
    assert_eq!(world.run(1, claim(4, 1, 1)), [], "waits for the next batch");
    assert_eq!(world.run(1, look_up(5)), []);
    world.run(2, directory::Input::Release { node: NodeId(1), key: key(), actor: actor(1) });
    let mut said = world.sync(3);
    said.extend(world.sync(4));
    let [.., Output::Directory(claimed), Output::Directory(found)] = &said[..] else { panic!("{said:?}") };
    assert!(matches!(claimed, directory::Output::Claimed { ask: 4, result: Err(directory::NameRefusal::Ended), .. }));
    assert!(matches!(found, directory::Output::Found { ask: 5, grant: None, .. }));
}

#[test]
fn a_node_that_was_fenced_and_has_stopped_frees_its_names_at_once() {
    let mut world = World::new();
    world.done(0, register(1, 1, None));
    world.done(0, register(2, 2, None));
    world.done(1, claim(3, 1, 1));
    for ms in (200..5_000).step_by(200) {
        world.done(ms, beat(2, ms));
    }
    assert!(!world.head.membership().lives(NodeId(1)), "it was silent");
    let mut moved = |ms, ask| {
        let Input::Directory(directory::Input::Claim { mut claim, .. }) = Input::from(claim(0, 1, 2)) else {
            unreachable!("it is a claim")
        };
        claim.actor = actor(1);
        let said = world.done(ms, directory::Input::Claim { ask, node: NodeId(2), claim });
        said.iter().filter(|output| matches!(output, Output::Directory(directory::Output::Claimed { .. }))).count()
    };
    assert_eq!(moved(5_000, 4), 0, "its home, node 1, has died, but may act");
    assert!(matches!(world.done(5_100, register(5, 1, Some(NodeId(1))))[..], [Output::Refuse { ask: 5, .. }]));
    world.done(5_200, register(6, 1, None));
    assert_eq!(world.head.directory().names().count(), 0);
}

/// G12 from outside: whatever the moment at which the head dies, what it has said is known to the next one.
#[test]
fn nothing_that_was_said_is_lost() {
    for seed in 0..200u64 {
        nothing_is_lost(seed, None).unwrap();
    }
}

/// The check above can fail: without the wait for the disk it does.
#[cfg(feature = "mutants")]
#[test]
fn what_is_said_too_early_is_noticed() {
    for mutant in [Mutant::AnswerBeforeSync, Mutant::AdmitBeforeKept] {
        assert!((0..2_000).any(|seed| nothing_is_lost(seed, Some(mutant)).is_err()), "{mutant:?}");
    }
}

fn nothing_is_lost(seed: u64, mutant: Option<Mutant>) -> Result<(), String> {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut world = World::restore(1, 0, BTreeMap::new(), mutant);
    let mut jobs: BTreeMap<ProcessId, JobId> = BTreeMap::new();
    let mut tokens: BTreeMap<u64, u64> = BTreeMap::new();
    let mut greatest = NodeId(0);
    let mut asks = BTreeMap::new();
    for step in 1..400u64 {
        let ms = step * 20;
        let said = match draw(10) {
            0 => world.run(ms, register(step, draw(200) as u8, None)),
            1..=3 => {
                let driver = ProcessId::new(NodeId(1), draw(40) as u32);
                asks.insert(step, driver);
                let spec = JobSpec { driver, ..JobSpec::default() };
                world.run(ms, directory::Input::JobStart { ask: step, spec })
            }
            4 => {
                let (id, hash) = (TokenId([draw(3) as u8; 8]), [0; 32]);
                let (role, ttl) = (Role::Node, None);
                world.run(ms, directory::Input::TokenCreate { ask: step, id, hash, role, ttl })
            }
            5 => {
                let (id, by) = (draw(3), draw(5));
                asks.insert(step, ProcessId::new(NodeId(1 + id), by as u32));
                let (id, hash, by) = (TokenId([id as u8; 8]), [0; 32], [by as u8; 32]);
                world.run(ms, directory::Input::TokenUse { ask: step, id, hash, by })
            }
            6 if draw(6) == 0 => {
                // The disk has what was synced, or by chance what was being written too.
                if draw(2) == 0
                    && let Some((_, changes)) = world.writing.take()
                {
                    for Change { key, record } in changes {
                        match record {
                            Some(record) => world.disk.insert(key, record),
                            None => world.disk.remove(&key),
                        };
                    }
                }
                world = World::restore(world.epoch + 1, ms, world.disk, mutant);
                for (driver, job) in &jobs {
                    let known = world.head.directory().job(*job).map(|record| record.spec.driver);
                    if known != Some(*driver) {
                        return Err(format!("seed {seed}: {job} was {driver}'s, now it is {known:?}'s"));
                    }
                }
                Vec::new()
            }
            _ => world.sync(ms),
        };
        for output in said {
            match output {
                Output::Admit { node, .. } => {
                    // An id that was given is not given again, unless to the same.
                    let is_new = node > greatest;
                    greatest = greatest.max(node);
                    if !is_new && !world.disk.contains_key(&RecordKey::Node(node)) {
                        return Err(format!("seed {seed}: {node} was given and is not on the disk"));
                    }
                }
                Output::Directory(directory::Output::JobStarted { ask, result: Ok(job) }) => {
                    if let Some(driver) = asks.get(&ask) {
                        jobs.insert(*driver, job);
                    }
                }
                Output::Directory(directory::Output::Token { ask, result: Ok(_), .. }) => {
                    if let Some(used) = asks.get(&ask) {
                        let (token, by) = (used.node().0, u64::from(used.number()));
                        if tokens.insert(token, by).is_some_and(|before| before != by) {
                            return Err(format!("seed {seed}: token {token} was good twice"));
                        }
                    }
                }
                Output::Directory(directory::Output::JobEnded { job, .. }) => jobs.retain(|_, other| *other != job),
                _ => {}
            }
        }
    }
    Ok(())
}
