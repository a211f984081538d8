//! Whether a node has room for a request, and which of those that have is taken.

use std::sync::Arc;

use mobula_types::program::Target;
use mobula_types::resources::{Amount, CPUS, GPUS, Request, Resources};
use mobula_types::{JobId, LabelRule, LabelSelector, NodeId, PlacementSpec, PlacementStrategy, Time, Within};

use super::bundles::Key;
use super::devices::Share;
use super::{At, Mutant, Peer, Refusal, RequestKey, STARTING_MAX, Scheduler, Shape, Whose};

/// Where a request goes.
#[derive(Debug)]
pub(super) enum Choice {
    /// Here, with these devices.
    Here(Vec<Share>),
    /// Another node is asked.
    Peer(NodeId),
    /// Nowhere, and asking again is of no use.
    Never(Refusal),
    /// Nowhere now; what this node lacks, if it is waited for.
    Wait(Option<Lack>),
}

/// What this node lacks for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    Draining,
    Program {
        target: Target,
    },
    Label {
        rule: LabelRule,
    },
    Never {
        name: String,
        amount: Amount,
        total: Amount,
    },
    InUse {
        name: String,
        amount: Amount,
        free: Amount,
        total: Amount,
    },
    Devices {
        amount: Amount,
    },
    Kept {
        request: RequestKey,
    },
    NoBundle {
        within: Within,
    },
    InBundle {
        key: Key,
        name: String,
        amount: Amount,
        free: Amount,
        total: Amount,
    },
    Starting,
    StartFailed {
        again_at: Time,
    },
    /// A job with less waits for the same.
    Share {
        job: JobId,
    },
}

impl Lack {
    /// It may be over before long, without a change of what the node is.
    pub(super) fn may_pass(&self) -> bool {
        self.is_in_use() || matches!(self, Self::Share { .. } | Self::Starting)
    }

    /// It has enough, and it may come free.
    pub(super) fn is_in_use(&self) -> bool {
        matches!(self, Self::InUse { .. } | Self::Devices { .. } | Self::Kept { .. })
    }
}

/// How good a node is; the least is taken.
type Rank = (bool, u64, u64, bool, NodeId);

impl Scheduler {
    /// The devices for a request of `shape` if there is room here now (SCHED-1), else what is missing.
    pub(super) fn fits_here(&self, now: Time, shape: &Shape) -> Result<Vec<Share>, Lack> {
        let request = &shape.spec.request;
        if self.is_draining {
            return Err(Lack::Draining);
        }
        if let Some(target) = self.cannot_run_here(shape.job) {
            return Err(Lack::Program { target: target.clone() });
        }
        if let Some(rule) = self.selector(&shape.spec).broken_by(&self.labels) {
            return Err(Lack::Label { rule: rule.clone() });
        }
        if let Some(within) = shape.spec.within {
            let (_, devices) = self.fits_bundle(within, request)?;
            self.may_start(now, shape)?;
            return Ok(devices);
        }
        if let Some((name, free, total)) = self.ledger.lacking(request)
            && !self.planted.is(Mutant::OverCommit)
        {
            let amount = amount_of(request, name);
            return Err(match amount > total {
                true => Lack::Never { name: name.to_owned(), amount, total },
                false => Lack::InUse { name: name.to_owned(), amount, free, total },
            });
        }
        let Some(devices) = self.devices.find(request.gpus) else {
            return Err(Lack::Devices { amount: request.gpus });
        };
        if let Some((kept, _)) = self.kept
            && let Some(ask) = self.asks.get(&kept)
            && !std::ptr::eq(&raw const self.shapes[ask.shape], shape)
            && !self.is_poorer(shape.job, self.shapes[ask.shape].job)
            && share_a_name(&self.shapes[ask.shape].spec.request, request)
        {
            return Err(Lack::Kept { request: kept });
        }
        self.may_start(now, shape)?;
        match self.poorer_before(now, shape) {
            Some(job) => Err(Lack::Share { job }),
            None => Ok(devices),
        }
    }

    /// Until when no worker is started for it, after one did not start.
    pub(super) fn start_waits_until(&self, now: Time, shape: &Shape) -> Option<Time> {
        let is_shared = self.shared.contains_key(&(shape.job, None));
        let needs_worker = is_isolated(&shape.spec) || shape.spec.within.is_some() || !is_shared;
        let again_at = self.failures.get(&shape.job).map(|failures| failures.again_at);
        again_at.filter(|again_at| needs_worker && *again_at > now)
    }

