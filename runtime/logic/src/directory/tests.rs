use mobula_types::{Epoch, RestartPolicy};

use super::*;
use crate::lease::{GRANT_AFTER, LEASE};

fn at(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

fn process(node: u64, number: u32) -> ProcessId {
    ProcessId::new(NodeId(node), number)
}

/// An actor whose home is process `number` of `node`.
fn actor(node: u64, number: u32) -> ActorId {
    ActorId { process: process(node, number), slot: 0, generation: 0 }
}

fn key(name: &str) -> NameKey {
    NameKey::shared("default", name)
}

fn claim(actor: ActorId, incarnation: u32) -> Claim {
    let (process, interface) = (actor.process, Interface::default());
    Claim { key: key("x"), actor, incarnation: Incarnation(incarnation), job: None, detached: None, process, interface }
}

/// A detached actor, which no process of a node is the home of.
fn detached_actor() -> ActorId {
    ActorId { process: ProcessId::HEAD, slot: 7, generation: 7 }
}

/// Its job's workers outlive the job's driver.
const AFTERLIFE: JobId = JobId(77);

fn spawn_detached() -> Claim {
    let detached = Detached { job: AFTERLIFE, frame: vec![7; 10], policy: RestartPolicy::default() };
    Claim { detached: Some(detached), ..claim(detached_actor(), 0) }
}

fn restart(life: u32, avoid: u64) -> Output {
    Output::Restart {
        key: key("x"),
        actor: detached_actor(),
        incarnation: Incarnation(life),
        job: AFTERLIFE,
        frame: vec![7; 10],
        avoid: NodeId(avoid),
        isolated: false,
    }
}

/// A directory and what it has kept.
struct World {
    directory: Directory,
    records: std::collections::BTreeMap<RecordKey, Record>,
    epoch: u64,
}

impl World {
    fn new() -> Self {
        let directory = Directory::new(HeadId { epoch: Epoch(1), nonce: 0 }, Calendar::default(), at(0));
        let mut world = Self { directory, records: std::collections::BTreeMap::new(), epoch: 1 };
        for node in 1..=3 {
            world.up(0, node, vec![]);
        }
        world
    }

    fn restarted(&self, ms: u64, lives: &[u64]) -> Self {
        let epoch = self.epoch + 1;
        let head = HeadId { epoch: Epoch(epoch), nonce: 0 };
        let records = self.records.clone();
        let lives = |node: NodeId| lives.contains(&node.0);
        let directory =
            Directory::restore(head, Calendar::default(), at(ms), records.clone(), lives, None, self.directory.bounds);
        Self { directory, records, epoch }
    }

    fn run(&mut self, ms: u64, input: Input) -> Vec<Output> {
        self.directory.handle(at(ms), input);
        self.said()
    }

    fn said(&mut self) -> Vec<Output> {
        check(&self.directory).unwrap();
        let mut said = Vec::new();
        while let Some(output) = self.directory.poll_output() {
            match output {
                Output::Keep(Change { key, record: Some(record) }) => drop(self.records.insert(key, record)),
                Output::Keep(Change { key, record: None }) => drop(self.records.remove(&key)),
                other => said.push(other),
            }
        }
        said
    }

    fn up(&mut self, ms: u64, node: u64, held: Vec<Held>) -> Vec<Output> {
        let processes = (1..5).map(|number| process(node, number)).collect();
        self.run(ms, Input::NodeUp { node: NodeId(node), held, processes })
    }

    fn renew(&mut self, ms: u64, nodes: &[u64]) -> Vec<Output> {
        nodes.iter().flat_map(|node| self.run(ms, Input::Renew { node: NodeId(*node) })).collect()
    }

    fn claim(&mut self, ms: u64, node: u64, claim: Claim) -> Vec<Output> {
        self.run(ms, Input::Claim { ask: ms, node: NodeId(node), claim })
    }

    /// A claim that is granted at once, to its claimer.
    fn granted(&mut self, ms: u64, node: u64, wanted: Claim) -> Held {
        let (key, actor) = (wanted.key.clone(), wanted.actor);
        match &self.claim(ms, node, wanted)[..] {
            [Output::Claimed { result: Ok(grant), .. }] if grant.owner == actor && grant.node == NodeId(node) => {
                assert_eq!(self.directory.term(NodeId(node)), Some(grant.term));
                Held { key, actor, fencing: grant.fencing }
            }
            other => panic!("{other:?}"),
        }
    }

    fn owner(&mut self, ms: u64) -> Option<ActorId> {
        match &self.run(ms, Input::LookUp { ask: 0, key: key("x") })[..] {
            [Output::Found { grant, .. }] => grant.map(|grant| grant.owner),
            other => panic!("{other:?}"),
        }
    }
}

/// Who was granted what, to which claims.
fn grants(said: &[Output]) -> Vec<(u64, NodeId, ActorId)> {
    let grant = |output: &Output| match output {
        Output::Claimed { ask, result: Ok(grant), .. } => Some((*ask, grant.node, grant.owner)),
        _ => None,
    };
    said.iter().filter_map(grant).collect()
}

fn refusals(said: &[Output]) -> Vec<NameRefusal> {
    let refusal = |output: &Output| match output {
        Output::Claimed { result: Err(why), .. } => Some(*why),
        _ => None,
    };
    said.iter().filter_map(refusal).collect()
}

fn stopped(node: u64, held: &Held) -> Input {
    Input::Stopped { node: NodeId(node), key: held.key.clone(), fencing: held.fencing, culprit: None }
}

#[test]
fn a_name_has_one_owner_and_a_claim_says_who() {
    let mut world = World::new();
    let held = world.granted(1, 1, claim(actor(1, 1), 1));
    assert_eq!(world.granted(2, 1, claim(actor(1, 1), 1)), held, "said twice, answered twice");
    assert_eq!(grants(&world.claim(3, 2, claim(actor(2, 1), 1))), [(3, NodeId(1), actor(1, 1))], "get if exists");
    world.run(4, Input::Release { node: NodeId(1), key: key("x"), actor: actor(2, 1) });
    assert_eq!(world.owner(4), Some(actor(1, 1)), "only its owner gives it back");
    world.run(5, Input::Release { node: NodeId(1), key: key("x"), actor: actor(1, 1) });
    assert_eq!((world.owner(5), world.records.len()), (None, 0));
    let next = world.granted(6, 2, claim(actor(2, 1), 1));
    assert!(next.fencing > held.fencing, "DIR-4: also after it was free");
}

#[test]
fn a_lease_that_runs_out_frees_its_names_a_second_later() {
    let mut world = World::new();
    world.granted(1, 1, claim(actor(2, 1), 1));
    // Node 1 is not heard from 1 ms on; its lease was renewed at 0.
    (1..10).for_each(|s| drop(world.renew(s * 1_000, &[2, 3])));
    assert_eq!(world.claim(9_000, 2, claim(actor(2, 1), 2)).len(), 1, "node 1 is told to stop");
    world.renew(9_900, &[2]);
    assert_eq!(grants(&world.run(10_999, Input::Tick)), [], "DIR-2");
    assert_eq!(grants(&world.run(11_000, Input::Tick)), [(9_000, NodeId(2), actor(2, 1))]);
    assert_eq!(world.directory.term(NodeId(1)), None);
    world.renew(11_000, &[1]);
    assert_eq!(world.owner(11_000), Some(actor(2, 1)), "DIR-3: a late beat does not bring names back");
}

#[test]
fn an_actor_that_moves_waits_until_it_has_stopped_where_it_was() {
    let mut world = World::new();
    let held = world.granted(1, 1, claim(actor(3, 1), 1));
    let revoke = |fencing| Output::Revoke { node: NodeId(1), key: key("x"), fencing };
    assert_eq!(world.claim(2, 2, claim(actor(3, 1), 2)), [revoke(held.fencing)]);
    assert_eq!(world.run(1_002, Input::Tick), [revoke(held.fencing)], "told again");
    let other = Held { fencing: Fencing(0), ..held.clone() };
    assert_eq!(world.run(1_003, stopped(1, &other)), [], "another grant's");
    assert_eq!(grants(&world.run(1_004, stopped(1, &held))), [(2, NodeId(2), actor(3, 1))]);
    assert_eq!(
        refusals(&world.claim(1_005, 1, claim(actor(3, 1), 1))),
        [NameRefusal::Superseded { newest: Incarnation(2) }]
    );
    assert_eq!(world.run(1_006, stopped(1, &held)), [], "said twice");
    assert_eq!(world.owner(1_006), Some(actor(3, 1)));
}

#[test]
fn a_name_that_is_given_back_from_elsewhere_is_free_when_it_is_held_no_more() {
    let mut world = World::new();
    let held = world.granted(1, 2, claim(actor(1, 1), 1));
    let release = |node| Input::Release { node: NodeId(node), key: key("x"), actor: actor(1, 1) };
    assert_eq!(world.run(2, release(3)), [], "neither its home nor where it lives");
    assert_eq!(world.owner(2), Some(actor(1, 1)));
    assert!(matches!(world.run(3, release(1))[..], [Output::Revoke { node: NodeId(2), .. }]), "its home");
    assert_eq!(world.claim(4, 3, claim(actor(3, 1), 1)), [], "DIR-1");
    assert_eq!(grants(&world.run(5, stopped(2, &held))), [(4, NodeId(3), actor(3, 1))]);
}

#[test]
fn who_does_not_stop_is_not_waited_for_for_ever() {
    let mut world = World::new();
    world.granted(1, 1, claim(actor(3, 1), 1));
    world.claim(2, 2, claim(actor(3, 1), 2));
    let mut said = Vec::new();
    for ms in (200..16_000).step_by(200) {
        said.extend(world.renew(ms, &[1, 2, 3]));
    }
    assert_eq!(refusals(&said), [NameRefusal::StillHeld { node: NodeId(1) }]);
    assert_eq!(world.owner(16_000), Some(actor(3, 1)), "DIR-1: it was never granted again");
}

#[test]
fn the_names_of_a_home_end_with_it_when_nobody_acts_any_more() {
    for by_node in [false, true] {
        let mut world = World::new();
        let held = world.granted(1, 2, claim(actor(1, 1), 1));
        let cause = DeathCause::Aborted;
        let said = match by_node {
            false => world.run(2, Input::ProcessDied { process: process(1, 1), cause }),
            true => world.run(2, Input::NodeDied { node: NodeId(1), cause }),
        };
        assert!(matches!(&said[..], [Output::Revoke { node: NodeId(2), .. }]));
        assert_eq!(world.owner(3), None, "nobody finds it");
        assert_eq!(world.claim(4, 3, claim(actor(3, 1), 1)), [], "and nobody gets it yet");
        assert_eq!(grants(&world.run(5, stopped(2, &held))), [(4, NodeId(3), actor(3, 1))]);
    }
}

#[test]
fn the_names_and_values_of_a_job_end_with_it() {
    let mut world = World::new();
    let spec = JobSpec { name: "train".into(), driver: process(1, 1), ..JobSpec::default() };
    let started = world.run(1, Input::JobStart { ask: 1, spec: spec.clone() });
    assert_eq!(started, [Output::JobStarted { ask: 1, result: Ok(JobId(1)) }]);
    assert_eq!(world.run(1, Input::JobStart { ask: 2, spec }), [Output::JobStarted { ask: 2, result: Ok(JobId(1)) }]);
    let job = JobId(1);
    let put = |key: &str, value| Input::Put { ask: 0, job, key: key.into(), value };
    world.run(2, put("a", Some(vec![1])));
    world.run(2, put("b", Some(vec![2])));
    world.run(2, put("a", None));
    let held = world.granted(3, 2, Claim { job: Some(job), ..claim(actor(1, 1), 1) });
    world.claim(3, 3, Claim { job: Some(job), ..claim(actor(1, 1), 2) });
    let said = world.run(4, Input::JobEnd { job, cause: DeathCause::JobStopped });
    assert_eq!(refusals(&said), [NameRefusal::JobEnded { job }]);
    assert!(said.contains(&Output::JobEnded { job, cause: DeathCause::JobStopped }));
    let values = world.records.keys().filter(|key| matches!(key, RecordKey::Value(..))).count();
    assert_eq!(values, 0, "DIR-6");
    assert!(matches!(
        &world.run(5, put("c", Some(vec![])))[..],
        [Output::Value { result: Err(ValueRefusal::JobEnded { .. }), .. }]
    ));
    let late = world.claim(6, 3, Claim { job: Some(job), ..claim(actor(1, 2), 1) });
    assert_eq!(refusals(&late), [NameRefusal::JobEnded { job }]);
    world.run(7, stopped(2, &held));
    assert_eq!(world.run(8, Input::JobEnd { job, cause: DeathCause::JobStopped }), [], "once");
    assert_eq!(world.records.keys().collect::<Vec<_>>(), [&RecordKey::Job(job)]);
}

#[test]
fn a_job_ends_with_its_driver() {
    let mut world = World::new();
    for driver in 1..=2 {
        let spec = JobSpec { driver: process(driver, 1), ..JobSpec::default() };
        world.run(1, Input::JobStart { ask: driver, spec });
    }
    let cause = DeathCause::Signal { signal: 9 };
    let said = world.run(2, Input::ProcessDied { process: process(1, 1), cause: cause.clone() });
    assert_eq!(said, [Output::JobEnded { job: JobId(1), cause }]);
    let said = world.run(3, Input::NodeDied { node: NodeId(2), cause: DeathCause::NodeKilled });
    assert_eq!(said, [Output::JobEnded { job: JobId(2), cause: DeathCause::NodeKilled }]);
}

#[test]
fn a_restarted_head_takes_every_lease_for_renewed() {
    let mut world = World::new();
    let held = world.granted(1, 1, claim(actor(2, 1), 1));
    let mut world = world.restarted(50_000, &[1, 2, 3]);
    world.up(50_100, 2, vec![]);
    assert_eq!(grants(&world.claim(50_200, 2, claim(actor(2, 1), 2))), [], "DIR-5");
    (51..61).for_each(|s| drop(world.renew(s * 1_000, &[2])));
    assert_eq!(grants(&world.run(60_999, Input::Tick)), []);
    assert_eq!(grants(&world.run(61_000, Input::Tick)), [(50_200, NodeId(2), actor(2, 1))]);
    assert!(matches!(&world.up(61_500, 1, vec![held])[..], [Output::Revoke { node: NodeId(1), .. }]));
}

#[test]
fn or_hears_from_the_node_itself() {
    let mut world = World::new();
    let held = world.granted(1, 1, claim(actor(2, 1), 1));
    let mut still = world.restarted(50_000, &[1, 2, 3]);
    still.up(50_050, 2, vec![]);
    assert_eq!(still.up(50_100, 1, vec![held.clone()]), []);
    assert_eq!(still.granted(50_200, 1, claim(actor(2, 1), 1)), held, "it holds what it held");
    let mut not = world.restarted(50_000, &[1, 2, 3]);
    not.up(50_050, 2, vec![]);
    // A grant of the earlier head may be on its way to it still.
    assert_eq!(not.up(50_100, 1, vec![]), [Output::Revoke { node: NodeId(1), key: key("x"), fencing: held.fencing }]);
    assert_eq!(not.run(50_150, stopped(1, &held)), []);
    not.granted(50_200, 2, claim(actor(2, 1), 2));
}

#[test]
fn what_ended_while_there_was_no_head_is_found_out() {
    let mut world = World::new();
    for driver in 1..=3 {
        let spec = JobSpec { driver: process(driver, 9), ..JobSpec::default() };
        world.run(1, Input::JobStart { ask: driver, spec });
    }
    world.granted(1, 1, claim(actor(3, 9), 1));
    let mut world = world.restarted(50_000, &[1, 2]);
    let ended = |said: Vec<Output>| said.iter().filter(|output| matches!(output, Output::JobEnded { .. })).count();
    assert_eq!((ended(world.said()), world.owner(50_000)), (1, None), "node 3 is dead, so its driver and home are");
    assert_eq!(ended(world.up(50_100, 1, vec![])), 1, "node 1 lives, its driver does not");
    let processes = vec![process(2, 9)];
    assert_eq!(world.run(50_200, Input::NodeUp { node: NodeId(2), held: vec![], processes }), []);
    assert!(world.directory.job(JobId(2)).is_some_and(|record| record.ended.is_none()));
    assert_eq!(ended(world.up(50_300, 2, vec![])), 1);
}

#[test]
fn a_grant_on_its_way_is_not_given_to_another() {
    let mut world = World::new();
    let held = world.granted(1, 1, claim(actor(2, 1), 1));
    // Node 1 registers again without having heard of its grant.
    let said = world.up(2, 1, vec![]);
    assert_eq!(said, [Output::Revoke { node: NodeId(1), key: key("x"), fencing: held.fencing }], "DIR-1");
    assert_eq!(grants(&world.claim(3, 2, claim(actor(2, 1), 2))), []);
    assert_eq!(grants(&world.run(4, stopped(1, &held))).len(), 1);
}

/// A claim for a detached actor: its name is its own at once, and the head has it started.
fn spawned(world: &mut World, ms: u64, node: u64) {
    match &world.claim(ms, node, spawn_detached())[..] {
        [start, Output::Claimed { result: Ok(grant), .. }] => {
            assert_eq!((start, grant.owner), (&restart(1, node), detached_actor()));
        }
        other => panic!("{other:?}"),
    }
}

fn place(node: u64, life: u32) -> Claim {
    Claim { process: process(node, 4), ..claim(detached_actor(), life) }
}

fn located(said: &[Output]) -> Vec<Result<(ProcessId, Incarnation), ExitReason>> {
    let at = |output: &Output| match output {
        Output::Located { at, .. } => Some(at.clone()),
        _ => None,
    };
    said.iter().filter_map(at).collect()
}

#[test]
fn a_detached_actor_is_started_again_by_the_head() {
    let mut world = World::new();
    spawned(&mut world, 1, 3);
    let said = world.run(2, Input::NodeDied { node: NodeId(3), cause: DeathCause::NodeKilled });
    assert_eq!((said, world.owner(2)), (vec![], Some(detached_actor())), "it outlives who spawned it");
    let held = world.granted(3, 1, place(1, 1));
    assert_eq!(world.run(4, stopped(1, &held)), [restart(2, 1)]);
    assert_eq!(world.run(4_900, Input::Tick), []);
    assert_eq!(world.run(5_004, Input::Tick), [restart(2, 1)], "said again until it is claimed");
    world.granted(5_100, 2, place(2, 2));
    (6..16).for_each(|s| drop(world.renew(s * 1_000, &[1])));
    // Node 2 was last heard at 0, so its lease ends at 10 s and its names are free at 11 s.
    assert_eq!(world.directory.names().count(), 1);
    let mut world = world.restarted(20_000, &[1]);
    world.up(20_100, 1, vec![]);
    (21..31).for_each(|s| drop(world.renew(s * 1_000, &[1])));
    assert_eq!(world.run(31_000, Input::Tick), [restart(3, 2)], "after a restart of the head too");
    let held = world.granted(31_100, 1, place(1, 3));
    world.run(31_200, Input::Release { node: NodeId(1), key: held.key, actor: held.actor });
    assert!(world.records.keys().all(|key| !matches!(key, RecordKey::Name(_) | RecordKey::Detached(_))));
}

#[test]
fn a_detached_actor_that_was_not_started_yet_is_started_by_the_next_head() {
    let mut world = World::new();
    spawned(&mut world, 1, 1);
    let mut world = world.restarted(100, &[1, 2, 3]);
    let said = world.up(200, 1, vec![]);
    let Some(Output::Revoke { fencing, .. }) = said.first() else { panic!("{said:?}") };
    let nothing_there = Held { key: key("x"), actor: detached_actor(), fencing: *fencing };
    assert_eq!(world.run(300, stopped(1, &nothing_there)), [restart(1, 1)]);
}

#[test]
fn a_life_of_a_detached_actor_has_one_place() {
    let mut world = World::new();
    spawned(&mut world, 1, 1);
    assert_eq!(world.claim(2, 2, spawn_detached()).len(), 1, "said twice, answered twice, started once");
    let held = world.granted(3, 1, place(1, 1));
    assert_eq!(world.granted(4, 1, place(1, 1)), held, "said twice");
    let newest = Incarnation(1);
    assert_eq!(refusals(&world.claim(5, 2, place(2, 1))), [NameRefusal::Superseded { newest }], "DIR-9");
    world.run(6, stopped(1, &held));
    assert_eq!(refusals(&world.claim(7, 2, place(2, 1))), [NameRefusal::Superseded { newest }], "DIR-9");
    world.granted(8, 2, place(2, 2));
    world.run(9, Input::Ended { node: NodeId(2), key: key("x"), actor: detached_actor(), reason: ExitReason::Normal });
    assert_eq!(refusals(&world.claim(10, 1, place(1, 3))), [NameRefusal::Ended]);
    assert!(world.records.is_empty());
}

#[test]
fn who_asks_for_a_detached_actor_hears_when_it_takes_mail() {
    let mut world = World::new();
    let ask = |ask| Input::Locate { ask, actor: detached_actor() };
    assert_eq!(located(&world.run(1, ask(1))), [Err(ExitReason::Gone)]);
    spawned(&mut world, 2, 1);
    assert_eq!(world.run(3, ask(2)), []);
    let held = world.granted(4, 1, place(1, 1));
    assert_eq!(world.run(5, ask(3)), [], "it does not take mail yet");
    let started = |node, held: &Held| Input::Started { node: NodeId(node), key: key("x"), fencing: held.fencing };
    let there = Ok((process(1, 4), Incarnation(1)));
    assert_eq!(located(&world.run(6, started(1, &held))), [there.clone(), there.clone()]);
    assert_eq!(located(&world.run(7, ask(4))), [there]);
    world.run(8, stopped(1, &held));
    assert_eq!(world.run(9, ask(5)), [], "it comes back");
    let late = started(1, &held);
    assert_eq!(world.run(10, late), [], "a word of an earlier life");
    let held = world.granted(11, 2, place(2, 2));
    assert_eq!(located(&world.run(12, started(2, &held))), [Ok((process(2, 4), Incarnation(2)))]);
    world.run(13, stopped(2, &held));
    world.run(14, ask(6));
    let said = world.run(15, Input::End { key: key("x") });
    assert_eq!(located(&said), [Err(ExitReason::Shutdown)]);
    assert!(said.contains(&Output::JobEnded { job: AFTERLIFE, cause: DeathCause::JobStopped }));
    assert!(world.records.is_empty());
}

#[test]
fn the_job_of_detached_actors_runs_while_there_are_some() {
    let mut world = World::new();
    let put = |ms, job| Input::Put { ask: ms, job, key: "k".into(), value: Some(vec![1]) };
    let is_kept = |said: &[Output]| matches!(said, [Output::Value { result: Ok(_), .. }]);
    assert!(!is_kept(&world.run(1, put(1, AFTERLIFE))), "no such job runs");
    spawned(&mut world, 2, 1);
    assert!(is_kept(&world.run(3, put(3, AFTERLIFE))));
    let held = world.granted(4, 1, place(1, 1));
    // Another actor of the same workers, which is not detached.
    let child = Claim { key: key("child"), job: Some(AFTERLIFE), ..claim(actor(1, 4), 1) };
    let child = world.granted(5, 1, child);
    let said = world.run(6, Input::JobEnd { job: AFTERLIFE, cause: DeathCause::JobStopped });
    let revoked = Output::Revoke { node: NodeId(1), key: key("x"), fencing: held.fencing };
    assert_eq!(said, [revoked], "it stops first");
    let said = world.run(7, stopped(1, &held));
    let ended = Output::JobEnded { job: AFTERLIFE, cause: DeathCause::JobStopped };
    let revoked = Output::Revoke { node: NodeId(1), key: key("child"), fencing: child.fencing };
    assert_eq!(said, [revoked, ended]);
    world.run(8, stopped(1, &child));
    assert!(world.records.is_empty(), "{:?}", world.records);
}

#[test]
fn a_detached_actor_that_falls_too_often_ends() {
    let mut world = World::new();
    spawned(&mut world, 0, 1);
    let mut held = world.granted(0, 1, place(1, 1));
    let mut restarts = 0;
    let death = Box::new(Death::of(process(1, 4), DeathCause::Aborted));
    for life in 2..10 {
        let now = u64::from(life) * 1_000;
        world.renew(now, &[1]);
        let culprit = Some(death.clone());
        let stopped = Input::Stopped { node: NodeId(1), key: held.key.clone(), fencing: held.fencing, culprit };
        let mut said = world.run(now, stopped);
        said.extend(world.run(now + 100, Input::Locate { ask: 1, actor: detached_actor() }));
        said.extend(world.run(now + 900, Input::Tick));
        if world.directory.names().count() == 0 {
            let cause = Err(ExitReason::ProcessDied(death.clone()));
            assert_eq!(located(&said), [cause.clone(), cause.clone(), cause, Err(ExitReason::Gone)]);
            break;
        }
        assert!(matches!(&said[..], [Output::Restart { isolated: true, .. }]), "{said:?}");
        restarts += 1;
        held = world.granted(now + 950, 1, place(1, life));
    }
    assert_eq!((restarts, world.records.len()), (3, 0), "G5: 3 in 10 s");
}

#[test]
fn a_token_is_good_once_for_a_while_and_not_for_guessers() {
    let mut world = World::new();
    let id = TokenId([1; 8]);
    let create = |id, ttl| Input::TokenCreate { ask: 0, id, hash: [7; 32], role: Role::Node, ttl };
    let used = |world: &mut World, ms, id, hash: u8, by: u8| match world
        .run(ms, Input::TokenUse { ask: 0, id, hash: [hash; 32], by: [by; 32] })
        .pop()
    {
        Some(Output::Token { result, .. }) => result,
        other => panic!("{other:?}"),
    };
    assert_eq!(used(&mut world, 1, id, 7, 1), Err(TokenRefusal::Unknown));
    world.run(1, create(id, None));
    assert_eq!(used(&mut world, 2, id, 8, 1), Err(TokenRefusal::Wrong));
    assert_eq!(used(&mut world, 3, id, 7, 1), Ok(Role::Node));
    assert_eq!(used(&mut world, 4, id, 7, 1), Ok(Role::Node), "the answer was lost");
    assert_eq!(used(&mut world, 5, id, 7, 2), Err(TokenRefusal::Used), "DIR-7");
    let mut world = world.restarted(10_000, &[]);
    assert_eq!(used(&mut world, 10_001, id, 7, 2), Err(TokenRefusal::Used), "a restarted head knows");

    let guessed = TokenId([2; 8]);
    world.run(10_002, create(guessed, None));
    let answers: Vec<_> = (0..10_000).map(|_| used(&mut world, 10_003, guessed, 9, 3)).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == Err(TokenRefusal::Wrong)).count(), 5);
    assert_eq!(used(&mut world, 10_004, guessed, 7, 3), Err(TokenRefusal::Burnt));

    let short = TokenId([3; 8]);
    world.run(10_005, create(short, Some(Duration::from_secs(1))));
    assert_eq!(used(&mut world, 11_005, short, 7, 3), Err(TokenRefusal::Expired));
    let revoke = Input::TokenRevoke { ask: 0, id: short };
    assert!(matches!(world.run(11_006, revoke)[..], [Output::Token { result: Ok(Role::Node), .. }]));
    assert_eq!(used(&mut world, 11_007, short, 7, 3), Err(TokenRefusal::Unknown));
    let day = 24 * 3_600_000;
    world.run(day, Input::Tick);
    assert_eq!(world.records.len(), 0);
}

