//! On which nodes bundles go: one answer for all that have no place, or none.

use std::collections::{BTreeMap, BTreeSet};

use mobula_types::resources::{Amount, CPUS, GPUS, Request, Resources};
use mobula_types::{Bundle, BundleStrategy, NodeId, NodeLoad};

/// What is to be placed, and what of the group has its place already.
pub(super) struct Wish<'a> {
    pub(super) strategy: BundleStrategy,
    /// Those without a place, by their index.
    pub(super) bundles: Vec<(usize, &'a Bundle)>,
    /// How many of the group's other bundles each node has.
    pub(super) placed: BTreeMap<NodeId, usize>,
}

/// A node for each bundle; `None` when they do not all fit on `nodes`, whose free amounts are given.
pub(super) fn place(wish: &Wish<'_>, nodes: &BTreeMap<NodeId, (&NodeLoad, Resources)>) -> Option<Vec<(usize, NodeId)>> {
    match wish.strategy {
        BundleStrategy::StrictPack => one_node(wish, nodes),
        BundleStrategy::Pack => one_node(wish, nodes).or_else(|| greedy(wish, nodes)),
        BundleStrategy::Spread => greedy(wish, nodes),
        BundleStrategy::StrictSpread => matched(wish, nodes),
    }
}

/// All on one node: where the group is already, else where least is left over.
fn one_node(wish: &Wish<'_>, nodes: &BTreeMap<NodeId, (&NodeLoad, Resources)>) -> Option<Vec<(usize, NodeId)>> {
    let takes_all = |(node, (load, free)): (&NodeId, &(&NodeLoad, Resources))| {
        let mut left = free.clone();
        let fits = wish.bundles.iter().all(|(_, bundle)| {
            let fits = fits(bundle, load, &left);
            take(&mut left, &bundle.request);
            fits
        });
        let is_elsewhere = wish.placed.keys().any(|placed| placed != node);
        (fits && !is_elsewhere).then_some((left.gpus, left.cpus, *node))
    };
    let (.., node) = nodes.iter().filter_map(takes_all).min()?;
    Some(wish.bundles.iter().map(|(at, _)| (*at, node)).collect())
}

/// The largest first, each where the strategy likes it best.
fn greedy(wish: &Wish<'_>, nodes: &BTreeMap<NodeId, (&NodeLoad, Resources)>) -> Option<Vec<(usize, NodeId)>> {
    let (mut left, mut placed) = (nodes.clone(), wish.placed.clone());
    let mut order: Vec<&(usize, &Bundle)> = wish.bundles.iter().collect();
    order.sort_by_key(|(at, bundle)| (std::cmp::Reverse((bundle.request.gpus, bundle.request.cpus)), *at));
    let mut places = Vec::new();
    for (at, bundle) in order {
        let rank = |(node, (load, free)): (&NodeId, &(&NodeLoad, Resources))| {
            let has = placed.get(node).copied().unwrap_or(0);
            // Spread counts; pack only asks whether a node is opened already.
            let rank = if wish.strategy == BundleStrategy::Spread { has } else { usize::from(has == 0) };
            fits(bundle, load, free).then_some((rank, std::cmp::Reverse((free.gpus, free.cpus)), *node))
        };
        let (.., node) = left.iter().filter_map(rank).min()?;
        if let Some((_, free)) = left.get_mut(&node) {
            take(free, &bundle.request);
        }
        *placed.entry(node).or_default() += 1;
        places.push((*at, node));
    }
    Some(places)
}

/// Each on a node of its own: taking the first that fits would miss places that there are, so who came first makes room
/// when it can go elsewhere (Kuhn, The Hungarian method for the assignment problem, 1955).
fn matched(wish: &Wish<'_>, nodes: &BTreeMap<NodeId, (&NodeLoad, Resources)>) -> Option<Vec<(usize, NodeId)>> {
    let may_have = |bundle: &Bundle| -> Vec<NodeId> {
        let open = nodes.iter().filter(|(node, _)| !wish.placed.contains_key(node));
        open.filter(|(_, (load, free))| fits(bundle, load, free)).map(|(node, _)| *node).collect()
    };
    let choices: Vec<Vec<NodeId>> = wish.bundles.iter().map(|(_, bundle)| may_have(bundle)).collect();
    let mut taken: BTreeMap<NodeId, usize> = BTreeMap::new();
    for bundle in 0..choices.len() {
        if !make_room(bundle, &choices, &mut taken, &mut BTreeSet::new()) {
            return None;
        }
    }
    Some(taken.into_iter().map(|(node, bundle)| (wish.bundles[bundle].0, node)).collect())
}

/// As deep as there are bundles at most, each once.
fn make_room(
    bundle: usize,
    choices: &[Vec<NodeId>],
    taken: &mut BTreeMap<NodeId, usize>,
    seen: &mut BTreeSet<NodeId>,
) -> bool {
    if let Some(node) = choices[bundle].iter().find(|node| !taken.contains_key(node)) {
        taken.insert(*node, bundle);
        return true;
    }
    for node in &choices[bundle] {
        let Some(other) = taken.get(node).copied() else { continue };
        if seen.insert(*node) && make_room(other, choices, taken, seen) {
            taken.insert(*node, bundle);
            return true;
        }
    }
    false
}

/// Whether a node with so much free has room for a bundle.
pub(super) fn fits(bundle: &Bundle, load: &NodeLoad, free: &Resources) -> bool {
    !load.is_draining
        && bundle.labels.broken_by(&load.labels).is_none()
        && bundle.request.amounts().all(|(name, amount)| amount <= amount_in(free, name))
}

pub(super) fn amount_in(resources: &Resources, name: &str) -> Amount {
    match name {
        CPUS => resources.cpus,
        GPUS => resources.gpus,
        other => resources.others.get(other).copied().unwrap_or_default(),
    }
}

pub(super) fn take(resources: &mut Resources, request: &Request) {
    resources.cpus = resources.cpus.minus(request.cpus);
    resources.gpus = resources.gpus.minus(request.gpus);
    for (name, amount) in &request.others {
        if let Some(free) = resources.others.get_mut(name) {
            *free = free.minus(*amount);
        }
    }
}
