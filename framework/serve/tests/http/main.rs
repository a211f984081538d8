//! The server over real sockets on loopback: what clients get, what attackers get, and what the engine notices of them.
//!
//! One binary, so that it is linked once. Engines are driven by the test itself (`support::Manual`), so nothing depends
//! on how fast a machine is except the tests of time limits, which use limits of a fraction of a second.

mod bad_input;
mod client;
mod dialect;
mod disconnect;
mod failures;
mod limits;
mod support;
mod trust;
