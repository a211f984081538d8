//! The head's process and its store.

use std::time::Duration;

use mobula_logic::directory::{JobRefusal, NameRefusal, TokenRefusal, ValueRefusal};
use mobula_logic::head::{self, Head, Input, Output};
use mobula_logic::membership::{Refusal, Standing};
use mobula_logic::record::{Change, Record, RecordKey};
use mobula_logic::{Calendar, Violation, directory, membership};
use mobula_types::{Death, DeathCause, Epoch, HeadId, MemberId, NodeId, Registration, StateMachine, Time};

use super::node::{SECRET, STRAGGLER};
use super::{DOWN, Event, HeadLife, HostIndex, Up, World, earlier, real};
use crate::failure::ensure;

impl World {
    pub(super) fn start_head(&mut self) -> Result<(), Violation> {
        if self.head.is_some() {
            return Ok(());
        }
        self.epoch += 1;
        // Another process: that the one before was stopped is nothing to it.
        self.head_paused_until = None;
        let id = HeadId { epoch: Epoch(self.epoch), nonce: self.rng.number() };
        let now = self.head_local();
        // The wall clock is another one each time: only logs may see it.
        let calendar = Calendar::new(now, 1_800_000_000_000 + now.as_nanos() / 1_000_000);
        let records = self.store.clone();
        self.witness.head_starts(&records)?;
        let machine = Head::bounded(id, calendar, now, records, self.mutant, self.bounds());
        if self.epoch > 1 {
            self.saw("head starts again");
        }
        self.head = Some(HeadLife { machine, wakes_at: None, writing: None });
        for host in 0..self.hosts.len() {
            self.hosts[host].connection += 1;
            self.hosts[host].heard = (self.agenda.now(), self.stopped_until_now());
        }
        self.drain_head()
    }

