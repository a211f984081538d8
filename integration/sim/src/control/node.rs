//! A node's host: its lease, the names that it holds, and what it says to the head.

use std::collections::BTreeMap;
use std::time::Duration;

use mobula_logic::directory::Claim;
use mobula_logic::lease::{self, Lease};
use mobula_logic::membership::{Refusal, Seen, View};
use mobula_logic::record::TokenId;
use mobula_logic::{Mutant, Violation};
use mobula_types::{
    ActorId, Beat, Fencing, Held, Incarnation, MemberId, NameKey, NodeId, ProcessId, Registration, StateMachine, Time,
};

use super::{Course, Event, FromHead, Index, Letter, NAMES, STUBBORN_FROM, Said, TICK, TOKENS, ToHead, World, key};

/// A registration that is not answered is sent again.
const REGISTER_AGAIN: Duration = Duration::from_millis(500);

pub(super) struct Node {
    pub(super) index: Index,
    /// How fast its clock runs, in thousandths.
    rate: u64,
    mutant: Option<Mutant>,
    /// Random at each start; 0 while it does not run.
    pub(super) start: u64,
    is_up: bool,
    pub(super) id: Option<NodeId>,
    /// The id under which it is known to the head, which it may not have heard yet.
    pub(super) named: Option<NodeId>,
    is_connected: bool,
    paused_until: Option<Time>,
    cut_until: Time,
    is_cut: (bool, bool),
    /// Until when something was wrong with it.
    pub(super) trouble: Time,
    /// When the head heard of it last.
    pub(super) heard: Time,
    /// When somebody forged a refusal of its port last.
    pub(super) forged: Time,
    pub(super) lease: Lease,
    view: View,
    pub(super) beat: u64,
    ticks: u64,
    pub(super) holds: BTreeMap<NameKey, Held>,
    /// Actors that were told to stop and do not, and until when.
    stubborn: BTreeMap<NameKey, (Fencing, Time)>,
    /// Registrations that may be answered: when each was sent, by its own clock, and under which id.
    registers: BTreeMap<u64, (Time, Option<NodeId>)>,
    registered_at: Time,
    pub(super) claims: BTreeMap<u64, (Time, Claim)>,
}

impl Node {
    pub(super) fn new(index: Index, rate: u64, mutant: Option<Mutant>) -> Self {
        Self {
            index,
            rate,
            mutant,
            start: 0,
            is_up: false,
            id: None,
            named: None,
            is_connected: false,
            paused_until: None,
            cut_until: Time::ZERO,
            is_cut: (false, false),
            trouble: Time::ZERO,
            heard: Time::ZERO,
            forged: Time::ZERO,
            lease: Lease::default(),
            view: View::default(),
            beat: 0,
            ticks: 0,
            holds: BTreeMap::new(),
            stubborn: BTreeMap::new(),
            registers: BTreeMap::new(),
            registered_at: Time::ZERO,
            claims: BTreeMap::new(),
        }
    }

    pub(super) fn begin(&mut self, start: u64, now: Time) {
        let lease = self.mutant.into_iter().fold(Lease::default(), Lease::with_mutant);
        let (index, rate, mutant, is_cut, cut_until) =
            (self.index, self.rate, self.mutant, self.is_cut, self.cut_until);
        *self = Self {
            start,
            is_up: true,
            lease,
            is_cut,
            cut_until,
            trouble: cut_until.max(now),
            heard: now,
            ..Self::new(index, rate, mutant)
        };
    }

    pub(super) fn is_up(&self) -> bool {
        self.is_up
    }

    pub(super) fn runs_at(&self, now: Time) -> bool {
        self.is_up && self.paused_until.is_none_or(|until| until <= now)
    }

    pub(super) fn last_id(&self) -> Option<NodeId> {
        self.named
    }

    pub(super) fn pause(&mut self, now: Time, until: Time) {
        self.paused_until = Some(until);
        self.trouble = self.trouble.max(until).max(now);
    }

