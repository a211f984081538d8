//! Placement groups: resources that are reserved together, for the actors and tasks that are said to run in them.

use std::future::IntoFuture;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mobula_node::GroupError;
use mobula_types::resources::{Amount, CPUS, GPUS};
use mobula_types::{Bundle, BundleStrategy, GroupEnd, GroupId, GroupSpec, LabelRule, NodeId};
use serde::{Deserialize, Serialize};

/// Begins a placement group: bundles of resources that are reserved on the nodes of a cluster, all of them or none. In an
/// embedded session this process is the only node, and they are reserved of what it has.
///
/// ```
/// use mobula::prelude::*;
/// use mobula::BundleStrategy;
///
/// #[remote(num_cpus = 0.5)]
/// fn shard(number: u32) -> u32 { number }
///
/// # #[mobula::main]
/// # async fn main() -> Result<()> {
/// # let _session = mobula::init().await?;
/// let group = mobula::placement_group()
///     .bundle(|bundle| bundle.num_cpus(0.5))
///     .bundle(|bundle| bundle.num_cpus(0.5))
///     .strategy(BundleStrategy::StrictPack)
///     .create()
///     .await?;
/// let first = shard::options().in_bundle(&group, 0).remote(0u32);
/// let somewhere = shard::options().in_group(&group).remote(1u32);
/// # mobula::get(vec![first, somewhere]).await?;
/// group.remove().await?;
/// # Ok(())
/// # }
/// ```
pub fn placement_group() -> PlacementGroupBuilder {
    PlacementGroupBuilder::default()
}

/// A placement group that is about to be made.
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is reserved until `create()` is awaited"]
pub struct PlacementGroupBuilder {
    spec: GroupSpec,
    /// Why it cannot be made, found out while it was described.
    wrong: Option<String>,
}

impl PlacementGroupBuilder {
    /// One bundle more: what it holds is reserved in one piece, on one node.
    pub fn bundle(mut self, describe: impl FnOnce(BundleSpec) -> BundleSpec) -> Self {
        let BundleSpec { bundle, wrong } = describe(BundleSpec::default());
        self.spec.bundles.push(bundle);
        self.wrong = self.wrong.or(wrong);
        self
    }

    /// How the bundles lie on nodes; [`BundleStrategy::Pack`] unless it is said.
    ///
    /// | strategy | nodes |
    /// |---|---|
    /// | `Pack` | as few as can be |
    /// | `Spread` | as many as can be |
    /// | `StrictPack` | one, or it waits |
    /// | `StrictSpread` | one for each bundle, or it waits |
    pub fn strategy(mut self, strategy: BundleStrategy) -> Self {
        self.spec.strategy = strategy;
        self
    }

    /// Reserves it: await this for the group, which is there when all its bundles are. Meanwhile
    /// `mobula list placement-groups` says what it waits for.
    pub fn create(self) -> CreateGroup {
        CreateGroup { builder: self, timeout: None }
    }
}

/// What one bundle holds.
#[derive(Clone, Debug, Default)]
pub struct BundleSpec {
    bundle: Bundle,
    wrong: Option<String>,
}

impl BundleSpec {
    /// So many CPUs, in steps of 0.0001.
    pub fn num_cpus(self, num_cpus: f64) -> Self {
        self.resource(CPUS, num_cpus)
    }

    /// So many GPUs, in steps of 0.0001.
    pub fn num_gpus(self, num_gpus: f64) -> Self {
        self.resource(GPUS, num_gpus)
    }

    /// So much of a resource with a name of its own.
    pub fn resource(mut self, name: impl AsRef<str>, amount: f64) -> Self {
        let name = name.as_ref();
        match Amount::new(amount) {
            Some(amount) => self.bundle.request.set(name, amount),
            None => self.wrong = Some(format!("{name} = {amount} is no amount: use a number from 0 on")),
        }
        self
    }

    /// On a node that carries this label.
    pub fn label(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.label_rule(LabelRule::equal(key, value))
    }

    /// On a node whose labels are as this rule says; with others, all must hold.
    pub fn label_rule(mut self, rule: LabelRule) -> Self {
        self.bundle.labels.push(rule);
        self
    }
}

/// A placement group that is being reserved. Dropping the future gives back what was reserved.
#[derive(Debug)]
#[must_use = "nothing is reserved until it is awaited"]
pub struct CreateGroup {
    builder: PlacementGroupBuilder,
    timeout: Option<Duration>,
}

impl CreateGroup {
    /// Waits no longer than this: then nothing is reserved, and the error says what was waited for.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl IntoFuture for CreateGroup {
    type Output = Result<PlacementGroup, GroupError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { builder: PlacementGroupBuilder { spec, wrong }, timeout } = self;
            if let Some(message) = wrong {
                return Err(GroupError::Ended { why: GroupEnd::Invalid { message } });
            }
            let (id, nodes) = mobula_node::create_group(spec, timeout).await?;
            Ok(PlacementGroup { id, nodes })
        })
    }
}

/// Resources that are reserved together.
///
/// What takes its place in it says so: [`in_group`](crate::Spawn::in_group) for any bundle that has room,
/// [`in_bundle`](crate::Spawn::in_bundle) for one of them; functions have the same options. It gets what it asks for out of
/// the bundle, and nothing else; what is not said to run in the group gets nothing of it.
///
/// The handle is a name: it may be cloned and sent, and dropping it gives nothing back. The group ends when it is
/// [removed](Self::remove), or with its job; actors in it end then, of which their callers are told
/// [`DeathCause::GroupEnded`](crate::DeathCause::GroupEnded). In an embedded session a function that is not async cannot be
/// ended: it runs on, and what the group had is free when it returns. When a node is lost, the bundles that it kept are reserved
/// anew elsewhere as soon as there is room, and what is restarted there waits for that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementGroup {
    id: GroupId,
    nodes: Vec<NodeId>,
}

impl PlacementGroup {
    /// Its id, for lists and `mobula why`.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The node of each bundle, as it was when the group had become ready.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// Gives back what is reserved, and ends what runs in it: on other nodes that is heard a moment after this returns. One
    /// that is removed already is no error.
    ///
    /// # Errors
    ///
    /// There is no session, or nobody answers.
    pub async fn remove(&self) -> Result<(), GroupError> {
        mobula_node::remove_group(self.id).await
    }
}

impl From<&PlacementGroup> for GroupId {
    fn from(group: &PlacementGroup) -> Self {
        group.id
    }
}
