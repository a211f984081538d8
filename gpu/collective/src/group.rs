//! Groups of threads that find each other by name, and the operations they do together.
//!
//! | type | what it is |
//! |---|---|
//! | group | what all members share: a barrier and two rounds of buffers; lives as long as its members |
//! | [`Member`] | one rank's way in; not cloned, so a rank exists once |
//!
//! Each rank has two buffers and uses them in turn. Writing round `n + 2` needs the barrier of round `n + 1` behind it,
//! which needs everybody to have read round `n`: so one barrier per operation is enough and no lock is ever waited for.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use crate::barrier::{Barrier, Broken};

/// Members of a group at most: more than the devices of any host.
pub(crate) const SIZE_MAX: usize = 64;

/// The groups of this process that have members. An entry goes with the last of them.
static GROUPS: LazyLock<Mutex<HashMap<String, Weak<Group>>>> = LazyLock::new(Mutex::default);

/// One rank of a group. Dropping it aborts the group; [`Member::leave`] is the quiet way.
#[derive(Debug)]
pub struct Member {
    group: Arc<Group>,
    rank: usize,
    /// Operations so far; its parity chooses the buffers.
    round: usize,
    left: bool,
}

/// An operation that did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The group could not be joined.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A member has died or given up.
    #[error("rank {rank} of group {group:?} aborted it")]
    Aborted {
        /// The first to abort.
        rank: usize,
        /// The group.
        group: String,
    },
    /// Not all came in time.
    #[error("not all {size} members of group {group:?} came before the deadline")]
    DeadlineExceeded {
        /// Members of the group.
        size: usize,
        /// The group.
        group: String,
    },
    /// The ranks do different things.
    #[error("rank {rank} of group {group:?} brought {found} values, this one {expected}")]
    Length {
        /// The other rank.
        rank: usize,
        /// The group.
        group: String,
        /// What it brought.
        found: usize,
        /// What this rank brought.
        expected: usize,
    },
}

/// Why a group cannot be joined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A rank that the size does not allow, or an impossible size.
    #[error("rank {rank} of {size} members, expected a rank below the size and a size of 1 to {SIZE_MAX}")]
    Rank {
        /// The rank.
        rank: usize,
        /// The size.
        size: usize,
    },
    /// The first to join said another size.
    #[error("group {group:?} has {expected} members, not {found}")]
    Size {
        /// The group.
        group: String,
        /// What the first member said.
        expected: usize,
        /// What this one says.
        found: usize,
    },
    /// Somebody is that rank already.
    #[error("group {group:?} has a rank {rank} already")]
    Taken {
        /// The group.
        group: String,
        /// The rank.
        rank: usize,
    },
}

#[derive(Debug)]
struct Group {
    name: String,
    size: usize,
    barrier: Barrier,
    /// Ranks that have joined, each once in the group's life.
    joined: Mutex<Vec<bool>>,
    /// `[2 rounds, size]`: what each rank brought.
    brought: [Vec<RwLock<Vec<f32>>>; 2],
}

/// Joins the group `name` of this process as `rank` of `size`; the first to come makes it.
///
/// Does not wait for the others: the first operation does. An aborted group makes room for a new one of its name.
///
/// # Errors
/// [`JoinError`] when rank and size do not fit those who have joined before.
pub fn join(name: &str, rank: usize, size: usize) -> Result<Member, JoinError> {
    if rank >= size || size > SIZE_MAX {
        return Err(JoinError::Rank { rank, size });
    }
    let mut groups = GROUPS.lock();
    let alive = groups.get(name).and_then(Weak::upgrade).filter(|group| group.barrier.check().is_ok());
    let group = match alive {
        Some(group) => group,
        None => {
            let group = Arc::new(Group::new(name, size));
            groups.insert(name.to_owned(), Arc::downgrade(&group));
            group
        }
    };
    if group.size != size {
        return Err(JoinError::Size { group: name.to_owned(), expected: group.size, found: size });
    }
    let taken = std::mem::replace(&mut group.joined.lock()[rank], true);
    if taken {
        return Err(JoinError::Taken { group: name.to_owned(), rank });
    }
    Ok(Member { group, rank, round: 0, left: false })
}

