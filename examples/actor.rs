//! State behind messages: a class becomes an actor by one attribute.
//!
//! Run with `cargo run --example actor`.

use mobula::prelude::*;

struct Counter {
    total: usize,
}

#[actor(max_restarts = 3)]
impl Counter {
    fn new(start: usize) -> Self {
        Counter { total: start }
    }

    fn add(&mut self, n: usize) -> usize {
        self.total += n;
        self.total
    }

    /// An error of its own arrives typed at the caller.
    async fn take(&mut self, n: usize) -> Result<usize, Shortage> {
        self.total = self.total.checked_sub(n).ok_or(Shortage { wanted: n, there: self.total })?;
        Ok(self.total)
    }
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Shortage {
    wanted: usize,
    there: usize,
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "wanted {}, but there are {}", self.wanted, self.there)
    }
}

impl std::error::Error for Shortage {}

#[mobula::main]
async fn main() -> Result<()> {
    let _session = mobula::init().await?;
    let counter = Counter::spawn(40).name("answers").await?;

    // Ask: the reply, typed.
    assert_eq!(counter.add(1).await?, 41);
    // Tell: fire and forget; a full mailbox would say so.
    counter.add(1).tell()?;
    // Submit: a reference to the future reply, which goes wherever a `usize` goes.
    let later = counter.add(0).submit();
    assert_eq!(counter.add(later).await?, 84);

    let refused = counter.take(1000).await;
    assert!(matches!(refused, Err(CallError::Returned(Shortage { there: 84, .. }))));
    println!("the counter says {}", counter.add(0).await?);
    Ok(())
}
