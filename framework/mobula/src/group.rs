//! Several actors of one type that are spoken to as one: all of them, or one after the other.
//!
//! A group is a list of references and a turn. It keeps nobody alive and restarts nobody: that is its actors'
//! supervisor's work. Work that is handed out as each has room is [`ActorPool`](crate::ActorPool)'s.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use mobula_actor::{Actor, ActorRef, Call, Handler, Message, SendError, Spawn, SpawnError};
use mobula_types::CallError;

/// Several actors of one type.
///
/// ```
/// # use mobula::prelude::*;
/// use mobula::ActorGroup;
///
/// struct Shard { rank: usize, seen: u64 }
///
/// #[actor]
/// impl Shard {
///     fn new(rank: usize) -> Self { Shard { rank, seen: 0 } }
///     fn see(&mut self, n: u64) -> u64 { self.seen += n; self.seen }
///     fn rank(&self) -> usize { self.rank }
/// }
///
/// # #[mobula::main]
/// # async fn main() -> mobula::Result<()> {
/// # let _session = mobula::init().await?;
/// let shards = ActorGroup::spawn(3, |rank| Shard::spawn(rank).spread()).await?;
/// // All at once, the answers in the order of the members.
/// let seen = shards.ask_all(|shard| shard.see(2)).await;
/// assert!(seen.into_iter().all(|seen| seen == Ok(2)));
/// // One after the other.
/// let mut ranks = Vec::new();
/// for _ in 0..4 {
///     ranks.push(shards.in_turn().rank().await?);
/// }
/// assert_eq!(ranks, [0, 1, 2, 0]);
/// # Ok(())
/// # }
/// ```
///
/// A clone has the same members and shares the turn.
pub struct ActorGroup<A: Actor> {
    members: Arc<[ActorRef<A>]>,
    turn: Arc<AtomicUsize>,
}

impl<A: Actor> ActorGroup<A> {
    /// A group of actors that exist already.
    ///
    /// # Panics
    ///
    /// When there is none: nobody would have the turn.
    pub fn of(members: impl IntoIterator<Item = ActorRef<A>>) -> Self {
        let members: Arc<[_]> = members.into_iter().collect();
        assert!(!members.is_empty(), "a group has at least one member");
        Self { members, turn: Arc::default() }
    }

    /// Starts `count` actors, the one of each rank as `prepare` says, all at the same time.
    ///
    /// # Errors
    ///
    /// The first that could not be started; those that were are stopped again.
    ///
    /// # Panics
    ///
    /// When `count` is 0.
    pub async fn spawn(count: usize, prepare: impl FnMut(usize) -> Spawn<A>) -> Result<Self, SpawnError> {
        let mut started = Vec::with_capacity(count);
        let mut failed = None;
        for spawn in join_all((0..count).map(prepare).map(IntoFuture::into_future)).await {
            match spawn {
                Ok(actor) => started.push(actor),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            None => Ok(Self::of(started)),
            Some(error) => {
                started.iter().for_each(|actor| actor.address().stop());
                Err(error)
            }
        }
    }

    /// The members, in the order of their ranks.
    pub fn members(&self) -> &[ActorRef<A>] {
        &self.members
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "a group is never empty")]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// The member whose turn it is; the next call gives the next one. One that has ended has its turn too.
    pub fn in_turn(&self) -> &ActorRef<A> {
        &self.members[self.turn.fetch_add(1, Ordering::Relaxed) % self.members.len()]
    }

    /// Makes the same call of every member and waits for all answers, in the order of the members.
    ///
    /// The calls are sent before any answer is awaited. Dropping the future gives up those that have no answer yet.
    pub async fn ask_all<'a, M, T, E>(
        &'a self,
        call: impl FnMut(&'a ActorRef<A>) -> Call<'a, A, M, T, E>,
    ) -> Vec<Result<T, CallError<E>>>
    where
        A: Handler<M>,
        M: Message,
    {
        join_all(self.members.iter().map(call).map(IntoFuture::into_future)).await
    }

    /// Tells every member, without waiting for room or answers. Gives the messages that were not taken, each with the
    /// rank of its member and the reason.
    pub fn tell_all<'a, M, T, E>(
        &'a self,
        mut call: impl FnMut(&'a ActorRef<A>) -> Call<'a, A, M, T, E>,
    ) -> Vec<(usize, SendError<M>)>
    where
        A: Handler<M>,
        M: Message,
    {
        let ranked = self.members.iter().enumerate();
        ranked.filter_map(|(rank, member)| call(member).tell().err().map(|error| (rank, error))).collect()
    }
}

impl<A: Actor> Clone for ActorGroup<A> {
    fn clone(&self) -> Self {
        Self { members: self.members.clone(), turn: self.turn.clone() }
    }
}

impl<'a, A: Actor> IntoIterator for &'a ActorGroup<A> {
    type Item = &'a ActorRef<A>;
    type IntoIter = std::slice::Iter<'a, ActorRef<A>>;

    fn into_iter(self) -> Self::IntoIter {
        self.members.iter()
    }
}

impl<A: Actor> fmt::Debug for ActorGroup<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ActorGroup").field(&self.members.len()).finish()
    }
}
