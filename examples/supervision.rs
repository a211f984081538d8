//! A tree that heals: a supervisor keeps two shards alive together, and who watches is told of every death.
//!
//! Run with `cargo run --example supervision`.

use mobula::prelude::*;

struct Shard {
    rank: usize,
    seen: Vec<u32>,
}

#[actor]
impl Shard {
    fn new(rank: usize) -> Self {
        Shard { rank, seen: Vec::new() }
    }

    fn see(&mut self, n: u32) -> usize {
        assert!(n != 13, "shard {} cannot bear 13", self.rank);
        self.seen.push(n);
        self.seen.len()
    }
}

#[mobula::main]
async fn main() -> Result<()> {
    let session = mobula::init().await?;
    // One without the other is worth nothing: when one dies, both start again, with fresh state.
    let group = Supervisor::new(Strategy::OneForAll)
        .intensity(3, secs(10))
        .child(ChildSpec::new::<Shard>("left", (0,)).permanent())
        .child(ChildSpec::new::<Shard>("right", (1,)).permanent())
        .spawn()
        .await?;
    let left = group.child::<Shard>("left").await?;
    let right = group.child::<Shard>("right").await?;
    assert_eq!((left.see(1).await?, right.see(2).await?), (1, 1));

    // The caller of the message that killed it gets the panic, with its place.
    let died = left.see(13).await;
    println!("left: {}", died.expect_err("13 is too much"));

    // References stay valid over restarts, and mail waits meanwhile. Both shards have forgotten what they saw.
    let mut after = right.see(3).await?;
    while after != 1 {
        after = right.see(3).await?;
        assert!(after < 100_000, "the group did not start again");
    }
    assert_eq!(left.see(4).await?, 1);
    for actor in session.actors() {
        println!("{} {} {:?}, {}", actor.id, actor.type_name, actor.state, actor.incarnation);
    }
    Ok(())
}