    /// The head's process ends; a batch that is being written is durable or not, as it happens.
    pub(super) fn kill_head(&mut self) {
        let Some(life) = self.head.take() else { return };
        if let Some((_, changes)) = life.writing
            && self.rng.chance(50)
        {
            self.saw("batch is durable and not acknowledged");
            self.apply(changes);
        }
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            let Some(record) = change.record else {
                self.forget(&change.key);
                continue;
            };
            // What was forgotten and made anew in one batch is another one.
            if let Record::Token(token) = &record
                && token.hash != SECRET
            {
                self.witness.token_gone(token.id);
            }
            self.store.insert(change.key, record);
        }
    }

    fn forget(&mut self, key: &RecordKey) {
        self.store.remove(key);
        match key {
            RecordKey::Node(_) => self.saw("a dead node is forgotten"),
            RecordKey::Job(_) => self.saw("a job that has ended is forgotten"),
            RecordKey::Name(_) => self.saw("a name is free"),
            RecordKey::Value(..) => self.saw("a value is removed"),
            RecordKey::Token(id) => {
                self.saw("a token is forgotten");
                self.witness.token_gone(*id);
            }
            _ => {}
        }
    }

    pub(super) fn head_hears(&mut self, host: HostIndex, connection: u64, word: Up) -> Result<(), Violation> {
        if self.hosts[host].connection != connection || self.head.is_none() {
            return Ok(());
        }
        let speaks = match &word {
            Up::Beat { node, .. } => Some(*node),
            Up::Register { registration, .. } => registration.node,
            _ => None,
        };
        let input = match word {
            Up::Register { ask, registration } => membership::Input::Register { ask, registration }.into(),
            Up::Beat { node, beat } => membership::Input::Heartbeat { node, beat }.into(),
            Up::Leaving { node } => membership::Input::Leaving { node }.into(),
            Up::Drained { node } => membership::Input::Drained { node }.into(),
            Up::Directory(input) => Input::Directory(input),
        };
        self.tell_head(input)?;
        // A node that is about to be declared dead may speak again meanwhile; that comes too late.
        let newest = self.host_of.iter().filter(|(_, of)| **of == host).map(|(node, _)| *node).max();
        // One that an earlier head knew and that has not registered again is not heard by its beats.
        let is_heard = |node| {
            let mut nodes = self.head.iter().flat_map(|life| life.machine.membership().nodes());
            nodes.any(|known| known.node == node && matches!(known.standing, Standing::Alive | Standing::Draining))
        };
        if speaks.is_some() && speaks == newest && newest.is_some_and(is_heard) {
            self.hosts[host].heard = (self.agenda.now(), self.stopped_until_now());
        }
        Ok(())
    }

    pub(super) fn tell_head(&mut self, input: Input) -> Result<(), Violation> {
        let now = self.head_local();
        let Some(life) = &mut self.head else { return Ok(()) };
        life.machine.handle(now, input);
        self.drain_head()
    }

    fn drain_head(&mut self) -> Result<(), Violation> {
        let at = self.agenda.now();
        while let Some(life) = &mut self.head {
            if self.mutant.is_some() {
                head::check(&life.machine)?;
                directory::check(life.machine.directory())?;
            }
            let Some(output) = life.machine.poll_output() else { break };
            self.steps.note(at, || format!("  the head says {output:?}"));
            if let Some(refusal) = refusal(&output, life.machine.read_only().is_some()) {
                self.coverage.saw(refusal);
            }
            match output {
                Output::Commit { batch, changes } => {
                    let silent: Vec<NodeId> = changes.iter().filter_map(silent_node).collect();
                    life.writing = Some((batch, changes));
                    silent.into_iter().try_for_each(|node| self.was_silent(node))?;
                    self.sync_later(batch);
                }
                Output::Died { death } => {
                    self.saw(match death.cause {
                        DeathCause::NodeKilled => "node is declared killed",
                        DeathCause::NodeSilent { .. } => "node is declared silent",
                        _ => "node is declared gone",
                    });
                    let node = death.process.node();
                    let host = self.host_of.get(&node).copied();
                    let lives =
                        host.is_some_and(|host| self.hosts[host].node.as_ref().is_some_and(|n| n.id == Some(node)));
                    // One that cannot be written is told all the same, and a head that crashes then does not know of it.
                    if self.head.as_ref().is_some_and(|life| life.machine.read_only().is_none()) {
                        self.witness.declared_dead(node);
                    }
                    if lives {
                        self.saw("living node is declared dead");
                    }
                    for host in 0..self.hosts.len() {
                        self.say(host, Output::Died { death: death.clone() });
                    }
                }
                Output::Beat { node, .. }
                | Output::Fence { node }
                | Output::Drain { node }
                | Output::Directory(directory::Output::Revoke { node, .. }) => {
                    if let Some(host) = self.host_of.get(&node).copied() {
                        self.say(host, output);
                    }
                }
                Output::Admit { ask, node, .. } => {
                    self.witness.admits(node)?;
                    let is_kept = self.store.contains_key(&RecordKey::Node(node));
                    ensure(is_kept, "MEM-5", || format!("{node} is admitted, and its record is not in the store"))?;
                    if let Some(host) = self.asks.get(&ask).copied() {
                        self.host_of.insert(node, host);
                        self.hosts[host].heard = (self.agenda.now(), self.stopped_until_now());
                        self.say(host, output);
                    }
                }
                Output::Directory(directory::Output::Restart { ref key, .. }) => {
                    self.saw("detached actor is to be started");
                    let _ = key;
                    let host = self.rng.below(self.hosts.len() as u64) as usize;
                    self.say(host, output);
                }
                Output::Directory(directory::Output::JobEnded { .. }) => {
                    for host in 0..self.hosts.len() {
                        self.say(host, output.clone());
                    }
                }
                Output::Refuse { ask, .. }
                | Output::DrainAnswered { ask, .. }
                | Output::ReadOnly { ask, .. }
                | Output::Directory(
                    directory::Output::Claimed { ask, .. }
                    | directory::Output::Found { ask, .. }
                    | directory::Output::Located { ask, .. }
                    | directory::Output::JobStarted { ask, .. }
                    | directory::Output::Value { ask, .. }
                    | directory::Output::Token { ask, .. },
                ) => {
                    if let Some(host) = self.asks.get(&ask).copied() {
                        self.say(host, output);
                    }
                }
                Output::Directory(directory::Output::Keep(_)) => {
                    return Err(Violation { invariant: "HEAD-1", seen: "a change left without its batch".into() });
                }
            }
        }
        let rate = self.head_rate;
        let Some(life) = &mut self.head else { return Ok(()) };
        let due = life.machine.next_timeout().map(|at| real(at, rate));
        if let Some(at) = earlier(&mut life.wakes_at, due) {
            self.agenda.at(at, Event::HeadTick);
        }
        Ok(())
    }

    /// For how long the head has been stopped in all, as far as that is over.
    fn stopped_until_now(&self) -> Duration {
        let left = self.head_paused_until.map_or(Duration::ZERO, |until| until.since(self.agenda.now()));
        self.head_stopped.saturating_sub(left)
    }

    /// MEM-3: a node that is declared silent was, for as long as the head itself ran.
    fn was_silent(&self, node: NodeId) -> Result<(), Violation> {
        let newest = self.host_of.get(&node).and_then(|host| {
            let of_host = self.host_of.iter().filter(|(_, of)| *of == host);
            of_host.map(|(id, _)| *id).max().filter(|newest| *newest == node).map(|_| *host)
        });
        let Some(host) = newest else { return Ok(()) };
        let (heard, stopped) = self.hosts[host].heard;
        let silent = self.agenda.now().since(heard).saturating_sub(self.stopped_until_now().saturating_sub(stopped));
        // Clocks differ, and a head that has just started hears registrations only: this is far from what a stop makes.
        let holds = silent >= Duration::from_millis(2_500);
        ensure(holds, "MEM-3", || format!("{node} is declared silent after {silent:?} in which the head ran"))
    }

    fn sync_later(&mut self, batch: u64) {
        let fails = self.goes_wrong(2);
        let delay = Duration::from_micros(500 + self.rng.below(15_000));
        self.agenda.after(delay, Event::Synced { batch, fails });
    }

    pub(super) fn synced(&mut self, batch: u64, fails: bool) -> Result<(), Violation> {
        let Some(life) = &mut self.head else { return Ok(()) };
        if life.writing.as_ref().is_none_or(|(writing, _)| *writing != batch) {
            return Ok(());
        }
        if fails {
            self.saw("batch cannot be written");
            self.agenda.after(Duration::from_millis(300), Event::Synced { batch, fails: false });
            return self.tell_head(Input::Failed { batch, cause: "the disk is full".into() });
        }
        if let Some((_, changes)) = life.writing.take() {
            self.saw("batch is synced");
            self.apply(changes);
        }
        self.tell_head(Input::Synced { batch })
    }

    pub(super) fn head_tick(&mut self) -> Result<(), Violation> {
        let now = self.agenda.now();
        let Some(life) = &mut self.head else { return Ok(()) };
        if life.wakes_at.take_if(|at: &mut Time| *at <= now).is_none() {
            return Ok(());
        }
        self.tell_head(Input::Tick)
    }

    /// The head's transport looks after a node that it has not heard.
    pub(super) fn silent(&mut self, host: HostIndex) -> Result<(), Violation> {
        let delay = Duration::from_millis(300) + self.rng.span(100);
        self.agenda.after(delay, Event::Silent { host });
        let silent = self.agenda.now().since(self.hosts[host].heard.0);
        if silent < Duration::from_millis(300) || self.head.is_none() {
            return Ok(());
        }
        let is_cut = self.hosts[host].cut != [false; 2];
        let refused = self.hosts[host].node.is_none() && !is_cut;
        // The last node of the host that the head has heard of.
        let node = self.host_of.iter().filter(|(_, of)| **of == host).map(|(node, _)| *node).max();
        let Some(node) = node else { return Ok(()) };
        self.saw(if refused { "probe is refused" } else { "probe is not answered" });
        self.tell_head(membership::Input::Silent { node, silent, refused }.into())
    }

    /// A node of no host of these comes, and is not heard of again.
    pub(super) fn stranger_registers(&mut self) -> Result<(), Violation> {
        if self.is_quiet {
            return Ok(());
        }
        let delay = Duration::from_millis(500) + self.rng.span(2_500);
        self.agenda.after(delay, Event::Stranger);
        let (member, start) = (MemberId([0xff; 16]), self.rng.number());
        let registration = Registration { member, start, ..Registration::default() };
        self.next_ask += 1;
        self.tell_head(membership::Input::Register { ask: self.next_ask, registration }.into())
    }

    /// Sends a word of the head's to a node; now and then the connection breaks with it.
    fn say(&mut self, host: HostIndex, word: Output) {
        let Some(head) = self.head.as_ref().map(|life| life.machine.id()) else { return };
        if self.goes_wrong(1) {
            self.saw("words are lost with their connection");
            self.hosts[host].connection += 1;
            return;
        }
        let connection = self.hosts[host].connection;
        let at = self.arrives(host, DOWN);
        let may_repeat = !matches!(word, Output::Directory(directory::Output::Restart { .. }));
        if may_repeat && self.goes_wrong(2) {
            self.saw("word comes twice");
            self.agenda.at(at, Event::Down { host, connection, head, word: word.clone() });
        }
        let is_grant = matches!(word, Output::Directory(directory::Output::Claimed { .. }));
        if !is_grant && self.goes_wrong(5) {
            let late = self.agenda.now() + Duration::from_millis(500) + self.rng.span(6_000);
            self.agenda.at(late, Event::Down { host, connection: STRAGGLER, head, word: word.clone() });
        }
        self.agenda.at(at, Event::Down { host, connection, head, word });
    }
}

