//! The same counter by the traits that the macro writes: nothing is hidden.
//!
//! Run with `cargo run --example actor_by_hand`.

use mobula::prelude::*;
use mobula::{Address, MailboxBounds};
use serde::{Deserialize, Serialize};

struct Counter {
    total: usize,
}

impl Actor for Counter {
    /// Kept for restarts.
    type Args = usize;
    /// No methods but those every actor has.
    type Proxy = Address<Self>;

    async fn start(start: usize, _: &Context<Self>) -> Result<Self> {
        Ok(Counter { total: start })
    }
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = usize)]
struct Add(usize);

/// `#[handler]` registers it by name and schema, so that it may come from another process.
#[handler]
impl Handler<Add> for Counter {
    async fn handle(&mut self, Add(n): Add, _: &Context<Self>) -> usize {
        self.total += n;
        self.total
    }
}

#[mobula::main]
async fn main() -> Result<()> {
    let _session = mobula::init().await?;
    let bounds = MailboxBounds { items_max: 16, ..MailboxBounds::default() };
    let counter = mobula::spawn::<Counter>(40).mailbox(bounds).await?;
    assert_eq!(counter.ask(Add(1)).await?, 41);

    // A recipient takes one type of message and does not say what kind of actor is behind it.
    let adder: Recipient<Add> = counter.recipient();
    adder.send(Add(1)).await?;
    println!("the counter says {}", adder.ask(Add(0)).await?);
    Ok(())
}
