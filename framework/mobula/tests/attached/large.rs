//! Values that do not fit into a message: they keep their order, nobody else waits for them, and there is an end to it.

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use mobula::prelude::*;
use mobula::{NotStarted, Unknown};

use super::nodes::Nodes;
use super::{Test, settled};

pub(crate) const TESTS: &[Test] = &[
    ("large: the largest value travels, and an array that is larger", || Box::pin(the_largest_value())),
    ("large: order holds whatever the size", || Box::pin(order_holds())),
    ("large: small calls to others do not wait", || Box::pin(others_do_not_wait())),
    ("large: items of a stream keep their order", || Box::pin(items_keep_their_order())),
    ("large: what is given up does not come", || Box::pin(what_is_given_up())),
    ("large: many at once", || Box::pin(many_at_once())),
];

/// Run in a session whose values have at most [`SMALL_MAX`] bytes.
pub(crate) const SMALL_TESTS: &[Test] = &[("too large: each way has its error", || Box::pin(too_large()))];

/// Each on a cluster of its own.
pub(crate) const END_TESTS: &[Test] = &[("large: what was sent before its actor moves comes before it moves", || {
    Box::pin(what_was_sent_comes_before_its_actor_moves())
})];

pub(crate) const SMALL_MAX: usize = 1 << 20;

/// The bytes of a value at most, unless a session says less (promises.md).
const VALUE_BYTES_MAX: usize = 256 << 20;

/// What the codec adds to bytes: their count.
const COUNT_BYTES: usize = 8;

/// Zeros take no memory until they are touched.
fn zeros(count: usize) -> Bytes {
    vec![0; count].into()
}

#[remote]
fn length(bytes: Bytes) -> usize {
    bytes.len()
}

#[remote]
fn lengths(parts: Vec<Bytes>) -> usize {
    parts.iter().map(Bytes::len).sum()
}

#[remote]
fn make(count: usize) -> Bytes {
    zeros(count)
}

#[remote]
fn pieces(sizes: Vec<usize>) -> impl futures_util::Stream<Item = Bytes> + use<> {
    futures_util::stream::iter(sizes.into_iter().map(zeros))
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Boxed {
    inside: ObjectRef<Bytes>,
}

#[remote]
async fn open(boxed: Boxed) -> Result<usize> {
    Ok(mobula::get(boxed.inside).await?.len())
}

struct Sink {
    sizes: Vec<usize>,
}

#[actor]
impl Sink {
    fn new(first: Bytes) -> Self {
        Sink { sizes: vec![first.len()] }
    }

    fn take(&mut self, bytes: Bytes) -> usize {
        self.sizes.push(bytes.len());
        bytes.len()
    }

    fn give(&self, count: usize) -> Bytes {
        zeros(count)
    }

    fn place(&self) -> u32 {
        std::process::id()
    }

    fn sizes(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.sizes)
    }
}

/// A sink on each node, made with a first value.
async fn sinks(first: usize) -> Result<Vec<ActorRef<Sink>>> {
    let mut sinks = Vec::new();
    for node in mobula::nodes().await? {
        sinks.push(Sink::spawn(zeros(first)).on_node(node.id).await?);
    }
    Ok(sinks)
}

async fn the_largest_value() -> Result<()> {
    let fits = VALUE_BYTES_MAX - COUNT_BYTES;
    let other = mobula::nodes().await?.into_iter().next_back().expect("there are nodes");
    let lengths = length::options().on_node(other.id).remote(zeros(fits));
    assert_eq!(*mobula::get(lengths).await?, fits);
    let refused = mobula::get(length::remote(zeros(fits + 1))).await.err();
    let expect = NotStarted::TooLarge { bytes: VALUE_BYTES_MAX + 1, max: VALUE_BYTES_MAX };
    assert_eq!(refused, Some(CallError::NotStarted(expect.clone())));
    // By reference it is bounded by the room there is for it alone, if it is an array.
    let array = mobula::put(zeros(fits + 1))?;
    for node in mobula::nodes().await? {
        let lengths = length::options().on_node(node.id).remote(&array);
        assert_eq!(*mobula::get(lengths).await?, fits + 1);
    }
    let other = mobula::put(vec![zeros(fits / 2), zeros(fits / 2 + 1 - 2 * COUNT_BYTES)])?;
    let refused = mobula::get(lengths::remote(other)).await.err();
    let Some(CallError::NotStarted(NotStarted::Argument { cause })) = refused else { panic!("{refused:?}") };
    assert_eq!(*cause, CallError::NotStarted(expect));
    Ok(())
}

