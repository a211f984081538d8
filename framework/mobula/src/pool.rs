//! A pool of actors that share the items of a list: each gets the next item as soon as it has room for it.
//!
//! Items are taken from their iterator one by one as places become free, so that a list may be longer than memory. An
//! item is given to one actor once: nothing is tried again here.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream, StreamExt};
use mobula_actor::{Actor, ActorRef, Call, Handler, Message};
use mobula_types::CallError;

use crate::ActorGroup;

/// Items that one actor has at a time unless said otherwise: one that it works on, and one that waits already when it
/// is done.
const PER_ACTOR: usize = 2;

/// How many times as many items as the pool has places may be begun ahead of the oldest that is not answered, where
/// results come in order: enough that one slow item does not idle the others at once, and a bound on what is kept.
const AHEAD: usize = 4;

/// Actors that share the work on many items.
///
/// ```
/// # use mobula::prelude::*;
/// use mobula::{ActorGroup, ActorPool};
///
/// struct Squarer;
///
/// #[actor]
/// impl Squarer {
///     fn new() -> Self { Squarer }
///     fn square(&mut self, n: u64) -> u64 { n * n }
/// }
///
/// # #[mobula::main]
/// # async fn main() -> mobula::Result<()> {
/// # let _session = mobula::init().await?;
/// let pool = ActorPool::of(ActorGroup::spawn(3, |_| Squarer::spawn().spread()).await?).per_actor(4);
/// // In the order of the items …
/// let squares = pool.map(0..100, |squarer, n| squarer.square(n)).all().await?;
/// assert_eq!(squares[7], 49);
/// // … or as they come, each with the place of its item.
/// let mut squares = pool.map_unordered(0..100, |squarer, n| squarer.square(n));
/// let mut sum = 0;
/// while let Some((_, square)) = squares.next().await {
///     sum += square?;
/// }
/// assert_eq!(sum, 328_350);
/// # Ok(())
/// # }
/// ```
pub struct ActorPool<A: Actor> {
    members: Arc<[ActorRef<A>]>,
    per_actor: usize,
}

impl<A: Actor> ActorPool<A> {
    /// A pool of the members of a group.
    pub fn of(group: ActorGroup<A>) -> Self {
        Self { members: group.members().into(), per_actor: PER_ACTOR }
    }

    /// Gives each actor at most `items` at a time; 2 unless set. An actor that handles one message after another has
    /// no use for many.
    ///
    /// # Panics
    ///
    /// When `items` is 0: nothing would ever be done.
    #[must_use]
    pub fn per_actor(mut self, items: usize) -> Self {
        assert!(items > 0, "an actor of a pool has at least one item at a time");
        self.per_actor = items;
        self
    }

    /// Makes `call` of each item, and gives the results in the order of the items.
    ///
    /// An item whose call fails gives its error, and the others go on. Each call has its own deadline, 30 s unless
    /// `call` says otherwise. Actors that have ended get no more items while others live. Dropping the stream gives up
    /// what has no result yet.
    pub fn map<I, F, M, T, E>(&self, items: I, call: F) -> Mapped<A, I::IntoIter, F, M, T, E>
    where
        I: IntoIterator,
        F: for<'a> FnMut(&'a ActorRef<A>, I::Item) -> Call<'a, A, M, T, E>,
        A: Handler<M>,
        M: Message,
    {
        let ahead_max = self.members.len() * self.per_actor * AHEAD;
        Mapped { work: self.work(items, call), ahead_max, next: 0, early: BTreeMap::new() }
    }

    /// The same in the order in which results come, each with the place of its item.
    pub fn map_unordered<I, F, M, T, E>(&self, items: I, call: F) -> MappedUnordered<A, I::IntoIter, F, M, T, E>
    where
        I: IntoIterator,
        F: for<'a> FnMut(&'a ActorRef<A>, I::Item) -> Call<'a, A, M, T, E>,
        A: Handler<M>,
        M: Message,
    {
        MappedUnordered { work: self.work(items, call) }
    }

    fn work<I, F, M, T, E>(&self, items: I, call: F) -> Work<A, I::IntoIter, F, M, T, E>
    where
        I: IntoIterator,
        M: Message,
    {
        Work {
            members: self.members.clone(),
            loads: vec![0; self.members.len()],
            per_actor: self.per_actor,
            items: Some(items.into_iter()),
            call,
            begun: 0,
            under_way: FuturesUnordered::new(),
        }
    }
}

impl<A: Actor> Clone for ActorPool<A> {
    fn clone(&self) -> Self {
        Self { members: self.members.clone(), per_actor: self.per_actor }
    }
}

impl<A: Actor> fmt::Debug for ActorPool<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorPool").field("members", &self.members.len()).field("per_actor", &self.per_actor).finish()
    }
}

/// The items that are not begun yet, and those that are under way.
struct Work<A: Actor, I, F, M: Message, T, E> {
    members: Arc<[ActorRef<A>]>,
    /// Items under way at each member; never above `per_actor`.
    loads: Vec<usize>,
    per_actor: usize,
    /// `None` once it has ended: an iterator is not asked again.
    items: Option<I>,
    call: F,
    /// Items begun so far, which is the place of the next.
    begun: usize,
    under_way: FuturesUnordered<UnderWay<M::Reply, T, E>>,
}