impl Member {
    /// This member's rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Members of the group.
    pub fn size(&self) -> usize {
        self.group.size
    }

    /// Replaces each of `values` (`[n]`, the same `n` on every rank) by its sum over all ranks, in the order of ranks.
    ///
    /// # Errors
    /// [`Error::Aborted`], [`Error::DeadlineExceeded`] or [`Error::Length`]; after any of them `values` is unspecified
    /// and the group aborted.
    pub fn all_reduce_sum(&mut self, values: &mut [f32], deadline: Instant) -> Result<(), Error> {
        if self.group.size == 1 {
            return self.group.barrier.check().map_err(|broken| self.explain(broken));
        }
        let brought = &self.group.brought[self.round % 2];
        {
            let mut mine = brought[self.rank].write();
            mine.clear();
            mine.extend_from_slice(values);
        }
        self.barrier(deadline)?;
        let brought = &self.group.brought[(self.round + 1) % 2];
        for (rank, brought) in brought.iter().enumerate() {
            let brought = brought.read();
            if brought.len() != values.len() {
                self.group.barrier.abort(self.rank);
                let (group, found) = (self.group.name.clone(), brought.len());
                return Err(Error::Length { rank, group, found, expected: values.len() });
            }
            match rank {
                0 => values.copy_from_slice(&brought),
                _ => values.iter_mut().zip(brought.iter()).for_each(|(sum, value)| *sum += value),
            }
        }
        Ok(())
    }

    /// Waits until all members have come here.
    ///
    /// # Errors
    /// [`Error::Aborted`] or [`Error::DeadlineExceeded`].
    pub fn barrier(&mut self, deadline: Instant) -> Result<(), Error> {
        self.round += 1;
        self.group.barrier.wait(self.rank, deadline).map_err(|broken| self.explain(broken))
    }

    /// Ends what all members wait for, and the group.
    pub fn abort(&self) {
        self.group.barrier.abort(self.rank);
    }

    /// A handle that ends the group from any thread, for whoever watches over this member.
    pub fn aborter(&self) -> Aborter {
        Aborter { group: Arc::downgrade(&self.group), rank: self.rank }
    }

    /// Goes without aborting the group, when the others need no more operations either.
    pub fn leave(mut self) {
        self.left = true;
    }

    fn explain(&self, broken: Broken) -> Error {
        let Group { name, size, .. } = &*self.group;
        match broken {
            Broken::Aborted { rank } => Error::Aborted { rank, group: name.clone() },
            Broken::DeadlineExceeded => Error::DeadlineExceeded { size: *size, group: name.clone() },
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if !self.left {
            self.abort();
        }
        // The last member takes the entry with it, if it is still this group's.
        let mut groups = GROUPS.lock();
        let of_this = groups.get(&self.group.name).is_some_and(|entry| entry.as_ptr() == Arc::as_ptr(&self.group));
        if of_this && Arc::strong_count(&self.group) == 1 {
            groups.remove(&self.group.name);
        }
    }
}

/// Ends a group from outside: see [`Member::aborter`].
#[derive(Debug, Clone)]
pub struct Aborter {
    group: Weak<Group>,
    rank: usize,
}

impl Aborter {
    /// Aborts the group in the member's name, if any member is left.
    pub fn abort(&self) {
        if let Some(group) = self.group.upgrade() {
            group.barrier.abort(self.rank);
        }
    }
}

impl Group {
    fn new(name: &str, size: usize) -> Self {
        let round = || (0..size).map(|_| RwLock::default()).collect();
        Group {
            name: name.to_owned(),
            size,
            barrier: Barrier::new(size),
            joined: Mutex::new(vec![false; size]),
            brought: [round(), round()],
        }
    }
}

#[cfg(test)]
mod tests;
