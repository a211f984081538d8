//! Placement groups: resources that are reserved together, on one node or many, for what is said to run in them
//! (design.md §7).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::labels::LabelSelector;
use crate::resources::{Request, Resources};
use crate::{JobId, ProcessId};

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

/// In which reservation a task or an actor takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Within {
    /// The group.
    pub group: GroupId,
    /// Which of its bundles; none for any that has room.
    pub bundle: Option<u32>,
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bundle {
            Some(bundle) => write!(f, "bundle {bundle} of {}", self.group),
            None => write!(f, "a bundle of {}", self.group),
        }
    }
}

/// A bundle that a node keeps, as it tells others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleLoad {
    /// Of which group.
    pub group: GroupId,
    /// Which of its bundles.
    pub bundle: u32,
    /// What of it nobody uses.
    pub free: Resources,
}

impl BundleLoad {
    /// Whether it is, or is one of, those that are asked for.
    pub fn is_within(&self, within: Within) -> bool {
        self.group == within.group && within.bundle.is_none_or(|bundle| bundle == self.bundle)
    }
}

/// Why a group is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum GroupEnd {
    /// Somebody has removed it.
    Removed {
        /// What it waited for then, if it was not ready.
        waited: Option<String>,
    },
    /// Its job is over.
    JobEnded {
        /// Which.
        job: JobId,
    },
    /// There are as many groups as may be.
    TooMany {
        /// How many.
        max: usize,
    },
    /// It cannot be asked for.
    Invalid {
        /// What is wrong with it.
        message: String,
    },
}

impl fmt::Display for GroupEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed { waited: None } => f.write_str("it was removed"),
            Self::Removed { waited: Some(waited) } => write!(f, "it was removed while it waited: {waited}"),
            Self::JobEnded { job } => write!(f, "its {job} has ended"),
            Self::TooMany { max } => write!(f, "{max} placement groups are there: remove some"),
            Self::Invalid { message } => f.write_str(message),
        }
    }
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

impl BundleStrategy {
    /// The word for it, in lists and reasons.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pack => "pack",
            Self::Spread => "spread",
            Self::StrictPack => "strict_pack",
            Self::StrictSpread => "strict_spread",
        }
    }
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
