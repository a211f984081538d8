//! A pipeline of stages with back-pressure: the slowest stage decides how fast the first one goes.
//!
//! Look at `send().await`: it waits for room in the next stage's mailbox, so that a stage which cannot pass on what it
//! has takes nothing new. No more is ever under way than the mailboxes hold, however much there is to do.
//!
//! Run with `cargo run --example stages`.

use mobula::MailboxBounds;
use mobula::prelude::*;

/// Makes text of numbers.
struct Write {
    next: ActorRef<Reverse>,
}

#[actor]
impl Write {
    fn new(next: ActorRef<Reverse>) -> Self {
        Write { next }
    }

    async fn take(&mut self, number: u64) -> Result<()> {
        self.next.take(format!("{number:06}")).send().await?;
        Ok(())
    }
}

/// Turns text around, and takes its time.
struct Reverse {
    next: ActorRef<Sum>,
}

#[actor]
impl Reverse {
    fn new(next: ActorRef<Sum>) -> Self {
        Reverse { next }
    }

    async fn take(&mut self, text: String) -> Result<()> {
        tokio::time::sleep(millis(1)).await;
        self.next.take(text.chars().rev().collect::<String>()).send().await?;
        Ok(())
    }
}

/// Reads the numbers again and adds them up.
struct Sum {
    sum: u64,
    taken: u64,
}

#[actor]
impl Sum {
    fn new() -> Self {
        Sum { sum: 0, taken: 0 }
    }

    fn take(&mut self, text: String) -> Result<()> {
        self.sum += text.parse::<u64>()?;
        self.taken += 1;
        Ok(())
    }

    fn so_far(&self) -> (u64, u64) {
        (self.sum, self.taken)
    }
}

const ITEMS: u64 = 500;
/// Mail that waits at each stage.
const ROOM: usize = 8;

#[mobula::main]
async fn main() -> Result<()> {
    let _session = mobula::init().await?;
    let room = MailboxBounds { items_max: ROOM, ..MailboxBounds::default() };
    let sum = Sum::spawn().mailbox(room).await?;
    let reverse = Reverse::spawn(sum.clone()).mailbox(room).await?;
    let write = Write::spawn(reverse).mailbox(room).await?;

    let mut lead_max = 0;
    for number in 0..ITEMS {
        write.take(number).send().await?;
        let (_, taken) = sum.so_far().await?;
        lead_max = lead_max.max(number + 1 - taken);
    }
    println!("{ITEMS} items, at most {lead_max} of them under way");
    assert!(lead_max < ITEMS / 2, "the first stage ran away from the last");

    let mut so_far = sum.so_far().await?;
    while so_far.1 < ITEMS {
        tokio::time::sleep(millis(1)).await;
        so_far = sum.so_far().await?;
    }
    // 000123 was turned into 321000.
    let expected: u64 = (0..ITEMS).map(reversed).sum();
    assert_eq!(so_far.0, expected);
    println!("they sum up to {expected}");
    Ok(())
}

fn reversed(number: u64) -> u64 {
    (0..6).map(|digit| number / 10u64.pow(digit) % 10 * 10u64.pow(5 - digit)).sum()
}
