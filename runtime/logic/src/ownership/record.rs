//! What is known of an object, for lists.

use mobula_types::{Loss, NodeId, ObjectId, ProcessId};

use super::Ownership;
use super::entry::{Entry, Owned, State};

/// An object of this node, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which.
    pub object: ObjectId,
    /// `pending`, `sealed`, `missing` or `lost`.
    pub state: &'static str,
    /// Why it has no bytes, if it had some.
    pub loss: Option<Loss>,
    /// How many bytes it has, once it had some.
    pub bytes: Option<u64>,
    /// Nodes that have them.
    pub copies: Vec<NodeId>,
    /// Where it was made in the code of its process, by that process's number; 0 is not known.
    pub site: u32,
    /// Processes of this node that hold it, and with the number 0 other nodes.
    pub holders: Vec<ProcessId>,
}

impl Ownership {
    /// The objects of this node.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        self.entries.iter().filter_map(|(object, entry)| Some(self.record(object, entry, entry.owned()?)))
    }

    /// Whether this node knows objects of a process of its.
    pub fn has_of(&self, process: ProcessId) -> bool {
        self.entries.has_of(process)
    }

    fn record(&self, object: ObjectId, entry: &Entry, owned: &Owned) -> Record {
        let (state, loss) = match &owned.state {
            State::Pending { .. } => ("pending", None),
            State::Sealed { .. } => ("sealed", None),
            State::Missing(loss) => ("missing", Some(loss.clone())),
            State::Lost(loss) => ("lost", Some(loss.clone())),
        };
        let is_here = entry.copy.is_some() || entry.is_inline();
        Record {
            object,
            state,
            loss,
            bytes: owned.sealed.map(|sealed| sealed.bytes),
            copies: is_here.then_some(self.me).into_iter().chain(owned.sources()).collect(),
            site: owned.site,
            holders: entry.holders.iter().copied().collect(),
        }
    }
}
