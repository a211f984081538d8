//! The control store: what a cluster must not forget, durable before it is acknowledged.
//!
//! [`Head`] is the decisions of `mobula_logic::head` over a file: the driver hands it what nodes say and performs what it
//! says, in one loop on one task; records are written by a thread of its own, many with one sync. Nothing here knows a
//! socket or a process.
//!
//! | module | holds |
//! |---|---|
//! | [`head`] | [`Head`]: the machines and the file as one |
//! | `writer` | the thread that writes batches, and tries again while the disk is full |
//! | [`store`] | [`Store`]: records in a redb file |
//! | `medium` | where the file is: a disk, or a test's |
//! | `layout` | records to bytes and back |
//! | `status` | what `status` and `list` print |
#![forbid(unsafe_code)]

pub mod head;
mod layout;
mod medium;
mod status;
pub mod store;
mod writer;

#[cfg(test)]
mod tests;

pub use head::{Config, Head};
pub use store::{Cluster, OpenError, Store, WriteError};
