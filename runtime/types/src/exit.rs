//! Why an actor ended, with the root cause first.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ActorId, Death, ErrorChain};

/// Why one incarnation of an actor ended. Later causes wrap earlier ones; [`ExitReason::root`] is the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ExitReason {
    /// It stopped itself.
    Normal,
    /// It had ended before anybody asked: nothing more is known.
    Gone,
    /// Its supervisor, its scope or its session stopped it.
    Shutdown,
    /// It was killed: the handler that ran was dropped where it waited.
    Killed,
    /// Its constructor, a handler, `stopping` or `Drop` panicked.
    Panicked(Panic),
    /// Its constructor returned an error, or it stopped itself with one.
    Failed(ErrorChain),
    /// Its process ended. Whether the actor is to blame stands among the death's culprits.
    ProcessDied(Box<Death>),
    /// The process that kept it alive has ended, so nobody may restart it.
    SupervisorDied(Box<Death>),
    /// A linked actor ended abnormally.
    Linked {
        /// The linked actor.
        peer: ActorId,
        /// Why that one ended.
        cause: Box<ExitReason>,
    },
    /// A supervised child ended more often than its restart intensity allows.
    Escalated {
        /// The child that could not be kept alive.
        child: ActorId,
        /// Why it ended the last time.
        cause: Box<ExitReason>,
    },
    /// Its node is drained: its next life begins on another one.
    Moved,
}

impl ExitReason {
    /// Whether a transient child that ended so stays ended: it stopped itself or was told to.
    pub fn is_normal(&self) -> bool {
        matches!(self, Self::Normal | Self::Shutdown | Self::Gone | Self::Moved)
    }

    /// The first cause of the chain.
    pub fn root(&self) -> &Self {
        match self {
            Self::Linked { cause, .. } | Self::Escalated { cause, .. } => cause.root(),
            first => first,
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("stopped by itself"),
            Self::Gone => f.write_str("ended earlier"),
            Self::Shutdown => f.write_str("stopped by its supervisor"),
            Self::Killed => f.write_str("killed"),
            Self::Panicked(panic) => write!(f, "{panic}"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::ProcessDied(death) => write!(f, "{death}"),
            Self::SupervisorDied(death) => write!(f, "its supervisor's {death}"),
            Self::Linked { peer, cause } => write!(f, "{cause}; ended with the linked {peer}"),
            Self::Escalated { child, cause } => write!(f, "{cause}; {child} was restarted too often"),
            Self::Moved => f.write_str("moved away from a drained node"),
        }
    }
}

/// What a panic said, where, and the stack when `RUST_BACKTRACE` asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panic {
    /// The panic's message.
    pub message: String,
    /// `file:line:column`.
    pub location: Option<String>,
    /// The stack, when it was captured.
    pub backtrace: Option<String>,
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked: {}", self.message)?;
        if let Some(location) = &self.location {
            write!(f, " at {location}")?;
        }
        Ok(())
    }
}
