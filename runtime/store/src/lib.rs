//! Memory that processes of one host share.
//!
//! Its users see types, never pointers; what is unsafe about mapping memory stays in `sys`. No lock and no pointer ever
//! lies in shared memory: a process may be killed between any two of its instructions.
//!
//! | module | holds |
//! |---|---|
//! | [`slots`] | what each thread of a worker runs now, for its node to read after the worker has died |
//! | [`arena`] | a node's budget of segments: which process has which |
//! | [`ahead`] | segments that are made before they are asked for |
//! | [`client`] | what one process has of it: segments it writes, segments of others it reads |
//! | [`room`] | what a node writes for a process of its own |
//! | [`pass`] | packets with descriptors |
//! | `free` | which parts of a segment are free |
//! | `sys` | mappings: the only unsafe code of this crate |
#![deny(unsafe_code)]

pub mod ahead;
pub mod arena;
pub mod client;
mod free;
pub mod pass;
pub mod room;
pub mod slots;
mod sys;

pub use arena::Arena;
pub use client::{Client, StoreError};
pub use room::Room;
pub use slots::Slots;
pub use sys::OpenError;
pub use sys::segment::{Filling, Sealed, View, Writing};
