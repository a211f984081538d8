//! One process in the cluster: a node, a driver or worker attached to one, or all three in one process.
//!
//! Runs remote functions, starts and stops the systems of actors, and joins two of them for tests so that everything
//! passes through the codec. It holds no API of its own: programs name the crate `mobula`.
//!
//! | to read about | open |
//! |---|---|
//! | what a remote function is | [`RemoteFn`], [`FunctionEntry`] |
//! | a task from submission to outcome | `task`, `stream` |
//! | the threads that run functions | `compute`, and who may run when: [`logic`] |
//! | when a task runs again after its own error | `retry`, in one process `rerun` |
//! | what happens when a queue of tasks is full | `admission` |
//! | two systems in one process | `loopback`, `encoded` |
//! | a session from start to stop | [`Embedded`] |
#![forbid(unsafe_code)]

mod admission;
pub mod attached;
mod bundles;
mod compute;
pub mod daemon;
mod embedded;
mod encoded;
mod function;
mod groups;
mod host;
mod linked;
pub mod logic;
mod loopback;
mod losses;
mod options;
mod permit;
mod rerun;
mod retry;
mod running;
mod stream;
mod task;
mod values;

pub use admission::{QueueBounds, WhenFull, task_room};
pub use embedded::{Embedded, EmbeddedConfig};
pub use function::{Body, FunctionEntry, RemoteFn, RemoteStream, Returned};
pub use groups::{GroupError, create_group, remove_group};
pub use options::TaskOptions;
pub use retry::encode_error;
pub use stream::submit_stream;
pub use task::submit;
pub use values::{VALUE_BYTES_MAX, ValueError, delete_value, get_value, nodes, put_value};