    pub(super) fn cut(&mut self, now: Time, until: Time, up: bool, down: bool) {
        self.is_cut = (up, down);
        self.cut_until = until;
        self.trouble = self.trouble.max(until).max(now);
    }

    pub(super) fn heal(&mut self, now: Time) {
        self.paused_until = self.paused_until.map(|_| now);
        self.cut_until = now;
        self.trouble = now;
    }

    pub(super) fn lose_head(&mut self) {
        self.is_connected = false;
    }

    pub(super) fn is_cut_up(&self, now: Time) -> bool {
        self.is_cut.0 && now < self.cut_until
    }

    fn is_cut_down(&self, now: Time) -> bool {
        self.is_cut.1 && now < self.cut_until
    }

    /// Its own clock.
    fn local(&self, now: Time) -> Time {
        Time::from_nanos(now.as_nanos() / 1_000 * self.rate)
    }

    pub(super) fn acts_under(&self, now: Time) -> impl Iterator<Item = &NameKey> {
        let may_act = self.lease.may_act(self.local(now));
        self.holds.keys().filter(move |_| may_act)
    }

    /// Whether it registers though it belongs already: that is answered behind its beats.
    pub(super) fn is_late_welcome(&self, start: u64, ask: u64) -> bool {
        start == self.start && self.is_up && self.is_connected && self.registers.contains_key(&ask)
    }

    /// The head has done nothing: a claim is dropped, a registration sent again.
    pub(super) fn refused(&mut self, start: u64, ask: u64) {
        if start == self.start {
            self.claims.remove(&ask);
            self.registers.remove(&ask);
        }
    }
}

impl World {
    pub(super) fn crash(&mut self, index: Index) {
        let now = self.agenda.now();
        let node = &mut self.nodes[index];
        node.is_up = false;
        node.holds.clear();
        node.paused_until = None;
        node.trouble = now;
        self.up[index].clear();
        self.down[index].clear();
    }

    pub(super) fn restart(&mut self, index: Index) {
        if self.nodes[index].is_up() {
            return;
        }
        self.next_start += 1;
        let (now, start) = (self.agenda.now(), self.next_start);
        self.nodes[index].begin(start, now);
    }

    pub(super) fn tick(&mut self, index: Index) -> Result<(), Violation> {
        // Every 100 ms of its own clock.
        let gap = Duration::from_nanos(TICK.as_nanos() as u64 * 1_000 / self.nodes[index].rate);
        self.agenda.after(gap, Event::Tick(index));
        let now = self.agenda.now();
        if !self.nodes[index].runs_at(now) {
            return Ok(());
        }
        let node = &mut self.nodes[index];
        let local = node.local(now);
        if node.paused_until.take().is_some() {
            self.coverage.saw("node goes on after a stop");
        }
        node.lease.handle(local, lease::Input::Tick);
        node.ticks += 1;
        let ticks = node.ticks;
        self.obey_lease(index);
        match self.nodes[index].id.filter(|_| self.nodes[index].is_connected) {
            Some(id) if ticks.is_multiple_of(2) => {
                let node = &mut self.nodes[index];
                node.beat += 1;
                node.lease.handle(local, lease::Input::Sent { number: node.beat });
                let (number, view) = (node.beat, node.view.version());
                self.tell_head(index, ToHead::Beat(id, Beat { number, view, ..Beat::default() }));
                self.act(index, id);
            }
            None if now.since(self.nodes[index].registered_at) >= REGISTER_AGAIN => self.register(index),
            _ => {}
        }
        Ok(())
    }

    fn register(&mut self, index: Index) {
        let now = self.agenda.now();
        self.next_ask += 1;
        let ask = self.next_ask;
        let node = &mut self.nodes[index];
        node.registered_at = now;
        node.registers.insert(ask, (node.local(now), node.id));
        let registration = Registration {
            member: MemberId([index as u8; 16]),
            start: node.start,
            node: node.id,
            addr: format!("host-{index}"),
            held: node.holds.values().cloned().collect(),
            processes: node.id.into_iter().map(|id| ProcessId::new(id, 1)).collect(),
            ..Registration::default()
        };
        self.tell_head(index, ToHead::Register(ask, registration));
    }

