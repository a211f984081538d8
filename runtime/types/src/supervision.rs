//! What a supervisor is told about its children, in OTP's words.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Which children a supervisor restarts when one of them ends.
///
/// | strategy | one child ends | use when |
/// |---|---|---|
/// | `OneForOne` | that one is restarted | children are independent |
/// | `OneForAll` | all are stopped in reverse order and started in order | they cannot go on without each other |
/// | `RestForOne` | those started after it are stopped and started with it | later ones depend on earlier ones |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Strategy {
    /// Only the child that ended.
    #[default]
    OneForOne,
    /// All children.
    OneForAll,
    /// The child that ended and those started after it.
    RestForOne,
}

/// When a child that ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Restart {
    /// Always.
    Permanent,
    /// Only after an abnormal end: a panic, an error, a kill.
    #[default]
    Transient,
    /// Never.
    Temporary,
}

/// How many restarts are borne in which period before the supervisor itself fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Intensity {
    /// Restarts in the period; one more is too many. Zero means never to restart.
    pub restarts_max: u32,
    /// The period.
    pub period: Duration,
}

impl Default for Intensity {
    /// G5: at most 3 restarts in 10 s.
    fn default() -> Self {
        Self { restarts_max: 3, period: Duration::from_secs(10) }
    }
}

/// How long to wait before a restart: the first is at once, then the wait doubles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Backoff {
    /// The wait before the second restart in a row.
    pub first: Duration,
    /// The wait never grows beyond this.
    pub max: Duration,
}

impl Default for Backoff {
    /// G5: backoff 100 ms to 30 s.
    fn default() -> Self {
        Self { first: Duration::from_millis(100), max: Duration::from_secs(30) }
    }
}

/// When, how often and after which wait an actor is restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// After which ends.
    pub restart: Restart,
    /// How often.
    pub intensity: Intensity,
    /// After which wait.
    pub backoff: Backoff,
}

impl RestartPolicy {
    /// Never restarted.
    pub const fn temporary() -> Self {
        Self {
            restart: Restart::Temporary,
            intensity: Intensity { restarts_max: 0, period: Duration::from_secs(10) },
            backoff: Backoff { first: Duration::from_millis(100), max: Duration::from_secs(30) },
        }
    }
}
