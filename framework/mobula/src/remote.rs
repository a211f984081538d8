//! Remote functions: what `#[remote]` writes, for those who write it by hand.

pub use mobula_node::{Body, FunctionEntry, RemoteFn, RemoteStream, TaskOptions, submit, submit_stream};
