//! The head's host: the machine, its disk, and what it says to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_logic::directory::NameRefusal;
use mobula_logic::head::{Head, Input, Output};
use mobula_logic::record::{Change, Record, RecordKey, TokenId};
use mobula_logic::{Calendar, Mutant, Violation, directory, head, membership};
use mobula_types::{DeathCause, Epoch, Fencing, HeadId, MemberId, NodeId, Registration, Role, StateMachine, Time};

use super::{Course, Event, FromHead, Index, Letter, NAMES, Said, TOKENS, ToHead, World, key};
use crate::failure::ensure;

/// A batch that could not be written is tried again after so long.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// How long a write takes at most: on a disk, and on a slow one.
const WRITE_MAX: Duration = Duration::from_millis(40);
const SLOW_WRITE_MAX: Duration = Duration::from_secs(6);

/// A node may be called silent so long after all was well with it: silence, and the time until the next look.
const CALLED_SILENT: Duration = Duration::from_secs(6);

pub(super) struct Chief {
    mutant: Option<Mutant>,
    machine: Option<Head>,
    disk: BTreeMap<RecordKey, Record>,
    /// The grants that have been on the disk, also those whose name has ended since.
    granted: BTreeSet<Fencing>,
    epoch: u64,
    writing: Option<(u64, Vec<Change>)>,
    pub(super) paused_until: Option<Time>,
    pub(super) full_until: Option<Time>,
}

impl Chief {
    pub(super) fn new(mutant: Option<Mutant>) -> Self {
        let disk = BTreeMap::new();
        let mut chief = Self {
            mutant,
            machine: None,
            disk,
            granted: BTreeSet::new(),
            epoch: 0,
            writing: None,
            paused_until: None,
            full_until: None,
        };
        chief.start(Time::ZERO);
        chief
    }

    pub(super) fn start(&mut self, now: Time) {
        self.epoch += 1;
        let id = HeadId { epoch: Epoch(self.epoch), nonce: self.epoch };
        self.machine = Some(Head::restore(id, Calendar::default(), now, self.disk.clone(), self.mutant));
    }

    pub(super) fn is_up(&self) -> bool {
        self.machine.is_some()
    }

    pub(super) fn speaks_as(&self, head: HeadId) -> bool {
        self.machine.as_ref().is_some_and(|machine| machine.id() == head)
    }

    pub(super) fn is_full(&self) -> bool {
        self.full_until.is_some() || self.read_only().is_some()
    }

    /// Whether the disk knows of these deaths.
    pub(super) fn has_kept(&self, dead: &BTreeSet<NodeId>) -> bool {
        dead.iter().all(|node| match self.disk.get(&RecordKey::Node(*node)) {
            Some(Record::Node(record)) => record.death.is_some(),
            _ => true,
        })
    }

    pub(super) fn runs_at(&self, now: Time) -> bool {
        self.is_up() && self.paused_until.is_none_or(|until| until <= now)
    }

    pub(super) fn read_only(&self) -> Option<&str> {
        self.machine.as_ref()?.read_only()
    }

    pub(super) fn check(&self) -> Result<(), Violation> {
        let Some(machine) = &self.machine else { return Ok(()) };
        head::check(machine)?;
        directory::check(machine.directory())
    }

    fn write(&mut self) {
        for Change { key, record } in self.writing.take().map(|(_, changes)| changes).unwrap_or_default() {
            if let Some(Record::Name(name)) = &record {
                self.granted.insert(name.fencing);
            }
            match record {
                Some(record) => self.disk.insert(key, record),
                None => self.disk.remove(&key),
            };
        }
    }
}

impl World {
    pub(super) fn crash_head(&mut self) {
        // What was being written got to the disk, or did not.
        match self.rng.chance(50) {
            true => self.chief.write(),
            false => self.chief.writing = None,
        }
        self.chief.machine = None;
        self.chief.paused_until = None;
        self.up.iter_mut().for_each(|letters| letters.clear());
        for node in &mut self.nodes {
            node.lose_head();
        }
    }

    pub(super) fn restart_head(&mut self) -> Result<(), Violation> {
        if self.chief.is_up() {
            return Ok(());
        }
        self.chief.start(self.agenda.now());
        self.perform()
    }

