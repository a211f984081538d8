//! A node: its lease, its view, the names under which its actors act, and what its programs want.

use std::collections::BTreeMap;
use std::time::Duration;

use mobula_logic::directory::{self, Claim};
use mobula_logic::head::Output;
use mobula_logic::lease::{self, Lease};
use mobula_logic::membership::{Refusal, Seen, View};
use mobula_logic::record::{Detached, JobSpec, TokenId};
use mobula_logic::{Violation, membership};
use mobula_types::resources::Amount;
use mobula_types::{
    ActorId, Beat, Death, DeathCause, ExitReason, Fencing, HeadId, Held, Incarnation, Intensity, Interface, JobId,
    MemberId, NameKey, Namespace, NodeId, NodeLoad, ProcessId, Registration, RestartPolicy, Role, StateMachine, Time,
    ViewChange,
};

use super::{Event, HostIndex, UP, Up, World, earlier, real};

/// A node that runs.
#[derive(Debug)]
pub(super) struct Node {
    start: u64,
    pub(super) id: Option<NodeId>,
    pub(super) lease: Lease,
    wakes_at: Option<Time>,
    pub(super) view: View,
    beats: u64,
    /// The connection on which it has registered.
    connection: u64,
    /// The registration that is not answered yet, and when it was sent.
    registering: Option<(u64, Time)>,
    /// When the head was last heard.
    heard: Time,
    job: Option<JobId>,
    /// The number of the process that is attached to it.
    program: u32,
    /// When it ends, if it is to leave.
    leaves_at: Option<Time>,
    /// Under which names it acts.
    pub(super) held: BTreeMap<NameKey, (ActorId, Fencing)>,
    /// Claims that are not answered, under which numbers they were sent, and when last.
    pub(super) claims: BTreeMap<NameKey, (Vec<u64>, Claim, Time)>,
    /// The newest grant of each name under which it was told to stop, or could not begin: none so old is used again.
    stopped: BTreeMap<NameKey, Fencing>,
}

impl World {
    pub(super) fn start_node(&mut self, host: HostIndex) {
        if self.hosts[host].node.is_some() {
            return;
        }
        self.saw("node starts");
        let lease = match self.mutant {
            Some(mutant) => Lease::default().with_mutant(mutant),
            None => Lease::default(),
        };
        let node = Node {
            start: self.rng.number(),
            id: None,
            lease,
            wakes_at: None,
            view: View::default(),
            beats: 0,
            connection: 0,
            registering: None,
            heard: Time::ZERO,
            job: None,
            program: 1,
            leaves_at: None,
            held: BTreeMap::new(),
            claims: BTreeMap::new(),
            stopped: BTreeMap::new(),
        };
        self.hosts[host].node = Some(node);
        self.hosts[host].connection += 1;
        for event in [Event::NodeBeats { host }, Event::Acts { host }, Event::Wants { host }] {
            let delay = self.rng.span(100);
            self.agenda.after(delay, event);
        }
    }

    /// A word to the head; now and then the connection breaks with it.
    fn tell(&mut self, host: HostIndex, word: Up) {
        let now = self.agenda.now();
        self.steps.note(now, || format!("  host {host} says {word:?}"));
        if self.goes_wrong(1) {
            self.saw("words are lost with their connection");
            self.hosts[host].connection += 1;
            return;
        }
        let connection = self.hosts[host].connection;
        let at = self.arrives(host, UP);
        // The head's driver numbers each registration that comes; a session gives each of them once.
        if !matches!(word, Up::Register { .. }) && self.goes_wrong(2) {
            self.saw("word comes twice");
            self.agenda.at(at, Event::Up { host, connection, word: word.clone() });
        }
        self.agenda.at(at, Event::Up { host, connection, word });
    }

    fn ask(&mut self, host: HostIndex) -> u64 {
        self.next_ask += 1;
        self.asks.insert(self.next_ask, host);
        self.next_ask
    }

