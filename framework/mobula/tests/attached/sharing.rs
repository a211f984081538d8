//! Values in the memory of a host: its processes read them where they lie, and none of it is left at the end.

use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt, stream};
use mobula::View;
use mobula::prelude::*;

use serde::{Deserialize, Serialize};

use super::Test;
use super::nodes::STORE_BYTES;

pub(crate) const TESTS: &[Test] = &[
    ("sharing: all processes of a host read one copy", || Box::pin(one_copy())),
    ("sharing: what a process that ended had lent is read on", || Box::pin(a_lender_ends())),
    ("sharing: a reader that ends leaves nothing pinned", || Box::pin(a_reader_ends())),
    ("sharing: a full store is said to be full, and has room again", || Box::pin(a_full_store())),
    ("sharing: a writer that is killed leaves nothing half written", || Box::pin(a_writer_is_killed())),
    ("sharing: a long argument is shared too", || Box::pin(a_long_argument())),
    ("sharing: a view outlives its reference", || Box::pin(a_view_outlives())),
];

/// The bytes of the value that is shared.
const BYTES: usize = 48 << 20;

/// A hang shows as this.
const HANGS: Duration = Duration::from_secs(10);

/// Heartbeats carry what is used: the head has heard it within this time.
const HEARD: Duration = Duration::from_secs(2);

fn numbers() -> Vec<f32> {
    (0..BYTES / 4).map(|number| number as f32).collect()
}

fn is_right(view: &View<Vec<f32>>) -> bool {
    view.last() == Some(&((BYTES / 4 - 1) as f32))
}

/// What is shared begins at a cache line.
fn is_shared(view: &View<Vec<f32>>) -> bool {
    view.as_ptr().addr().is_multiple_of(64)
}

#[remote]
fn read(view: View<Vec<f32>>) -> bool {
    is_right(&view) && is_shared(&view)
}

/// Adds up what it was given, when it is told to.
#[remote]
async fn add_up(numbers: Vec<u64>) -> Result<u64> {
    let until = Instant::now() + HANGS;
    while mobula::kv::get::<bool>("add up").await?.is_none() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(numbers.iter().sum())
}

/// A reference that stands for itself.
#[derive(Serialize, Deserialize)]
struct Shared {
    numbers: ObjectRef<Vec<f32>>,
}

fn shared(numbers: &ObjectRef<Vec<f32>>) -> Shared {
    Shared { numbers: numbers.clone() }
}

struct Reader {
    view: Option<View<Vec<f32>>>,
    more: Vec<View<Vec<f32>>>,
}

#[actor]
impl Reader {
    fn new() -> Self {
        Reader { view: None, more: Vec::new() }
    }

    /// Reads it where it lies, and goes on doing so.
    async fn hold(&mut self, shared: Shared) -> Result<bool> {
        let view = mobula::get_view(&shared.numbers).await?;
        let is_right = is_right(&view);
        self.view = Some(view);
        Ok(is_right)
    }

    /// Reads one more.
    async fn hold_too(&mut self, shared: Shared) -> Result<bool> {
        let view = mobula::get_view(&shared.numbers).await?;
        let is_right = is_right(&view);
        self.more.push(view);
        Ok(is_right)
    }

    fn reads_in_place(&self) -> bool {
        self.view.as_ref().is_some_and(is_shared)
    }

    fn first(&self) -> Option<f32> {
        self.view.as_ref()?.first().copied()
    }

    fn let_go(&mut self) {
        self.view = None;
        self.more.clear();
    }

    fn end(&self) {
        std::process::abort();
    }
}

/// Numbers of which each tells the next, and whose last is their sum.
fn marked(seed: u64) -> Vec<u64> {
    let step = |number: &u64| Some(number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f));
    let mut numbers: Vec<u64> = std::iter::successors(Some(seed), step).take(20_000).collect();
    numbers.push(numbers.iter().fold(0, |sum: u64, number| sum.wrapping_add(*number)));
    numbers
}

struct Maker {
    made: Option<ObjectRef<Vec<f32>>>,
}

#[actor]
impl Maker {
    fn new() -> Self {
        Maker { made: None }
    }

    /// Arrays that say themselves whether they are whole, one after the other.
    fn arrays(&self, seed: u64) -> impl Stream<Item = Vec<u64>> + use<> {
        stream::iter(seed..).then(async |seed| {
            // What is to end it comes to this thread too.
            tokio::task::yield_now().await;
            marked(seed)
        })
    }

    /// Ends the process at some point of what it does then.
    fn end_in(&self, micros: u64) {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(micros));
            std::process::abort();
        });
    }

    /// Has others work on an array that is an argument by itself.
    fn submit(&self) -> ObjectRef<u64> {
        add_up::remote(vec![1; BYTES / 8])
    }

    fn make(&mut self) -> Result<Option<ObjectRef<Vec<f32>>>> {
        self.made = Some(mobula::put(numbers())?);
        Ok(self.made.clone())
    }

    fn end(&self) {
        std::process::abort();
    }
}

