//! What someone sees of the mail who knows what was sent, what really began and ended, and what the senders were told.
//!
//! | number | from outside |
//! |---|---|
//! | MAIL-1 | an actor begins the messages of one sender in the order in which they were sent, in each of its lives, but for what a restart broke off (G3) |
//! | MAIL-2 | a message begins at most once, and one that is sent until it is acknowledged once in each life (G3, G4) |
//! | MAIL-3 | nothing is lost: what is not handled met the death of a process, or its sender was told so, or it was a tell and is counted (G4, G21) |
//! | MAIL-4 | every call and every message to be acknowledged ends once, and as it really went (G1) |
//! | MAIL-5 | the third crash sends a message to the dead letters, and no fourth life begins it (G8) |
//! | MAIL-6 | when all is over nobody keeps anything: no payload, no exchange, no credit (G14) |

use std::collections::BTreeMap;

use mobula_logic::Violation;
use mobula_logic::outbox::CRASHES_MAX;

use super::{ActorIndex, At, Effect, MailId};
use crate::failure::ensure;

/// How a message ended, as its sender was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Handled,
    Panicked,
    NotStarted,
    MayHaveRun,
    Cancelled,
    Poison,
    TooOld,
    Gone,
}

/// What a sender wants of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// No answer.
    Tell,
    /// One answer.
    Ask,
    /// To be handled at least once.
    Kept,
}

#[derive(Debug)]
pub(super) struct Seen {
    pub(super) from: (At, u64),
    pub(super) actor: ActorIndex,
    pub(super) kind: Kind,
    pub(super) effect: Effect,
    pub(super) bytes: u64,
    /// The life and the process of each time that it began.
    begun: Vec<(u32, At)>,
    is_handled: bool,
    has_panicked: bool,
    /// Where it was sent last.
    pub(super) sent_to: Option<At>,
    /// Deaths over it that its sender has heard of.
    pub(super) blamed: u8,
    /// Its handling was broken off: it comes again behind what was in the mailbox then.
    pub(super) is_broken_off: bool,
    /// Its receiver had no room for it, and has counted that.
    pub(super) is_dropped: bool,
    told: Option<Told>,
}

#[derive(Debug, Default)]
pub(super) struct Witness {
    mail: Vec<Seen>,
    /// The last that began, by life, sender and kind.
    last: BTreeMap<(ActorIndex, u32, (At, u64), bool), MailId>,
}

impl Witness {
    pub(super) fn send(
        &mut self,
        from: (At, u64),
        actor: ActorIndex,
        kind: Kind,
        effect: Effect,
        bytes: u64,
    ) -> MailId {
        self.mail.push(Seen {
            from,
            actor,
            kind,
            effect,
            bytes,
            begun: Vec::new(),
            is_handled: false,
            has_panicked: false,
            sent_to: None,
            blamed: 0,
            is_broken_off: false,
            is_dropped: false,
            told: None,
        });
        self.mail.len() - 1
    }

    pub(super) fn mail(&self, id: MailId) -> &Seen {
        &self.mail[id]
    }

    pub(super) fn mail_mut(&mut self, id: MailId) -> &mut Seen {
        &mut self.mail[id]
    }

    pub(super) fn begin(&mut self, id: MailId, life: u32, at: At, is_zombie: bool) -> Result<(), Violation> {
        let seen = &mut self.mail[id];
        let last = self.last.entry((seen.actor, life, seen.from, seen.kind == Kind::Kept)).or_insert(id);
        let is_in_order = *last <= id || seen.is_broken_off;
        ensure(is_in_order, "MAIL-1", || format!("message {id} begins after {last} in life {life}: {seen:?}"))?;
        *last = id.max(*last);
        let again = seen.begun.iter().any(|(begun, _)| *begun == life || seen.kind != Kind::Kept);
        ensure(!again, "MAIL-2", || format!("message {id} begins again in life {life}: {seen:?}"))?;
        let is_poison = seen.blamed >= CRASHES_MAX && !is_zombie;
        ensure(!is_poison, "MAIL-5", || format!("message {id} begins once too often: {seen:?}"))?;
        seen.begun.push((life, at));
        Ok(())
    }

    pub(super) fn finish(&mut self, id: MailId, has_panicked: bool) {
        self.mail[id].is_handled = true;
        self.mail[id].has_panicked |= has_panicked;
    }

    /// How often it has begun.
    pub(super) fn begun(&self, id: MailId) -> usize {
        self.mail[id].begun.len()
    }

    pub(super) fn tell(&mut self, id: MailId, told: Told) -> Result<(), Violation> {
        let seen = &mut self.mail[id];
        ensure(seen.told.is_none(), "MAIL-4", || format!("message {id} ends {told:?} again: {seen:?}"))?;
        seen.told = Some(told);
        let holds = match told {
            Told::Handled => seen.is_handled,
            Told::Panicked => seen.has_panicked,
            Told::NotStarted => seen.begun.is_empty(),
            Told::MayHaveRun | Told::Cancelled | Told::TooOld | Told::Gone => true,
            Told::Poison => seen.blamed == CRASHES_MAX,
        };
        let invariant = match told {
            Told::Handled | Told::Panicked if seen.kind == Kind::Kept => "MAIL-3",
            Told::Poison => "MAIL-5",
            _ => "MAIL-4",
        };
        ensure(holds, invariant, || format!("message {id} is said to be {told:?}: {seen:?}"))
    }

    /// Judges the end: nothing is pending.
    pub(super) fn judge(
        &self,
        lives: impl Fn(At) -> bool,
        is_gone: impl Fn(ActorIndex) -> bool,
    ) -> Result<(), Violation> {
        for (id, seen) in self.mail.iter().enumerate().filter(|(_, seen)| lives(seen.from.0)) {
            let has_ended = seen.kind == Kind::Tell || seen.told.is_some();
            ensure(has_ended, "MAIL-4", || format!("message {id} never ends: {seen:?}"))?;
            let met_death = seen.sent_to.is_some_and(|at| !lives(at));
            let is_counted = seen.kind == Kind::Tell && seen.is_dropped;
            let is_excused = met_death || is_gone(seen.actor) || seen.told.is_some() || is_counted;
            ensure(!seen.begun.is_empty() || is_excused, "MAIL-3", || format!("message {id} is lost: {seen:?}"))?;
        }
        Ok(())
    }
}
