//! The ends of a call, and what a method of an actor may look like.

use mobula::prelude::*;

use crate::apparatus::{Gate, Journal, within};

struct Counter {
    total: usize,
}

#[actor(max_restarts = 3)]
impl Counter {
    /// Counts on from `start`.
    fn new(start: usize) -> Self {
        Counter { total: start }
    }

    fn add(&mut self, n: usize) -> usize {
        self.total += n;
        self.total
    }

    async fn add_when(&mut self, n: usize, gate: Gate) -> usize {
        gate.passed().await;
        self.add_both(n, 0)
    }

    fn total(&self) -> usize {
        self.total
    }

    #[handler(skip)]
    fn add_both(&mut self, n: usize, m: usize) -> usize {
        self.add(n + m)
    }
}

#[mobula::test(plain, encoded, cluster)]
async fn an_awaited_call_gives_the_typed_reply() -> Result<()> {
    let counter = Counter::spawn(40).await?;
    assert_eq!(counter.add(1).await?, 41);
    assert_eq!(counter.total().await?, 41);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_tell_is_handled_before_the_next_ask() -> Result<()> {
    let counter = Counter::spawn(0).await?;
    counter.add(1).tell()?;
    counter.add(2).send().await?;
    assert_eq!(counter.total().await?, 3);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_submitted_call_gives_a_reference_to_its_reply() -> Result<()> {
    let counter = Counter::spawn(0).await?;
    let gate = Gate::new();
    let later: ObjectRef<usize> = counter.add_when(1, gate).submit();
    assert!(!later.is_ready());
    gate.open();
    assert_eq!(within(mobula::get(later)).await?, 1);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn messages_of_one_sender_are_handled_in_their_order() -> Result<()> {
    let counter = Counter::spawn(0).await?;
    let gate = Gate::new();
    let first = counter.add_when(1, gate).submit();
    let rest: Vec<_> = (0..100).map(|_| counter.add(1).submit()).collect();
    gate.open();
    let totals: Vec<usize> = mobula::get(rest).await?.iter().map(|total| **total).collect();
    assert_eq!(totals, (2..102).collect::<Vec<_>>());
    assert_eq!(first.await?, 1);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_call_that_is_not_awaited_is_not_made() -> Result<()> {
    let counter = Counter::spawn(0).await?;
    drop(counter.add(1));
    assert_eq!(counter.total().await?, 0);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_reference_goes_wherever_its_value_goes() -> Result<()> {
    let counter = Counter::spawn(0).await?;
    let (one, two) = (mobula::put(1usize)?, counter.add(2).submit());
    assert_eq!(counter.add(&one).await?, 3);
    assert_eq!(counter.add(one).await?, 4);
    assert_eq!(counter.add(two).await?, 6);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn mail_waits_behind_a_reference_of_the_same_sender() -> Result<()> {
    let (counter, other) = (Counter::spawn(0).await?, Counter::spawn(0).await?);
    let gate = Gate::new();
    let late = other.add_when(10, gate).submit();
    let behind_it = counter.add(late).submit();
    let after = counter.add(1).submit();
    assert!(!after.is_ready());
    gate.open();
    assert_eq!(within(behind_it).await?, 10);
    assert_eq!(within(after).await?, 11);
    Ok(())
}

/// What the macro lets a user write beside the plain case.
struct Notebook {
    journal: Journal,
    lines: Vec<String>,
    // State may stay on its thread.
    _not_send: std::rc::Rc<()>,
}

#[actor]
impl Notebook {
    async fn new(ctx: &Context<Self>, journal: Journal, title: String) -> std::io::Result<Self> {
        if title.is_empty() {
            return Err(std::io::Error::other("a notebook has a title"));
        }
        journal.note(format!("{title} {}", ctx.incarnation()));
        Ok(Notebook { journal, lines: Self::ruled(title), _not_send: std::rc::Rc::default() })
    }

    fn ruled(title: String) -> Vec<String> {
        vec![title]
    }

    fn write(&mut self, mut line: String, _: u8, r#type: Option<String>) -> usize {
        line.push_str(&r#type.unwrap_or_default());
        self.lines.push(line);
        self.lines.len()
    }

    fn lines(&self, ctx: &Context<Self>) -> (Vec<String>, ActorRef<Self>) {
        (self.lines.clone(), ctx.me())
    }

    /// A name that an actor's address has, too.
    fn stop(&mut self, ctx: &Context<Self>) {
        ctx.stop();
    }

    async fn stopping(&mut self, reason: &ExitReason, _: &Context<Self>) {
        self.journal.note(format!("closed: {reason}"));
    }
}

#[mobula::test(plain, encoded, cluster)]
async fn methods_take_their_context_and_any_arguments() -> Result<()> {
    let journal = Journal::new();
    let notebook = Notebook::spawn(journal, "rays".to_owned()).await?;
    assert_eq!(journal.next().await, format!("rays {}", mobula::Incarnation(1)));
    assert_eq!(notebook.write("manta", 0, Some("!".to_owned())).await?, 2);
    let (lines, same) = notebook.lines().await?;
    assert_eq!(lines, ["rays", "manta!"]);
    assert_eq!(same, notebook);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_actor_that_stops_itself_says_goodbye() -> Result<()> {
    let journal = Journal::new();
    let notebook = Notebook::spawn(journal, "rays".to_owned()).await?;
    journal.next().await;
    notebook.stop().await?;
    assert_eq!(journal.next().await, format!("closed: {}", ExitReason::Normal));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_constructor_that_fails_is_the_spawners_error() {
    let failed = Notebook::spawn(Journal::new(), String::new()).await;
    let Err(mobula::SpawnError::StartFailed(ExitReason::Failed(chain))) = failed else { panic!("{failed:?}") };
    assert_eq!(chain.to_string(), "a notebook has a title");
}
