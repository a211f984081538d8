//! [`Front`]: what all workers of one server share, and [`Ticket`], a request's place in its queue.
//!
//! Every chat or completion request that is taken in ends with exactly one outcome, counted when its ticket is dropped:
//! finished, failed, or cancelled by a client that went away.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::engine::{Engine, Usage};
use crate::limits::Limits;
use crate::metrics::{Metrics, Outcome};
use crate::openai::ApiError;
use crate::openai::answer::{Answers, Dialect};
use crate::trust::Trust;

/// One server's state: read by all, changed by counters only.
pub(crate) struct Front {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) limits: Limits,
    pub(crate) trust: Trust,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) body_bytes: Arc<AtomicUsize>,
    pub(crate) is_stopping: AtomicBool,
    /// Numbers become ids by a hash with a key of its own, so that two servers' ids do not meet.
    ids: (AtomicU64, RandomState),
}

impl Front {
    pub(crate) fn new(engine: Arc<dyn Engine>, limits: Limits, trust: Trust) -> Self {
        Self {
            engine,
            limits,
            trust,
            metrics: Arc::default(),
            body_bytes: Arc::default(),
            is_stopping: AtomicBool::new(false),
            ids: (AtomicU64::new(0), RandomState::new()),
        }
    }

    /// Takes a request in, if there is room.
    pub(crate) fn admit(&self) -> Result<Ticket, ApiError> {
        self.check_stopping()?;
        let max = self.limits.requests_in_flight_max;
        if self.metrics.in_flight.fetch_add(1, Ordering::Relaxed) >= max as u64 {
            self.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
            let message = format!("{max} requests are being served, the most this server takes; try again later");
            return Err(ApiError::overloaded(message, self.limits.retry_after));
        }
        Ok(Ticket {
            metrics: self.metrics.clone(),
            since: Instant::now(),
            has_first_token: false,
            outcome: Outcome::Cancelled,
        })
    }

    pub(crate) fn check_stopping(&self) -> Result<(), ApiError> {
        match self.is_stopping.load(Ordering::Relaxed) {
            true => {
                Err(ApiError::stopping("the server is stopping and takes no more requests", self.limits.retry_after))
            }
            false => Ok(()),
        }
    }

    /// The head of a new answer.
    pub(crate) fn answers(&self, dialect: Dialect, logprobs: bool, include_usage: bool) -> Answers {
        let id = self.ids.1.hash_one(self.ids.0.fetch_add(1, Ordering::Relaxed));
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Answers { dialect, id, created, model: self.engine.model().id.clone(), logprobs, include_usage }
    }
}

/// A place among the requests being served.
#[derive(Debug)]
pub(crate) struct Ticket {
    metrics: Arc<Metrics>,
    since: Instant,
    has_first_token: bool,
    outcome: Outcome,
}

impl Ticket {
    pub(crate) fn first_token(&mut self) {
        if !std::mem::replace(&mut self.has_first_token, true) {
            self.metrics.observe_first_token(self.since.elapsed());
        }
    }

    pub(crate) fn failed(&mut self) {
        self.outcome = Outcome::Failed;
    }

    pub(crate) fn finished(&mut self, usage: Usage) {
        self.outcome = Outcome::Finished;
        self.metrics.count_tokens(usage);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.metrics.count_outcome(self.outcome, self.since.elapsed());
    }
}
