//! How much a directory keeps, in one place, so that a simulation can make every bound small enough to be met.

use std::time::Duration;

use super::{
    CLAIMS_WAITING_MAX, DETACHED_BYTES_MAX, EXPIRED_KEPT, FRAME_BYTES_MAX, INTERFACE_BYTES_MAX, JOBS_ENDED_MAX,
    JOBS_MAX, KEY_BYTES_MAX, LOCATES_WAITING_MAX, NAME_BYTES_MAX, NAMES_MAX, SETUP_BYTES_MAX, TOKENS_MAX,
    VALUE_BYTES_MAX, VALUES_BYTES_MAX, VALUES_OF_JOB_BYTES_MAX,
};

/// How much a directory keeps; [`Default`] says what holds unless it is told otherwise. Heads of one cluster have the same:
/// what an earlier one has kept is not measured again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Names taken at once.
    pub names_max: usize,
    /// Bytes of a name with its namespace.
    pub name_bytes_max: usize,
    /// What is kept of what a named actor can be asked.
    pub interface_bytes_max: usize,
    /// What a detached actor may be started with.
    pub frame_bytes_max: usize,
    /// What all detached actors may be started with.
    pub detached_bytes_max: usize,
    /// Claims that wait for a name to be free.
    pub claims_waiting_max: usize,
    /// Those who wait to hear where a detached actor is.
    pub locates_waiting_max: usize,
    /// Jobs that run at once.
    pub jobs_max: usize,
    /// Jobs that have ended and are listed still.
    pub jobs_ended_max: usize,
    /// What nodes must know of a job.
    pub setup_bytes_max: usize,
    /// Tokens that are known at once.
    pub tokens_max: usize,
    /// For how long a token is known that has expired.
    pub expired_kept: Duration,
    /// Bytes of a value's key.
    pub key_bytes_max: usize,
    /// Bytes of a value.
    pub value_bytes_max: usize,
    /// Bytes of all keys and values of one job.
    pub values_of_job_bytes_max: usize,
    /// Bytes of all keys and values.
    pub values_bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            names_max: NAMES_MAX,
            name_bytes_max: NAME_BYTES_MAX,
            interface_bytes_max: INTERFACE_BYTES_MAX,
            frame_bytes_max: FRAME_BYTES_MAX,
            detached_bytes_max: DETACHED_BYTES_MAX,
            claims_waiting_max: CLAIMS_WAITING_MAX,
            locates_waiting_max: LOCATES_WAITING_MAX,
            jobs_max: JOBS_MAX,
            jobs_ended_max: JOBS_ENDED_MAX,
            setup_bytes_max: SETUP_BYTES_MAX,
            tokens_max: TOKENS_MAX,
            expired_kept: EXPIRED_KEPT,
            key_bytes_max: KEY_BYTES_MAX,
            value_bytes_max: VALUE_BYTES_MAX,
            values_of_job_bytes_max: VALUES_OF_JOB_BYTES_MAX,
            values_bytes_max: VALUES_BYTES_MAX,
        }
    }
}