    pub(super) fn node_beats(&mut self, host: HostIndex) -> Result<(), Violation> {
        let now = self.host_local(host);
        let connection = self.hosts[host].connection;
        let Some(node) = &mut self.hosts[host].node else { return Ok(()) };
        self.agenda.after(Duration::from_millis(200), Event::NodeBeats { host });
        let is_stale = node.connection != connection || now.since(node.heard) > Duration::from_secs(1);
        let may_ask = node.registering.is_none_or(|(_, sent)| now.since(sent) > Duration::from_millis(500));
        if (node.id.is_none() || is_stale) && (may_ask || node.connection != connection) {
            node.connection = connection;
            self.register(host, now);
        }
        let Some(node) = &mut self.hosts[host].node else { return Ok(()) };
        let late: Vec<NameKey> = node
            .claims
            .iter()
            .filter(|(_, (_, _, sent))| now.since(*sent) > Duration::from_secs(2))
            .map(|(key, _)| key.clone())
            .collect();
        if let Some(id) = node.id {
            node.beats += 1;
            let mut beat = Beat { number: node.beats, view: node.view.version(), ..Beat::default() };
            if self.rng.chance(3) {
                let mut load = NodeLoad::default();
                load.free.cpus = Amount::whole(self.rng.below(4));
                beat.load = Some(load);
                self.coverage.saw("a node has another load");
            }
            let number = beat.number;
            self.tell_lease(host, lease::Input::Sent { number })?;
            self.tell(host, Up::Beat { node: id, beat });
        }
        for key in late {
            self.claim_again(host, &key, now);
        }
        Ok(())
    }

    fn register(&mut self, host: HostIndex, now: Time) {
        let ask = self.ask(host);
        if self.goes_wrong(5) {
            self.saw("node has another address");
            self.hosts[host].moves += 1;
        }
        let addr = format!("host-{host}:{}", self.hosts[host].moves);
        let Some(node) = &mut self.hosts[host].node else { return };
        node.registering = Some((ask, now));
        let held = node.held.iter();
        let registration = Registration {
            member: MemberId([host as u8; 16]),
            start: node.start,
            node: node.id,
            addr,
            held: held
                .map(|(key, (actor, fencing))| Held { key: key.clone(), actor: *actor, fencing: *fencing })
                .collect(),
            processes: node.id.map(|id| ProcessId::new(id, node.program)).into_iter().collect(),
            ..Registration::default()
        };
        self.saw("node registers");
        self.tell(host, Up::Register { ask, registration });
    }

    fn tell_lease(&mut self, host: HostIndex, input: lease::Input) -> Result<(), Violation> {
        let now = self.host_local(host);
        let rate = self.hosts[host].rate;
        let is_planted = self.mutant.is_some();
        let Some(node) = &mut self.hosts[host].node else { return Ok(()) };
        node.lease.handle(now, input);
        if is_planted {
            lease::check(&node.lease)?;
        }
        let outputs: Vec<lease::Output> = std::iter::from_fn(|| node.lease.poll_output()).collect();
        for output in outputs {
            match output {
                lease::Output::StopNamed => {
                    self.saw("names are stopped at the end of the lease");
                    self.stop_named(host);
                }
                lease::Output::Fence { why } => {
                    self.saw(match why {
                        lease::Why::NoHead => "node fences itself without a head",
                        lease::Why::DeclaredDead => "node is fenced by the head",
                    });
                    self.stop_named(host);
                    self.witness.node_ends(host);
                    let Some(node) = &mut self.hosts[host].node else { return Ok(()) };
                    (node.id, node.job, node.view) = (None, None, View::default());
                    node.claims.clear();
                    node.registering = None;
                }
            }
        }
        let Some(node) = &mut self.hosts[host].node else { return Ok(()) };
        let due = node.lease.next_timeout().map(|at| real(at, rate));
        if let Some(at) = earlier(&mut node.wakes_at, due) {
            self.agenda.at(at, Event::NodeTick { host });
        }
        Ok(())
    }

