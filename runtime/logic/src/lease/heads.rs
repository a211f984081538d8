//! Which head a node hears: never one that another has replaced, and of two with one epoch the first (G13).

use mobula_types::HeadId;

/// The head that a node knows.
///
/// ```
/// use mobula_logic::lease::Heads;
/// use mobula_types::{Epoch, HeadId};
/// let mut heads = Heads::default();
/// let [old, new, copy] = [(1, 7), (2, 8), (2, 9)].map(|(epoch, nonce)| HeadId { epoch: Epoch(epoch), nonce });
/// assert!(heads.hear(new).is_ok() && heads.hear(old).is_err() && heads.hear(copy).is_err());
/// assert_eq!(heads.known(), Some(new));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Heads {
    known: Option<HeadId>,
    /// The latest ever heard of.
    pub(super) newest: Option<HeadId>,
}

/// What comes is not of the head that the node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{theirs:?} is not heard, {ours:?} is known: end the older of the two heads")]
pub struct Stale {
    /// Who speaks.
    pub theirs: HeadId,
    /// Who is known.
    pub ours: HeadId,
}

impl Heads {
    /// The head that is known.
    pub fn known(&self) -> Option<HeadId> {
        self.known
    }

    /// Hears `head` when it is the one that is known, or a later one.
    ///
    /// # Errors
    ///
    /// It is of an earlier epoch, or of the same with another nonce.
    pub fn hear(&mut self, head: HeadId) -> Result<(), Stale> {
        match self.known {
            Some(ours) if head.epoch < ours.epoch || head.epoch == ours.epoch && head.nonce != ours.nonce => {
                Err(Stale { theirs: head, ours })
            }
            _ => {
                self.force(head);
                Ok(())
            }
        }
    }

    /// Hears `head` whatever it is.
    pub(super) fn force(&mut self, head: HeadId) {
        self.known = Some(head);
        self.newest = self.newest.max(Some(head));
    }
}
