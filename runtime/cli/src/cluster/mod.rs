//! The verbs of a cluster: nodes are started and stopped, asked what there is, and given programs to run.
//!
//! All but `start` speak with the node of this host over its socket, and end when it has answered.

pub(crate) mod ask;
pub(crate) mod drain;
pub(crate) mod http;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod resources;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod stop_actor;
pub(crate) mod stop_job;
pub(crate) mod submit;
pub(crate) mod token;
pub(crate) mod why;
