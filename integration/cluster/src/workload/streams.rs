//! Streams that go on for a while: one of a task, one of an actor.

use std::fmt::Display;
use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use mobula::prelude::*;
use mobula_cluster::report::{READY, REPORT};

/// Items of one stream, and the time between two of them: long enough for a test to do something meanwhile.
const ITEMS: u64 = 300;
const BETWEEN: Duration = Duration::from_millis(10);

fn slowly() -> impl Stream<Item = u64> {
    stream::unfold(0, |next| async move {
        if next == ITEMS {
            return None;
        }
        tokio::time::sleep(BETWEEN).await;
        Some((next, next + 1))
    })
}

#[remote]
fn count() -> impl Stream<Item = u64> + use<> {
    slowly()
}

struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    fn count(&self) -> impl Stream<Item = u64> + use<> {
        slowly()
    }
}

pub(crate) async fn read() -> Result<()> {
    let counter = Counter::spawn().num_cpus(0.1).await?;
    let mut of_task = pin!(count::remote().peekable());
    let mut of_actor = pin!(counter.count().await?.peekable());
    // Both have begun.
    tokio::join!(of_task.as_mut().peek(), of_actor.as_mut().peek());
    println!("{READY}{}", std::process::id());
    let read = [check(of_task).await, check(of_actor).await];
    println!("{REPORT}{}", serde_json::Value::from(read.to_vec()));
    Ok(())
}

/// Reads a stream to its end: how many items came in order, and what else came.
async fn check<E: Display>(mut stream: impl Stream<Item = Result<u64, E>> + Unpin) -> serde_json::Value {
    let (mut items, mut wrong) = (0, None);
    while let Some(item) = stream.next().await {
        match item {
            Ok(item) if item == items => items += 1,
            Ok(item) => wrong = Some(format!("{item} came where {items} was expected")),
            Err(error) => wrong = Some(error.to_string()),
        }
    }
    serde_json::json!({ "items": items, "of": ITEMS, "error": wrong })
}
