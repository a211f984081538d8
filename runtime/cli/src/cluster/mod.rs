//! The verbs of a cluster: nodes are started and stopped, asked what there is, and given programs to run.
//!
//! All but `start` speak with a node, and end when it has answered: with one of this host over its socket, with one of
//! another host over the network, where a token says what they may ask.

pub(crate) mod ask;
pub(crate) mod drain;
pub(crate) mod http;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod memory;
pub(crate) mod resources;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod stop_actor;
pub(crate) mod stop_job;
pub(crate) mod submit;
pub(crate) mod token;
pub(crate) mod why;
