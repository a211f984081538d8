//! References that travel: what is on its way is never freed, what nobody holds is, and the dead own nothing.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use mobula::prelude::*;
use serde::{Deserialize, Serialize};

use super::Test;
use super::nodes::Nodes;

pub(crate) const TESTS: &[Test] = &[
    ("refs: a receiver that sleeps finds what its sender let go", || Box::pin(a_sleeping_receiver())),
    ("refs: what nobody holds is freed", || Box::pin(what_nobody_holds())),
    ("refs: what a dead process had made is there", || Box::pin(what_the_dead_owned())),
    ("refs: many values wait for a reader that sleeps", || Box::pin(many_values())),
];

/// Ten times what is promised for the freeing of what nobody holds (G9).
const FREED_MAX: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
struct Boxed {
    inside: ObjectRef<String>,
}

/// Holds references, of its own objects or of others'.
struct Holder {
    held: Vec<ObjectRef<String>>,
}

#[actor]
impl Holder {
    fn new() -> Self {
        Holder { held: Vec::new() }
    }

    fn pid(&self) -> u32 {
        std::process::id()
    }

    fn make(&mut self, text: String) -> Result<Boxed> {
        let inside = mobula::put(text)?;
        Ok(Boxed { inside })
    }

    /// The value of a task of its own.
    fn begin(&mut self) -> Boxed {
        Boxed { inside: slow::remote() }
    }

    fn keep(&mut self, boxed: Boxed) {
        self.held.push(boxed.inside);
    }

    /// Gives all it has to another, and keeps nothing.
    fn give_to(&mut self, other: ActorRef<Holder>) -> Result<usize> {
        let given = self.held.len();
        for inside in self.held.drain(..) {
            other.keep(Boxed { inside }).tell()?;
        }
        Ok(given)
    }

    async fn read(&self) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        for held in &self.held {
            texts.push(mobula::get(held).await?.into_owned());
        }
        Ok(texts)
    }

    /// Reads all at once.
    async fn lengths(&self) -> Result<Vec<usize>> {
        let read = |text: &ObjectRef<String>| {
            let text = text.clone();
            tokio::spawn(async move { mobula::get(text).await.map(|text| text.len()) })
        };
        let reading: Vec<_> = self.held.iter().map(read).collect();
        let mut lengths = Vec::new();
        for length in reading {
            lengths.push(length.await.expect("nobody panics")?);
        }
        Ok(lengths)
    }

    fn drop_all(&mut self) {
        self.held.clear();
    }
}

/// Objects of which the nodes know, each.
async fn known() -> Result<Vec<u64>> {
    Ok(mobula::nodes().await?.iter().map(|node| node.objects).collect())
}

async fn is_known(wanted: u64, nodes: usize) -> Result<bool> {
    Ok(known().await?.iter().take(nodes).sum::<u64>() == wanted)
}

/// Three holders, of which the first two share no process with another, and the third is on another node.
async fn holders() -> Result<[ActorRef<Holder>; 3]> {
    let nodes = mobula::nodes().await?;
    let (here, there) = (nodes[0].id, nodes[1].id);
    Ok([
        Holder::spawn().on_node(here).isolated().await?,
        Holder::spawn().on_node(here).isolated().await?,
        Holder::spawn().on_node(there).isolated().await?,
    ])
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "the system sends {name} to {pid}");
}

