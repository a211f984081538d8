//! Placement groups as a program makes them: asked of the head by way of the node that this process is attached to.

use std::time::Duration;

use mobula_types::{GroupEnd, GroupId, GroupSpec, NodeId, NotStarted};

use crate::host::Host;

/// Why there is no placement group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// There is no session.
    #[error("{}", NotStarted::NoSession)]
    NoSession,
    /// Its bundles were not all free in the time that was given. Nothing of it is reserved.
    #[error("the placement group was not ready within {after:?}: {why}")]
    TimedOut {
        /// The time.
        after: Duration,
        /// What it waited for.
        why: String,
    },
    /// It is no more, or was never made.
    #[error("the placement group is no more: {why}")]
    Ended {
        /// Why.
        why: GroupEnd,
    },
    /// The node or the head does not answer.
    #[error("neither the node nor the head answers")]
    NoNode,
}

/// Makes a placement group and waits until all of it is reserved; gives the node of each bundle.
///
/// # Errors
///
/// [`GroupError`].
pub async fn create_group(spec: GroupSpec, timeout: Option<Duration>) -> Result<(GroupId, Vec<NodeId>), GroupError> {
    spec.check().map_err(|message| GroupError::Ended { why: GroupEnd::Invalid { message } })?;
    let (_, host) = Host::here().ok_or(GroupError::NoSession)?;
    match host.seat.get() {
        Some(process) => process.create_group(spec, timeout).await,
        None => Err(GroupError::Ended { why: GroupEnd::Invalid { message: NEEDS_A_CLUSTER.to_owned() } }),
    }
}

/// Gives back what a placement group has, and ends what runs in it; one that is not there is removed already.
///
/// # Errors
///
/// [`GroupError`].
pub async fn remove_group(group: GroupId) -> Result<(), GroupError> {
    let (_, host) = Host::here().ok_or(GroupError::NoSession)?;
    match host.seat.get() {
        Some(process) => process.remove_group(group).await,
        None => Ok(()),
    }
}

const NEEDS_A_CLUSTER: &str = "a session without a cluster has no nodes to reserve anything on: start one with \
                               `mobula start --head`, and join it by its address";
