//! What a task or an actor asks of the place where it runs (design.md §7).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::NodeId;
use crate::group::{BundleLoad, Within};
use crate::labels::{FALLBACKS_MAX, LabelSelector};
use crate::resources::{Amount, Request};

/// What something needs of a node, and which node it prefers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PlacementSpec {
    /// What it takes while it runs.
    pub request: Request,
    /// What the labels of its node must be.
    pub labels: LabelSelector,
    /// What they must be when no living node is as `labels` says: the first that any is counts.
    pub fallbacks: Vec<LabelSelector>,
    /// Which of the nodes that fit.
    pub strategy: PlacementStrategy,
    /// Whether it gets a process of its own.
    pub isolated: bool,
    /// What was reserved of which it takes what it needs; none for what nobody has reserved.
    pub within: Option<Within>,
}

impl PlacementSpec {
    /// Whether its labels can be asked for.
    ///
    /// # Errors
    ///
    /// What is wrong with them, and what would be right.
    pub fn check_labels(&self) -> Result<(), String> {
        if self.fallbacks.len() > FALLBACKS_MAX {
            return Err(format!("{} fallbacks for labels: use {FALLBACKS_MAX} at most", self.fallbacks.len()));
        }
        std::iter::once(&self.labels).chain(&self.fallbacks).try_for_each(LabelSelector::check)
    }

    /// The same with so much of a resource, in steps of 0.0001; what is no amount is none.
    ///
    /// ```
    /// use mobula_types::PlacementSpec;
    /// let spec = PlacementSpec::default().needing("num_cpus", 0.5).needing("licence", 1.0);
    /// let amounts: Vec<_> = spec.request.amounts().map(|(name, amount)| format!("{name} {amount}")).collect();
    /// assert_eq!(amounts, ["num_cpus 0.5", "licence 1"]);
    /// ```
    #[must_use]
    pub fn needing(mut self, name: &str, amount: f64) -> Self {
        self.request.set(name, Amount::new(amount).unwrap_or_default());
        self
    }
}

/// Which of the nodes that fit is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PlacementStrategy {
    /// The nearest while it is less than half used, then the least used.
    #[default]
    Hybrid,
    /// The least used.
    Spread,
    /// The most used.
    Pack,
    /// This one, or none.
    Node {
        /// Which.
        node: NodeId,
    },
    /// This one, waiting for it if others use it; as `Hybrid` when it is dead or drained, or can never do.
    NodeSoft {
        /// Which.
        node: NodeId,
    },
    /// This one if it lives and has room, else as `Hybrid`.
    Prefer {
        /// Which.
        node: NodeId,
    },
}

/// What a node tells of itself, to all others through the head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLoad {
    /// What it has.
    pub total: crate::resources::Resources,
    /// What of it is free.
    pub free: crate::resources::Resources,
    /// What it is called and where it stands, in words of whoever started it.
    pub labels: BTreeMap<String, String>,
    /// It takes nothing new.
    pub is_draining: bool,
    /// The bundles of placement groups that it keeps: what they have is not in `free`.
    pub bundles: Vec<BundleLoad>,
    /// Which programs it can run.
    pub platform: crate::program::Platform,
}
