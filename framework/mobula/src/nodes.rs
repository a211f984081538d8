//! The nodes on which a job may run.

use std::collections::BTreeMap;

use mobula_node::ValueError;
use mobula_types::NodeId;

/// One node of the cluster, or this process where there is none.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NodeInfo {
    /// Its id, for [`on_node`](crate::Spawn::on_node).
    pub id: NodeId,
    /// Whether it takes work: it lives and is not draining.
    pub is_open: bool,
    /// What it has, by name.
    pub resources_total: BTreeMap<String, f64>,
    /// What of it is free, as far as the head has heard.
    pub resources_free: BTreeMap<String, f64>,
    /// Bytes that its processes share, as far as the head has heard.
    pub store_bytes_used: u64,
    /// Objects of which it knows: its own, and others' that are held there.
    pub objects: u64,
}

/// The nodes of the cluster that live; in an embedded session this process is the only one.
///
/// ```
/// # #[mobula::main]
/// # async fn main() -> mobula::Result<()> {
/// # let _session = mobula::init().await?;
/// for node in mobula::nodes().await? {
///     println!("{} has {:?}", node.id, node.resources_total);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// There is no session, or the node does not answer.
pub async fn nodes() -> Result<Vec<NodeInfo>, ValueError> {
    let nodes = mobula_node::nodes().await?;
    let living = nodes.into_iter().filter(|node| node.state != "dead");
    Ok(living
        .filter_map(|node| {
            // Ids are told as text: a number, perhaps behind a word.
            let number = node.node_id.rsplit(['-', ' ']).next()?.parse().ok()?;
            Some(NodeInfo {
                id: NodeId(number),
                is_open: node.state == "alive",
                resources_total: node.resources_total,
                resources_free: node.resources_free,
                store_bytes_used: node.store_bytes_used,
                objects: node.objects,
            })
        })
        .collect())
}

/// The node on which the caller runs; none outside a session.
///
/// ```
/// # #[mobula::main]
/// # async fn main() -> mobula::Result<()> {
/// # let _session = mobula::init().await?;
/// let here = mobula::nodes().await?[0].id;
/// assert_eq!(mobula::this_node(), Some(here));
/// # Ok(())
/// # }
/// ```
pub fn this_node() -> Option<NodeId> {
    mobula_actor::current::system().map(|system| system.process().node())
}
