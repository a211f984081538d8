//! Whether a task runs again after an error of its own: decided where it was submitted, since the test is a closure.
//!
//! A function's error reaches its caller as text. Where a test wants to see it, the error goes along as it is, encoded
//! ([`Failed`]); what cannot be encoded, or not be read again, is not retried.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mobula_actor::current::within;
use mobula_actor::deliver::Payload;
use mobula_actor::object::{GetError, pinning};
use mobula_actor::{System, describe_panic};
use mobula_logic::task::End;
use mobula_types::{CallError, ErrorChain, Outcome, Unknown};
use mobula_wire::plain;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// After which of its own errors a task runs again, and how often.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Retries {
    pub(crate) count: u32,
    /// After these; after all of them, and after panics, where it is none.
    pub(crate) test: Option<Test>,
}

impl Retries {
    pub(crate) const NONE: Self = Self { count: 0, test: None };
}

/// Whether another run may mend an error.
#[derive(Clone)]
pub(crate) struct Test(Arc<Holds>);

/// Of an error as text, and as it is.
type Holds = dyn Fn(&ErrorChain, &Bytes) -> bool + Send + Sync;

impl Test {
    /// Of errors that travel as they are.
    pub(crate) fn of<E: DeserializeOwned + 'static>(test: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(move |_, bytes| plain::decode(bytes).is_ok_and(|error| test(&error))))
    }

    /// Of errors that travel as text.
    pub(crate) fn of_text(test: impl Fn(&ErrorChain) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(move |chain, _| test(chain)))
    }

    /// Reads the error as one of `system`. A test that panics has not said that another run is wanted.
    fn holds(&self, system: &Arc<System>, chain: &ErrorChain, own: Option<&Bytes>) -> bool {
        // A type without a value to write has no bytes; no other can be read from none.
        let none = Bytes::new();
        let test = || within(system, || (self.0)(chain, own.unwrap_or(&none)));
        catch_unwind(AssertUnwindSafe(test)).unwrap_or_else(|panic| {
            describe_panic(panic);
            false
        })
    }
}

impl fmt::Debug for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Test")
    }
}

impl PartialEq for Test {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Why a run gave no value, and the function's own error as it is where that was asked for.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: GetError,
    pub(crate) own: Option<Box<Bytes>>,
}

impl From<GetError> for Failed {
    fn from(error: GetError) -> Self {
        Self { error, own: None }
    }
}

/// An error as it is, for a test of its submitter. None if it is larger than `max`, cannot be written or names references,
/// which nobody would hold for it.
pub fn encode_error<E: Serialize + 'static>(error: &E, max: usize) -> Option<Vec<u8>> {
    let (bytes, pins) = pinning(|| plain::encode(error, max));
    bytes.ok().filter(|_| pins.is_empty())
}

/// What the task's machine is told of a run that came to its end.
pub(crate) fn end(system: &Arc<System>, retries: &Retries, answer: &Result<Payload, Failed>) -> End {
    let Err(Failed { error, own }) = answer else { return End::Ok };
    match (error, &retries.test) {
        (CallError::Returned(_), None) => End::ApplicationError,
        (CallError::Returned(chain), Some(test)) if test.holds(system, chain, own.as_deref()) => End::ApplicationError,
        (CallError::Panicked(_), None) => End::Panicked,
        // Nor is what its process could not even begin, for want of a type say, better the next time.
        _ => End::Final,
    }
}

/// Notes what came of a run. One that never began says nothing of those before it, and they are what is told in the end.
pub(crate) fn note(last: &mut Option<Result<Payload, Failed>>, answer: Result<Payload, Failed>) {
    let never_began = |said: &Result<Payload, Failed>| {
        said.as_ref().is_err_and(|failed| matches!(failed.error, CallError::NotStarted(_)))
    };
    if !never_began(&answer) || last.as_ref().is_none_or(never_began) {
        *last = Some(answer);
    }
}

/// What its submitter is told of a task that has ended so, after a last run of which this is known.
pub(crate) fn answer(
    outcome: Outcome,
    last: Option<Result<Payload, Failed>>,
    given: Option<Duration>,
) -> Option<Result<Payload, Failed>> {
    match (outcome, last) {
        (Outcome::Cancelled, _) => Some(Err(CallError::Cancelled.into())),
        (Outcome::DeadlineExceeded, _) => Some(Err(CallError::DeadlineExceeded { given }.into())),
        (Outcome::Ok, Some(Ok(payload))) => Some(Ok(payload)),
        (_, Some(Err(failed))) => Some(Err(failed)),
        (Outcome::NotStarted, _) => None,
        _ => Some(Err(CallError::MayHaveRun(Unknown::NoReply).into())),
    }
}
