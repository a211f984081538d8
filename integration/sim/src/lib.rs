//! Seed in, system out: the machines of `mobula-logic` under invented time and every misfortune that a seed can draw.
//!
//! A *world* drives real machines as the runtime does: it performs what they say, answers late, twice, out of order or
//! not at all, and lets actors and workers crash. After every step it checks the machine's own invariants and what a
//! *witness* saw from outside, who knows only inputs and outputs. After a while the faults stop; then everything must
//! come to rest and every promise be kept. The same seed always gives the same run, so a failure prints one command.
//!
//! | module | holds |
//! |---|---|
//! | [`tree`] | supervisors under supervisors, whose children crash, hang and fail to start |
//! | [`tasks`] | tasks on workers that die or are cut off, with lost, repeated and reordered messages |
//! | [`cluster`] | a head, nodes, workers and drivers on hosts that crash, stop and are cut off |
//! | [`names`] | a head and its nodes: members, leases and names, over crashes and cuts |
//! | [`control`] | a head that crashes, and nodes that hold names under its leases |
//! | [`groups`] | a head that places groups, and nodes that keep their bundles |
//! | [`hauls`] | payloads that a node gets from several others, which refuse, fail and die |
//! | [`mail`] | messages and large payloads between processes that die, are cut off and resume |
//! | [`objects`] | nodes that own, hold, copy and make objects again, and die |
//! | [`pressure`] | a node's store: memory and a disk that run short, readers that die, another who fills the disk |
//! | [`waits`] | who waits for whom, and which of them for ever |
//! | [`campaign`] | many seeds, or the one that `MOBULA_SIM_SEED` names |
//! | [`coverage`] | how often each misfortune and each transition happened: a run that never crashed proves nothing |
//! | [`failure`] | what a failing seed prints |
//! | [`agenda`], [`rng`] | invented time, and the one source of chance |
#![forbid(unsafe_code)]

pub mod agenda;
pub mod campaign;
pub mod cluster;
pub mod control;
pub mod coverage;
pub mod failure;
pub mod groups;
pub mod hauls;
pub mod mail;
pub mod names;
pub mod objects;
pub mod pressure;
pub mod rng;
pub mod tasks;
pub mod tree;
pub mod waits;
mod world;

pub use coverage::Coverage;
pub use failure::Failure;
pub use rng::Rng;
