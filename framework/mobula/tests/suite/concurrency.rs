//! `&self` handlers that run beside one another.

use mobula::prelude::*;

use crate::apparatus::{Gate, Journal, within};

struct Shared {
    journal: Journal,
    changes: usize,
}

#[actor(concurrency = 2)]
impl Shared {
    fn new(journal: Journal) -> Self {
        Shared { journal, changes: 0 }
    }

    async fn read(&self, name: String, gate: Gate) -> usize {
        self.journal.note(name);
        gate.passed().await;
        self.changes
    }

    fn peek(&self) -> usize {
        self.changes
    }

    fn change(&mut self) -> usize {
        self.changes += 1;
        self.changes
    }

    async fn panic(&self) {
        panic!("one of several")
    }
}

#[mobula::test(plain, encoded, cluster)]
async fn shared_handlers_run_beside_one_another() -> Result<()> {
    let journal = Journal::new();
    let shared = Shared::spawn(journal).await?;
    let (first, second) = (Gate::new(), Gate::new());
    let one = shared.read("one", first).submit();
    let two = shared.read("two", second).submit();
    assert_eq!((journal.next().await, journal.next().await), ("one".into(), "two".into()));
    second.open();
    assert_eq!(*within(two).await?, 0);
    assert!(!one.is_ready());
    assert_eq!(within(shared.peek()).await?, 0);
    first.open();
    within(one).await?;
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn no_more_of_them_than_were_asked_for() -> Result<()> {
    let journal = Journal::new();
    let shared = Shared::spawn(journal).await?;
    let gates = [Gate::new(), Gate::new(), Gate::new()];
    let reads: Vec<_> = gates.iter().map(|gate| shared.read("read", *gate).submit()).collect();
    assert_eq!((journal.next().await, journal.next().await), ("read".into(), "read".into()));
    assert!(journal.is_read().await);
    gates[0].open();
    within(reads[0].get()).await?;
    assert_eq!(journal.next().await, "read");
    gates[1].open();
    gates[2].open();
    within(mobula::get(reads)).await?;
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn one_that_changes_the_state_runs_alone() -> Result<()> {
    let journal = Journal::new();
    let shared = Shared::spawn(journal).await?;
    let gate = Gate::new();
    let read = shared.read("read", gate).submit();
    assert_eq!(journal.next().await, "read");
    let (change, peek) = (shared.change().submit(), shared.peek().submit());
    assert!(!change.is_ready());
    gate.open();
    assert_eq!((*within(read).await?, *within(change).await?, *within(peek).await?), (0, 1, 1));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_panic_of_one_ends_the_incarnation_of_all() -> Result<()> {
    let journal = Journal::new();
    let shared = Shared::spawn(journal).await?;
    let read = shared.read("read", Gate::new()).submit();
    assert_eq!(journal.next().await, "read");
    assert!(matches!(within(shared.panic()).await, Err(CallError::Panicked(_))));
    assert!(matches!(within(read).await, Err(CallError::MayHaveRun(_))));
    assert_eq!(within(shared.peek()).await?, 0);
    Ok(())
}
