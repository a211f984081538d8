//! Messages that an actor sends to itself later.

use mobula::prelude::*;
use serde::{Deserialize, Serialize};

use crate::apparatus::{Journal, within};

struct Clock {
    journal: Journal,
    ticks: usize,
    timer: Option<mobula::Timer>,
}

#[derive(Message, Serialize, Deserialize)]
struct Tick(String);

#[handler]
impl Handler<Tick> for Clock {
    async fn handle(&mut self, Tick(what): Tick, _: &Context<Self>) {
        self.ticks += 1;
        self.journal.note(what);
        if self.ticks == 3
            && let Some(timer) = self.timer.take()
        {
            timer.cancel();
        }
    }
}

#[actor]
impl Clock {
    fn new(journal: Journal) -> Self {
        Clock { journal, ticks: 0, timer: None }
    }

    fn after(&mut self, delay_ms: u64, what: String, ctx: &Context<Self>) {
        ctx.send_after(millis(delay_ms), Tick(what));
    }

    fn after_one_another(&mut self, ctx: &Context<Self>) {
        // So much later that the other is set before this one is due, wherever this thread is held up.
        ctx.send_after(secs(1), Tick("second".to_owned()));
        ctx.send_after(millis(1), Tick("first".to_owned()));
    }

    fn every(&mut self, period_ms: u64, ctx: &Context<Self>) {
        self.timer = Some(ctx.send_every(millis(period_ms), || Tick("tick".to_owned())));
    }

    fn panic(&mut self) {
        panic!("out of time")
    }
}

#[mobula::test(plain, encoded, cluster)]
async fn later_messages_come_in_the_order_of_their_times() -> Result<()> {
    let journal = Journal::new();
    let clock = Clock::spawn(journal).await?;
    clock.after_one_another().await?;
    assert_eq!((journal.next().await, journal.next().await), ("first".into(), "second".into()));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_repeated_message_comes_until_its_timer_is_cancelled() -> Result<()> {
    let journal = Journal::new();
    let clock = Clock::spawn(journal).await?;
    clock.every(1).await?;
    for _ in 0..3 {
        assert_eq!(journal.next().await, "tick");
    }
    // One more may have waited when the timer was cancelled, and none comes after that.
    clock.after(10, "later").await?;
    while journal.next().await == "tick" {}
    clock.after(10, "again").await?;
    assert_eq!(journal.next().await, "again");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn timers_end_with_their_incarnation() -> Result<()> {
    let journal = Journal::new();
    let clock = Clock::spawn(journal).await?;
    clock.every(1).await?;
    assert_eq!(journal.next().await, "tick");
    within(clock.panic()).await.unwrap_err();
    clock.after(10, "later").await?;
    // Ticks of before the panic may still have waited.
    while journal.next().await == "tick" {}
    clock.after(10, "again").await?;
    assert_eq!(journal.next().await, "again");
    Ok(())
}
