//! How a task or an `ask` ends (G1): in exactly one [`Outcome`], told to the caller as `Ok` or a [`CallError`].

use std::error::Error;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::loss::Loss;
use crate::{ActorId, Death, ExitReason, ObjectId, Panic};

/// The six ways in which a submitted task or an `ask` ends. Each ends in exactly one of them; nothing hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// It ran and gave a value.
    Ok,
    /// It ran, and returned an error or panicked.
    Failed,
    /// It never ran: trying again is safe.
    NotStarted,
    /// Whether it ran is unknown.
    MayHaveRun,
    /// The caller gave it up.
    Cancelled,
    /// Its deadline passed first.
    DeadlineExceeded,
}

impl Outcome {
    /// All of them, in the order in which counters list them.
    pub const ALL: [Self; 6] =
        [Self::Ok, Self::Failed, Self::NotStarted, Self::MayHaveRun, Self::Cancelled, Self::DeadlineExceeded];

    /// The name in counters and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::NotStarted => "not_started",
            Self::MayHaveRun => "may_have_run",
            Self::Cancelled => "cancelled",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }
}

/// Why a call gave no value: `E` is the error type the function itself returns.
///
/// ```
/// use mobula_types::{CallError, NotStarted, Outcome};
/// let error: CallError = CallError::NotStarted(NotStarted::MailboxFull { waiting: 1024 });
/// assert_eq!(error.outcome(), Outcome::NotStarted);
/// assert!(error.is_retry_safe());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CallError<E = NoError> {
    /// The function ran and returned this error.
    Returned(E),
    /// The function ran and panicked.
    Panicked(Panic),
    /// The function never ran.
    NotStarted(NotStarted),
    /// Whether the function ran is unknown.
    MayHaveRun(Unknown),
    /// The value was made, and every copy of it is gone.
    ObjectLost {
        /// Which value.
        object: ObjectId,
        /// What took the last copy, and why it is not made again.
        cause: Box<Loss>,
    },
    /// The caller, or the caller's caller, gave the call up.
    Cancelled,
    /// The deadline passed first; whether the function ran is unknown.
    DeadlineExceeded {
        /// The time that was given, when it is known here.
        given: Option<Duration>,
    },
}

impl<E> CallError<E> {
    /// Which of the six outcomes this is.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Returned(_) | Self::Panicked(_) => Outcome::Failed,
            Self::NotStarted(_) => Outcome::NotStarted,
            Self::MayHaveRun(_) | Self::ObjectLost { .. } => Outcome::MayHaveRun,
            Self::Cancelled => Outcome::Cancelled,
            Self::DeadlineExceeded { .. } => Outcome::DeadlineExceeded,
        }
    }

    /// Whether calling again cannot run anything twice.
    pub fn is_retry_safe(&self) -> bool {
        matches!(self, Self::NotStarted(_))
    }

    /// Turns the function's own error into another, and leaves every other kind as it is.
    pub fn map_returned<F>(self, op: impl FnOnce(E) -> F) -> CallError<F> {
        match self {
            Self::Returned(error) => CallError::Returned(op(error)),
            Self::Panicked(panic) => CallError::Panicked(panic),
            Self::NotStarted(cause) => CallError::NotStarted(cause),
            Self::MayHaveRun(cause) => CallError::MayHaveRun(cause),
            Self::ObjectLost { object, cause } => CallError::ObjectLost { object, cause },
            Self::Cancelled => CallError::Cancelled,
            Self::DeadlineExceeded { given } => CallError::DeadlineExceeded { given },
        }
    }
}

impl CallError<NoError> {
    /// The same error for a function that has an error type of its own.
    pub fn widen<E>(self) -> CallError<E> {
        self.map_returned(|never| match never {})
    }
}