/// The place of an item, and what became of it.
type Placed<T, E> = (usize, Result<T, CallError<E>>);

/// One item's call.
struct UnderWay<R, T, E> {
    place: usize,
    member: usize,
    asking: mobula_actor::Asking<R, T, E>,
}

impl<R, T, E> Future for UnderWay<R, T, E> {
    type Output = (usize, usize, Result<T, CallError<E>>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.asking.poll_unpin(cx).map(|result| (self.place, self.member, result))
    }
}

impl<A, I, F, M, T, E> Work<A, I, F, M, T, E>
where
    A: Handler<M>,
    I: Iterator,
    F: for<'a> FnMut(&'a ActorRef<A>, I::Item) -> Call<'a, A, M, T, E>,
    M: Message,
{
    /// Begins items while there are some, someone has room, and fewer than `places_max` places are begun.
    fn begin(&mut self, places_max: usize) {
        while self.begun < places_max
            && let Some(member) = self.freest()
            && let Some(items) = &mut self.items
        {
            let Some(item) = items.next() else {
                self.items = None;
                return;
            };
            let asking = (self.call)(&self.members[member], item).into_future();
            self.under_way.push(UnderWay { place: self.begun, member, asking });
            self.loads[member] += 1;
            self.begun += 1;
        }
    }

    /// The member with the fewest items that has room for one more. The dead come last: when all are dead, their errors
    /// say so.
    fn freest(&self) -> Option<usize> {
        let lives = self.members.iter().any(|member| member.address().is_alive());
        let with_room = (0..self.members.len()).filter(|member| self.loads[*member] < self.per_actor);
        with_room
            .filter(|member| !lives || self.members[*member].address().is_alive())
            .min_by_key(|member| self.loads[*member])
    }

    fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<Option<Placed<T, E>>> {
        self.under_way.poll_next_unpin(cx).map(|done| {
            done.map(|(place, member, result)| {
                self.loads[member] -= 1;
                (place, result)
            })
        })
    }
}

/// Results of [`ActorPool::map`], in the order of the items. Reads with [`next`](Self::next) or as a `Stream`.
#[must_use = "nothing is begun until it is read"]
pub struct Mapped<A: Actor, I, F, M: Message, T, E> {
    work: Work<A, I, F, M, T, E>,
    ahead_max: usize,
    /// The place of the next result to give.
    next: usize,
    /// Results that came before their turn; fewer than `ahead_max`.
    early: BTreeMap<usize, Result<T, CallError<E>>>,
}

impl<A, I, F, M, T, E> Mapped<A, I, F, M, T, E>
where
    A: Handler<M>,
    I: Iterator + Unpin,
    F: for<'a> FnMut(&'a ActorRef<A>, I::Item) -> Call<'a, A, M, T, E> + Unpin,
    M: Message,
    T: Unpin,
    E: Unpin,
{
    /// The next result, or `None` after the last.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<T, CallError<E>>> {
        StreamExt::next(self).await
    }

    /// All results.
    ///
    /// # Errors
    ///
    /// The first error in the order of the items; what is under way then is given up.
    pub async fn all(mut self) -> Result<Vec<T>, CallError<E>> {
        let mut results = Vec::new();
        while let Some(result) = self.next().await {
            results.push(result?);
        }
        Ok(results)
    }
}

impl<A, I, F, M, T, E> Stream for Mapped<A, I, F, M, T, E>
where
    A: Handler<M>,
    I: Iterator + Unpin,
    F: for<'a> FnMut(&'a ActorRef<A>, I::Item) -> Call<'a, A, M, T, E> + Unpin,
    M: Message,
    T: Unpin,
    E: Unpin,
{
    type Item = Result<T, CallError<E>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            this.work.begin(this.next + this.ahead_max);
            if let Some(result) = this.early.remove(&this.next) {
                this.next += 1;
                return Poll::Ready(Some(result));
            }
            match this.work.poll_done(cx) {
                Poll::Ready(Some((place, result))) => this.early.insert(place, result),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            };
        }
    }
}

/// Results of [`ActorPool::map_unordered`] as they come. Reads with [`next`](Self::next) or as a `Stream`.
#[must_use = "nothing is begun until it is read"]
pub struct MappedUnordered<A: Actor, I, F, M: Message, T, E> {
    work: Work<A, I, F, M, T, E>,
}

impl<A, I, F, M, T, E> MappedUnordered<A, I, F, M, T, E>
where
    A: Handler<M>,
    I: Iterator + Unpin,
    F: for<'a> FnMut(&'a ActorRef<A>, I::Item) -> Call<'a, A, M, T, E> + Unpin,
    M: Message,
{
    /// The next result with the place of its item, or `None` after the last.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<(usize, Result<T, CallError<E>>)> {
        StreamExt::next(self).await
    }
}

impl<A, I, F, M, T, E> Stream for MappedUnordered<A, I, F, M, T, E>
where
    A: Handler<M>,
    I: Iterator + Unpin,
    F: for<'a> FnMut(&'a ActorRef<A>, I::Item) -> Call<'a, A, M, T, E> + Unpin,
    M: Message,
{
    type Item = (usize, Result<T, CallError<E>>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.work.begin(usize::MAX);
        self.work.poll_done(cx)
    }
}
