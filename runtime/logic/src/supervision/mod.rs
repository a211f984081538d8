//! Which children of a supervisor are stopped and started when one of them ends (G5), in OTP's sense of the words.
//!
//! A child:
//!
//! ```text
//!        Add          its turn           Started
//!   ───────► Down ──────────► Starting ──────────► Running ──► (Exited, stays ended) Ended
//!             ▲                  │ │                  │ │
//!             │    StartFailed ──┘ └──► Stopping ◄────┘ │ asked to stop
//!             └──────────────────────────┴──────────────┘ Exited, to be started again
//! ```
//!
//! The group, of which one_for_one only ever sees `Up` and the end:
//!
//! ```text
//!   Up ── a child failed ──► Stopping ── all of them down ──► Waiting ── backoff over ──► Up
//!   any ── Stop, or once too often ──► Ending ── all ended ──► Over: said `Stopped` or `Escalate`
//! ```
//!
//! | a child fails | one_for_one | one_for_all | rest_for_one |
//! |---|---|---|---|
//! | stopped, last one first, one after another | none | all | those added after it |
//! | started, first one first, each when the one before has started | it | all | it and those |
//!
//! - A child whose very first start fails is `Ended`, nobody else is touched: whoever added it is told. A start that
//!   fails later is a failure like any other.
//! - What a sibling says while it is stopped for another's failure is no failure of its own. A temporary child that was
//!   stopped so is `Ended`.
//! - The first restart is at once, the next wait; a wait is counted per child in one_for_one and per group else.
//! - Every child that was added is `Ended` exactly once, also when the supervisor ends.
//!
//! Knows nothing of actors, mailboxes or constructors: a child is a number.

mod invariants;
mod machine;
#[cfg(test)]
mod tests;

use mobula_types::{ExitReason, Restart};

pub use invariants::check;
pub use machine::Supervision;

/// A child's number, given by whoever adds it; free again after [`Output::Ended`].
pub type ChildKey = u32;

/// What can happen to a group.
///
/// Each `Start` is answered by `StartFailed` once, or by `Started` and then `Exited` once. A driver that may hear of an
/// end twice tells by the incarnation which start it belongs to, and passes on the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A child joins as the last one, and is started. Ignored when there is a child of this number.
    Add {
        /// The new child.
        child: ChildKey,
        /// When it is started again.
        restart: Restart,
    },
    /// A child that was to be started has started.
    Started {
        /// Which child.
        child: ChildKey,
    },
    /// A child that was to be started could not be.
    StartFailed {
        /// Which child.
        child: ChildKey,
        /// Why.
        reason: ExitReason,
    },
    /// A child has ended, by itself or because it was asked to stop.
    Exited {
        /// Which child.
        child: ChildKey,
        /// Why.
        reason: ExitReason,
    },
    /// A child is to be stopped and forgotten.
    Remove {
        /// Which child.
        child: ChildKey,
    },
    /// The supervisor ends: all children are stopped, the last one first. Answered by one [`Output::Stopped`].
    Stop,
    /// Nothing but time has passed.
    Tick,
}

/// What a group can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Start this child; answered by `Started` or `StartFailed`.
    Start {
        /// Which child.
        child: ChildKey,
    },
    /// Ask this child to stop; answered by `Exited`, or by `StartFailed` when it had not started yet.
    Stop {
        /// Which child.
        child: ChildKey,
    },
    /// This child is not started again: forget it, and tell those who watch it.
    Ended {
        /// Which child.
        child: ChildKey,
        /// Why it ended the last time; `Shutdown` when it never started.
        reason: ExitReason,
    },
    /// The supervisor has failed, and its children have ended.
    Escalate {
        /// The child that failed once too often; it has been `Ended`.
        child: ChildKey,
        /// Why it failed the last time.
        cause: ExitReason,
    },
    /// The children have ended, as [`Input::Stop`] wanted.
    Stopped,
}
