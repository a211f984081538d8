//! Tasks that run: results, errors, panics, references as arguments, nested waits, async functions.

mod functions;

use functions::{in_session, two};
use mobula_actor::{Arg, GetError, IntoArg, ObjectRef, System};
use mobula_node::{RemoteFn, TaskOptions, submit};
use mobula_types::{CallError, Error, NoError, NotStarted};

fn run<F: RemoteFn>(args: F::Args) -> ObjectRef<F::Reply> {
    submit::<F>(&F::OPTIONS, Arg::Value(args))
}

function!(Add(a: u64, b: u64) -> u64 { a + b });

#[test]
fn a_result_is_read_by_its_reference() {
    in_session(&two(), || async {
        assert_eq!(*run::<Add>((2, 3)).await.unwrap(), 5);
        let many: Vec<_> = (0..2_000).map(|i| run::<Add>((i, i))).collect();
        for (i, sum) in many.into_iter().enumerate() {
            assert_eq!(*sum.await.unwrap(), 2 * i as u64);
        }
    });
}

function!(Half(n: u64) -> Result<u64, Error> {
    if n % 2 == 0 { Ok(n / 2) } else { Err(Error::msg(format!("{n} is odd")).context("halve")) }
});
function!(Boom() -> Result<u64, NoError> { panic!("boom {}", 1) });

#[test]
fn errors_and_panics_come_with_their_cause() {
    in_session(&two(), || async {
        assert_eq!(*run::<Half>((4,)).await.unwrap(), 2);
        let error = run::<Half>((3,)).await.unwrap_err();
        assert!(matches!(&error, CallError::Returned(chain) if chain.to_string() == "halve: 3 is odd"), "{error:?}");
        let CallError::Panicked(panic) = run::<Boom>(()).await.unwrap_err() else { panic!("expected a panic") };
        assert_eq!(panic.message, "boom 1");
        assert!(panic.location.unwrap().contains("tasks.rs"));
        assert_eq!(*run::<Add>((1, 1)).await.unwrap(), 2, "the thread goes on");
    });
}

/// The arguments of `Add` from references.
fn sum_of(a: impl IntoArg<u64>, b: impl IntoArg<u64>) -> ObjectRef<u64> {
    let (a, b) = (a.into_arg(), b.into_arg());
    let args = Box::pin(async move { Ok((a.resolve().await?, b.resolve().await?)) });
    submit::<Add>(&TaskOptions::new(), Arg::Later(args))
}

#[test]
fn references_stand_for_arguments() {
    in_session(&two(), || async {
        let mut sum = run::<Add>((0, 0));
        for i in 1..=100 {
            sum = sum_of(&sum, i);
        }
        assert_eq!(*sum.await.unwrap(), 5050);
        let error = sum_of(run::<Boom>(()), 1).await.unwrap_err();
        let CallError::NotStarted(NotStarted::Argument { cause }) = error else { panic!("{error:?}") };
        assert!(matches!(*cause, CallError::Panicked(_)));
    });
}

function!(Tree(depth: u64) -> u64 {
    if depth == 0 {
        return Ok(1);
    }
    let children: Vec<_> = (0..3).map(|_| run::<Tree>((depth - 1,))).collect();
    children.into_iter().map(|child| *child.wait().unwrap()).sum()
});

#[test]
fn functions_wait_for_functions() {
    in_session(&two(), || async {
        assert_eq!(*run::<Tree>((4,)).await.unwrap(), 81);
    });
}

function!(WaitFor(inside: Vec<ObjectRef<u64>>) -> u64 { *inside[0].wait().unwrap() });

#[test]
fn more_waits_than_threads_end() {
    in_session(&two(), || async {
        // What all of them wait for is queued behind them: references inside a value are not resolved.
        let (sender, value) = tokio::sync::oneshot::channel();
        let wanted = ObjectRef::pending(&mobula_actor::current::system().unwrap(), None);
        let waiting: Vec<_> = (0..290).map(|_| run::<WaitFor>((vec![wanted.clone()],))).collect();
        let filled = wanted.clone();
        let last = run::<Add>((40, 2));
        tokio::spawn(async move {
            let value: Result<u64, GetError> = value.await.unwrap();
            filled.fill(value);
        });
        sender.send(Ok(*last.await.unwrap())).unwrap();
        for one in waiting {
            assert_eq!(*one.await.unwrap(), 42);
        }
    });
}

#[test]
fn no_task_is_left_when_threads_fall_asleep() {
    // Gaps on both sides of how long a thread looks for work: a lost wake-up would leave the task for ever.
    in_session(&two(), || async {
        for i in 0..4_000u32 {
            assert_eq!(*run::<Add>((u64::from(i), 1)).await.unwrap(), u64::from(i) + 1);
            let gap = std::time::Instant::now() + std::time::Duration::from_nanos(u64::from(i % 60) * 1_000);
            while std::time::Instant::now() < gap {
                std::hint::spin_loop();
            }
        }
    });
}

async_function!(Twice(n: u64) -> u64 {
    let half = run::<Add>((n, 0)).await.unwrap();
    tokio::task::yield_now().await;
    *half * 2
});
async_function!(AsyncBoom(n: u64) -> u64 { tokio::task::yield_now().await; assert_eq!(n, 0, "later"); n });

#[test]
fn async_functions_run_on_arbiters() {
    in_session(&two(), || async {
        let many: Vec<_> = (0..100).map(|n| run::<Twice>((n,))).collect();
        for (n, twice) in many.into_iter().enumerate() {
            assert_eq!(*twice.await.unwrap(), 2 * n as u64);
        }
        assert!(matches!(run::<AsyncBoom>((1,)).await, Err(CallError::Panicked(_))));
    });
}

/// Values made only to see what a type looks like are not armed.
const ARMED: u64 = 0xB0B;

#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Bomb(u64);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 == ARMED && !std::thread::panicking() {
            panic!("a bomb was dropped");
        }
    }
}

function!(Defuse(bomb: Bomb) -> u64 { bomb.0 });

#[test]
fn a_drop_that_panics_is_the_tasks_failure() {
    in_session(&two(), || async {
        assert!(matches!(run::<Defuse>((Bomb(ARMED),)).await, Err(CallError::Panicked(_))));
        assert_eq!(*run::<Add>((1, 2)).await.unwrap(), 3);
    });
}

/// Cannot be copied.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Unique(u64);

impl Clone for Unique {
    fn clone(&self) -> Self {
        panic!("there is only one")
    }
}

function!(Open(unique: Unique) -> u64 { unique.0 });

#[test]
fn a_clone_that_panics_is_the_arguments_failure() {
    in_session(&two(), || async {
        let unique = ObjectRef::ready(&mobula_actor::current::system().unwrap(), Unique(7));
        let open = |unique: ObjectRef<Unique>| {
            let unique = unique.into_arg();
            submit::<Open>(&TaskOptions::new(), Arg::Later(Box::pin(async { Ok((unique.resolve().await?,)) })))
        };
        let error = open(unique.clone()).await.unwrap_err();
        let CallError::NotStarted(NotStarted::Argument { cause }) = error else { panic!("{error}") };
        assert!(matches!(*cause, CallError::Panicked(panic) if panic.message == "there is only one"));
        assert_eq!(*open(unique).await.unwrap(), 7, "its last holder gives it away");
    });
}

#[test]
fn without_a_session_there_is_an_error() {
    assert_eq!(run::<Add>((1, 1)).wait().err(), Some(CallError::NotStarted(NotStarted::NoSession)));
    assert!(System::absent().actors().is_empty());
}