#[test]
fn everything_has_a_bound_and_says_so() {
    let mut world = World::new();
    let long = Claim { key: key(&"x".repeat(NAME_BYTES_MAX)), ..claim(actor(1, 1), 1) };
    assert!(matches!(refusals(&world.claim(1, 1, long))[..], [NameRefusal::TooLarge { .. }]));
    assert_eq!(refusals(&world.claim(1, 9, claim(actor(9, 1), 1))), [NameRefusal::NoLease { node: NodeId(9) }]);
    world.granted(1, 1, claim(actor(3, 1), 1));
    for _ in 0..CLAIMS_WAITING_MAX {
        world.directory.handle(at(2), Input::Claim { ask: 0, node: NodeId(2), claim: claim(actor(3, 1), 2) });
        while world.directory.poll_output().is_some() {}
    }
    assert!(matches!(refusals(&world.claim(2, 2, claim(actor(3, 1), 2)))[..], [NameRefusal::Busy { .. }]));

    let spec = JobSpec { driver: process(1, 1), setup: vec![0; SETUP_BYTES_MAX + 1], ..JobSpec::default() };
    assert!(matches!(
        world.run(3, Input::JobStart { ask: 0, spec })[..],
        [Output::JobStarted { result: Err(JobRefusal::TooLarge { .. }), .. }]
    ));
    for number in 0..JOBS_ENDED_MAX as u32 + 20 {
        let spec = JobSpec { driver: process(1, number), ..JobSpec::default() };
        world.run(3, Input::JobStart { ask: 0, spec });
        let job = world.directory.last_job();
        world.run(3, Input::JobEnd { job, cause: DeathCause::JobStopped });
    }
    assert_eq!(world.directory.jobs().count(), JOBS_ENDED_MAX);

    let spec = JobSpec { driver: process(1, 1), ..JobSpec::default() };
    world.run(4, Input::JobStart { ask: 0, spec });
    let job = world.directory.last_job();
    let mut put = |bytes: usize, key: String| match world
        .run(5, Input::Put { ask: 0, job, key, value: Some(vec![0; bytes]) })
        .pop()
    {
        Some(Output::Value { result, .. }) => result.map(drop),
        other => panic!("{other:?}"),
    };
    assert!(matches!(put(VALUE_BYTES_MAX + 1, "a".into()), Err(ValueRefusal::TooLarge { .. })));
    assert!(matches!(put(0, "k".repeat(KEY_BYTES_MAX + 1)), Err(ValueRefusal::TooLarge { .. })));
    let full = (0..200).find(|n| put(VALUE_BYTES_MAX, format!("{n}")) == Err(ValueRefusal::Full));
    assert_eq!(full, Some(127), "64 MiB of 512 KiB each, with what they take beside");
    assert_eq!(put(VALUE_BYTES_MAX, "0".into()), Ok(()), "in the place of what it replaces");
}