    /// Whether a worker may be started now, if one is needed.
    fn may_start(&self, now: Time, shape: &Shape) -> Result<(), Lack> {
        if let Some(again_at) = self.start_waits_until(now, shape) {
            return Err(Lack::StartFailed { again_at });
        }
        if is_isolated(&shape.spec) && self.starting >= STARTING_MAX {
            return Err(Lack::Starting);
        }
        Ok(())
    }

    /// The rules for labels that count: the first that any living node is as they say, else the first of all.
    pub(super) fn selector<'a>(&self, spec: &'a PlacementSpec) -> &'a LabelSelector {
        if spec.fallbacks.is_empty() {
            return &spec.labels;
        }
        let fits = |selector: &&LabelSelector| {
            !self.is_draining && selector.broken_by(&self.labels).is_none()
                || self
                    .peers
                    .values()
                    .any(|peer| !peer.load.is_draining && selector.broken_by(&peer.load.labels).is_none())
        };
        std::iter::once(&spec.labels).chain(&spec.fallbacks).find(fits).unwrap_or(&spec.labels)
    }

    /// Whether the view shows room on another node.
    pub(super) fn fits_there(&self, now: Time, shape: &Shape, node: NodeId, peer: &Peer) -> bool {
        let request = &shape.spec.request;
        let has_room = || match shape.spec.within {
            Some(within) => peer.fits_bundle(within, request),
            None => request.amounts().all(|(name, amount)| amount <= amount_in(&peer.free, name)),
        };
        !peer.load.is_draining
            && self.cannot_run_there(shape.job, peer).is_none()
            && shape.refused.get(&node).is_none_or(|until| *until <= now)
            // What waits there comes first.
            && shape.away_on(node) == 0
            && self.selector(&shape.spec).broken_by(&peer.load.labels).is_none()
            && has_room()
    }

    pub(super) fn choose(&self, now: Time, request: RequestKey) -> Choice {
        let Some(ask) = self.asks.get(&request) else { return Choice::Wait(None) };
        debug_assert!(matches!(ask.at, At::Queue | At::Away(_)), "only what waits is served");
        self.choose_for(now, &self.shapes[ask.shape], &ask.avoid)
    }

    /// The node on which something would find room now, as far as this node sees; none when it would wait.
    pub fn find_node(&self, now: Time, job: JobId, spec: &PlacementSpec, avoid: &[NodeId]) -> Option<NodeId> {
        let shape = Shape::new(job, Arc::new(spec.clone()), Whose::Own);
        match self.choose_for(now, &shape, avoid) {
            Choice::Here(_) => Some(self.node),
            Choice::Peer(node) => Some(node),
            Choice::Never(_) | Choice::Wait(_) => None,
        }
    }

    fn choose_for(&self, now: Time, shape: &Shape, avoid: &[NodeId]) -> Choice {
        let strategy = shape.spec.strategy;
        let mut here = self.fits_here(now, shape);
        if shape.whose == Whose::Others {
            return here.map_or_else(|lack| Choice::Wait(Some(lack)), Choice::Here);
        }
        let strategy = match strategy {
            PlacementStrategy::NodeSoft { node } if self.can_ever(shape, node) => PlacementStrategy::Node { node },
            other => other,
        };
        if let PlacementStrategy::Node { node } = strategy {
            if node == self.node {
                return here.map_or_else(|lack| Choice::Wait(Some(lack)), Choice::Here);
            }
            if self.dead.contains(&node) {
                return Choice::Never(Refusal::NodeIsDead { node });
            }
            let fits = self.peers.get(&node).is_some_and(|peer| self.fits_there(now, shape, node, peer));
            return if fits { Choice::Peer(node) } else { Choice::Wait(None) };
        }
        if let PlacementStrategy::Prefer { node } = strategy {
            if node == self.node && here.is_ok() {
                return here.map_or(Choice::Wait(None), Choice::Here);
            }
            if self.peers.get(&node).is_some_and(|peer| self.fits_there(now, shape, node, peer)) {
                return Choice::Peer(node);
            }
        }
        let wanted = &shape.spec.request;
        let avoids = |node| avoid.contains(&node);
        let used_here = self.used(wanted);
        let is_near = !matches!(strategy, PlacementStrategy::Spread | PlacementStrategy::Pack);
        if is_near && used_here < HALF && !avoids(self.node) && here.is_ok() {
            return here.map_or(Choice::Wait(None), Choice::Here);
        }
        let rank = |node, used: u64, served| -> Rank {
            match strategy {
                PlacementStrategy::Spread => (avoids(node), used, served, node != self.node, node),
                PlacementStrategy::Pack => (avoids(node), WHOLE.saturating_sub(used), 0, node != self.node, node),
                _ => (avoids(node), used, 0, node != self.node, node),
            }
        };
        let there = self.peers.iter().filter(|(node, peer)| self.fits_there(now, shape, **node, peer));
        let there = there.map(|(node, peer)| rank(*node, used(peer, wanted), peer.served)).min();
        let rank_here = here.is_ok().then(|| rank(self.node, used_here, self.granted));
        match there {
            Some(there) if rank_here.is_none_or(|rank_here| there < rank_here) => Choice::Peer(there.4),
            _ => match std::mem::replace(&mut here, Ok(Vec::new())) {
                Ok(devices) => Choice::Here(devices),
                Err(lack) => Choice::Wait(Some(lack)),
            },
        }
    }

    /// Whether a node lives, stays, and has enough in all for something.
    pub(super) fn can_ever(&self, shape: &Shape, node: NodeId) -> bool {
        let spec = shape.spec.as_ref();
        let mut amounts = spec.request.amounts();
        if node == self.node {
            return !self.is_draining
                && self.cannot_run_here(shape.job).is_none()
                && self.selector(spec).broken_by(&self.labels).is_none()
                && amounts.all(|(name, amount)| amount <= self.ledger.amount(name).0);
        }
        self.peers.get(&node).is_some_and(|peer| {
            !peer.load.is_draining
                && self.cannot_run_there(shape.job, peer).is_none()
                && self.selector(spec).broken_by(&peer.load.labels).is_none()
                && amounts.all(|(name, amount)| amount <= amount_in(&peer.load.total, name))
        })
    }

    /// How much of this node is in use, of what it has most in use of CPUs, GPUs and what is asked for.
    fn used(&self, request: &Request) -> u64 {
        let names = request.amounts().map(|(name, _)| name).chain([CPUS, GPUS]);
        let part = |name| {
            let (total, free) = self.ledger.amount(name);
            part_used(total, free)
        };
        names.map(part).max().unwrap_or(0)
    }
}

