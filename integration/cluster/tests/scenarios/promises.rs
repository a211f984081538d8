//! What promises.md says, by its numbers: the bounds of scenarios are made of these, and of what a scenario itself takes.

use std::time::Duration;

/// A killed node is known (G11).
pub(crate) const KILLED: Duration = Duration::from_secs(1);

/// A silent one is: stopped, cut off, without power (G11).
pub(crate) const SILENT: Duration = Duration::from_secs(5);

/// Whoever waits for an outcome has it so long after its worker is known to be lost (G1).
pub(crate) const TOLD_AFTER: Duration = Duration::from_secs(1);

/// What the dead have held is free so long after their death is known (G9).
pub(crate) const FREED_AFTER: Duration = Duration::from_secs(2);

/// Nodes register with a head that is back (G12).
pub(crate) const REGISTERED: Duration = Duration::from_secs(2);

/// All is as before after a cut is healed (G13).
pub(crate) const HEALED: Duration = Duration::from_secs(5);

/// An object is freed so long after its last holder is gone (G9).
pub(crate) const FREED: Duration = Duration::from_secs(1);

/// A full disk is said to be full, and is used again, in this time (G16).
pub(crate) const DISK: Duration = Duration::from_secs(5);

/// What a scenario takes to ask by the command line, or to see that a process has spoken.
pub(crate) const ASKED: Duration = Duration::from_millis(500);
