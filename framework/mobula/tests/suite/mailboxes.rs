//! Mailboxes are bounded in items and in bytes (G14), and each end of a call has its answer to a full one.

use mobula::MailboxBounds;
use mobula::prelude::*;

use crate::apparatus::{Gate, Journal, heard, within};

struct Slow {
    journal: Journal,
    heard: usize,
}

#[actor]
impl Slow {
    fn new(journal: Journal) -> Self {
        Slow { journal, heard: 0 }
    }

    async fn hold(&mut self, gate: Gate) {
        self.journal.note("holding");
        gate.passed().await;
    }

    fn hear(&mut self, _: Vec<u8>) -> usize {
        self.heard += 1;
        self.heard
    }
}

/// An actor that is held, with a mailbox of `bounds`.
async fn held(bounds: MailboxBounds) -> Result<(ActorRef<Slow>, Gate, ObjectRef<()>)> {
    let journal = Journal::new();
    let slow = Slow::spawn(journal).mailbox(bounds).await?;
    let gate = Gate::new();
    let holding = slow.hold(gate).submit();
    assert_eq!(journal.next().await, "holding");
    Ok((slow, gate, holding))
}

#[mobula::test(plain, encoded, cluster)]
async fn a_tell_that_finds_no_room_gives_its_message_back() -> Result<()> {
    let (slow, gate, _holding) = held(MailboxBounds { items_max: 2, ..Default::default() }).await?;
    // Sent, not told: seen from another process, room that has just become free is known a moment later.
    within(slow.hear(vec![]).send()).await?;
    within(slow.hear(vec![]).send()).await?;
    let full = slow.hear(vec![]).tell().unwrap_err();
    assert!(matches!(full.cause, NotStarted::MailboxFull { waiting: 2 }), "{full}");
    gate.open();
    assert_eq!(within(slow.hear(vec![])).await?, 3);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_send_and_an_ask_wait_for_room() -> Result<()> {
    let (slow, gate, _holding) = held(MailboxBounds { items_max: 1, ..Default::default() }).await?;
    within(slow.hear(vec![]).send()).await?;
    let asks: Vec<_> = (0..3).map(|_| slow.hear(vec![]).submit()).collect();
    let sent = {
        let slow = slow.clone();
        async move { slow.hear(vec![]).send().await }
    };
    tokio::pin!(sent);
    assert!(futures_util::poll!(&mut sent).is_pending());
    gate.open();
    within(sent).await?;
    let heard: Vec<usize> = within(mobula::get(asks)).await?.iter().map(|heard| **heard).collect();
    assert_eq!(heard, [2, 3, 4]);
    assert_eq!(within(slow.hear(vec![])).await?, 6);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn bytes_are_bounded_too() -> Result<()> {
    let (slow, gate, _holding) = held(MailboxBounds { bytes_max: 4096, ..Default::default() }).await?;
    slow.hear(vec![0; 4000]).tell()?;
    let full = slow.hear(vec![0; 4000]).tell().unwrap_err();
    assert!(matches!(full.cause, NotStarted::MailboxFull { waiting: 1.. }), "{full}");
    gate.open();
    // What is larger than the bound goes in alone, else it could never.
    assert_eq!(within(slow.hear(vec![0; 40_000])).await?, 2);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn mail_of_an_actor_that_ends_is_refused_and_counted() -> Result<()> {
    let (slow, gate, holding) = held(MailboxBounds::default()).await?;
    let waiting = slow.hear(vec![]).submit();
    slow.hear(vec![]).tell()?;
    slow.stop();
    heard().await?;
    gate.open();
    within(holding).await?;
    let refused = within(waiting).await.unwrap_err();
    assert!(matches!(refused, CallError::NotStarted(NotStarted::ActorEnded { .. })), "{refused}");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_full_mailbox_is_no_end() -> Result<()> {
    let (slow, gate, holding) = held(MailboxBounds { items_max: 1, ..Default::default() }).await?;
    while slow.hear(vec![]).tell().is_ok() {}
    gate.open();
    within(holding).await?;
    assert!(within(slow.hear(vec![])).await? >= 1);
    Ok(())
}
