//! Memory that processes of one host share.
//!
//! Its users see types, never pointers; what is unsafe about mapping memory stays in `sys`. No lock and no pointer ever
//! lies in shared memory: a process may be killed between any two of its instructions.
//!
//! | module | holds |
//! |---|---|
//! | [`slots`] | what each thread of a worker runs now, for its node to read after the worker has died |
//! | `sys` | mappings: the only unsafe code of this crate |
#![deny(unsafe_code)]

pub mod slots;
mod sys;

pub use slots::Slots;
