//! Collective operations among the shards of a model: all of them call the same operation, all get the same result.
//!
//! Today's members are threads of one process; shared memory, ordered channels and NCCL come later behind the same
//! [`Member`].
//!
//! ```
//! use std::time::{Duration, Instant};
//! use mobula_collective::join;
//!
//! let deadline = Instant::now() + Duration::from_secs(10);
//! std::thread::scope(|threads| {
//!     for rank in 0..2 {
//!         threads.spawn(move || {
//!             let mut member = join("example", rank, 2)?;
//!             let mut values = [1.0, rank as f32];
//!             member.all_reduce_sum(&mut values, deadline)?;
//!             assert_eq!(values, [2.0, 1.0]);
//!             member.leave();
//!             Ok::<(), mobula_collective::Error>(())
//!         });
//!     }
//! });
//! ```
//!
//! Promises, each with a test:
//! - **COL-1, repeatable**: sums run over the ranks in order, so a result has the same bits on every rank and in every
//!   run.
//! - **COL-2, nobody waits for the dead**: a member that is dropped, unwinds or calls [`Member::abort`] ends the wait of
//!   all others with [`Error::Aborted`]; who does not come by the deadline ends it with [`Error::DeadlineExceeded`].
//! - **COL-3, an aborted group stays so**: its members must join another one.

#![forbid(unsafe_code)]

mod barrier;
mod group;

pub use group::{Aborter, Error, JoinError, Member, join};
