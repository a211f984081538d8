//! What is always true of a membership.
//!
//! | number | invariant |
//! |---|---|
//! | MEM-1 | an id is given once, in rising order; a dead node's never lives again |
//! | MEM-2 | of one member at most one node lives |
//! | MEM-3 | nobody is declared killed or silent without having been so, while the head listened |
//! | MEM-4 | nobody lives who has been silent for [`SILENT_MAX`] |
//! | MEM-5 | who is told to the others is in the store: a node before it lives, a death before it is told |
//! | MEM-6 | each node's last change has a version of its own, and none is newer than the view's |
//! | MEM-7 | what is kept is bounded |

use std::collections::BTreeSet;

use mobula_types::DeathCause;

use super::{GRACE, Membership, PROBE_AFTER, REFUSALS, SILENT_MAX, State};
use crate::invariant::{Violation, ensure};

/// Whether everything in the table above holds of `membership`.
///
/// # Errors
/// The first one that does not.
pub fn check(membership: &Membership) -> Result<(), Violation> {
    let Membership { nodes, last, version, changed, looked, bounds, .. } = membership;
    let mut living = BTreeSet::new();
    for (id, node) in nodes {
        ensure(id <= last, "MEM-1", || format!("{id} lives where {last} is the last given"))?;
        if node.state.lives() {
            ensure(living.insert(node.member), "MEM-2", || format!("{id} is a second node of {}", node.member))?;
        }
        if let State::Dying { death, seen } = &node.state {
            let is_seen = match death.cause {
                DeathCause::NodeKilled => seen.is_replaced || seen.refusals >= REFUSALS && seen.silent >= PROBE_AFTER,
                DeathCause::NodeSilent { .. } => seen.silent >= SILENT_MAX.min(GRACE),
                _ => true,
            };
            ensure(is_seen, "MEM-3", || format!("{id} {} after {seen:?}", death.cause))?;
        }
        let silent = looked.since(node.heard);
        let is_heard = node.state != State::Alive || silent < SILENT_MAX;
        ensure(is_heard, "MEM-4", || format!("{id} is alive and silent for {silent:?}"))?;

        let is_told = node.version != 0;
        let may_be_told = !matches!(node.state, State::Joining { .. } | State::Returning { .. });
        let must_be_told = matches!(node.state, State::Alive | State::Dead { .. });
        ensure(!is_told || may_be_told, "MEM-5", || format!("{id} is told of while {:?}", node.state))?;
        ensure(is_told || !must_be_told, "MEM-5", || format!("{id} is not told of while {:?}", node.state))?;
        let is_named = !is_told || node.version <= *version && changed.get(&node.version) == Some(id);
        ensure(is_named, "MEM-6", || format!("{id} changed at {}, the view is at {version}", node.version))?;
    }
    let told = nodes.values().filter(|node| node.version != 0).count();
    ensure(told == changed.len(), "MEM-6", || format!("{told} nodes are told of by {} changes", changed.len()))?;
    let dead = nodes.values().filter(|node| matches!(node.state, State::Dead { .. })).count();
    // A dead one that is being written comes on top.
    let is_bounded = living.len() <= bounds.nodes_max && dead <= bounds.dead_max;
    ensure(is_bounded, "MEM-7", || format!("{} nodes live and {dead} are dead", living.len()))
}
