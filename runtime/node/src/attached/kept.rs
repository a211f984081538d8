//! Bytes of objects that this process keeps for its node, until the node says that it does not count on them any more.
//!
//! Of one object there may be several for a while: what is made or pulled again while the node still counts on what was
//! there before. Which of them the node means is told by where they lie.

use std::collections::HashMap;

use bytes::Bytes;
use mobula_types::ObjectId;
use mobula_wire::Extent;

/// Bytes, and what they name.
pub(super) type Named = (Bytes, Vec<ObjectId>);

/// The oldest of an object first, each with its place in a segment, if it has one.
#[derive(Debug, Default)]
pub(super) struct KeptBytes(HashMap<ObjectId, Vec<(Option<Extent>, Named)>>);

impl KeptBytes {
    /// From now on these are kept, too.
    pub(super) fn keep(&mut self, object: ObjectId, at: Option<Extent>, bytes: Bytes, inner: Vec<ObjectId>) {
        self.0.entry(object).or_default().push((at, (bytes, inner)));
    }

    /// Those that lie there.
    pub(super) fn at(&self, object: ObjectId, at: Option<Extent>) -> Option<&Named> {
        self.0.get(&object)?.iter().find(|(place, _)| *place == at).map(|(_, named)| named)
    }

    /// Some of the object: they are all the same, but for tasks that do not give the same again.
    pub(super) fn any(&self, object: ObjectId) -> Option<&Named> {
        self.0.get(&object)?.first().map(|(_, named)| named)
    }

    /// The node does not count any more on those that lie there.
    pub(super) fn free(&mut self, object: ObjectId, at: Option<Extent>) -> Option<Named> {
        let all = self.0.get_mut(&object)?;
        let freed = all.iter().position(|(place, _)| *place == at).map(|index| all.remove(index).1);
        if all.is_empty() {
            self.0.remove(&object);
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use mobula_types::{NodeId, ProcessId};

    use super::*;

    #[test]
    fn what_is_kept_twice_is_freed_by_its_place() {
        let object = ObjectId { owner: ProcessId::new(NodeId(1), 1), seq: 1 };
        let at = |offset| Some(Extent { segment: 1, offset });
        let mut kept = KeptBytes::default();
        kept.keep(object, at(0), Bytes::from_static(b"first"), Vec::new());
        kept.keep(object, at(64), Bytes::from_static(b"again"), Vec::new());
        kept.keep(object, None, Bytes::from_static(b"apart"), Vec::new());
        assert_eq!(kept.any(object).unwrap().0, "first");
        assert_eq!(kept.free(object, at(64)).unwrap().0, "again");
        assert!(kept.free(object, at(64)).is_none() && kept.at(object, at(64)).is_none());
        assert_eq!(kept.at(object, at(0)).unwrap().0, "first", "the node still counts on them");
        assert_eq!(kept.free(object, at(0)).unwrap().0, "first");
        assert_eq!(kept.free(object, None).unwrap().0, "apart");
        assert!(kept.any(object).is_none() && kept.0.is_empty());
    }
}
