//! The one cause of a worker's death, out of what was seen of it.

use mobula_types::DeathCause;

use crate::daemon::workers::letter::Ended;

/// What was seen of a worker that ended.
#[derive(Debug)]
pub(crate) struct Evidence<'a> {
    /// What the kernel said to its parent; nothing when the parent was killed too.
    pub(crate) how: Option<Ended>,
    /// Whether the kernel counted an end for lack of memory where the worker was.
    pub(crate) out_of_memory: bool,
    /// Why the node wanted it to end, if it did.
    pub(crate) expected: Option<&'a DeathCause>,
    /// The last lines it wrote to standard error.
    pub(crate) stderr: &'a [String],
}

/// The cause. A crash before the end that the node wanted stays a crash; else the node's reason is the cause, whatever
/// code the worker ended with.
pub(crate) fn cause(seen: &Evidence<'_>) -> DeathCause {
    match (seen.how, seen.expected) {
        (Some(Ended::Signal(KILL)), _) if seen.out_of_memory => DeathCause::OutOfMemory,
        (Some(Ended::Signal(ABORT | SEGV | BUS)), _) if says_overflow(seen.stderr) => DeathCause::StackOverflow,
        (Some(Ended::Signal(ABORT)), _) => DeathCause::Aborted,
        (Some(Ended::Signal(SEGV | BUS | ILL | FPE)), _) | (_, None) => plain(seen.how),
        (_, Some(expected)) => expected.clone(),
    }
}

/// A worker whose parent was killed got the signal that it had asked for then.
fn plain(how: Option<Ended>) -> DeathCause {
    match how {
        Some(Ended::Code(code)) => DeathCause::Exited { code },
        Some(Ended::Signal(signal)) => DeathCause::Signal { signal },
        None => DeathCause::Signal { signal: KILL },
    }
}

/// The line that Rust's handler writes before it aborts.
fn says_overflow(stderr: &[String]) -> bool {
    stderr.iter().any(|line| line.starts_with("thread '") && line.ends_with("has overflowed its stack"))
}

// As signals are numbered on Linux, x86-64 and arm64.
const ILL: i32 = 4;
const ABORT: i32 = 6;
const BUS: i32 = 7;
const FPE: i32 = 8;
const KILL: i32 = 9;
const SEGV: i32 = 11;

#[cfg(test)]
mod tests {
    use super::*;

    const OVERFLOW: &str = "thread 'main' (4711) has overflowed its stack";

    fn check(how: impl Into<Option<Ended>>, expected: Option<DeathCause>, stderr: &str, expect: DeathCause) {
        let (how, stderr) = (how.into(), [stderr.to_owned()]);
        let seen = Evidence { how, out_of_memory: false, expected: expected.as_ref(), stderr: &stderr };
        assert_eq!(cause(&seen), expect, "{seen:?}");
    }

    #[test]
    fn each_end_has_one_cause() {
        use DeathCause::{Aborted, Drained, Exited, JobStopped, StackOverflow};
        use Ended::{Code, Signal};
        let signal = |signal| DeathCause::Signal { signal };
        check(Code(0), None, "", Exited { code: 0 });
        check(Code(101), None, "thread 'main' panicked at src/main.rs:1:1:", Exited { code: 101 });
        check(Signal(15), None, "", signal(15));
        check(Signal(9), None, "", signal(9));
        check(Signal(6), None, "", Aborted);
        check(Signal(6), None, OVERFLOW, StackOverflow);
        check(Signal(11), None, OVERFLOW, StackOverflow);
        check(Signal(11), None, "", signal(11));
        check(Code(1), None, OVERFLOW, Exited { code: 1 });
        check(None, None, "", signal(9));
        check(Signal(9), Some(JobStopped), "", JobStopped);
        check(Code(1), Some(Drained), "", Drained);
        check(None, Some(Drained), "", Drained);
        check(Signal(6), Some(JobStopped), "", Aborted);
        check(Signal(11), Some(JobStopped), "", signal(11));
    }

    #[test]
    fn memory_is_a_cause_only_of_a_kill() {
        let of = |how, expected| cause(&Evidence { how: Some(how), out_of_memory: true, expected, stderr: &[] });
        assert_eq!(of(Ended::Signal(9), None), DeathCause::OutOfMemory);
        assert_eq!(of(Ended::Signal(9), Some(&DeathCause::JobStopped)), DeathCause::OutOfMemory);
        assert_eq!(of(Ended::Code(3), None), DeathCause::Exited { code: 3 }, "the kernel took a child of it");
    }
}