/// What processes of all nodes have of their stores, once that is as wanted.
async fn used(is_wanted: impl Fn(u64) -> bool) -> Result<u64> {
    let until = Instant::now() + HANGS;
    loop {
        let used = mobula::nodes().await?.iter().map(|node| node.store_bytes_used).sum();
        if is_wanted(used) || Instant::now() > until {
            return Ok(used);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Readers on one node.
async fn readers(count: usize) -> Result<Vec<ActorRef<Reader>>> {
    let node = mobula::nodes().await?[0].id;
    let mut readers = Vec::new();
    for _ in 0..count {
        readers.push(Reader::spawn().isolated().on_node(node).await?);
    }
    Ok(readers)
}

async fn one_copy() -> Result<()> {
    let here = mobula::nodes().await?[0].id;
    let maker = Maker::spawn().isolated().on_node(here).await?;
    let made = maker.make().await?.expect("it was made");
    let readers = readers(3).await?;
    for reader in &readers {
        assert!(reader.hold(shared(&made)).await?, "all of it is there");
        assert!(reader.reads_in_place().await?);
    }
    let reads: Vec<ObjectRef<bool>> = (0..4).map(|_| read::options().isolated().on_node(here).remote(&made)).collect();
    for is_right in reads {
        assert!(*mobula::get(is_right).await?);
    }
    let bytes = BYTES as u64;
    tokio::time::sleep(HEARD).await;
    let shared = used(|used| used >= bytes).await?;
    assert!(shared >= bytes && shared < 2 * bytes, "four processes have {shared} bytes of a value of {bytes}");
    for reader in &readers {
        assert_eq!(reader.first().await?, Some(0.0));
        reader.let_go().await?;
    }
    Ok(())
}

async fn a_lender_ends() -> Result<()> {
    let maker = Maker::spawn().isolated().on_node(mobula::nodes().await?[0].id).await?;
    let reader = readers(1).await?.remove(0);
    let made = maker.make().await?.expect("it was made");
    assert!(reader.hold(shared(&made)).await?);
    maker.end().await.unwrap_err();
    assert_eq!(reader.first().await?, Some(0.0), "what it had written is there as long as it is read");
    reader.let_go().await?;
    // Its node has it now, for whoever is next.
    let next = readers(1).await?.remove(0);
    assert!(next.hold(shared(&made)).await?, "all of it is there");
    assert!(next.reads_in_place().await?);
    assert_eq!(mobula::get(&made).await?.first(), Some(&0.0));
    drop(made);
    next.let_go().await?;
    assert_eq!(used(|used| used == 0).await?, 0, "nobody has it any more");
    Ok(())
}

async fn a_reader_ends() -> Result<()> {
    let reader = readers(1).await?.remove(0);
    let made = mobula::put(numbers())?;
    assert!(reader.hold(shared(&made)).await?);
    reader.end().await.unwrap_err();
    // The driver still has it, for whoever is next.
    let next = readers(1).await?.remove(0);
    assert!(next.hold(shared(&made)).await?);
    drop(made);
    next.let_go().await?;
    assert_eq!(used(|used| used == 0).await?, 0, "nobody has it any more");
    Ok(())
}

async fn a_full_store() -> Result<()> {
    let reader = readers(1).await?.remove(0);
    let maker = Maker::spawn().isolated().on_node(mobula::nodes().await?[0].id).await?;
    let fits = usize::try_from(STORE_BYTES).expect("it is small") / BYTES;
    // What is looked at does not go to files.
    for _ in 0..fits - 1 {
        let next = maker.make().await?.expect("it was made");
        assert!(reader.hold_too(shared(&next)).await?);
    }
    // Each segment is a little larger than the value in it, so the last of them does not fit.
    let beyond = [maker.make().await?, maker.make().await?].map(|made| made.expect("it was made"));
    let mut refused = None;
    for next in &beyond {
        refused = refused.or(reader.hold_too(shared(next)).await.err());
    }
    let why = refused.expect("the store is full").to_string();
    assert!(why.contains("--object-store-memory"), "it says what to do: {why}");
    reader.let_go().await?;
    let next = maker.make().await?.expect("it was made");
    assert!(reader.hold_too(shared(&next)).await?, "what was let go of is others'");
    Ok(())
}

/// Over all runs of this test together a hundred.
const KILLS: u64 = 50;

async fn a_writer_is_killed() -> Result<()> {
    let here = mobula::nodes().await?[0].id;
    let mut read = 0;
    for kill in 0..KILLS {
        let maker = Maker::spawn().isolated().on_node(here).restart(RestartPolicy::temporary()).await?;
        let mut arrays = maker.arrays(kill << 32).await?;
        // From while it has hardly begun to while it waits for its reader.
        maker.end_in(kill * 97 % 5_000).tell()?;
        for number in 0.. {
            let Some(Ok(array)) = arrays.next().await else { break };
            assert_eq!(array, marked((kill << 32) + number), "kill {kill}: array {number} is another");
            read += 1;
        }
    }
    println!("{read} arrays of {KILLS} writers that were killed are whole");
    assert!(read > KILLS);
    Ok(())
}

async fn a_long_argument() -> Result<()> {
    assert_eq!(used(|used| used == 0).await?, 0, "the test before has left nothing");
    let maker = Maker::spawn().isolated().await?;
    let sum = maker.submit().await?;
    let shared = used(|used| used >= BYTES as u64).await?;
    assert!(shared >= BYTES as u64, "{shared} bytes are shared");
    mobula::kv::put("add up", &true).await?;
    assert_eq!(*mobula::get(sum).await?, BYTES as u64 / 8);
    Ok(())
}

async fn a_view_outlives() -> Result<()> {
    let maker = Maker::spawn().isolated().await?;
    let made = maker.make().await?.expect("it was made");
    let view = mobula::get_view(&made).await?;
    drop(made);
    maker.stop();
    assert_eq!((view.len(), view[7]), (BYTES / 4, 7.0));
    Ok(())
}
