//! Addresses of one type of message, whoever handles it.

use mobula::prelude::*;
use serde::{Deserialize, Serialize};

use crate::apparatus::{Journal, within};

#[derive(Message, Serialize, Deserialize)]
#[message(reply = usize)]
struct News(String);

struct Reader {
    journal: Journal,
}

#[actor]
impl Reader {
    fn new(journal: Journal) -> Self {
        Reader { journal }
    }
}

#[handler]
impl Handler<News> for Reader {
    async fn handle(&mut self, News(text): News, _: &Context<Self>) -> usize {
        self.journal.note(format!("read {text}"));
        text.len()
    }
}

struct Archive {
    journal: Journal,
}

#[actor]
impl Archive {
    fn new(journal: Journal) -> Self {
        Archive { journal }
    }
}

#[handler]
impl Handler<News> for Archive {
    async fn handle(&mut self, News(text): News, _: &Context<Self>) -> usize {
        self.journal.note(format!("kept {text}"));
        0
    }
}

/// Knows nothing of who subscribes.
#[derive(Default)]
struct Press {
    subscribers: Vec<Recipient<News>>,
}

#[actor]
impl Press {
    fn new() -> Self {
        Press::default()
    }

    fn subscribe(&mut self, who: Recipient<News>) {
        self.subscribers.push(who);
    }

    async fn publish(&mut self, text: String) -> usize {
        let mut replies = 0;
        for subscriber in &self.subscribers {
            replies += subscriber.ask(News(text.clone())).await.unwrap();
        }
        replies
    }
}

#[mobula::test(plain, encoded, cluster)]
async fn recipients_of_several_types_are_one_type() -> Result<()> {
    let journal = Journal::new();
    let (reader, archive) = (Reader::spawn(journal).await?, Archive::spawn(journal).await?);
    let both: Vec<Recipient<News>> = vec![reader.recipient(), archive.recipient()];
    assert_eq!(both[0].id(), reader.address().id());
    assert_ne!(both[0], both[1]);
    assert_eq!(both[0], reader.recipient());
    for recipient in &both {
        recipient.try_send(News("today".to_owned()))?;
        recipient.send(News("tomorrow".to_owned())).await?;
    }
    let mut noted = Vec::new();
    for _ in 0..4 {
        noted.push(journal.next().await);
    }
    noted.sort();
    assert_eq!(noted, ["kept today", "kept tomorrow", "read today", "read tomorrow"]);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_recipient_travels() -> Result<()> {
    let journal = Journal::new();
    let (reader, archive) = (Reader::spawn(journal).await?, Archive::spawn(journal).await?);
    let press = Press::spawn().await?;
    press.subscribe(reader.recipient()).await?;
    press.subscribe(archive.recipient()).await?;
    assert_eq!(within(press.publish("rays")).await?, 4);
    assert_eq!((journal.next().await, journal.next().await), ("read rays".into(), "kept rays".into()));
    Ok(())
}