    pub(super) fn node_tick(&mut self, host: HostIndex) -> Result<(), Violation> {
        let now = self.agenda.now();
        let Some(node) = &mut self.hosts[host].node else { return Ok(()) };
        if node.wakes_at.take_if(|at| *at <= now).is_none() {
            return Ok(());
        }
        self.tell_lease(host, lease::Input::Tick)
    }

    fn stop_named(&mut self, host: HostIndex) {
        let Some(node) = &mut self.hosts[host].node else { return };
        for (key, (_, fencing)) in std::mem::take(&mut node.held) {
            self.say_stopped(host, key, fencing, None);
        }
    }

    /// The process in which all acts that acts here dies, and another one is attached in its place.
    fn process_dies(&mut self, host: HostIndex) {
        let Some(node) = &mut self.hosts[host].node else { return };
        let Some(id) = node.id else { return };
        let process = ProcessId::new(id, node.program);
        node.program += 1;
        node.job = None;
        node.claims.clear();
        let held = std::mem::take(&mut node.held);
        self.saw("process dies");
        let cause = DeathCause::Signal { signal: 9 };
        for (key, (actor, fencing)) in held {
            // One of those who acted there has taken it down.
            let is_culprit = actor.process == ProcessId::HEAD && self.rng.chance(80);
            let culprit = is_culprit.then(|| Box::new(Death::of(process, cause.clone())));
            if is_culprit {
                self.saw("detached actor takes its process down");
            }
            self.say_stopped(host, key, fencing, culprit);
        }
        self.tell(host, Up::Directory(directory::Input::ProcessDied { process, cause }));
    }

    /// A node leaves: nothing is left there, and it ends.
    fn leave(&mut self, host: HostIndex, id: NodeId) {
        self.stop_named(host);
        self.tell(host, Up::Drained { node: id });
        self.hosts[host].node = None;
        self.witness.node_ends(host);
        let delay = self.rng.span(2_000);
        self.agenda.after(delay, Event::NodeStarts { host });
    }

    /// Nobody acts here under this grant, now or later.
    fn say_stopped(&mut self, host: HostIndex, key: NameKey, fencing: Fencing, culprit: Option<Box<Death>>) {
        let Some(node) = &mut self.hosts[host].node else { return };
        let newest = node.stopped.entry(key.clone()).or_default();
        *newest = fencing.max(*newest);
        let Some(node) = node.id else { return };
        self.tell(host, Up::Directory(directory::Input::Stopped { node, key, fencing, culprit }));
    }

    pub(super) fn node_hears(
        &mut self,
        host: HostIndex,
        connection: u64,
        head: HeadId,
        word: Output,
    ) -> Result<(), Violation> {
        let is_of_now = self.head.as_ref().is_some_and(|life| life.machine.id() == head);
        let registered = self.hosts[host].node.as_ref().map(|node| node.connection);
        // What still comes of an earlier connection is not heard once the node has registered on a later one: it has
        // told the head what it holds, and a grant from before must not add to that.
        let is_straggler = connection == STRAGGLER && !is_of_now;
        if registered != Some(connection) && !is_straggler {
            return Ok(());
        }
        let now = self.host_local(host);
        let Some(node) = &mut self.hosts[host].node else { return Ok(()) };
        if node.lease.hear(head).is_err() {
            self.saw("word of an earlier head is not heard");
            return Ok(());
        }
        if is_of_now {
            node.heard = now;
        }
        self.witness.heard_head(host, head)?;
        let Some(node) = &mut self.hosts[host].node else { return Ok(()) };
        match word {
            Output::Admit { ask, node: id, term, view, .. } => {
                let Some((_, sent)) = node.registering.take_if(|(asked, _)| *asked == ask) else { return Ok(()) };
                let is_new = node.id != Some(id);
                node.id = Some(id);
                self.saw(if is_new { "node is admitted" } else { "node is admitted again" });
                self.witness.admitted(host, id, self.hosts[host].node.as_ref().map_or(0, |node| node.start))?;
                self.tell_lease(host, lease::Input::Registered { head, term, sent, is_new })?;
                self.see_view(host, view)
            }
            Output::Refuse { ask, why } => {
                if node.registering.take_if(|(asked, _)| *asked == ask).is_none() {
                    return Ok(());
                }
                match why {
                    Refusal::Fenced { node: id } if node.id == Some(id) => {
                        self.saw("registration is refused: fenced");
                        self.tell_lease(host, lease::Input::Fenced { head })?;
                        let Some(node) = &mut self.hosts[host].node else { return Ok(()) };
                        node.id = None;
                        Ok(())
                    }
                    // It comes again.
                    _ => Ok(()),
                }
            }
            Output::Beat { node: id, answer } if node.id == Some(id) => {
                let (number, term) = (answer.number, answer.term);
                self.tell_lease(host, lease::Input::Answered { head, number, term })?;
                self.see_view(host, answer.change)
            }
            Output::Fence { node: id } if node.id == Some(id) => {
                self.saw("node is told that it was declared dead");
                self.tell_lease(host, lease::Input::Fenced { head })
            }
            Output::Drain { node: id } if node.id == Some(id) => {
                self.saw("node is drained");
                self.leave(host, id);
                Ok(())
            }
            Output::Directory(word) => self.hear_directory(host, now, word),
            _ => Ok(()),
        }
    }

