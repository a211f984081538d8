//! What goes wrong, and how it is healed.

use std::collections::BTreeMap;
use std::time::Duration;

use mobula_logic::Violation;
use mobula_types::resources::{Amount, Resources};
use mobula_types::{DeathCause, GroupId, NodeId, Time};

use super::event::{Event, HostIndex};
use super::node::HEAD_HOST;
use super::{FAULTS_LAST, Host, Phase, World};
use crate::failure::ensure;
use crate::rng::Rng;

/// Three hosts or more; what they have is enough for all that is asked, but not at once.
pub(super) fn hosts(rng: &mut Rng) -> Vec<Host> {
    let count = if rng.chance(25) { 4 } else { 3 };
    let host = |index: u64, rng: &mut Rng| {
        let zone = if index.is_multiple_of(2) { "a" } else { "b" };
        let gpus = if index == 1 { 2 } else { 0 };
        let others = BTreeMap::from([("memory".to_owned(), Amount::whole(8))]);
        Host {
            rate: 980 + rng.below(41),
            paused_until: None,
            node: None,
            total: Resources { cpus: Amount::whole(4), gpus: Amount::whole(gpus), others },
            labels: BTreeMap::from([("zone".to_owned(), zone.to_owned())]),
            drivers: u64::from(index == 0 || index == 2),
        }
    };
    (0..count).map(|index| host(index, rng)).collect()
}

impl World {
    pub(super) fn is_paused(&self, host: HostIndex) -> bool {
        self.hosts[host].paused_until.is_some_and(|until| until > self.agenda.now())
    }

    pub(super) fn is_cut(&self, from: mobula_types::NodeId, to: mobula_types::NodeId) -> bool {
        let host = |node| self.nodes.get(&node).map(|node| node.host);
        match (host(from), host(to)) {
            (Some(from), Some(to)) => self.cuts.contains_key(&(from, to)),
            _ => false,
        }
    }

    /// One misfortune, and when the next comes.
    pub(super) fn strike(&mut self) -> Result<(), Violation> {
        if self.phase != Phase::Faults {
            return Ok(());
        }
        let delay = Duration::from_millis(50) + self.rng.span(60_000 / (self.fury + 50));
        self.agenda.after(delay, Event::Fault);
        let host = self.rng.below(self.hosts.len() as u64) as usize;
        match self.rng.below(20) {
            0..=5 => self.break_connection(),
            6..=10 => {
                if let Some(process) = self.some_process(false) {
                    let cause = match self.rng.chance(5) {
                        true => DeathCause::GroupEnded { group: GroupId { process, number: 0 } },
                        false => DeathCause::Signal { signal: 9 },
                    };
                    self.saw(match cause {
                        DeathCause::GroupEnded { .. } => "worker ends with its group",
                        _ => "worker is killed",
                    });
                    self.agenda.after(Duration::ZERO, Event::Dies { process, cause });
                }
            }
            11 => {
                if let Some(process) = self.some_process(true) {
                    self.saw("driver is killed");
                    let cause = DeathCause::Signal { signal: 9 };
                    self.agenda.after(Duration::ZERO, Event::Dies { process, cause });
                    let Some(host) = self.nodes.get(&process.node()).map(|node| node.host) else { return Ok(()) };
                    let delay = self.rng.span(1_000);
                    self.agenda.after(delay, Event::StartDriver { host });
                }
            }
            12 | 13 => self.cut(host),
            14 | 15 => {
                let ms = *self.rng.pick(&[200, 1_000, 2_000, 5_000]);
                self.pause(host, ms);
            }
            16 | 17 => {
                if let Some(node) = self.hosts[host].node {
                    self.saw(if host == HEAD_HOST { "head is killed" } else { "node is killed" });
                    self.kill_node(node);
                    let delay = self.rng.span(2_000);
                    self.agenda.after(delay, Event::StartNode { host });
                }
            }
            18 => {
                if let Some(node) = self.hosts[host].node.filter(|_| host != HEAD_HOST && self.rng.chance(60)) {
                    self.drain(node)?;
                }
            }
            _ => self.cuts.clear(),
        }
        Ok(())
    }

    /// A node is to leave; the head's stays.
    pub(super) fn drain(&mut self, node: NodeId) -> Result<(), Violation> {
        if self.head.node == Some(node) || self.drained.contains(&node) {
            return Ok(());
        }
        self.saw("node is drained");
        // What is left when its time is over ends with it.
        self.drained.push(node);
        self.tell_scheduler(node, mobula_logic::scheduler::Input::Drain)
    }

    fn cut(&mut self, host: HostIndex) {
        let other = self.rng.below(self.hosts.len() as u64) as usize;
        if self.rng.chance(30) {
            self.saw("host is cut off from all");
            for other in (0..self.hosts.len()).filter(|other| *other != host) {
                self.cuts.insert((host, other), ());
                self.cuts.insert((other, host), ());
            }
        } else if other != host {
            let is_one_way = self.rng.chance(50);
            self.saw(if is_one_way { "cut one way" } else { "cut both ways" });
            self.cuts.insert((host, other), ());
            if !is_one_way {
                self.cuts.insert((other, host), ());
            }
        }
    }

    fn pause(&mut self, host: HostIndex, ms: u64) {
        if self.is_paused(host) {
            return;
        }
        self.saw(if host == HEAD_HOST { "head is stopped for a while" } else { "node is stopped for a while" });
        // No event of its own has this moment: what waited for it comes first.
        let until = self.agenda.now() + Duration::from_millis(ms) + Duration::from_nanos(1 + self.rng.below(998));
        self.hosts[host].paused_until = Some(until.min(Time::ZERO + FAULTS_LAST));
    }

    /// From now on nothing goes wrong any more.
    pub(super) fn heal(&mut self) {
        self.phase = Phase::Quiet;
        self.cuts.clear();
        for node in std::mem::take(&mut self.drained) {
            if let Some(host) = self.nodes.get(&node).map(|node| node.host) {
                self.kill_node(node);
                self.agenda.after(Duration::ZERO, Event::StartNode { host });
            }
        }
    }

    /// Everything must have ended by now, but the actors: those are stopped.
    pub(super) fn stop_all(&mut self) -> Result<(), Violation> {
        self.phase = Phase::Stopping;
        let now = self.agenda.now();
        for (process, life) in &self.processes {
            let Some(node) = self.nodes.get(&process.node()) else { continue };
            for number in life.requests.keys().copied() {
                let request = mobula_logic::scheduler::RequestKey { holder: *process, number };
                let why = node.scheduler.why(self.local(process.node()), request);
                self.steps.note(now, || format!("  {process} waits for its request {number}: {why:?}"));
            }
        }
        self.witness.judge_tasks()?;
        let actors: Vec<_> = self
            .processes
            .iter()
            .flat_map(|(process, life)| (0..life.actors.len()).map(|actor| (*process, actor)))
            .collect();
        for actor in actors {
            let home = &self.processes[&actor.0].actors[actor.1].home;
            let rests = home.has_ended() || home.place().is_some();
            ensure(rests, "HOME-5", || format!("{actor:?} is neither somewhere nor over: {home:?}"))?;
            self.stop(actor)?;
        }
        Ok(())
    }
}
