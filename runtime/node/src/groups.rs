//! Placement groups as a program makes them. Who decides over them is a [`Registrar`]: the head, asked by way of the node
//! that this process is attached to, or in a session without a cluster the process itself ([`crate::bundles`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mobula_types::{GroupEnd, GroupId, GroupSpec, NodeId, NotStarted, ProcessId};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::host::Host;

/// Who decides answers in this time that a group is no more.
const REMOVED_MAX: Duration = Duration::from_secs(30);

/// Why there is no placement group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// There is no session.
    #[error("{}", NotStarted::NoSession)]
    NoSession,
    /// Its bundles were not all free in the time that was given. Nothing of it is reserved.
    #[error("the placement group was not ready within {after:?}: {why}")]
    TimedOut {
        /// The time.
        after: Duration,
        /// What it waited for.
        why: String,
    },
    /// It is no more, or was never made.
    #[error("the placement group is no more: {why}")]
    Ended {
        /// Why.
        why: GroupEnd,
    },
    /// The node or the head does not answer.
    #[error("neither the node nor the head answers")]
    NoNode,
}

/// Makes a placement group and waits until all of it is reserved; gives the node of each bundle.
///
/// # Errors
///
/// [`GroupError`].
pub async fn create_group(spec: GroupSpec, timeout: Option<Duration>) -> Result<(GroupId, Vec<NodeId>), GroupError> {
    spec.check().map_err(|message| GroupError::Ended { why: GroupEnd::Invalid { message } })?;
    let (_, host) = Host::here().ok_or(GroupError::NoSession)?;
    match (host.seat.get(), host.bundles.get()) {
        (Some(process), _) => create(process, spec, timeout).await,
        (None, Some(bundles)) => create(bundles, spec, timeout).await,
        (None, None) => Err(GroupError::NoSession),
    }
}

/// Gives back what a placement group has, and ends what runs in it; one that is not there is removed already.
///
/// # Errors
///
/// [`GroupError`].
pub async fn remove_group(group: GroupId) -> Result<(), GroupError> {
    let (_, host) = Host::here().ok_or(GroupError::NoSession)?;
    match (host.seat.get(), host.bundles.get()) {
        (Some(process), _) => end(process, group).await.map(drop),
        (None, Some(bundles)) => end(bundles, group).await.map(drop),
        (None, None) => Err(GroupError::NoSession),
    }
}

/// What is said of a group: the nodes of its bundles, or why it is no more.
pub(crate) type Word = Result<Vec<NodeId>, GroupEnd>;

/// What a program wishes.
pub(crate) enum Wish {
    /// A group; its [`Word`] follows.
    Create { group: GroupId, spec: GroupSpec },
    /// That a group is no more; a [`Word`] that says so follows.
    Remove { group: GroupId },
}

/// Decides over the groups of a process, or asks who does.
pub(crate) trait Registrar: Send + Sync + 'static {
    /// The process that makes them.
    fn process(&self) -> ProcessId;

    /// Those of its code that wait.
    fn waiters(&self) -> &Waiters;

    /// What those are told who wait when nobody decides any more.
    const GONE: GroupError;

    /// Sees to a wish.
    fn say(self: &Arc<Self>, wish: Wish);
}

/// Who waits for which group.
#[derive(Default)]
pub(crate) struct Waiters {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    made: u64,
    waiting: HashMap<GroupId, Vec<oneshot::Sender<Word>>>,
    is_cut: bool,
}

impl Waiters {
    fn next(&self, process: ProcessId) -> GroupId {
        let mut table = self.table.lock();
        table.made += 1;
        GroupId { process, number: table.made }
    }

    fn wait_for(&self, group: GroupId) -> oneshot::Receiver<Word> {
        let (sender, word) = oneshot::channel();
        let mut table = self.table.lock();
        if !table.is_cut {
            table.waiting.entry(group).or_default().push(sender);
        }
        word
    }

    /// Something was said of a group.
    pub(crate) fn heard(&self, group: GroupId, word: &Word) {
        for waiting in self.table.lock().waiting.remove(&group).unwrap_or_default() {
            waiting.send(word.clone()).ok();
        }
    }

    /// Nobody hears anything any more.
    pub(crate) fn cut(&self) {
        let mut table = self.table.lock();
        (table.is_cut, table.waiting) = (true, HashMap::new());
    }
}

async fn create<R: Registrar>(
    registrar: &Arc<R>,
    spec: GroupSpec,
    timeout: Option<Duration>,
) -> Result<(GroupId, Vec<NodeId>), GroupError> {
    let group = registrar.waiters().next(registrar.process());
    let mut word = registrar.waiters().wait_for(group);
    registrar.say(Wish::Create { group, spec });
    let unwanted = Unwanted(Some((registrar.clone(), group)));
    let said = match timeout {
        None => Some((&mut word).await),
        Some(after) => tokio::time::timeout(after, &mut word).await.ok(),
    };
    unwanted.keep();
    match said {
        Some(Ok(Ok(nodes))) => Ok((group, nodes)),
        Some(Ok(Err(why))) => Err(GroupError::Ended { why }),
        Some(Err(_)) => Err(R::GONE),
        None => {
            // What it waited for is said with its end; it may have become ready just now.
            let why = match end(registrar, group).await {
                Ok(GroupEnd::Removed { waited: Some(waited) }) => waited,
                Ok(other) => other.to_string(),
                Err(error) => error.to_string(),
            };
            Err(GroupError::TimedOut { after: timeout.unwrap_or_default(), why })
        }
    }
}

async fn end<R: Registrar>(registrar: &Arc<R>, group: GroupId) -> Result<GroupEnd, GroupError> {
    let mut word = registrar.waiters().wait_for(group);
    registrar.say(Wish::Remove { group });
    loop {
        match tokio::time::timeout(REMOVED_MAX, &mut word).await {
            Ok(Ok(Err(why))) => return Ok(why),
            // It became ready while this was on its way.
            Ok(Ok(Ok(_))) => word = registrar.waiters().wait_for(group),
            Ok(Err(_)) => return Err(R::GONE),
            Err(_) => return Err(GroupError::NoNode),
        }
    }
}

/// Nobody waits any more for the group that is being made, and nobody could name it.
struct Unwanted<R: Registrar>(Option<(Arc<R>, GroupId)>);

impl<R: Registrar> Unwanted<R> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl<R: Registrar> Drop for Unwanted<R> {
    fn drop(&mut self) {
        if let Some((registrar, group)) = self.0.take() {
            registrar.say(Wish::Remove { group });
        }
    }
}
