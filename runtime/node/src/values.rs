//! What a job keeps under names for all its processes, and which nodes there are: asked of the node that this process is
//! attached to, or kept here where there is none.

use std::collections::BTreeMap;

use mobula_types::NotStarted;
use mobula_types::state::{ClusterStatus, NodeStatus};
use mobula_wire::local::{ToNode, ToolQuestion};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::groups::Registrar;
use crate::host::Host;

/// Values of one job at once, where no head counts them.
const VALUES_MAX: usize = 65_536;

/// The longest value: it travels in control messages. Larger ones are put, and their reference is passed on.
pub const VALUE_BYTES_MAX: usize = 256 << 10;

/// Why a value was not stored or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// There is no session.
    #[error("{}", NotStarted::NoSession)]
    NoSession,
    /// The value has no bytes, or its bytes are no such value.
    #[error("the value of `{key}` cannot travel: {message}")]
    Codec {
        /// Its key.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// The value is longer than may be kept.
    #[error("the value of `{key}` takes {bytes} bytes, {VALUE_BYTES_MAX} are kept: put it and pass its reference on")]
    TooLarge {
        /// Its key.
        key: String,
        /// Its length.
        bytes: usize,
    },
    /// As many values as may be are kept.
    #[error("{VALUES_MAX} values are kept: delete some")]
    TooMany,
    /// The node or the head did not do it.
    #[error("{message}")]
    Refused {
        /// What it said.
        message: String,
    },
}

/// Stores a value of the job.
///
/// # Errors
///
/// [`ValueError`].
pub async fn put_value<T: Serialize + ?Sized>(key: &str, value: &T) -> Result<(), ValueError> {
    let codec = |error: mobula_wire::EncodeError| ValueError::Codec { key: key.to_owned(), message: error.to_string() };
    let value = mobula_wire::encode(value).map_err(codec)?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(ValueError::TooLarge { key: key.to_owned(), bytes: value.len() });
    }
    store(key, Some(value)).await
}

/// Removes a value of the job; one that is not there is removed already.
///
/// # Errors
///
/// [`ValueError`].
pub async fn delete_value(key: &str) -> Result<(), ValueError> {
    store(key, None).await
}

async fn store(key: &str, value: Option<Vec<u8>>) -> Result<(), ValueError> {
    let (_, host) = Host::here().ok_or(ValueError::NoSession)?;
    let key = key.to_owned();
    if let Some(process) = host.seat.get() {
        let stored = process.value(|request| ToNode::KvPut { request, key, value }).await;
        return stored.map(drop).map_err(|message| ValueError::Refused { message });
    }
    let mut values = host.values.lock();
    match value {
        None => drop(values.remove(&key)),
        Some(_) if values.len() >= VALUES_MAX && !values.contains_key(&key) => return Err(ValueError::TooMany),
        Some(value) => drop(values.insert(key, value)),
    }
    Ok(())
}

/// Reads a value of the job.
///
/// # Errors
///
/// [`ValueError`].
pub async fn get_value<T: DeserializeOwned>(key: &str) -> Result<Option<T>, ValueError> {
    let (_, host) = Host::here().ok_or(ValueError::NoSession)?;
    let value = match host.seat.get() {
        None => host.values.lock().get(key).cloned(),
        Some(process) => {
            let asked = key.to_owned();
            let value = process.value(|request| ToNode::KvGet { request, key: asked }).await;
            value.map_err(|message| ValueError::Refused { message })?
        }
    };
    let codec = |error: mobula_wire::DecodeError| ValueError::Codec { key: key.to_owned(), message: error.to_string() };
    value.map(|bytes| mobula_wire::decode(&bytes).map_err(codec)).transpose()
}

/// The nodes of the cluster; without one, this process as the only node.
///
/// # Errors
///
/// [`ValueError`].
pub async fn nodes() -> Result<Vec<NodeStatus>, ValueError> {
    let (system, host) = Host::here().ok_or(ValueError::NoSession)?;
    let Some(process) = host.seat.get() else {
        let runs_in = host.bundles.get().map_or(system.process(), |bundles| bundles.process());
        return Ok(vec![NodeStatus {
            node_id: runs_in.node().to_string(),
            state: "alive".into(),
            incarnation: 1,
            resources_total: BTreeMap::from([("num_cpus".to_owned(), host.pool().cpus() as f64)]),
            pid: std::process::id(),
            ..NodeStatus::default()
        }]);
    };
    let refused = |message: String| ValueError::Refused { message };
    let answer = process.ask_tool(ToolQuestion::Status).await.map_err(refused)?;
    let status: ClusterStatus = serde_json::from_str(&answer).map_err(|error| refused(error.to_string()))?;
    Ok(status.nodes)
}