/// G7 from outside: random claims, moves, deaths and silences; at every moment at most one node may act under the name.
#[test]
fn at_most_one_node_acts_under_a_name() {
    for seed in 0..300u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut world = World::new();
        // Until when each node acts under which grant: its own count of the lease, a second short.
        let mut acts: [Option<(Held, u64)>; 4] = [const { None }; 4];
        let mut heard = [0u64; 4];
        let mut is_silent = [false; 4];
        let mut newest = Fencing(0);
        let mut life = 1;
        for ms in (0..60_000u64).step_by(100) {
            let mut said = world.run(ms, Input::Tick);
            for node in 1..=3u64 {
                let at = node as usize;
                if draw(100) < 2 {
                    is_silent[at] = !is_silent[at];
                }
                if !is_silent[at] && ms % 200 == 0 {
                    let before = world.directory.term(NodeId(node));
                    said.extend(world.renew(ms, &[node]));
                    heard[at] = ms;
                    if world.directory.term(NodeId(node)) != before {
                        acts[at] = None;
                    }
                }
                // The node stops by itself 9 s after the last beat that it knows was heard.
                if acts[at].is_some() && heard[at] + (LEASE - GRANT_AFTER).as_millis() as u64 <= ms {
                    acts[at] = None;
                }
                if !is_silent[at] && draw(100) < 3 {
                    life += draw(2) as u32;
                    said.extend(world.claim(ms, node, claim(actor(1, 1), life)));
                }
                if let (Some((held, _)), 0) = (acts[at].clone(), draw(200)) {
                    acts[at] = None;
                    said.extend(world.run(ms, stopped(node, &held)));
                }
            }
            if draw(300) == 0 {
                let up: Vec<u64> = (1..=3).collect();
                world = world.restarted(ms, &up);
                for node in up {
                    if !is_silent[node as usize] {
                        let held = acts[node as usize].iter().map(|(held, _)| held.clone()).collect();
                        said.extend(world.up(ms, node, held));
                        heard[node as usize] = ms;
                    }
                }
            }
            let mut said = VecDeque::from(said);
            while let Some(output) = said.pop_front() {
                match output {
                    Output::Claimed { result: Ok(grant), key, .. } if grant.term != 0 => {
                        let at = grant.node.0 as usize;
                        // A grant that a silent node does not hear is one it does not use.
                        let is_current = world.directory.term(grant.node) == Some(grant.term);
                        if !is_silent[at]
                            && is_current
                            && acts[at].as_ref().is_none_or(|(held, _)| held.fencing < grant.fencing)
                        {
                            assert!(grant.fencing >= newest, "seed {seed}: DIR-4");
                            newest = grant.fencing;
                            acts[at] = Some((Held { key, actor: grant.owner, fencing: grant.fencing }, ms));
                        }
                    }
                    Output::Revoke { node, key, fencing } if !is_silent[node.0 as usize] => {
                        acts[node.0 as usize].take_if(|(held, _)| held.fencing == fencing);
                        let held = Held { key, actor: actor(1, 1), fencing };
                        said.extend(world.run(ms, stopped(node.0, &held)));
                    }
                    _ => {}
                }
            }
            let acting: Vec<_> = acts.iter().flatten().collect();
            assert!(acting.len() <= 1, "seed {seed}: at {ms} ms act {acting:?}");
        }
    }
}
