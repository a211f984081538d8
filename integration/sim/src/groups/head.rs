//! The head's host: the groups' machine, which nodes it has heard of, and what it says to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_logic::groups::{self, Bounds, Groups, Input, Output};
use mobula_logic::{Violation, membership};
use mobula_types::{Epoch, JobId, NodeId, StateMachine, Time};

use super::{DOWN, Down, Event, Index, Letter, Up, World};

/// A dead process is probed and known to be so.
const KILLED_AFTER: Duration = Duration::from_secs(1);

/// The rounds with which a head begins.
const EARLY_ROUNDS: u64 = 6;

/// What a head does that takes few groups, and one that looks at few at once.
const NARROW_GROUPS: usize = 2;
const HURRIED_LOOKS: usize = 2;

pub(super) struct Chief {
    pub(super) machine: Groups,
    /// When each node was heard last; a new head begins with its start.
    heard: BTreeMap<NodeId, Time>,
    /// Nodes that have registered with this head.
    registered: BTreeSet<NodeId>,
    /// No group that was ready before it is new to it from then on.
    pub(super) recovers_until: Time,
}

impl World {
    pub(super) fn start_head(&mut self) -> Result<(), Violation> {
        let now = self.agenda.now();
        self.epoch += 1;
        self.coverage.saw(if self.epoch == 1 { "head starts" } else { "head starts again" });
        let bounds = match (self.is_narrow, self.is_hurried) {
            (true, _) => Bounds { groups_max: NARROW_GROUPS, ..Bounds::default() },
            (false, true) => Bounds { looks_max: HURRIED_LOOKS, ..Bounds::default() },
            (false, false) => Bounds::default(),
        };
        let machine = Groups::new(now, Epoch(self.epoch)).bounded(bounds);
        let machine = self.mutant.into_iter().fold(machine, Groups::with_mutant);
        let heard = self.lives.keys().map(|node| (*node, now)).collect();
        self.head =
            Some(Chief { machine, heard, registered: BTreeSet::new(), recovers_until: now + groups::RECOVER_MAX });
        Ok(())
    }

    /// What was just said to a node may be lost.
    fn break_soon(&mut self, node: NodeId, percent: u64) {
        if let Some((index, _)) = self.lives.get(&node).copied()
            && !self.is_quiet
            && self.rng.chance(percent)
        {
            self.agenda.after(self.rng.span(4), Event::Breaks(index));
        }
    }

    /// A node that is to keep what it has prepared does not hear so before it has given that up.
    fn deafen(&mut self, node: NodeId) {
        let percent = if self.is_deaf { 30 } else { 10 };
        if let Some((index, _)) = self.lives.get(&node).copied()
            && !self.is_quiet
            && self.rng.chance(percent)
        {
            self.coverage.saw("a node does not hear for long");
            // Where heads fall, too, it registers in time with the next (G12).
            let least = if self.is_deaf { groups::PREPARED_MAX } else { Duration::from_millis(500) };
            let until = self.agenda.now() + least + self.rng.span(2_000);
            self.hosts[index].deaf_until = until;
        }
    }

    /// What it has asked for is prepared by some, and by nobody committed.
    pub(super) fn head_falls(&mut self) {
        if self.head.is_some() && !self.is_quiet {
            self.coverage.saw("head falls over what it has said");
            self.kill_head();
        }
    }

    pub(super) fn kill_head(&mut self) {
        self.coverage.saw("head is killed");
        self.head = None;
        self.hosts.iter_mut().for_each(|host| host.connection += 1);
        let delay = self.rng.span(if self.is_hasty { 300 } else { 3_000 });
        self.agenda.after(delay, Event::HeadStarts);
    }

    pub(super) fn head_tick(&mut self) -> Result<(), Violation> {
        let now = self.agenda.now();
        let Some(head) = &self.head else { return Ok(()) };
        let runs = |node: &NodeId, index: Index| {
            self.hosts[index].node.as_ref().is_some_and(|running| running.id == Some(*node))
        };
        let is_over = |node: &NodeId, index: Index| {
            let silent = now.since(head.heard.get(node).copied().unwrap_or(now));
            silent >= membership::SILENT_MAX || silent >= KILLED_AFTER && !runs(node, index)
        };
        let over = self.lives.iter().filter(|(node, (index, _))| is_over(node, *index));
        for node in over.map(|(node, _)| *node).collect::<Vec<_>>() {
            self.declare_dead(node)?;
        }
        let due = self.head.as_ref().and_then(|head| head.machine.next_timeout());
        if due.is_some_and(|due| due <= now) { self.head_handles(Input::Tick) } else { Ok(()) }
    }