/// Around what fits into a message, what one part carries, and what is asked for ahead.
const SIZES: &[usize] = &[0, 65_528, 65_529, 1, 1 << 20, 3, (1 << 20) + 1, 5 << 20, 7, 65_537, 0, 4 << 20, 1];

async fn order_holds() -> Result<()> {
    for sink in sinks(300_000).await? {
        for size in SIZES {
            sink.take(zeros(*size)).tell()?;
        }
        let expect: Vec<usize> = [300_000].into_iter().chain(SIZES.iter().copied()).collect();
        assert_eq!(sink.sizes().await?, expect);
        // Beyond what its credit lets go at once, and behind what is less than a word of credit.
        for size in [3 << 20, 14 << 20, 20 << 20, 3 << 20, 1] {
            sink.take(zeros(size)).send().await?;
        }
        assert_eq!(sink.sizes().await?, [3 << 20, 14 << 20, 20 << 20, 3 << 20, 1]);
        assert_eq!(sink.give(5 << 20).await?.len(), 5 << 20);
    }
    Ok(())
}

async fn others_do_not_wait() -> Result<()> {
    for node in mobula::nodes().await? {
        let busy = Sink::spawn(zeros(0)).on_node(node.id).await?;
        let idle = Sink::spawn(zeros(0)).on_node(node.id).await?;
        let large = busy.take(zeros(200 << 20)).submit();
        let mut answered = 0;
        while !large.is_ready() {
            idle.take(zeros(1)).await?;
            answered += 1;
        }
        assert!(answered > 1, "{answered} calls were answered while a large one was on its way");
        assert_eq!(*mobula::get(large).await?, 200 << 20);
    }
    Ok(())
}

async fn items_keep_their_order() -> Result<()> {
    let expect: Vec<usize> = SIZES.iter().copied().filter(|size| *size < 2 << 20).cycle().take(40).collect();
    let mut items = pieces::options().on_node(mobula::nodes().await?[1].id).remote(expect.clone());
    let mut sizes = Vec::new();
    while let Some(item) = items.next().await {
        sizes.push(item?.len());
    }
    assert_eq!(sizes, expect);
    Ok(())
}

async fn what_is_given_up() -> Result<()> {
    for sink in sinks(0).await? {
        let given_up = sink.take(zeros(200 << 20)).submit();
        given_up.cancel();
        assert_eq!(mobula::get(given_up).await.err(), Some(CallError::Cancelled));
        sink.take(zeros(1)).await?;
        let sizes = sink.sizes().await?;
        // Whether it had come whole before is a matter of time; what stands behind it is not.
        assert!(sizes == [0, 1] || sizes == [0, 200 << 20, 1], "{sizes:?}");
    }
    Ok(())
}

async fn many_at_once() -> Result<()> {
    let nodes = mobula::nodes().await?;
    let sizes: Vec<usize> = (0..60).map(|n| 70_000 * (n % 20) + n).collect();
    let lengths: Vec<ObjectRef<usize>> = sizes
        .iter()
        .zip(nodes.iter().cycle())
        .map(|(size, node)| length::options().on_node(node.id).remote(zeros(*size)))
        .collect();
    let made: Vec<ObjectRef<Bytes>> = sizes.iter().map(|size| make::remote(*size)).collect();
    for ((size, length), made) in sizes.iter().zip(lengths).zip(made) {
        assert_eq!((*mobula::get(length).await?, mobula::get(made).await?.len()), (*size, *size));
    }
    Ok(())
}

