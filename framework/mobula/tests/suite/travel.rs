//! References to actors and objects in messages, replies and values.

use std::collections::HashSet;

use mobula::prelude::*;
use serde::{Deserialize, Serialize};

use crate::apparatus::{until, within};

struct Node {
    next: Option<ActorRef<Node>>,
    kept: Option<Parcel>,
}

/// References inside a struct stay references.
#[derive(Clone, Serialize, Deserialize)]
struct Parcel {
    label: String,
    contents: ObjectRef<Vec<u8>>,
    sender: Option<ActorRef<Node>>,
}

#[actor]
impl Node {
    fn new() -> Self {
        Node { next: None, kept: None }
    }

    fn connect(&mut self, next: ActorRef<Node>) {
        self.next = Some(next);
    }

    /// How many nodes there are from here on.
    async fn length(&mut self) -> usize {
        match &self.next {
            None => 1,
            Some(next) => 1 + next.length().await.unwrap(),
        }
    }

    fn keep(&mut self, parcel: Parcel) {
        self.kept = Some(parcel);
    }

    async fn weigh(&mut self) -> Option<usize> {
        let parcel = self.kept.as_ref()?;
        Some(parcel.contents.get().await.unwrap().len())
    }

    fn back(&mut self, ctx: &Context<Self>) -> Option<Parcel> {
        let parcel = self.kept.take()?;
        Some(Parcel { sender: Some(ctx.me()), ..parcel })
    }

    async fn make(&mut self) -> ObjectRef<Vec<u8>> {
        mobula::put(vec![7; 3]).unwrap()
    }

    async fn spawn_other(&mut self) -> ActorRef<Node> {
        Node::spawn().await.unwrap()
    }

    /// Says how a call of it ends that has ended.
    async fn call_the_dead(&mut self, dead: ActorRef<Node>) -> std::result::Result<usize, CallError> {
        dead.length().submit().await.map(|length| *length).map_err(|error| error.map_returned(|_| unreachable!()))
    }
}

#[remote]
async fn length_from(node: ActorRef<Node>) -> usize {
    node.length().await.unwrap()
}

#[remote]
async fn weigh(parcel: Parcel) -> usize {
    parcel.contents.await.unwrap().len()
}

#[mobula::test(plain, encoded, cluster)]
async fn a_reference_to_an_actor_travels() -> Result<()> {
    let (a, b, c) = (Node::spawn().await?, Node::spawn().await?, Node::spawn().await?);
    b.connect(c).await?;
    a.connect(b).await?;
    assert_eq!(within(a.length()).await?, 3);
    assert_eq!(*within(length_from::remote(a)).await?, 3);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn references_are_equal_wherever_they_have_been() -> Result<()> {
    let node = Node::spawn().await?;
    let other = within(node.spawn_other()).await?;
    assert_ne!(node, other);
    other.connect(node.clone()).await?;
    assert_eq!(within(other.length()).await?, 2);
    #[expect(clippy::mutable_key_type, reason = "a reference's key is its id, which never changes")]
    let both: HashSet<_> = [node.clone(), other.clone(), node.clone()].into();
    assert_eq!(both.len(), 2);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_reference_in_a_struct_stays_a_reference() -> Result<()> {
    let node = Node::spawn().await?;
    let contents = mobula::put(vec![0u8; 100])?;
    let parcel = Parcel { label: "fragile".to_owned(), contents: contents.clone(), sender: None };
    node.keep(parcel.clone()).await?;
    // The sender's reference is gone; the value lives as long as that of the parcel.
    let id = contents.id();
    drop((contents, parcel.clone()));
    assert_eq!(within(node.weigh()).await?, Some(100));
    assert_eq!(*within(weigh::remote(parcel)).await?, 100);
    let back = within(node.back()).await?.expect("it was kept");
    assert_eq!((back.label.as_str(), back.contents.id()), ("fragile", id));
    assert_eq!(back.sender, Some(node));
    assert_eq!(within(back.contents).await?.len(), 100);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_actor_gives_a_reference_to_what_it_put() -> Result<()> {
    let node = Node::spawn().await?;
    let object = within(node.make()).await?;
    assert_eq!(*within(object).await?, [7; 3]);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_reference_to_a_reference_is_read_twice() -> Result<()> {
    let node = Node::spawn().await?;
    let outer = node.make().submit();
    let inner = within(outer).await?;
    assert_eq!(within(inner.get()).await?.len(), 3);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_reference_to_the_dead_says_so_wherever_it_is() -> Result<()> {
    let (node, elsewhere) = (Node::spawn().await?, Node::spawn().await?);
    let dead = within(node.spawn_other()).await?;
    dead.stop();
    until(|| !dead.is_alive()).await;
    // Back where it was spawned, and where nobody has heard of it.
    for node in [node, elsewhere] {
        let error = within(node.call_the_dead(dead.clone())).await.unwrap_err();
        assert!(matches!(error, CallError::Returned(CallError::NotStarted(NotStarted::ActorEnded { .. }))), "{error}");
    }
    Ok(())
}