    fn declare_dead(&mut self, node: NodeId) -> Result<(), Violation> {
        let Some((index, life)) = self.lives.remove(&node) else { return Ok(()) };
        let lives_on = self.hosts[index].node.as_ref().is_some_and(|running| running.life == life);
        self.coverage.saw(if lives_on { "living node is declared dead" } else { "node is declared dead" });
        self.steps.note(self.agenda.now(), || format!("{node} is declared dead"));
        self.head_handles(Input::NodeDied { node })?;
        let of_node = self.jobs.iter().filter(|(_, owner)| **owner == node).map(|(job, _)| *job);
        of_node.collect::<Vec<_>>().into_iter().try_for_each(|job| self.end_job(job))
    }

    fn end_job(&mut self, job: JobId) -> Result<(), Violation> {
        if !self.ended_jobs.insert(job) {
            return Ok(());
        }
        self.coverage.saw("job ends");
        self.head_handles(Input::JobEnded { job })?;
        self.lives.keys().copied().collect::<Vec<_>>().into_iter().for_each(|node| self.say(node, Down::JobEnded(job)));
        Ok(())
    }

    pub(super) fn arrive_up(&mut self, index: Index) -> Result<(), Violation> {
        let now = self.agenda.now();
        if self.hosts[index].cut_until > now {
            self.agenda.after(Duration::from_millis(50), Event::Up(index));
            return Ok(());
        }
        let Some(Letter { connection, word, .. }) = self.hosts[index].up.pop_front() else { return Ok(()) };
        let Some(head) = self.head.as_mut().filter(|_| connection == self.hosts[index].connection) else {
            self.coverage.saw("word is lost with its connection");
            return Ok(());
        };
        if !matches!(word, Up::Beat { .. }) {
            self.steps.note(now, || format!("the head hears host {index}: {word:?}"));
        }
        if let Up::Register { node, life } = word {
            return self.registers(index, node, life);
        }
        let of_host = self.lives.iter().find(|(_, (at, _))| *at == index).map(|(node, _)| *node);
        let Some(node) = of_host.filter(|node| head.registered.contains(node)) else {
            // Who registers again is to be heard then; who is dead is told so.
            self.coverage.saw("word of a node that does not belong");
            if of_host.is_none() {
                self.say_on(index, Down::Fenced);
            }
            return Ok(());
        };
        head.heard.insert(node, now);
        match word {
            Up::Beat { load: Some(load) } => self.head_handles(Input::Seen { node, load }),
            Up::Beat { load: None } => self.head_handles(Input::Tick),
            Up::Says(
                Input::Create { group, job, .. } | Input::Made { group, job, .. } | Input::Held { group, job, .. },
            ) if self.ended_jobs.contains(&job) => {
                self.coverage.saw("a word for a job that has ended");
                let why = groups::Ended::JobEnded { job };
                self.say(node, Down::Order(Output::Ended { group, why }));
                Ok(())
            }
            Up::Says(input) => {
                if matches!(input, Input::Prepared { .. }) && self.may_cross(25) {
                    // It registers while others still prepare, and is told to keep what it does not name.
                    self.break_soon(node, 100);
                }
                self.head_handles(input)
            }
            Up::JobEnds(job) => self.end_job(job),
            Up::Drained => {
                self.coverage.saw("node has left");
                self.declare_dead(node)
            }
            Up::Register { .. } => Ok(()),
        }
    }

    fn registers(&mut self, index: Index, node: Option<NodeId>, life: u64) -> Result<(), Violation> {
        let now = self.agenda.now();
        let known = self.lives.iter().find(|(_, (at, _))| *at == index).map(|(known, (_, life))| (*known, *life));
        let admitted = match (node, known) {
            (Some(node), Some((known, _))) if node == known => known,
            (Some(_), _) => {
                self.coverage.saw("registration is refused");
                self.say_on(index, Down::Fenced);
                return Ok(());
            }
            (None, Some((known, of))) if of == life => known,
            (None, known) => {
                if let Some((before, _)) = known {
                    self.declare_dead(before)?;
                }
                self.last_node += 1;
                self.lives.insert(NodeId(self.last_node), (index, life));
                NodeId(self.last_node)
            }
        };
        self.coverage.saw(if node.is_some() { "node registers again" } else { "node registers" });
        let Some(head) = &mut self.head else { return Ok(()) };
        head.heard.insert(admitted, now);
        head.registered.insert(admitted);
        let ended = self.ended_jobs.iter().copied().collect();
        self.say_on(index, Down::Admitted { node: admitted, life, ended });
        Ok(())
    }

