//! What a request waits for, in words (`mobula why`).

use mobula_types::resources::Amount;
use mobula_types::{NodeId, PlacementStrategy, Time};

use super::place::{Lack, amount_in, amount_of};
use super::program::cannot_run;
use super::{At, RequestKey, Scheduler, Shape};

impl Scheduler {
    /// What `request` waits for at `now`; `None` when it is not here: answered, or never asked.
    pub fn why(&self, now: Time, request: RequestKey) -> Option<String> {
        let ask = self.asks.get(&request)?;
        let shape = &self.shapes[ask.shape];
        let text = match ask.at {
            At::Here(_) => format!("a worker is being started for it on {}", self.node),
            At::Peer(node) => format!("{node} has been asked for a place"),
            At::Away(node) => self.why_away(shape, node),
            At::Queue => self.why_queued(now, shape),
        };
        let before = shape.queue.range(..ask.number).count();
        Some(if ask.at == At::Queue && before > 0 {
            format!("{before} older ones of its job want the same and wait: {text}")
        } else {
            text
        })
    }

    fn why_queued(&self, now: Time, shape: &Shape) -> String {
        let here = match self.fits_here(now, shape) {
            Ok(_) => "it is about to be given a place".to_owned(),
            Err(lack) => self.lack_text(now, shape, &lack),
        };
        if let Some(within) = shape.spec.within {
            return self.why_within(shape, within, &here);
        }
        match shape.spec.strategy {
            PlacementStrategy::Node { node } if node == self.node => return here,
            PlacementStrategy::Node { node } => return self.why_there(now, shape, node),
            PlacementStrategy::NodeSoft { node } if self.can_ever(shape, node) => {
                return if node == self.node { here } else { self.why_there(now, shape, node) };
            }
            _ => {}
        }
        if self.peers.is_empty() {
            return here;
        }
        match self.nobody_has(shape) {
            Some(text) => text,
            None => format!("{here}; no other node has room now"),
        }
    }

    /// It waits on another node, of which the view is known here.
    fn why_away(&self, shape: &Shape, node: NodeId) -> String {
        let Some(peer) = self.peers.get(&node) else { return format!("it waits on {node}, which is not known") };
        let lacks = shape.spec.request.amounts().find(|(name, amount)| *amount > amount_in(&peer.free, name));
        match lacks {
            Some((name, amount)) => {
                let (free, total) = (amount_in(&peer.free, name), amount_in(&peer.load.total, name));
                format!("it waits on {node}: {name} = {amount}, {free} of {total} are free there")
            }
            None => format!("it waits on {node}, where others come first"),
        }
    }

    fn why_there(&self, now: Time, shape: &Shape, node: NodeId) -> String {
        let Some(peer) = self.peers.get(&node) else { return format!("{node} was asked for and is not known") };
        let load = &peer.load;
        if load.is_draining {
            return format!("{node} was asked for and is being drained");
        }
        if let Some(target) = self.cannot_run_there(shape.job, peer) {
            return format!("{node} was asked for: {}", cannot_run(node, target, &load.platform));
        }
        if let Some(rule) = self.selector(&shape.spec).broken_by(&load.labels) {
            return format!("{node} was asked for and does not carry the label {rule}");
        }
        let lacks = shape.spec.request.amounts().find(|(name, amount)| *amount > amount_in(&peer.free, name));
        match lacks {
            Some((name, amount)) => {
                let (free, total) = (amount_in(&peer.free, name), amount_in(&load.total, name));
                format!("{node} was asked for: {name} = {amount}, {free} of {total} are free there")
            }
            None if !self.fits_there(now, shape, node, peer) => format!("{node} had no room just now"),
            None => format!("{node} is about to be asked"),
        }
    }

