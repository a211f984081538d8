//! What holds of placement groups after every input.
//!
//! | number | invariant |
//! |---|---|
//! | GRP-1 | a round is under way for all bundles of a group that have no place, or for none |
//! | GRP-2 | a group that is not whole waits, and no other does |
//! | GRP-3 | nothing is kept on a node before every node of its round has prepared |
//! | GRP-4 | a bundle is with a node that lives, as far as is known |
//! | GRP-5 | strict strategies keep their word: one node for all, or one for each |
//! | GRP-6 | what a node says that it keeps, and nothing more, is reserved there; what it was told to give back is not |
//!
//! And what holds of the head with all nodes, which only a simulation sees:
//!
//! | number | invariant |
//! |---|---|
//! | GRP-7 | a node keeps no more apart than it has |
//! | GRP-8 | of a group that is over nothing is kept anywhere, and nothing stays prepared |
//! | GRP-9 | a group that is wanted is placed, or waits with a reason and there is no room |
//! | GRP-10 | a bundle is kept on one node |
//! | GRP-11 | who made a group is told that it is ready, and who removed it that it is over |

use std::collections::BTreeSet;

use mobula_types::{BundleStrategy, NodeId};

use super::{Groups, Slot};
use crate::invariant::{Violation, ensure};

/// Whether everything in the table above holds of `groups`.
///
/// # Errors
/// The first one that does not.
pub fn check(groups: &Groups) -> Result<(), Violation> {
    for (id, group) in &groups.groups {
        let slots = &group.slots;
        let is_asking = slots.iter().any(|slot| slot.is_asking());
        let is_unplaced = slots.contains(&Slot::Unplaced);
        ensure(!(is_asking && is_unplaced), "GRP-1", || format!("{id} is asked for in part: {slots:?}"))?;
        let is_whole = !is_asking && !is_unplaced;
        let waits = groups.waiting.contains(&(group.number, *id));
        ensure(waits != is_whole, "GRP-2", || format!("{id} waits: {waits}, and its bundles are {slots:?}"))?;
        let all_prepared = is_asking && !slots.iter().any(|slot| matches!(slot, Slot::Asked(_)));
        ensure(!all_prepared, "GRP-3", || format!("{id} is prepared and not committed: {slots:?}"))?;
        for node in slots.iter().filter(|slot| slot.is_asking()).filter_map(|slot| slot.node()) {
            ensure(groups.nodes.contains_key(&node), "GRP-4", || format!("{id} is asked of {node}, which is dead"))?;
        }
        let nodes: Vec<NodeId> = slots.iter().filter_map(|slot| slot.node()).collect();
        let distinct = nodes.iter().collect::<BTreeSet<_>>().len();
        let keeps_its_word = match group.spec.strategy {
            BundleStrategy::StrictPack => distinct <= 1,
            BundleStrategy::StrictSpread => distinct == nodes.len(),
            _ => true,
        };
        let is_its = |(node, at): &&(NodeId, u32)| slots.get(*at as usize).and_then(|slot| slot.node()) == Some(*node);
        let believed = group.given_back.iter().find(is_its);
        ensure(believed.is_none(), "GRP-6", || format!("{id} is on {believed:?}, which was to give it back"))?;
        ensure(keeps_its_word, "GRP-5", || format!("{id} is {:?} and lies on {nodes:?}", group.spec.strategy))?;
    }
    let known = groups.waiting.iter().all(|(_, id)| groups.groups.contains_key(id));
    ensure(known, "GRP-2", || "a group that is gone waits".to_owned())
}