    /// What its programs do.
    fn act(&mut self, index: Index, id: NodeId) {
        let name = self.rng.below(NAMES);
        let key = key(name);
        let holds = self.nodes[index].holds.get(&key).cloned();
        match (self.rng.below(100), holds) {
            (0..3, Some(held)) => {
                self.coverage.saw("an actor falls");
                self.nodes[index].holds.remove(&key);
                self.tell_head(index, ToHead::Stopped(id, key, held.fencing));
            }
            (3, Some(held)) => {
                self.coverage.saw("an actor ends");
                self.nodes[index].holds.remove(&key);
                self.tell_head(index, ToHead::Stopped(id, key.clone(), held.fencing));
                self.tell_head(index, ToHead::Release(id, key, held.actor));
            }
            (12, None) if self.actors.get(name as usize).is_some_and(|(actor, _)| actor.process.node() == id) => {
                // What acts elsewhere has ended for its home.
                self.coverage.saw("an actor is ended by its home");
                let (actor, life) = &mut self.actors[name as usize];
                let ended = *actor;
                (actor.generation, *life) = (ended.generation + 1, 1);
                // A grant that is on its way is for nobody.
                self.nodes[index].claims.retain(|_, (_, claim)| claim.key != key);
                self.tell_head(index, ToHead::Release(id, key, ended));
            }
            (13, _) if !self.is_quiet && self.rng.chance(20) => self.register(index),
            (4..10, None) => {
                self.want(index, id, name);
                self.end_before_named(index, id, &key);
            }
            (10, _) if self.tokens_made > 0 => {
                self.next_ask += 1;
                let token = TokenId([self.rng.below(TOKENS.min(self.tokens_made)) as u8; 8]);
                self.asks.insert(self.next_ask, (index, self.nodes[index].start));
                self.tell_head(index, ToHead::TokenUse(self.next_ask, token, [index as u8; 32]));
            }
            (11, _) if !self.is_quiet && self.rng.chance(if self.course == Course::Leaving { 30 } else { 3 }) => {
                self.coverage.saw("node leaves");
                self.tell_head(index, ToHead::Drained(id));
                self.nodes[index].holds.clear();
                self.nodes[index].is_up = false;
                self.agenda.after(Duration::from_secs(2), Event::Restart(index));
            }
            _ => {}
        }
    }

    /// A name is claimed, unless it is held here or claimed already.
    pub(super) fn want(&mut self, index: Index, id: NodeId, name: u64) {
        let (node, key) = (&self.nodes[index], key(name));
        if !node.holds.contains_key(&key) && !node.claims.values().any(|(_, claim)| claim.key == key) {
            self.claim(index, id, name);
        }
    }

    /// An actor ends while its claim waits for a slow disk.
    fn end_before_named(&mut self, index: Index, id: NodeId, key: &NameKey) {
        if self.course != Course::SlowDisk || !self.rng.chance(25) {
            return;
        }
        let claims = &mut self.nodes[index].claims;
        let claim =
            claims.iter().find(|(_, (_, claim))| claim.key == *key).map(|(ask, (_, claim))| (*ask, claim.actor));
        if let Some((ask, actor)) = claim {
            // A grant that is on its way is for nobody.
            claims.remove(&ask);
            self.tell_head(index, ToHead::Release(id, key.clone(), actor));
        }
    }