/// Stops a process, and waits until all of it stands still: one thread takes the signal, and until that one has run the
/// others go on.
async fn stop(pid: u32) -> Result<()> {
    signal("-STOP", pid);
    let stands_still = |thread: std::io::Result<fs::DirEntry>| {
        let stat = fs::read_to_string(thread?.path().join("stat"))?;
        // Behind the name, which stands in parentheses.
        Ok::<_, std::io::Error>(stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T')))
    };
    let threads = format!("/proc/{pid}/task");
    eventually("a stopped process stands still", async || {
        let stopped: Vec<bool> = fs::read_dir(&threads)?.map(stands_still).collect::<std::io::Result<_>>()?;
        Ok(stopped.into_iter().all(|stopped| stopped))
    })
    .await
}

async fn eventually<F: Future<Output = Result<bool>>>(what: &str, mut holds: impl FnMut() -> F) -> Result<()> {
    let end = Instant::now() + FREED_MAX;
    while !holds().await? {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Much longer than any time after which a sender could think that a reference has arrived.
const ASLEEP: Duration = Duration::from_millis(1_200);

async fn a_sleeping_receiver() -> Result<()> {
    for (giver, receiver) in [(0, 1), (0, 2), (2, 1)] {
        let holders = holders().await?;
        let (giver, receiver) = (&holders[giver], &holders[receiver]);
        // The driver owns it and does not hold it.
        giver.keep(Boxed { inside: mobula::put("kept".to_owned())? }).await?;
        let pid = receiver.pid().await?;
        stop(pid).await?;
        assert_eq!(giver.give_to(receiver.clone()).await?, 1);
        tokio::time::sleep(ASLEEP).await;
        // What tests before this one have let go may be known still; what has been freed is never known again.
        eventually("what is on its way is not freed", async || Ok(known().await?.contains(&1))).await?;
        signal("-CONT", pid);
        eventually("it arrives", async || Ok(receiver.read().await? == ["kept"])).await?;
        receiver.drop_all().await?;
        eventually("it is freed with its last holder", async || is_known(0, 2).await).await?;
    }
    Ok(())
}

async fn what_nobody_holds() -> Result<()> {
    let [a, b, c] = holders().await?;
    for n in 0..300 {
        let made = a.make(format!("text {n}")).await?;
        match n % 3 {
            0 => b.keep(made).await?,
            1 => c.keep(made).await?,
            _ => a.keep(made).await?,
        }
    }
    assert_eq!(b.give_to(c.clone()).await?, 100);
    eventually("all arrive", async || Ok(c.read().await?.len() == 200)).await?;
    eventually("its own it holds itself", async || is_known(300, 1).await).await?;
    assert_eq!(c.give_to(b.clone()).await?, 200);
    eventually("all arrive again", async || Ok(b.read().await?.len() == 200)).await?;
    b.drop_all().await?;
    a.drop_all().await?;
    eventually("they are freed with their last holder", async || is_known(0, 2).await).await?;
    // Whoever is killed holds nothing any more.
    c.keep(a.make("held by the dead".to_owned()).await?).await?;
    eventually("it is held", async || Ok(known().await?.iter().all(|objects| *objects == 1))).await?;
    signal("-KILL", c.pid().await?);
    eventually("the dead hold nothing", async || is_known(0, 2).await).await
}

/// More than may wait for one process to read it, in values that are small.
const MANY: usize = 2_500;
const SMALL: usize = 60_000;

async fn many_values() -> Result<()> {
    let [maker, reader, _] = holders().await?;
    for number in 0..MANY {
        reader.keep(maker.make(format!("{number:0>SMALL$}")).await?).tell()?;
    }
    let pid = reader.pid().await?;
    let reading = tokio::spawn({
        let reader = reader.clone();
        async move { reader.lengths().no_timeout().await }
    });
    // It asks for all of them and sleeps while they come.
    tokio::time::sleep(Duration::from_millis(30)).await;
    stop(pid).await?;
    tokio::time::sleep(ASLEEP).await;
    signal("-CONT", pid);
    assert_eq!(reading.await.expect("nobody panics")?, vec![SMALL; MANY]);
    reader.drop_all().await?;
    eventually("they are freed", async || is_known(0, 2).await).await
}

/// Ends long after this test.
#[remote]
async fn slow() -> String {
    tokio::time::sleep(Duration::from_secs(60)).await;
    "too late".to_owned()
}

async fn what_the_dead_owned() -> Result<()> {
    let [owner, keeper, _] = holders().await?;
    let (seen, unseen) = (owner.make("seen".to_owned()).await?.inside, owner.make("unseen".to_owned()).await?.inside);
    assert_eq!(*mobula::get(&seen).await?, "seen");
    keeper.keep(Boxed { inside: unseen.clone() }).await?;
    let unmade = owner.begin().await?.inside;
    let asked = tokio::spawn({
        let unmade = unmade.clone();
        async move { mobula::get(&unmade).await.err() }
    });
    signal("-KILL", owner.pid().await?);
    assert_eq!(*mobula::get(&unseen).await?, "unseen", "its node has it");
    assert_eq!(keeper.read().await?, ["unseen"], "for everybody");
    assert_eq!(*mobula::get(&seen).await?, "seen");
    let lost = asked.await.expect("nobody panics");
    assert!(
        matches!(&lost, Some(CallError::ObjectLost { object, cause })
        if *object == unmade.id() && cause.to_string().contains("signal 9")),
        "{lost:?}"
    );
    let lost = mobula::get(&unmade).await.err();
    assert!(matches!(lost, Some(CallError::ObjectLost { .. })), "asked after the death: {lost:?}");
    Ok(())
}

/// Tells of each object where it is and who holds it.
pub(crate) async fn what_is_held_is_listed(nodes: &Nodes) -> Result<()> {
    let [a, b, c] = holders().await?;
    let (small, large) = (a.make("small".to_owned()).await?.inside, a.make("x".repeat(1 << 20)).await?.inside);
    b.keep(Boxed { inside: large.clone() }).await?;
    c.keep(Boxed { inside: large.clone() }).await?;
    let of = |object: &ObjectRef<String>| {
        let id = object.id().to_string();
        async move { nodes.list("objects").await.into_iter().find(|item| item.id == id) }
    };
    let other = nodes.ids().1.to_string();
    eventually("the large one is held on both nodes", async || {
        let item = of(&large).await;
        Ok(item.is_some_and(|item| item.state == "sealed" && item.held_by.len() > 1 && item.held_by.contains(&other)))
    })
    .await?;
    let (is, are) = (of(&small).await.expect("it is listed"), of(&large).await.expect("it is listed"));
    assert_eq!((is.name.as_str(), is.bytes), ("with its node", Some(5 + 8)));
    assert_eq!(are.name, "in the store");
    assert!(are.bytes.is_some_and(|bytes| bytes > 1 << 20), "{are:?}");
    assert_eq!(are.copies, [nodes.ids().0.to_string()]);
    let made_at = are.made_at.as_deref().unwrap_or_default();
    assert!(made_at.contains("refs.rs:") && are.made_at == is.made_at, "one line of code has made both: {made_at}");
    Ok(())
}