    /// What no living node has at all, however much of it is in use.
    fn nobody_has(&self, shape: &Shape) -> Option<String> {
        if let Some(text) = self.nobody_runs(shape.job) {
            return Some(text);
        }
        let loads = || self.peers.iter().map(|(node, peer)| (*node, &peer.load));
        let selector = self.selector(&shape.spec);
        let carries = |labels| selector.broken_by(labels).is_none();
        if !carries(&self.labels) && !loads().any(|(_, load)| carries(&load.labels)) {
            let fallbacks = shape.spec.fallbacks.iter().map(|fallback| format!(", nor {fallback}"));
            return Some(format!("no node of the cluster carries {selector}{}", fallbacks.collect::<String>()));
        }
        let request = &shape.spec.request;
        request.amounts().find_map(|(name, amount)| {
            let here = (self.ledger.amount(name).0, self.node);
            let there = loads().map(|(node, load)| (amount_in(&load.total, name), node));
            let (most, node) = there.chain([here]).max_by_key(|(total, _)| *total)?;
            let text = match most > Amount::ZERO {
                true => format!("{name} = {amount}: no node has so much, the most is {most} on {node}"),
                false => format!("{name} = {amount}: no node has any"),
            };
            (amount > most).then_some(text)
        })
    }

    /// What this node lacks, in words.
    pub(super) fn lack_text(&self, now: Time, shape: &Shape, lack: &Lack) -> String {
        match lack {
            Lack::Program { target } => cannot_run(self.node, target, &self.platform),
            Lack::Draining => format!("{} is being drained", self.node),
            Lack::Label { rule } => format!("{} does not carry the label {rule}", self.node),
            Lack::Never { name, amount, total } => format!("{name} = {amount}, {} has {total}", self.node),
            Lack::InUse { name, amount, free, total } => {
                format!("{name} = {amount}, {free} of {total} are free on {}{}", self.node, self.users(name))
            }
            Lack::Devices { amount } => {
                format!("num_gpus = {amount}, no GPU of {} has so much left in one piece", self.node)
            }
            Lack::Kept { request } => {
                format!("what comes free on {} is kept for an older request of {}", self.node, request.holder)
            }
            Lack::NoBundle { within } => format!("{} keeps no such bundle: it takes its place in {within}", self.node),
            Lack::InBundle { key: (group, bundle), name, amount, free, total } => {
                format!("{name} = {amount}, {free} of {total} are free in bundle {bundle} of {group} on {}", self.node)
            }
            Lack::Share { job } => {
                format!("what comes free on {} goes first to {job}, which uses less of it and waits", self.node)
            }
            Lack::Starting => format!("{} workers are being started on {}", self.starting, self.node),
            Lack::StartFailed { again_at } => {
                let why = self.failures.get(&shape.job).map_or("", |failures| failures.why.as_str());
                format!(
                    "its worker did not start on {} ({why}); it is tried again in {} ms",
                    self.node,
                    again_at.since(now).as_millis()
                )
            }
        }
    }

    /// The jobs that use `name` here, the greediest first.
    fn users(&self, name: &str) -> String {
        let mut by_job: Vec<(Amount, mobula_types::JobId)> = Vec::new();
        for lease in self.leases.values().filter(|lease| lease.pool.is_none()) {
            let amount = amount_of(&lease.spec.request, name);
            let Some(job) = self.workers.get(&lease.worker).map(|worker| worker.job) else { continue };
            match by_job.iter_mut().find(|(_, known)| *known == job) {
                Some((sum, _)) => *sum = sum.plus(amount),
                None => by_job.push((amount, job)),
            }
        }
        by_job.retain(|(sum, _)| *sum > Amount::ZERO);
        by_job.sort_by(|one, other| other.cmp(one));
        let names = by_job.iter().take(USERS_SHOWN).map(|(sum, job)| format!("{job} uses {sum}"));
        let reserved = self.reserved(name);
        let kept = (reserved > Amount::ZERO).then(|| format!("placement groups have reserved {reserved}"));
        let names: Vec<String> = names.chain(kept).collect();
        if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
    }
}

/// Jobs named in a reason: a line on a terminal.
const USERS_SHOWN: usize = 3;