fn used(peer: &Peer, request: &Request) -> u64 {
    let names = request.amounts().map(|(name, _)| name).chain([CPUS, GPUS]);
    names.map(|name| part_used(amount_in(&peer.load.total, name), amount_in(&peer.free, name))).max().unwrap_or(0)
}

/// In thousandths: a difference that is smaller is none.
fn part_used(total: Amount, free: Amount) -> u64 {
    total.minus(free).steps().saturating_mul(WHOLE) / total.steps().max(1)
}

const WHOLE: u64 = 1000;
/// A node that is used less than this keeps its own.
const HALF: u64 = WHOLE / 2;

/// Whether it gets a worker of its own: a process sees the devices that were its at its start.
pub(super) fn is_isolated(spec: &PlacementSpec) -> bool {
    spec.isolated || spec.request.gpus > Amount::ZERO
}

/// Whether both want some of the same.
pub(super) fn share_a_name(one: &Request, other: &Request) -> bool {
    one.amounts().any(|(name, _)| amount_of(other, name) > Amount::ZERO)
}

pub(super) fn amount_of(request: &Request, name: &str) -> Amount {
    request.amounts().find(|(known, _)| *known == name).map_or(Amount::ZERO, |(_, amount)| amount)
}

pub(super) fn amount_in(resources: &Resources, name: &str) -> Amount {
    match name {
        CPUS => resources.cpus,
        GPUS => resources.gpus,
        other => resources.others.get(other).copied().unwrap_or_default(),
    }
}

fn change(resources: &mut Resources, request: &Request, change: impl Fn(Amount, Amount) -> Amount) {
    for (name, amount) in request.amounts() {
        let at = match name {
            CPUS => &mut resources.cpus,
            GPUS => &mut resources.gpus,
            other => match resources.others.get_mut(other) {
                Some(at) => at,
                None => resources.others.entry(other.to_owned()).or_default(),
            },
        };
        *at = change(*at, amount);
    }
}

pub(super) fn take_from(resources: &mut Resources, request: &Request) {
    change(resources, request, Amount::minus);
}

pub(super) fn add_to(resources: &mut Resources, request: &Request) {
    change(resources, request, Amount::plus);
}