    fn see_view(&mut self, host: HostIndex, change: ViewChange) -> Result<(), Violation> {
        let Some(node) = &mut self.hosts[host].node else { return Ok(()) };
        for seen in node.view.apply(change) {
            self.coverage.saw(match seen {
                Seen::Came(_) => "a node comes",
                Seen::Changed(_) => "a node changes",
                Seen::Died(_) => "a node dies",
            });
        }
        Ok(())
    }

    fn hear_directory(&mut self, host: HostIndex, now: Time, word: directory::Output) -> Result<(), Violation> {
        let Some(node) = &mut self.hosts[host].node else { return Ok(()) };
        match word {
            directory::Output::Claimed { ask, key, result } => {
                let Some(id) = node.id else { return Ok(()) };
                let is_asked = node.claims.get(&key).is_some_and(|(asked, ..)| asked.contains(&ask));
                let Ok(grant) = result else {
                    if is_asked {
                        node.claims.remove(&key);
                    }
                    return Ok(());
                };
                self.witness.acknowledged(&key, grant.fencing)?;
                if is_asked && node.claims.get(&key).is_some_and(|(_, claim, _)| claim.detached.is_some()) {
                    // The head has it started somewhere.
                    node.claims.remove(&key);
                    self.saw("detached actor has its name");
                    return Ok(());
                }
                // Whichever of its askings is answered.
                let claim = if is_asked { node.claims.remove(&key).map(|(_, claim, _)| claim) } else { None };
                let was_stopped = node.stopped.get(&key).is_some_and(|stopped| grant.fencing <= *stopped);
                if grant.node != id || was_stopped || claim.is_none_or(|claim| claim.actor != grant.owner) {
                    let is_held = node.held.get(&key).is_some_and(|(_, fencing)| *fencing == grant.fencing);
                    if grant.node == id && !is_held {
                        self.say_stopped(host, key, grant.fencing, None);
                    }
                    self.saw("name is another's");
                    return Ok(());
                }
                if node.lease.accepts(now, grant.term) {
                    self.coverage.saw("name is granted");
                    node.held.insert(key.clone(), (grant.owner, grant.fencing));
                    if grant.owner.process == ProcessId::HEAD {
                        let started = directory::Input::Started { node: id, key, fencing: grant.fencing };
                        self.tell(host, Up::Directory(started));
                    }
                    return Ok(());
                }
                self.saw("grant comes too late");
                self.say_stopped(host, key, grant.fencing, None);
                Ok(())
            }
            directory::Output::Revoke { node: id, key, fencing } if node.id == Some(id) => {
                self.coverage.saw("name is taken away");
                node.held.remove(&key);
                self.say_stopped(host, key, fencing, None);
                Ok(())
            }
            directory::Output::Restart { key, actor, incarnation, .. } => {
                self.coverage.saw("detached actor is started again");
                let Some(id) = node.id else { return Ok(()) };
                let (process, interface) = (ProcessId::new(id, node.program), Interface::default());
                let claim = Claim { key, actor, incarnation, job: None, detached: None, process, interface };
                self.claim(host, claim, now);
                Ok(())
            }
            directory::Output::JobStarted { result, .. } => {
                if let (Ok(job), Some(_)) = (result, node.id) {
                    self.coverage.saw("job starts");
                    node.job = Some(job);
                }
                Ok(())
            }
            directory::Output::JobEnded { job, .. } => {
                self.coverage.saw("job ends");
                if node.job == Some(job) {
                    node.job = None;
                }
                Ok(())
            }
            directory::Output::Value { job, key, result, .. } => {
                self.coverage.saw("value is answered");
                self.witness.value(job, &key, result.ok().flatten())
            }
            directory::Output::Token { ask, id, result } => {
                if result.is_ok() {
                    self.coverage.saw("token is good");
                }
                self.witness.token(ask, id, result.is_ok())
            }
            directory::Output::Located { at, .. } => {
                self.coverage.saw(if at.is_ok() { "detached actor is located" } else { "detached actor is gone" });
                Ok(())
            }
            directory::Output::Found { .. } => {
                self.coverage.saw("name is looked up");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn claim(&mut self, host: HostIndex, claim: Claim, now: Time) {
        let ask = self.ask(host);
        let Some(node) = &mut self.hosts[host].node else { return };
        let Some(id) = node.id else { return };
        if node.held.contains_key(&claim.key) || node.claims.contains_key(&claim.key) {
            return;
        }
        node.claims.insert(claim.key.clone(), (vec![ask], claim.clone(), now));
        self.witness.claimed(&claim);
        self.tell(host, Up::Directory(directory::Input::Claim { ask, node: id, claim }));
    }

    /// The answer may be lost: the same claim again, under a number of its own.
    fn claim_again(&mut self, host: HostIndex, key: &NameKey, now: Time) {
        let ask = self.ask(host);
        let Some(node) = &mut self.hosts[host].node else { return };
        let Some((id, entry)) = node.id.zip(node.claims.get_mut(key)) else { return };
        entry.0.push(ask);
        entry.2 = now;
        let claim = entry.1.clone();
        self.saw("claim is sent again");
        self.tell(host, Up::Directory(directory::Input::Claim { ask, node: id, claim }));
    }

    /// Every actor that may act does, and whoever is affected looks at the fencing.
    pub(super) fn node_acts(&mut self, host: HostIndex) -> Result<(), Violation> {
        let Some(node) = &self.hosts[host].node else { return Ok(()) };
        let now = self.host_local(host);
        if node.lease.may_act(now) {
            for (key, (_, fencing)) in node.held.clone() {
                self.saw("actor acts under its name");
                self.witness.acts(&key, fencing, host)?;
                for (other, life) in self.hosts.iter().enumerate() {
                    let stops = life.paused_until.is_some_and(|until| until > self.agenda.now());
                    let acts = life.node.as_ref().is_some_and(|node| {
                        node.held.contains_key(&key) && node.lease.may_act(super::local(self.agenda.now(), life.rate))
                    });
                    if other != host && acts && !stops {
                        let theirs = life.node.as_ref().and_then(|node| node.held.get(&key)).map(|(_, theirs)| *theirs);
                        let seen =
                            format!("{key} acts on host {host} under {fencing}, and on {other} under {theirs:?}");
                        return Err(Violation { invariant: "DIR-1", seen });
                    }
                }
            }
        }
        let delay = Duration::from_millis(50) + self.rng.span(150);
        self.agenda.after(delay, Event::Acts { host });
        Ok(())
    }

    /// What follows the end of a detached actor: some are not started again, and some only once.
    fn policy(&mut self) -> RestartPolicy {
        match self.rng.below(3) {
            0 => RestartPolicy::temporary(),
            1 => RestartPolicy {
                intensity: Intensity { restarts_max: 1, period: Duration::from_secs(60) },
                ..RestartPolicy::default()
            },
            _ => RestartPolicy::default(),
        }
    }

    pub(super) fn node_wants(&mut self, host: HostIndex) {
        if self.is_quiet || self.hosts[host].node.is_none() {
            return;
        }
        let delay = Duration::from_millis(50) + self.rng.span(400);
        self.agenda.after(delay, Event::Wants { host });
        let now = self.host_local(host);
        let choice = self.rng.below(24);
        let name = self.rng.below(NAMES) as u32;
        let ask = self.ask(host);
        let Some(node) = &mut self.hosts[host].node else { return };
        let Some(id) = node.id else { return };
        if node.leaves_at.is_some_and(|at| at <= now) {
            return self.leave(host, id);
        }
        let program = ProcessId::new(id, node.program);
        let key = NameKey::shared("shop", format!("name-{name}"));
        match (choice, node.job) {
            (0..=5, Some(job)) => {
                let is_detached = name == 0;
                let (process, interface) = (program, Interface::default());
                let home = if is_detached { ProcessId::HEAD } else { process };
                // As ids of detached actors are: every spawn has its own.
                let generation = if is_detached { self.rng.number() as u32 } else { 0 };
                let actor = ActorId { process: home, slot: name, generation };
                let frame = vec![0; if self.is_narrow { self.rng.below(10) as usize } else { 0 }];
                let policy = self.policy();
                let detached = is_detached.then_some(Detached { job: AFTERLIFE, frame, policy });
                let job = (!is_detached).then_some(job);
                if is_detached {
                    self.detached = Some(actor);
                }
                let key = match job {
                    Some(job) if self.rng.chance(5) => NameKey { space: Namespace::Job(job), ..key },
                    _ if self.is_narrow && self.rng.chance(3) => long(&key),
                    _ => key,
                };
                let claim = Claim { key, actor, incarnation: Incarnation(1), job, detached, process, interface };
                self.claim(host, claim, now);
            }
            (6..=8, _) if name == 0 => {
                // The one that was spawned last, or one that nobody has spawned.
                let nobody = ActorId { process: ProcessId::HEAD, slot: name, generation: 0 };
                let actor = self.detached.filter(|_| choice != 6).unwrap_or(nobody);
                self.tell(host, Up::Directory(directory::Input::Locate { ask, actor }));
            }
            (9, _) if name == 0 => {
                if let Some((actor, _)) = node.held.remove(&key) {
                    self.saw("detached actor has ended");
                    let reason = ExitReason::Normal;
                    self.tell(host, Up::Directory(directory::Input::Ended { node: id, key, actor, reason }));
                }
            }
            // The home of a detached actor is the head.
            (6..=8, Some(_)) if moves(name) => {
                // The home of an actor starts its next life on this node.
                if let Some(mut claim) = self.witness.last_claim(&key) {
                    self.saw("actor moves");
                    claim.incarnation = claim.incarnation.next();
                    self.claim(host, claim, now);
                }
            }
            // Only where an actor has ended for good: it is not started elsewhere meanwhile.
            (9, _) if !moves(name) => {
                if let Some((actor, _)) = node.held.remove(&key) {
                    self.saw("name is released");
                    self.tell(host, Up::Directory(directory::Input::Release { node: id, key, actor }));
                }
            }
            (10 | 11, Some(job)) => {
                let mut value = (self.rng.below(1 << 32)).to_be_bytes().to_vec();
                if self.is_narrow && self.rng.chance(10) {
                    value.push(0);
                }
                let key = format!("key-{name}");
                self.witness.puts(job, &key, &value);
                self.tell(host, Up::Directory(directory::Input::Put { ask, job, key, value: Some(value) }));
            }
            (12, Some(job)) => {
                let key = format!("key-{name}");
                let input = match self.rng.chance(50) {
                    true => directory::Input::Get { ask, job, key },
                    false => directory::Input::Put { ask, job, key, value: None },
                };
                self.tell(host, Up::Directory(input));
            }
            (13, _) => self.tell(host, Up::Directory(directory::Input::LookUp { ask, key })),
            (14, _) if self.is_narrow && self.rng.chance(30) => {
                let Some(known) = self.tokens.iter().next_back().map(|known| TokenId([*known; 8])) else { return };
                // Nobody shows the secret of this hash: whoever was good for the one before stays the only one.
                let (hash, role, ttl) = ([8; 32], Role::Node, None);
                let input = match self.rng.chance(50) {
                    true => directory::Input::TokenCreate { ask, id: known, hash, role, ttl },
                    false => directory::Input::TokenRevoke { ask, id: known },
                };
                self.tell(host, Up::Directory(input));
            }
            (14, _) => {
                let ttl = (self.is_narrow && self.rng.chance(50)).then_some(TOKEN_TTL);
                let fresh = self.rng.below(256) as u8;
                let id = TokenId([fresh; 8]);
                if self.tokens.insert(fresh) {
                    let create = directory::Input::TokenCreate { ask, id, hash: SECRET, role: Role::Node, ttl };
                    self.tell(host, Up::Directory(create));
                }
            }
            (15 | 16, _) => {
                let Some(known) = self.tokens.iter().next_back().copied() else { return };
                let by = [self.rng.below(3) as u8; 32];
                let hash = if self.rng.chance(if self.is_narrow { 50 } else { 5 }) { [9; 32] } else { SECRET };
                self.witness.token_asked(ask, by);
                let input = directory::Input::TokenUse { ask, id: TokenId([known; 8]), hash, by };
                self.tell(host, Up::Directory(input));
            }
            (17, Some(job)) if self.rng.chance(10) => {
                // Its own, or the one whose workers host what is detached.
                let job = if self.rng.chance(50) { job } else { AFTERLIFE };
                let cause = DeathCause::JobStopped;
                self.tell(host, Up::Directory(directory::Input::JobEnd { job, cause }));
            }
            (18, _) if self.rng.chance(5) => {
                let input = membership::Input::Drain { ask, node: id };
                self.drains.push((host, input));
            }
            (19, _) if self.rng.chance(10) => self.process_dies(host),
            (20, _) if node.leaves_at.is_none() && self.rng.chance(5) => {
                node.leaves_at = Some(now + Duration::from_millis(500));
                self.saw("node says that it will leave");
                self.tell(host, Up::Leaving { node: id });
            }
            (21, _) if self.rng.chance(10) => {
                self.saw("a named actor is ended by a person");
                self.tell(host, Up::Directory(directory::Input::End { key }));
            }
            (_, None) => {
                let setup = vec![0; if self.is_narrow { self.rng.below(14) as usize } else { 0 }];
                let spec = JobSpec { name: "shop".into(), driver: program, setup, ..JobSpec::default() };
                self.tell(host, Up::Directory(directory::Input::JobStart { ask, spec }));
            }
            _ => {}
        }
    }
}

/// The connection of words that an earlier head's host still sends when another head speaks already.
pub(super) const STRAGGLER: u64 = u64::MAX;

/// The job whose workers would host the detached actors.
const AFTERLIFE: JobId = JobId(u64::MAX);

/// The hash of the secret with which a token is made, unless one takes its place.
pub(super) const SECRET: [u8; 32] = [7; 32];

/// How long a token is good that is made to expire.
const TOKEN_TTL: Duration = Duration::from_secs(2);

/// A name of more bytes than a head takes that keeps little.
fn long(key: &NameKey) -> NameKey {
    NameKey::shared("shop", format!("{}-and-more", key.name))
}

/// Names that are fought for.
const NAMES: u64 = 4;

/// Actors under these names are started again on other nodes; those under the others end where they began.
fn moves(name: u32) -> bool {
    name < 2
}
