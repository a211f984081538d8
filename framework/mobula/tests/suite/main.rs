//! The suite of the public API, from the user's side: one subject per file.
//!
//! Each test runs plain and with every call, reply, spawn and task through the codec, as if caller and callee were two
//! processes; `cluster.rs` runs it for a third time in several processes. What is of one process only says so. After each test `#[mobula::test]` checks that all that was submitted
//! has had its outcome (G21). Nothing sleeps to be in time: tests wait for what is noted in a journal, and hold things
//! back with gates.
pub(crate) mod apparatus;

mod calls;
mod cancellation;
mod concurrency;
mod deadlines;
mod errors;
mod groups;
mod hand_written;
mod hygiene;
mod mailboxes;
mod names;
mod nesting;
mod objects;
mod placement_groups;
mod pools;
mod recipients;
mod retries;
mod streams;
mod supervision;
mod tasks;
mod timers;
mod travel;
mod watching;
