//! Placement groups: resources that are reserved together, on one node or many, for what is said to run in them
//! (design.md §7).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ProcessId;
use crate::labels::LabelSelector;
use crate::resources::Request;

/// Bundles of one group: its words fit into a control frame, and matching them with nodes takes milliseconds.
pub const BUNDLES_MAX: usize = 256;

/// Names a placement group in the whole cluster; who makes it chooses the number, so that saying it twice makes one.
///
/// ```
/// use mobula_types::{GroupId, NodeId, ProcessId};
/// let id = GroupId { process: ProcessId::new(NodeId(7), 2), number: 1 };
/// assert_eq!(id.to_string(), "group-7:2.1");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupId {
    /// The process that made it.
    pub process: ProcessId,
    /// The count of that process's groups.
    pub number: u64,
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group-{}.{}", self.process, self.number)
    }
}

/// What is reserved in one piece, on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// How much.
    pub request: Request,
    /// What the labels of its node must be.
    pub labels: LabelSelector,
}

/// How the bundles of a group lie on nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BundleStrategy {
    /// On as few nodes as can be.
    #[default]
    Pack,
    /// On as many nodes as can be.
    Spread,
    /// All on one node, or nowhere.
    StrictPack,
    /// Each on a node of its own, or nowhere.
    StrictSpread,
}

/// What a placement group asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// Its bundles: those of one group are reserved all or not at all.
    pub bundles: Vec<Bundle>,
    /// How they lie on nodes.
    pub strategy: BundleStrategy,
}

impl GroupSpec {
    /// Whether it can be asked for.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and what would be right.
    pub fn check(&self) -> Result<(), String> {
        let count = self.bundles.len();
        if count == 0 || count > BUNDLES_MAX {
            return Err(format!("a placement group of {count} bundles: use 1 to {BUNDLES_MAX}"));
        }
        if let Some(at) = self.bundles.iter().position(|bundle| bundle.request.is_nothing()) {
            return Err(format!("bundle {at} reserves nothing: ask for CPUs, GPUs or another resource"));
        }
        self.bundles.iter().try_for_each(|bundle| bundle.labels.check())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_reserves_nothing_or_too_much_is_refused() {
        let of = |count| GroupSpec {
            bundles: vec![Bundle { request: Request::ONE_CPU, ..Bundle::default() }; count],
            ..GroupSpec::default()
        };
        assert_eq!(of(0).check().unwrap_err(), "a placement group of 0 bundles: use 1 to 256");
        assert_eq!(of(257).check().unwrap_err(), "a placement group of 257 bundles: use 1 to 256");
        assert_eq!(of(256).check(), Ok(()));
        let mut hollow = of(2);
        hollow.bundles[1].request = Request::default();
        assert_eq!(hollow.check().unwrap_err(), "bundle 1 reserves nothing: ask for CPUs, GPUs or another resource");
    }
}
