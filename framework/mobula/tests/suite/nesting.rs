//! Tasks in tasks, actors in tasks, tasks in actors, and the blocking wait.

use mobula::prelude::*;

use crate::apparatus::{Gate, within};

#[remote]
fn fib(n: u64) -> u64 {
    if n < 2 {
        return n;
    }
    let (one, two) = (fib::remote(n - 1), fib::remote(n - 2));
    *one.wait().unwrap() + *two.wait().unwrap()
}

#[remote]
async fn async_fib(n: u64) -> u64 {
    if n < 2 {
        return n;
    }
    let (one, two) = (async_fib::remote(n - 1), async_fib::remote(n - 2));
    *one.await.unwrap() + *two.await.unwrap()
}

/// Blocks on the one below, down to the ground.
#[remote]
fn depth(n: u32) -> u32 {
    if n == 0 { 0 } else { 1 + *depth::remote(n - 1).wait().unwrap() }
}

struct Total(u64);

#[actor]
impl Total {
    fn new() -> Self {
        Total(0)
    }

    fn add(&mut self, n: u64) -> u64 {
        self.0 += n;
        self.0
    }

    async fn add_fib(&mut self, n: u64) -> u64 {
        let fib = fib::remote(n).await.unwrap();
        self.add(*fib)
    }

    /// Waits for a value that is there only when the gate is open: what is there already blocks nobody.
    fn wait_here(&mut self, gate: Gate) -> std::result::Result<u64, CallError<mobula::ErrorChain>> {
        slow::remote(gate).wait().map(|value| *value)
    }
}

#[remote]
async fn slow(gate: Gate) -> u64 {
    gate.passed().await;
    1
}

#[remote]
async fn add_all(total: ActorRef<Total>, numbers: Vec<u64>) -> u64 {
    let mut last = 0;
    for n in numbers {
        last = total.add(n).await.unwrap();
    }
    last
}

#[remote]
fn add_blocking(total: ActorRef<Total>, n: u64) -> u64 {
    *total.add(n).submit().wait().unwrap()
}

#[mobula::test(plain, encoded, cluster)]
async fn tasks_submit_tasks_and_wait_for_them() -> Result<()> {
    assert_eq!(*within(fib::remote(8)).await?, 21);
    assert_eq!(*within(async_fib::remote(8)).await?, 21);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_blocked_thread_gives_its_place_to_another() -> Result<()> {
    assert_eq!(*within(depth::remote(100)).await?, 100);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn tasks_call_actors_and_actors_run_tasks() -> Result<()> {
    let total = Total::spawn().await?;
    assert_eq!(*within(add_all::remote(total.clone(), vec![1, 2, 3])).await?, 6);
    assert_eq!(*within(add_blocking::remote(total.clone(), 4)).await?, 10);
    assert_eq!(within(total.add_fib(8)).await?, 31);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_thread_that_actors_share_does_not_block() -> Result<()> {
    let total = Total::spawn().await?;
    let gate = Gate::new();
    let refused = within(total.wait_here(gate)).await.unwrap_err();
    assert_eq!(refused, CallError::Returned(CallError::NotStarted(NotStarted::WouldBlock)));
    gate.open();
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_actor_with_a_thread_of_its_own_may_block() -> Result<()> {
    let total = Total::spawn().dedicated().await?;
    let gate = Gate::new();
    let waiting = total.wait_here(gate).submit();
    assert!(!waiting.is_ready());
    gate.open();
    assert_eq!(*within(waiting).await?, 1);
    Ok(())
}