async fn too_large() -> Result<()> {
    let (fits, max) = (SMALL_MAX - COUNT_BYTES, SMALL_MAX);
    let bytes = max + 1;
    let not_sent = Some(CallError::NotStarted(NotStarted::TooLarge { bytes, max }));
    let not_answered = Some(Unknown::TooLarge { bytes, max });
    let unknown = |error: Option<CallError<_>>| match error {
        Some(CallError::MayHaveRun(unknown)) => Some(unknown),
        other => panic!("{other:?}"),
    };
    for sink in sinks(fits).await? {
        assert_eq!(sink.take(zeros(fits)).await?, fits);
        assert_eq!(sink.take(zeros(fits + 1)).await.err().map(CallError::widen), not_sent, "a call");
        let told = sink.take(zeros(fits + 1)).tell().map_err(|error| error.to_string());
        assert!(told.is_err_and(|error| error.contains("1048577 bytes")), "a tell");
        assert_eq!(sink.give(fits).await?.len(), fits);
        let given = sink.give(fits + 1).into_future().await.err().map(CallError::widen);
        assert_eq!(unknown(given), not_answered, "a reply");
    }
    assert_eq!(*mobula::get(length::remote(zeros(fits))).await?, fits);
    assert_eq!(mobula::get(length::remote(zeros(fits + 1))).await.err(), not_sent, "an argument");
    assert_eq!(mobula::get(make::remote(fits)).await?.len(), fits);
    assert_eq!(unknown(mobula::get(make::remote(fits + 1)).await.err()), not_answered, "a result");
    let mut items = pieces::remote(vec![fits, fits + 1]);
    assert_eq!(items.next().await.transpose()?.map(|item| item.len()), Some(fits));
    let item = items.next().await.and_then(Result::err).map(CallError::widen);
    assert_eq!(unknown(item), not_answered, "an item");
    let spawned = Sink::spawn(zeros(fits + 1)).await.err().map(|error| error.to_string());
    assert!(spawned.is_some_and(|error| error.contains("1048577 bytes")), "arguments of an actor");
    assert_eq!(*mobula::get(open::remote(Boxed { inside: mobula::put(zeros(fits))? })).await?, fits);
    let opened = mobula::get(open::remote(Boxed { inside: mobula::put(zeros(fits + 1))? })).await.err();
    assert!(opened.is_some_and(|error| error.to_string().contains("1048577 bytes")), "an object");
    Ok(())
}

/// Sends mail to two sinks in one process: what is for the second waits until the first has got its own.
#[remote(num_cpus = 1)]
async fn feed(first: ActorRef<Sink>, second: ActorRef<Sink>) -> Result<Vec<usize>> {
    let larger = first.take(zeros(250 << 20)).submit();
    let large = second.take(zeros(12 << 20)).submit();
    let sizes = second.sizes().submit();
    mobula::kv::put("fed", &true).await?;
    assert_eq!(*mobula::get(large).await?, 12 << 20);
    assert_eq!(*mobula::get(larger).await?, 250 << 20);
    Ok(mobula::get(sizes).await?.to_vec())
}

/// G3: the node of an actor is to leave while large mail for it waits for its room there, and small mail behind that.
async fn what_was_sent_comes_before_its_actor_moves() -> Result<()> {
    let mut nodes = Nodes::start(1, 1).await;
    let session = mobula::init_with(Config::default().address(nodes.address())).await?;
    let there = mobula::nodes().await?;
    let spawn = || Sink::spawn(zeros(0)).num_cpus(0.1).label("zone", "b").into_future();
    let (other, sink) = (spawn().await?, spawn().await?);
    let before = sink.place().await?;
    assert_eq!(other.place().await?, before, "they share the room for what comes to their process");
    let feeding = feed::options().on_node(there[0].id).remote(other, sink.clone());
    while mobula::kv::get::<bool>("fed").await?.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut left = nodes.replace(1).await;
    assert!(!feeding.is_ready(), "it is on its way still");
    assert_eq!(*feeding.await?, [0, 12 << 20], "all came to where it was, in its order");
    left.ended().await;
    assert_ne!(sink.place().await?, before, "it has moved");
    settled(&session, "all of it").await;
    session.stop().await;
    nodes.stop().await;
    Ok(())
}
