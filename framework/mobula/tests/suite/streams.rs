//! Streamed answers, of actors and of remote functions.

use std::rc::Rc;

use futures_util::{Stream, StreamExt, stream};
use mobula::prelude::*;

use crate::apparatus::{Gate, Journal, NotedDrop, until_it_begins, within};

struct Source {
    made: usize,
}

#[actor]
impl Source {
    fn new() -> Self {
        Source { made: 0 }
    }

    fn count_to(&mut self, n: usize) -> impl Stream<Item = usize> + use<> {
        self.made += 1;
        // A source may stay on its thread.
        let step = Rc::new(1);
        stream::iter(0..n).map(move |at| at + *step - 1)
    }

    /// For ever, one item and then one per gate.
    async fn hold(&mut self, journal: Journal, gate: Gate) -> impl Stream<Item = usize> + use<> {
        self.made += 1;
        let dropped = NotedDrop(journal, "source dropped");
        stream::unfold((0, dropped), move |(at, dropped)| async move {
            if at > 0 {
                gate.passed().await;
            }
            Some((at, (at + 1, dropped)))
        })
    }

    fn break_after(&mut self, n: usize) -> impl Stream<Item = usize> + use<> {
        stream::iter(0..).map(move |at| if at < n { at } else { panic!("broken") })
    }

    fn made(&self) -> usize {
        self.made
    }
}

#[remote]
fn letters(text: String) -> impl Stream<Item = char> {
    stream::iter(text.chars().collect::<Vec<_>>())
}

#[remote(timeout_ms = 20)]
async fn nothing(journal: Journal) -> impl Stream<Item = u8> {
    let dropped = NotedDrop(journal, "dropped");
    journal.note("begun");
    stream::once(async move {
        let _dropped = dropped;
        std::future::pending::<()>().await;
        0
    })
}

async fn all<T: Send + 'static>(mut items: ReplyStream<T>) -> (Vec<T>, Option<CallError>) {
    let mut seen = Vec::new();
    loop {
        match within(items.next()).await {
            Some(Ok(item)) => seen.push(item),
            Some(Err(error)) => return (seen, Some(error)),
            None => return (seen, None),
        }
    }
}

#[mobula::test(plain, encoded, cluster)]
async fn an_actor_streams_more_than_its_credit() -> Result<()> {
    let source = Source::spawn().await?;
    let (items, error) = all(source.count_to(10_000).await?).await;
    assert_eq!((items, error), ((0..10_000).collect(), None));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_empty_stream_ends() -> Result<()> {
    let source = Source::spawn().await?;
    assert_eq!(all(source.count_to(0).await?).await, (vec![], None));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn the_actor_takes_its_next_message_meanwhile() -> Result<()> {
    let source = Source::spawn().await?;
    let (journal, gate) = (Journal::new(), Gate::new());
    let mut items = source.hold(journal, gate).await?;
    assert_eq!(within(items.next()).await, Some(Ok(0)));
    assert_eq!(source.made().await?, 1);
    gate.open();
    assert_eq!(within(items.next()).await, Some(Ok(1)));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_reader_that_goes_drops_the_source() -> Result<()> {
    let source = Source::spawn().await?;
    let journal = Journal::new();
    let mut items = source.hold(journal, Gate::new()).await?;
    assert_eq!(within(items.next()).await, Some(Ok(0)));
    drop(items);
    assert_eq!(journal.next().await, "source dropped");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_source_that_panics_is_the_last_item() -> Result<()> {
    let source = Source::spawn().await?;
    let (items, error) = all(source.break_after(2).await?).await;
    assert_eq!(items, [0, 1]);
    assert!(matches!(error, Some(CallError::Panicked(panic)) if panic.message == "broken"));
    // It was beside the actor, which goes on as it was.
    assert_eq!(source.made().await?, 0);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_stream_ends_with_its_actor() -> Result<()> {
    let source = Source::spawn().await?;
    let journal = Journal::new();
    let mut items = source.hold(journal, Gate::new()).await?;
    assert_eq!(within(items.next()).await, Some(Ok(0)));
    source.address().stop();
    assert_eq!(journal.next().await, "source dropped");
    assert!(matches!(within(items.next()).await, Some(Err(CallError::MayHaveRun(_)))));
    assert_eq!(within(items.next()).await, None);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_remote_function_streams() {
    let items = letters::remote("manta");
    assert_eq!(all(items).await, ("manta".chars().collect(), None));
}

#[mobula::test(plain, encoded, cluster)]
async fn an_item_that_takes_too_long_ends_the_stream() {
    let journal = Journal::new();
    let (items, error) = all(nothing::remote(journal)).await;
    assert_eq!(items, [0; 0]);
    assert_eq!(error, Some(CallError::DeadlineExceeded { given: Some(millis(20)) }));
    until_it_begins(journal, async |deadline| {
        let (items, error) = all(nothing::options().timeout(deadline).remote(journal)).await;
        assert_eq!(items, [0; 0]);
        assert_eq!(error, Some(CallError::DeadlineExceeded { given: Some(deadline) }));
    })
    .await;
}

#[mobula::test(plain, encoded, cluster)]
async fn a_remote_stream_is_dropped_with_its_reader() {
    let journal = Journal::new();
    // It may not have begun: then there is nothing to drop but its arguments.
    drop(nothing::options().timeout(secs(60)).remote(Journal::new()));
    let items = nothing::options().timeout(secs(60)).remote(journal);
    assert_eq!(journal.next().await, "begun");
    drop(items);
    assert_eq!(journal.next().await, "dropped");
}