    pub(super) fn head_tick(&mut self) -> Result<(), Violation> {
        let now = self.agenda.now();
        if self.chief.full_until.is_some_and(|until| until <= now) {
            self.chief.full_until = None;
        }
        if !self.chief.runs_at(now) {
            return Ok(());
        }
        if self.chief.paused_until.take().is_some() {
            self.coverage.saw("head goes on after a stop");
        }
        // The transport has not heard of a node and probes it; now and then somebody forges a refusal.
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            let (Some(id), true) = (node.last_id(), now.since(node.heard) >= membership::PROBE_AFTER) else { continue };
            // One refusal can be forged; who can forge two in a row can do worse.
            let is_due = now.since(node.forged) > Duration::from_secs(20);
            let is_forged = node.is_up() && is_due && self.rng.chance(3) && !self.is_quiet;
            let refused = !node.is_up() || is_forged;
            if is_forged {
                self.nodes[index].forged = now;
                self.coverage.saw("a refusal is forged");
            }
            let silent = now.since(self.nodes[index].heard);
            self.chief_handles(membership::Input::Silent { node: id, silent, refused })?;
        }
        if self.tokens_made < TOKENS && self.rng.chance(5) {
            let id = TokenId([self.tokens_made as u8; 8]);
            self.tokens_made += 1;
            let (role, ttl, ask) = (Role::Node, None, 0);
            self.chief_handles(directory::Input::TokenCreate { ask, id, hash: [7; 32], role, ttl })?;
        }
        self.chief_handles(Input::Tick)
    }

    pub(super) fn synced(&mut self, epoch: u64, batch: u64) -> Result<(), Violation> {
        let now = self.agenda.now();
        let is_current = self.chief.writing.as_ref().is_some_and(|(writing, _)| *writing == batch);
        if epoch != self.chief.epoch || !is_current {
            return Ok(());
        }
        if !self.chief.runs_at(now) {
            self.agenda.after(TRY_AGAIN, Event::Synced(epoch, batch));
            return Ok(());
        }
        if self.chief.full_until.is_some() {
            self.coverage.saw("a write fails");
            self.agenda.after(TRY_AGAIN, Event::Synced(epoch, batch));
            let cause = "the disk is full".to_owned();
            return self.chief_handles(Input::Failed { batch, cause });
        }
        self.chief.write();
        self.chief_handles(Input::Synced { batch })
    }

    pub(super) fn arrive_up(&mut self, index: Index) -> Result<(), Violation> {
        let now = self.agenda.now();
        if self.up[index].is_empty() {
            return Ok(());
        }
        if self.nodes[index].is_cut_up(now) || self.chief.is_up() && !self.chief.runs_at(now) {
            self.agenda.after(Duration::from_millis(50), Event::Up(index));
            return Ok(());
        }
        let Some(Letter { start, said }) = self.up[index].pop_front() else { return Ok(()) };
        if !self.chief.is_up() {
            return Ok(());
        }
        if !matches!(said, ToHead::Beat(..)) {
            self.steps.note(now, || format!("host {index} to the head: {said:?}"));
        }
        if start == self.nodes[index].start {
            self.nodes[index].heard = now;
        }
        match said {
            ToHead::Register(ask, registration) => {
                self.asks.insert(ask, (index, start));
                self.chief_handles(membership::Input::Register { ask, registration })
            }
            ToHead::Beat(node, beat) => self.chief_handles(membership::Input::Heartbeat { node, beat }),
            ToHead::Drained(node) => self.chief_handles(membership::Input::Drained { node }),
            ToHead::Claim(ask, node, claim) => {
                self.asks.insert(ask, (index, start));
                self.chief_handles(directory::Input::Claim { ask, node, claim })
            }
            ToHead::Release(node, key, actor) => self.chief_handles(directory::Input::Release { node, key, actor }),
            ToHead::Stopped(node, key, fencing) => {
                self.chief_handles(directory::Input::Stopped { node, key, fencing, culprit: None })
            }
            ToHead::TokenUse(ask, id, by) => {
                self.chief_handles(directory::Input::TokenUse { ask, id, hash: [7; 32], by })
            }
        }
    }

    fn chief_handles(&mut self, input: impl Into<Input>) -> Result<(), Violation> {
        let now = self.agenda.now();
        if let Some(machine) = &mut self.chief.machine {
            machine.handle(now, input.into());
        }
        self.perform()
    }

    fn perform(&mut self) -> Result<(), Violation> {
        let now = self.agenda.now();
        while let Some(output) = self.chief.machine.as_mut().and_then(|machine| machine.poll_output()) {
            match output {
                Output::Commit { batch, changes } => {
                    self.chief.writing = Some((batch, changes));
                    let is_slow = self.course == Course::SlowDisk && !self.is_quiet && self.rng.chance(60);
                    if is_slow {
                        self.coverage.saw("a write takes seconds");
                    }
                    let max = if is_slow { SLOW_WRITE_MAX } else { WRITE_MAX };
                    let delay = Duration::from_millis(1 + self.rng.below(max.as_millis() as u64));
                    self.agenda.after(delay, Event::Synced(self.chief.epoch, batch));
                }
                Output::Admit { ask, node, term, view, .. } => {
                    let Some((index, start)) = self.asks.get(&ask).copied() else { continue };
                    let is_kept = self.chief.disk.contains_key(&RecordKey::Node(node));
                    ensure(is_kept, "MEM-5", || format!("{node} is admitted and not on the disk"))?;
                    self.witness.admitted(node, index, start)?;
                    if start == self.nodes[index].start && self.nodes[index].is_up() {
                        self.nodes[index].named = Some(node);
                        self.nodes[index].heard = now;
                    }
                    let said = Said::Admitted { ask, node, term, view };
                    match self.nodes[index].is_late_welcome(start, ask) {
                        true => self.welcome_late(index, said),
                        false => self.say(index, start, said),
                    }
                }
                Output::Refuse { ask, why } => {
                    self.coverage.saw(match why {
                        membership::Refusal::Fenced { .. } => "refused: fenced",
                        membership::Refusal::Replaced { .. } => "refused: replaced",
                        membership::Refusal::AskedAgain => "refused: asked again",
                        membership::Refusal::Full { .. } => "refused: full",
                    });
                    if let Some((index, start)) = self.asks.get(&ask).copied() {
                        self.say(index, start, Said::Refused { ask, why });
                    }
                }
                Output::Beat { node, answer } => self.say_to(node, Said::Beat(answer)),
                Output::Fence { node } => {
                    self.coverage.saw("a fenced node is told");
                    self.say_to(node, Said::Fenced);
                }
                Output::Died { death } => {
                    self.told_dead(death.process.node(), &death.cause)?;
                    for index in 0..self.nodes.len() {
                        let start = self.nodes[index].start;
                        self.say(index, start, Said::Died(death.clone()));
                    }
                }
                Output::Drain { node } => self.say_to(node, Said::Drain),
                Output::DrainAnswered { .. } => {}
                Output::ReadOnly { ask, .. } => {
                    self.coverage.saw("refused: read-only");
                    if let Some((index, start)) = self.asks.get(&ask).copied() {
                        self.nodes[index].refused(start, ask);
                    }
                }
                Output::Directory(output) => self.perform_directory(output)?,
            }
        }
        Ok(())
    }

    fn perform_directory(&mut self, output: directory::Output) -> Result<(), Violation> {
        use directory::Output as Said_;
        match output {
            Said_::Claimed { ask, key, result } => {
                self.coverage.saw(match &result {
                    Ok(_) => "a claim is answered",
                    Err(why) => refusal(why),
                });
                let grant = result.ok().map(|grant| (grant.owner, grant.node, grant.fencing, grant.term));
                if let Some((_, _, fencing, _)) = grant {
                    let is_kept = self.chief.granted.contains(&fencing);
                    ensure(is_kept, "HEAD-1", || format!("{key} is granted and not on the disk"))?;
                }
                if let Some((index, start)) = self.asks.get(&ask).copied() {
                    self.say(index, start, Said::Claimed { ask, key, grant });
                }
            }
            Said_::Revoke { node, key, fencing } => {
                self.coverage.saw("a name is revoked");
                self.say_to(node, Said::Revoke(key, fencing));
            }
            Said_::Token { id, ask, result } => {
                if let (Ok(_), Some((index, _))) = (result, self.asks.get(&ask)) {
                    self.coverage.saw("a token is used");
                    self.witness.token_used(id, *index)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// MEM-3 from outside: who is called killed does not run, and who is called silent was not heard.
    fn told_dead(&mut self, id: NodeId, cause: &DeathCause) -> Result<(), Violation> {
        let now = self.agenda.now();
        self.coverage.saw(match cause {
            DeathCause::NodeKilled => "dead: killed",
            DeathCause::NodeSilent { .. } => "dead: silent",
            _ => "dead: drained",
        });
        self.witness.died(id);
        for node in self.nodes.iter().filter(|node| node.is_up() && node.last_id() == Some(id)) {
            let killed = *cause != DeathCause::NodeKilled;
            ensure(killed, "MEM-3", || format!("{id} is called killed and runs on host {}", node.index))?;
            let well = now.since(node.trouble);
            // A death is told when it is kept, so after the write that is under way and its own.
            let slow = if self.course == Course::SlowDisk { 2 * SLOW_WRITE_MAX } else { Duration::ZERO };
            let was_well = well > CALLED_SILENT + slow && matches!(cause, DeathCause::NodeSilent { .. });
            ensure(!was_well, "MEM-3", || format!("{id} is called silent; nothing was wrong with it for {well:?}"))?;
        }
        Ok(())
    }

    fn say_to(&mut self, node: NodeId, said: Said) {
        if let Some((index, start)) = self.witness.host(node) {
            self.say(index, start, said);
        }
    }

    fn say(&mut self, index: Index, start: u64, said: Said) {
        let Some(machine) = &self.chief.machine else { return };
        let letter = FromHead { head: machine.id(), said };
        let slow = if self.rng.chance(self.fury / 20) { 400 } else { 20 };
        let at = (self.agenda.now() + self.rng.span(slow)).max(self.last_down[index]);
        self.last_down[index] = at;
        self.down[index].push_back(Letter { start, said: letter });
        self.agenda.at(at, Event::Down(index));
    }

    /// Its beats are answered before its registration is.
    fn welcome_late(&mut self, index: Index, said: Said) {
        let Some(machine) = &self.chief.machine else { return };
        self.coverage.saw("a welcome is overtaken");
        let letter = FromHead { head: machine.id(), said };
        let delay = Duration::from_millis(400) + self.rng.span(400);
        self.agenda.after(delay, Event::Aside(index, letter));
    }

    /// A process that has ended for the head comes again, though another runs with its certificate.
    pub(super) fn register_as_twin(&mut self, index: Index) {
        let node = &self.nodes[index];
        let (true, Some((ended, start))) = (node.is_up(), self.witness.ended_on(index)) else { return };
        if start == node.start || node.last_id().is_none_or(|id| self.witness.dead().contains(&id)) {
            return;
        }
        self.coverage.saw("an earlier process comes again");
        self.next_ask += 1;
        let member = MemberId([index as u8; 16]);
        let registration = Registration { member, start, node: Some(ended), ..Registration::default() };
        self.agenda.after(Duration::from_millis(1), Event::Twin(self.next_ask, registration));
    }

    pub(super) fn twin_registers(&mut self, ask: u64, registration: Registration) -> Result<(), Violation> {
        if !self.chief.runs_at(self.agenda.now()) {
            return Ok(());
        }
        self.chief_handles(membership::Input::Register { ask, registration })
    }

    /// Somebody has started a copy of the head: it answers the beat that the node sent last.
    pub(super) fn speak_as_copy(&mut self, index: Index) {
        let Some(known) = self.nodes[index].lease.head().filter(|_| self.nodes[index].is_up()) else { return };
        self.coverage.saw("a copy of a head speaks");
        // It has an epoch that was, or the one that is and a number of its own.
        let epoch = 1 + self.rng.below(known.epoch.0);
        let head = HeadId { epoch: Epoch(epoch), nonce: 1_000 + epoch };
        let number = self.nodes[index].beat;
        let answer = mobula_types::BeatAnswer { number, term: 1, ..Default::default() };
        let said = match self.rng.below(3) {
            0 => Said::Revoke(key(self.rng.below(NAMES)), Fencing(0)),
            1 => Said::Fenced,
            _ => Said::Beat(answer),
        };
        self.agenda.after(Duration::from_millis(1), Event::Aside(index, FromHead { head, said }));
    }
}

/// Which of the refusals of a claim it is.
fn refusal(why: &NameRefusal) -> &'static str {
    match why {
        NameRefusal::NoLease { .. } => "claim refused: no lease",
        NameRefusal::Superseded { .. } => "claim refused: superseded",
        NameRefusal::StillHeld { .. } => "claim refused: still held",
        NameRefusal::HomeEnded => "claim refused: its home has ended",
        NameRefusal::Ended => "claim refused: ended meanwhile",
        NameRefusal::JobEnded { .. } => "claim refused: its job has ended",
        NameRefusal::TooLarge { .. } | NameRefusal::Full { .. } | NameRefusal::Busy { .. } => "claim refused: a bound",
    }
}
