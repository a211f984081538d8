//! What was said and went nowhere, counted by its cause (G21): by a node for all that it carries, by a process for its
//! own words.
//!
//! To be counted is not to be told. Who waits for an answer hears of a loss by a death or a typed error of its own; this
//! says that it happened, and why, to whoever looks at `mobula status --json`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use mobula_net::{SendError, mesh};
use mobula_types::NotStarted;

macro_rules! losses {
    ($($(#[$doc:meta])* $name:ident = $word:literal;)*) => {
        /// Why a word or parcel went nowhere.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Loss {
            $($(#[$doc])* $name,)*
        }

        impl Loss {
            /// All of them, in the order of their counters.
            const ALL: &[Self] = &[$(Self::$name),*];

            /// Its word in counters.
            pub(crate) const fn word(self) -> &'static str {
                match self { $(Self::$name => $word),* }
            }
        }
    };
}

losses! {
    /// It was for a process that starts or ends just now: its death is told when it is known.
    ProcessBetween = "process_between";
    /// It was for a process of this node that has ended, or never was.
    ProcessGone = "process_gone";
    /// It was for a process that does not read: its queue was full, and its connection was ended.
    ProcessFull = "process_full";
    /// It was for a node that has ended, or is not known.
    NodeGone = "node_gone";
    /// It came from a node that has been declared dead.
    NodeDead = "node_dead";
    /// It was for a node that does not read: too much waits for it.
    NodeFull = "node_full";
    /// It was for this node itself, which has more to do than it takes.
    NodeBusy = "node_busy";
    /// It was for the head, which has more to do than it takes.
    HeadBusy = "head_busy";
    /// A process' own queue, to its node or to another process of its host, was full.
    QueueFull = "queue_full";
    /// The connection that it was to take was over.
    ConnectionOver = "connection_over";
    /// It is longer than a frame, or cannot be encoded.
    TooLarge = "too_large";
    /// Whom it was for cannot read it.
    Unreadable = "unreadable";
    /// It was sent in the name of another.
    Forged = "forged";
}

impl Loss {
    /// Why a process' own connection did not take a word.
    pub(crate) fn of_own(error: &SendError) -> Self {
        match error {
            SendError::Full { .. } => Self::QueueFull,
            SendError::TooLarge { .. } => Self::TooLarge,
            SendError::Closed(_) => Self::ConnectionOver,
        }
    }

    /// Why a process' parcel was not taken on its way.
    pub(crate) fn of_parcel(cause: &NotStarted) -> Self {
        match cause {
            NotStarted::MailboxFull { .. } => Self::QueueFull,
            NotStarted::TooLarge { .. } => Self::TooLarge,
            _ => Self::ConnectionOver,
        }
    }

    /// Why the mesh did not take what was for another node.
    pub(crate) fn of_mesh(error: &mesh::SendError) -> Self {
        match error {
            mesh::SendError::Full { .. } => Self::NodeFull,
            mesh::SendError::TooLarge { .. } => Self::TooLarge,
            _ => Self::NodeGone,
        }
    }
}

/// How much went nowhere for each cause.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    counts: [AtomicU64; Loss::ALL.len()],
}

impl Losses {
    /// One more went nowhere.
    pub(crate) fn count(&self, loss: Loss) {
        self.counts[loss as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often for each cause, by its word; causes that never were are left out.
    pub(crate) fn listed(&self) -> BTreeMap<String, u64> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let met = Loss::ALL.iter().zip(counts).filter(|(_, count)| *count > 0);
        met.map(|(loss, count)| (loss.word().to_owned(), count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_counted_for_itself() {
        let losses = Losses::default();
        assert!(losses.listed().is_empty());
        for (at, loss) in Loss::ALL.iter().enumerate() {
            (0..=at).for_each(|_| losses.count(*loss));
        }
        let listed = losses.listed();
        assert_eq!(listed.len(), Loss::ALL.len(), "no two causes have one word");
        for (at, loss) in Loss::ALL.iter().enumerate() {
            assert_eq!(listed[loss.word()], at as u64 + 1, "{loss:?}");
        }
    }
}
