//! Small values that a job's processes share under keys; they end with the job.

use std::collections::{BTreeMap, VecDeque};

use mobula_types::JobId;

use super::{Bounds, Output};
use crate::record::{Change, Record, RecordKey};

/// Bytes of a key: a string in a control message (promises.md).
pub const KEY_BYTES_MAX: usize = 64 << 10;

/// Bytes of a value: with its key it fits a control frame (promises.md). Larger ones are objects.
pub const VALUE_BYTES_MAX: usize = 512 << 10;

/// Bytes of all keys and values of one job.
pub const VALUES_OF_JOB_BYTES_MAX: usize = 64 << 20;

/// Bytes of all keys and values: the head holds them in memory.
pub const VALUES_BYTES_MAX: usize = 512 << 20;

/// What a value takes beside its bytes and those of its key, so that empty ones are bounded too.
const ENTRY_BYTES: usize = 128;

/// Why a value is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueRefusal {
    /// The key or the value is too long.
    #[error(
        "a key may take {KEY_BYTES_MAX} bytes and a value {VALUE_BYTES_MAX}, these take {key} and {value}: put what is larger and store its reference"
    )]
    TooLarge {
        /// Bytes of the key.
        key: usize,
        /// Bytes of the value.
        value: usize,
    },
    /// There is no room left.
    #[error(
        "the values of a job may take {VALUES_OF_JOB_BYTES_MAX} bytes and all together {VALUES_BYTES_MAX}: remove some"
    )]
    Full,
    /// The job has ended.
    #[error("{job} has ended")]
    JobEnded {
        /// Which.
        job: JobId,
    },
}

#[derive(Debug, Default)]
pub(super) struct Values {
    jobs: BTreeMap<JobId, Shelf>,
    bytes: usize,
    pub(super) bounds: Bounds,
}

#[derive(Debug, Default)]
pub(super) struct Shelf {
    values: BTreeMap<String, Vec<u8>>,
    bytes: usize,
}

fn bytes_of(key: &str, value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_BYTES
}

impl Values {
    pub(super) fn restore(&mut self, job: JobId, key: String, value: Vec<u8>) {
        self.set(job, &key, Some(value));
    }

    pub(super) fn get(&self, job: JobId, key: &str) -> Option<Vec<u8>> {
        self.jobs.get(&job)?.values.get(key).cloned()
    }

    pub(super) fn put(
        &mut self,
        job: JobId,
        is_running: bool,
        key: &str,
        value: Option<Vec<u8>>,
        outputs: &mut VecDeque<Output>,
    ) -> Result<Option<Vec<u8>>, ValueRefusal> {
        if !is_running {
            return Err(ValueRefusal::JobEnded { job });
        }
        let Bounds { key_bytes_max, value_bytes_max, values_of_job_bytes_max, values_bytes_max, .. } = self.bounds;
        if let Some(value) = &value {
            if key.len() > key_bytes_max || value.len() > value_bytes_max {
                return Err(ValueRefusal::TooLarge { key: key.len(), value: value.len() });
            }
            let shelf = self.jobs.get(&job);
            let before = shelf.and_then(|shelf| shelf.values.get(key)).map_or(0, |before| bytes_of(key, before));
            let of_job = shelf.map_or(0, |shelf| shelf.bytes);
            let more = bytes_of(key, value);
            if of_job - before + more > values_of_job_bytes_max || self.bytes - before + more > values_bytes_max {
                return Err(ValueRefusal::Full);
            }
        }
        if self.get(job, key) != value {
            let at = RecordKey::Value(job, key.to_owned());
            let change = match &value {
                Some(value) => Record::Value(value.clone()).into_change(at),
                None => Change::gone(at),
            };
            outputs.push_back(Output::Keep(change));
            self.set(job, key, value.clone());
        }
        Ok(value)
    }

    pub(super) fn remove_job(&mut self, job: JobId, outputs: &mut VecDeque<Output>) {
        let Some(shelf) = self.jobs.remove(&job) else { return };
        self.bytes -= shelf.bytes;
        let keys = shelf.values.into_keys();
        outputs.extend(keys.map(|key| Output::Keep(Change::gone(RecordKey::Value(job, key)))));
    }

    pub(super) fn jobs(&self) -> impl Iterator<Item = (JobId, usize, usize)> + '_ {
        self.jobs.iter().map(|(job, shelf)| {
            let counted = shelf.values.iter().map(|(key, value)| bytes_of(key, value)).sum();
            (*job, shelf.bytes, counted)
        })
    }

    fn set(&mut self, job: JobId, key: &str, value: Option<Vec<u8>>) {
        let shelf = self.jobs.entry(job).or_default();
        let more = value.as_ref().map_or(0, |value| bytes_of(key, value));
        let before = match value {
            Some(value) => shelf.values.insert(key.to_owned(), value),
            None => shelf.values.remove(key),
        };
        let less = before.map_or(0, |before| bytes_of(key, &before));
        shelf.bytes = shelf.bytes + more - less;
        self.bytes = self.bytes + more - less;
        if shelf.values.is_empty() {
            self.jobs.remove(&job);
        }
    }
}