    pub(super) fn head_handles(&mut self, input: Input) -> Result<(), Violation> {
        let now = self.agenda.now();
        let Some(head) = &mut self.head else { return Ok(()) };
        match &input {
            Input::Held { .. } => self.coverage.saw("bundles are held"),
            Input::Made { .. } => self.coverage.saw("a group was ready"),
            _ => {}
        }
        head.machine.handle(now, input);
        while let Some(output) = self.head.as_mut().and_then(|head| head.machine.poll_output()) {
            self.steps.note(now, || format!("  the head says {output:?}"));
            self.head_says(output)?;
        }
        self.head.as_ref().map_or(Ok(()), |head| groups::check(&head.machine))
    }

    fn head_says(&mut self, output: Output) -> Result<(), Violation> {
        let epoch = self.epoch;
        let node = match &output {
            Output::Prepare { node, group, round, .. } => {
                self.coverage.saw("bundles are asked for");
                // The first rounds of a head are those that could be taken for rounds of the one before.
                let is_early = *round & u64::from(u32::MAX) <= EARLY_ROUNDS;
                if self.is_hasty && !self.is_quiet && self.rng.chance(if is_early { 20 } else { 3 }) {
                    self.agenda.after(self.rng.span(6), Event::HeadFalls);
                }
                self.witness.asked(epoch, *group, *round, *node);
                if let Some((index, _)) = self.lives.get(node).copied().filter(|_| self.may_cross(40)) {
                    // Others have prepared meanwhile.
                    self.hold_up(index, DOWN, 900);
                }
                *node
            }
            Output::Commit { node, group, round } => {
                self.coverage.saw("bundles are to be kept");
                match self.is_hasty {
                    true => self.break_soon(*node, 15),
                    false => self.deafen(*node),
                }
                self.witness.committed(epoch, *group, *round)?;
                *node
            }
            Output::Abort { node, .. } => {
                self.coverage.saw("a round is given up");
                *node
            }
            Output::Return { node, .. } => {
                self.coverage.saw("a group is given back");
                *node
            }
            Output::ReturnSome { node, .. } => {
                self.coverage.saw("bundles are given back");
                match self.lives.get(node).copied().filter(|_| self.may_cross(80)) {
                    // It is not heard: the node names them once more.
                    Some((index, _)) => self.agenda.after(Duration::ZERO, Event::Breaks(index)),
                    None => self.break_soon(*node, 40),
                }
                *node
            }
            Output::Ready { group, nodes } => {
                self.coverage.saw("a group is ready");
                self.witness.ready(*group, nodes)?;
                group.process.node()
            }
            Output::Ended { group, why } => {
                if matches!(why, groups::Ended::TooMany { .. }) {
                    self.break_soon(group.process.node(), 40);
                }
                if self.may_cross(30) {
                    // All but its maker hear of it before the head falls.
                    self.break_soon(group.process.node(), 100);
                    self.agenda.after(Duration::from_millis(8) + self.rng.span(20), Event::HeadFalls);
                }
                self.coverage.saw(match why {
                    groups::Ended::JobEnded { .. } => "a group ends with its job",
                    groups::Ended::Removed { waited: Some(_) } => "a group is removed while it waits",
                    groups::Ended::Removed { waited: None } => "a group is removed",
                    groups::Ended::TooMany { .. } => "a group is refused: too many",
                    groups::Ended::Invalid { .. } => "a group is refused: invalid",
                    _ => "a group ends for another reason",
                });
                let all: Vec<NodeId> = self.lives.keys().copied().collect();
                all.into_iter().for_each(|node| self.say(node, Down::Order(output.clone())));
                return Ok(());
            }
        };
        self.say(node, Down::Order(output));
        Ok(())
    }

    /// A word to a node that has registered with this head; no other can be reached.
    pub(super) fn say(&mut self, node: NodeId, word: Down) {
        let is_registered = self.head.as_ref().is_some_and(|head| head.registered.contains(&node));
        match self.lives.get(&node).filter(|_| is_registered) {
            Some((index, _)) => self.say_on(*index, word),
            None => self.coverage.saw("word to nobody"),
        }
    }

    fn say_on(&mut self, index: Index, word: Down) {
        let letter = Letter { connection: self.hosts[index].connection, epoch: self.epoch, word };
        let at = self.arrives(index, DOWN);
        if matches!(letter.word, Down::Order(_)) && self.goes_wrong(2) {
            self.coverage.saw("word comes twice");
            self.hosts[index].down.push_back(letter.clone());
            self.agenda.at(at, Event::Down(index));
        }
        self.hosts[index].down.push_back(letter);
        self.agenda.at(at, Event::Down(index));
    }
}