impl<E: fmt::Display> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned(error) => write!(f, "{error}"),
            Self::Panicked(panic) => write!(f, "the call {panic}"),
            Self::NotStarted(cause) => write!(f, "the call was not started: {cause}"),
            Self::MayHaveRun(cause) => write!(f, "the call may have run: {cause}"),
            Self::ObjectLost { object, cause } => write!(f, "{object} is lost: {cause}"),
            Self::Cancelled => f.write_str("the call was cancelled"),
            Self::DeadlineExceeded { given: Some(given) } => write!(f, "the deadline of {given:?} has passed"),
            Self::DeadlineExceeded { given: None } => f.write_str("the deadline has passed"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> Error for CallError<E> {}

/// The error type of a function that returns no error of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoError {}

impl fmt::Display for NoError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl Error for NoError {}

/// Why a call never ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NotStarted {
    /// The actor has ended.
    ActorEnded {
        /// Which actor.
        actor: ActorId,
        /// Why it ended.
        reason: ExitReason,
    },
    /// No actor has this id here, or not any more.
    NoSuchActor {
        /// Which actor.
        actor: ActorId,
    },
    /// The mailbox takes no more mail now.
    MailboxFull {
        /// The messages that wait in it.
        waiting: usize,
    },
    /// The queue of tasks takes no more now.
    QueueFull {
        /// The tasks that wait in it.
        waiting: usize,
    },
    /// An argument that was a reference came to nothing.
    Argument {
        /// Why there is no value.
        cause: Box<CallError<ErrorChain>>,
    },
    /// No place can ever give what was asked for.
    Unschedulable {
        /// What is missing, such as `num_gpus = 1, the node has 0`.
        missing: String,
    },
    /// The message cannot leave its process: it is not registered, or `#[message(local)]`.
    LocalOnly {
        /// The type that cannot travel.
        type_name: String,
    },
    /// The other side does not know the function, or knows it with other types.
    Unknown {
        /// The function's registered name.
        name: String,
    },
    /// A value could not be encoded or decoded.
    Codec {
        /// What was wrong with it.
        message: String,
    },
    /// The process that was to run it, or to start it, has ended.
    ProcessDied {
        /// How.
        death: Box<Death>,
    },
    /// It is larger than may travel.
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The bytes allowed.
        max: usize,
    },
    /// The memory that its host shares was used up, and nobody let go of any in time.
    StoreFull {
        /// The bytes that were wanted.
        bytes: u64,
        /// The bytes in use.
        in_use: u64,
        /// The bytes there are.
        budget: u64,
    },
    /// No place was free in time.
    NoPlace {
        /// What it waited for.
        why: String,
    },
    /// The session has ended, or there is none.
    NoSession,
    /// The caller blocks a thread that actors share, so what it waits for may need that very thread.
    WouldBlock,
    /// Its node is drained and begins nothing any more.
    Drained,
    /// The process that had sent it there has asked for it back.
    HandedBack,
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ActorEnded { actor, reason } => write!(f, "{actor} has ended: {reason}"),
            Self::NoSuchActor { actor } => write!(f, "there is no {actor}"),
            Self::MailboxFull { waiting } => write!(f, "the mailbox is full, {waiting} messages wait"),
            Self::QueueFull { waiting } => write!(f, "the queue is full, {waiting} tasks wait"),
            Self::Argument { cause } => write!(f, "an argument has no value: {cause}"),
            Self::Unschedulable { missing } => write!(f, "nothing can run it: {missing}"),
            Self::LocalOnly { type_name } => {
                write!(f, "`{type_name}` cannot leave its process: register it with #[handler] or #[actor]")
            }
            Self::Unknown { name } => write!(f, "the other side has no `{name}` of these types"),
            Self::Codec { message } => write!(f, "a value could not travel: {message}"),
            Self::ProcessDied { death } => write!(f, "{death}"),
            Self::TooLarge { bytes, max } => {
                write!(f, "its {bytes} bytes are more than the {max} that may travel: send it in parts")
            }
            Self::StoreFull { bytes, in_use, budget } => write!(
                f,
                "the object store is full: {in_use} of its {budget} bytes are in use and {bytes} more are wanted; let go \
                 of values, or start the node with a larger --object-store-memory"
            ),
            Self::NoPlace { why } => write!(f, "no place was free in time: {why}"),
            Self::WouldBlock => f.write_str(
                "a blocking wait on a thread that actors share: make the handler async and await, or spawn the actor \
                 with .dedicated()",
            ),
            Self::HandedBack => f.write_str("whoever sent it there has asked for it back"),
            Self::Drained => f.write_str("its node is being drained"),
            Self::NoSession => f.write_str("there is no session: call mobula::init() first and keep what it returns"),
        }
    }
}

/// Why what makes a value cannot be ended by force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NotCancellable {
    /// The task shares its process with others: it was not submitted as isolated, or no cluster runs it.
    NotIsolated,
    /// No task of this process makes the value.
    NoTask,
}

impl fmt::Display for NotCancellable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotIsolated => f.write_str(
                "the task has no process of its own that could be ended: submit it on a cluster with                  `options().isolated()`, or cancel it and let it see that",
            ),
            Self::NoTask => f.write_str("no task that was submitted here makes the value"),
        }
    }
}

impl Error for NotCancellable {}

/// Why it is unknown whether a call ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Unknown {
    /// The actor ended while it held the call.
    ActorEnded {
        /// Which actor.
        actor: ActorId,
        /// Why it ended.
        reason: ExitReason,
    },
    /// The process that held the call has ended.
    ProcessDied {
        /// How.
        death: Box<Death>,
    },
    /// The call's handler went away without an answer.
    NoReply,
    /// The reply came but could not be decoded.
    Codec {
        /// What was wrong with it.
        message: String,
    },
    /// The reply is larger than may travel.
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The bytes allowed.
        max: usize,
    },
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ActorEnded { actor, reason } => write!(f, "{actor} ended while it held the call: {reason}"),
            Self::ProcessDied { death } => write!(f, "{death}"),
            Self::NoReply => f.write_str("its handler went away without an answer"),
            Self::Codec { message } => write!(f, "the reply could not be read: {message}"),
            Self::TooLarge { bytes, max } => {
                write!(f, "the reply's {bytes} bytes are more than the {max} that may travel: return it in parts")
            }
        }
    }
}

/// An error as text with its causes, for error types that cannot travel.
///
/// ```
/// use mobula_types::ErrorChain;
/// let error = "x".parse::<u32>().unwrap_err();
/// assert_eq!(ErrorChain::of(&error).to_string(), "invalid digit found in string");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorChain {
    /// The error's own message first, then its sources.
    pub messages: Vec<String>,
}

impl ErrorChain {
    /// Sources kept of one chain: deeper ones say nothing a person would miss, and a cyclic chain must end.
    const SOURCES_MAX: usize = 16;

    /// The messages of `error` and of its sources.
    pub fn of(error: &(dyn Error + '_)) -> Self {
        let mut messages = vec![error.to_string()];
        let mut source = error.source();
        while let Some(cause) = source.filter(|_| messages.len() <= Self::SOURCES_MAX) {
            messages.push(cause.to_string());
            source = cause.source();
        }
        Self { messages }
    }

    /// A chain of one message.
    pub fn message(text: impl fmt::Display) -> Self {
        Self { messages: vec![text.to_string()] }
    }
}

impl fmt::Display for ErrorChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.messages.join(": "))
    }
}

impl Error for ErrorChain {}