/// The node that a change says was declared silent.
fn silent_node(change: &Change) -> Option<NodeId> {
    let Some(Record::Node(node)) = &change.record else { return None };
    let is_silent = |death: &Death| matches!(death.cause, DeathCause::NodeSilent { .. });
    node.death.as_ref().is_some_and(is_silent).then_some(node.node)
}

/// Which refusal it is, if it is one.
fn refusal(output: &Output, is_read_only: bool) -> Option<&'static str> {
    use directory::Output as Said;
    Some(match output {
        Output::Refuse { why, .. } => match why {
            Refusal::Fenced { .. } => "refused: fenced",
            Refusal::AskedAgain => "refused: asked again",
            Refusal::Full { .. } => "refused: full",
            // No earlier process comes again here: `control` counts them.
            Refusal::Replaced { .. } => return None,
        },
        Output::ReadOnly { .. } if is_read_only => "refused: nothing can be written",
        Output::ReadOnly { .. } => "refused: much waits to be written",
        Output::DrainAnswered { is_known: false, .. } => "refused: who is to leave is not there",
        Output::Directory(Said::Claimed { result: Err(why), .. }) => match why {
            NameRefusal::NoLease { .. } => "claim refused: no lease",
            NameRefusal::TooLarge { .. } => "claim refused: too large",
            NameRefusal::Full { .. } => "claim refused: full",
            NameRefusal::Busy { .. } => "claim refused: busy",
            NameRefusal::Superseded { .. } => "claim refused: superseded",
            NameRefusal::JobEnded { .. } => "claim refused: its job has ended",
            // They are too rare here to say much: `control` has seeds for them.
            NameRefusal::StillHeld { .. } | NameRefusal::HomeEnded | NameRefusal::Ended => return None,
        },
        Output::Directory(Said::JobStarted { result: Err(why), .. }) => match why {
            JobRefusal::Full { .. } => "job refused: full",
            JobRefusal::TooLarge { .. } => "job refused: too large",
        },
        Output::Directory(Said::Value { result: Err(why), .. }) => match why {
            ValueRefusal::TooLarge { .. } => "value refused: too large",
            ValueRefusal::Full => "value refused: full",
            ValueRefusal::JobEnded { .. } => "value refused: its job has ended",
        },
        Output::Directory(Said::Token { result: Err(why), .. }) => match why {
            TokenRefusal::Unknown => "token refused: unknown",
            TokenRefusal::Expired => "token refused: expired",
            TokenRefusal::Wrong => "token refused: wrong",
            TokenRefusal::Burnt => "token refused: burnt",
            TokenRefusal::Used => "token refused: used",
            TokenRefusal::Full { .. } => "token refused: full",
            TokenRefusal::Taken => "token refused: taken",
        },
        _ => return None,
    })
}