    /// An actor is started here, or started again here after it was somewhere else.
    fn claim(&mut self, index: Index, id: NodeId, name: u64) {
        let name = name as usize;
        while self.actors.len() <= name {
            let slot = self.actors.len() as u32;
            self.actors.push((ActorId { process: ProcessId::new(id, 1), slot, generation: 0 }, 1));
        }
        // Its home runs on some host, or another actor wants the name.
        let has_home =
            |actor: ActorId| self.nodes.iter().any(|node| node.is_up && node.id == Some(actor.process.node()));
        if !has_home(self.actors[name].0) || self.rng.chance(5) {
            let (before, _) = self.actors[name];
            let actor = ActorId { process: ProcessId::new(id, 1), generation: before.generation + 1, ..before };
            self.actors[name] = (actor, 1);
        }
        let (actor, life) = &mut self.actors[name];
        *life += self.rng.below(2) as u32;
        let (actor, incarnation) = (*actor, Incarnation(*life));
        let (process, interface) = (actor.process, Default::default());
        let claim = Claim { key: key(name as u64), actor, incarnation, job: None, detached: None, process, interface };
        self.next_ask += 1;
        let ask = self.next_ask;
        let now = self.agenda.now();
        self.nodes[index].claims.insert(ask, (now, claim.clone()));
        self.tell_head(index, ToHead::Claim(ask, id, claim));
    }

    pub(super) fn tell_head(&mut self, index: Index, said: ToHead) {
        let slow = if self.rng.chance(self.fury / 20) { 400 } else { 20 };
        let at = (self.agenda.now() + self.rng.span(slow)).max(self.last_up[index]);
        self.last_up[index] = at;
        self.up[index].push_back(Letter { start: self.nodes[index].start, said });
        self.agenda.at(at, Event::Up(index));
    }

    pub(super) fn arrive_down(&mut self, index: Index) -> Result<(), Violation> {
        let now = self.agenda.now();
        if self.down[index].is_empty() {
            return Ok(());
        }
        let node = &self.nodes[index];
        if node.is_cut_down(now) || node.is_up() && !node.runs_at(now) {
            self.agenda.after(Duration::from_millis(50), Event::Down(index));
            return Ok(());
        }
        let Some(Letter { start, said }) = self.down[index].pop_front() else { return Ok(()) };
        if start != self.nodes[index].start || !self.nodes[index].is_up() {
            return Ok(());
        }
        self.hear_head(index, said)
    }

    pub(super) fn hear_head(&mut self, index: Index, letter: FromHead) -> Result<(), Violation> {
        let now = self.agenda.now();
        if !matches!(letter.said, Said::Beat(_)) {
            self.steps.note(now, || format!("the head to host {index}: {letter:?}"));
        }
        let node = &mut self.nodes[index];
        let local = node.local(now);
        let FromHead { head, said } = letter;
        // LEASE-5: whatever an earlier head says, it is not heard.
        if node.lease.hear(head).is_err() {
            self.coverage.saw("an earlier head is not heard");
            return Ok(());
        }
        match said {
            Said::Admitted { ask, node: id, term, view } => {
                let Some((sent, asked_as)) = node.registers.remove(&ask) else { return Ok(()) };
                node.registers.clear();
                let is_new = asked_as.is_none();
                node.id = Some(id);
                // The connection may have broken behind this word.
                node.is_connected = self.chief.speaks_as(head);
                node.lease.handle(local, lease::Input::Registered { head, term, sent, is_new });
                self.coverage.saw(if is_new { "node is admitted" } else { "node comes again" });
                self.see(index, view)?;
                // What was not answered is asked again.
                for (ask, (_, claim)) in self.nodes[index].claims.clone() {
                    self.tell_head(index, ToHead::Claim(ask, id, claim));
                }
            }
            Said::Refused { ask, why } => {
                if node.registers.remove(&ask).is_some() && matches!(why, Refusal::Fenced { .. }) {
                    node.lease.handle(local, lease::Input::Fenced { head });
                }
            }
            Said::Beat(answer) => {
                let (number, term) = (answer.number, answer.term);
                node.lease.handle(local, lease::Input::Answered { head, number, term });
                self.see(index, answer.change)?;
            }
            Said::Fenced => node.lease.handle(local, lease::Input::Fenced { head }),
            Said::Died(death) => {
                node.view.bury(death.process.node());
                node.holds.retain(|_, held| held.actor.process.node() != death.process.node());
            }
            Said::Drain => {}
            Said::Revoke(key, fencing) if self.is_stubborn(index, &key, fencing) => {}
            Said::Revoke(key, fencing) => {
                let node = &mut self.nodes[index];
                if node.holds.get(&key).is_some_and(|held| held.fencing == fencing) {
                    node.holds.remove(&key);
                }
                if let Some(id) = node.id {
                    self.tell_head(index, ToHead::Stopped(id, key, fencing));
                }
            }
            Said::Claimed { ask, key, grant } => self.claimed(index, ask, &key, grant)?,
        }
        self.obey_lease(index);
        Ok(())
    }

    /// Whether an actor goes on though it was told to stop. Its name stays its own, for as long as the lease is renewed.
    fn is_stubborn(&mut self, index: Index, key: &NameKey, fencing: Fencing) -> bool {
        let now = self.agenda.now();
        let node = &mut self.nodes[index];
        let is_held = node.holds.get(key).is_some_and(|held| held.fencing == fencing);
        if self.course != Course::Stubborn || self.is_quiet || !is_held {
            return false;
        }
        let told = node.stubborn.get(key).filter(|(of, _)| *of == fencing);
        if let Some((_, until)) = told {
            return now < *until;
        }
        self.coverage.saw("an actor does not stop when told");
        let until = now + STUBBORN_FROM + self.rng.span(4_000);
        node.stubborn.insert(key.clone(), (fencing, until));
        true
    }

    fn claimed(
        &mut self,
        index: Index,
        ask: u64,
        key: &NameKey,
        grant: Option<(ActorId, NodeId, Fencing, u64)>,
    ) -> Result<(), Violation> {
        let now = self.agenda.now();
        let node = &mut self.nodes[index];
        let Some((_, claim)) = node.claims.remove(&ask) else { return Ok(()) };
        let Some((actor, at, fencing, term)) = grant else { return Ok(()) };
        let (Some(id), true) = (node.id, actor == claim.actor && Some(at) == node.id) else { return Ok(()) };
        if !node.lease.accepts(node.local(now), term) {
            self.coverage.saw("a grant comes too late");
            self.tell_head(index, ToHead::Stopped(id, key.clone(), fencing));
            return Ok(());
        }
        node.holds.insert(key.clone(), Held { key: key.clone(), actor, fencing });
        if self.witness.begins(key, fencing, index)? {
            self.coverage.saw("a name moves");
        }
        Ok(())
    }

    fn see(&mut self, index: Index, change: mobula_types::ViewChange) -> Result<(), Violation> {
        for seen in self.nodes[index].view.apply(change) {
            if let Seen::Died(death) = seen {
                let dead = death.process.node();
                self.nodes[index].holds.retain(|_, held| held.actor.process.node() != dead);
            }
        }
        Ok(())
    }

    fn obey_lease(&mut self, index: Index) {
        while let Some(output) = self.nodes[index].lease.poll_output() {
            match output {
                lease::Output::StopNamed => {
                    self.steps.note(self.agenda.now(), || format!("host {index} stops its names"));
                    self.coverage.saw("a node stops its names");
                    let node = &mut self.nodes[index];
                    let holds = std::mem::take(&mut node.holds);
                    if let Some(id) = node.id {
                        for (key, held) in holds {
                            self.tell_head(index, ToHead::Stopped(id, key, held.fencing));
                        }
                    }
                }
                lease::Output::Fence { why } => {
                    self.coverage.saw(match why {
                        lease::Why::NoHead => "a node fences itself",
                        lease::Why::DeclaredDead => "a node is fenced",
                    });
                    let node = &mut self.nodes[index];
                    node.id = None;
                    node.is_connected = false;
                    node.holds.clear();
                    node.claims.clear();
                    node.registers.clear();
                    node.view = View::default();
                }
            }
        }
    }
}
