//! Tokens with which somebody may join: one use, a short life, and five wrong secrets burn one (promises.md, "Trust").
//!
//! Only the hash of a secret is kept; how it is made, hashed and shown is the network's. That a token was used is durable
//! before a certificate is made.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mobula_types::{Role, Time};

use super::{Bounds, Output};
use crate::calendar::Calendar;
use crate::mutant::{Mutant, Planted};
use crate::record::{Change, RecordKey, TokenId, TokenRecord};

/// How long a token is good unless its maker says otherwise.
pub const TOKEN_TTL: Duration = Duration::from_secs(15 * 60);

/// The longest that a maker may say: who needs one for longer makes another.
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Wrong secrets after which a token is burnt.
pub const FAILURES_MAX: u32 = 5;

/// Tokens that have expired are known for so long, so that who comes late is told why it is refused.
pub const EXPIRED_KEPT: Duration = Duration::from_secs(3_600);

/// Tokens that are known at once; beyond it those that have expired go first, then [`TokenRefusal::Full`].
pub const TOKENS_MAX: usize = 1_024;

/// Why a token is not good, or not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// There is none with this id, any more or at all.
    #[error("no token has this id: copy it whole, or make one with `mobula token create`")]
    Unknown,
    /// Its time has passed.
    #[error("the token has expired: make one with `mobula token create`")]
    Expired,
    /// The secret is another.
    #[error("the token's secret is wrong: copy it whole")]
    Wrong,
    /// Too many wrong secrets were shown with its id.
    #[error(
        "the token was tried {FAILURES_MAX} times with a wrong secret and is void: make one with `mobula token create`"
    )]
    Burnt,
    /// It was used before, by somebody else.
    #[error("the token was used before: make one for each with `mobula token create`")]
    Used,
    /// There are as many as a head keeps.
    #[error("{max} tokens are good already: take some back with `mobula token revoke`")]
    Full {
        /// How many.
        max: usize,
    },
    /// There is one with this id.
    #[error("a token with this id exists: try again")]
    Taken,
}

#[derive(Debug, Default)]
pub(super) struct Tokens {
    tokens: BTreeMap<TokenId, Entry>,
    looked: Time,
    pub(super) bounds: Bounds,
    pub(super) planted: Planted,
}

#[derive(Debug)]
pub(super) struct Entry {
    ends: Time,
    record: TokenRecord,
    /// Keys for which it was good.
    pub(super) users: u32,
}

impl Tokens {
    pub(super) fn restore(&mut self, now: Time, calendar: Calendar, record: TokenRecord) {
        let ends = now + calendar.left(now, record.expires_unix_ms, TOKEN_TTL_MAX);
        let users = u32::from(record.used_by.is_some());
        self.tokens.insert(record.id, Entry { ends, record, users });
    }

    pub(super) fn handle_time(&mut self, now: Time, outputs: &mut VecDeque<Output>) {
        self.looked = now;
        let kept = self.bounds.expired_kept;
        self.tokens.retain(|id, token| {
            let is_known = now < token.ends + kept;
            if !is_known {
                outputs.push_back(Output::Keep(Change::gone(RecordKey::Token(*id))));
            }
            is_known
        });
    }

    pub(super) fn next_timeout(&self) -> Option<Time> {
        self.tokens.values().map(|token| token.ends + self.bounds.expired_kept).min()
    }

    #[expect(clippy::too_many_arguments, reason = "what a token is made of")]
    pub(super) fn create(
        &mut self,
        now: Time,
        calendar: Calendar,
        id: TokenId,
        hash: [u8; 32],
        role: Role,
        ttl: Option<Duration>,
        outputs: &mut VecDeque<Output>,
    ) -> Result<Role, TokenRefusal> {
        match self.tokens.get(&id) {
            // Asked again because the answer was lost.
            Some(Entry { record, .. }) if record.hash == hash && record.role == role => return Ok(role),
            Some(_) => return Err(TokenRefusal::Taken),
            None => {}
        }
        let max = self.bounds.tokens_max;
        if self.tokens.len() >= max && !self.forget_one(outputs) {
            return Err(TokenRefusal::Full { max });
        }
        let ends = now + ttl.unwrap_or(TOKEN_TTL).min(TOKEN_TTL_MAX);
        let expires_unix_ms = calendar.unix_ms(ends);
        let record = TokenRecord { id, hash, role, expires_unix_ms, used_by: None, failures: 0 };
        outputs.push_back(Output::Keep(Change::token(record.clone())));
        self.tokens.insert(id, Entry { ends, record, users: 0 });
        Ok(role)
    }

    /// DIR-7: one use; the same key may ask again.
    pub(super) fn use_once(
        &mut self,
        id: TokenId,
        hash: [u8; 32],
        by: [u8; 32],
        outputs: &mut VecDeque<Output>,
    ) -> Result<Role, TokenRefusal> {
        let Entry { ends, record, users } = self.tokens.get_mut(&id).ok_or(TokenRefusal::Unknown)?;
        if *ends <= self.looked {
            return Err(TokenRefusal::Expired);
        }
        if record.failures >= FAILURES_MAX {
            return Err(TokenRefusal::Burnt);
        }
        if !is_same(&record.hash, &hash) {
            record.failures += 1;
            outputs.push_back(Output::Keep(Change::token(record.clone())));
            return Err(TokenRefusal::Wrong);
        }
        match record.used_by {
            Some(before) if before == by => {}
            Some(_) if !self.planted.is(Mutant::TokenTwice) => return Err(TokenRefusal::Used),
            _ => {
                *users += 1;
                record.used_by = Some(by);
                outputs.push_back(Output::Keep(Change::token(record.clone())));
            }
        }
        Ok(record.role)
    }

    pub(super) fn revoke(&mut self, id: TokenId, outputs: &mut VecDeque<Output>) -> Result<Role, TokenRefusal> {
        let Entry { record, .. } = self.tokens.remove(&id).ok_or(TokenRefusal::Unknown)?;
        outputs.push_back(Output::Keep(Change::gone(RecordKey::Token(id))));
        Ok(record.role)
    }

    /// Those that are good still.
    pub(super) fn all(&self) -> impl Iterator<Item = &TokenRecord> {
        self.tokens.values().filter(|token| self.looked < token.ends).map(|token| &token.record)
    }

    pub(super) fn entries(&self) -> &BTreeMap<TokenId, Entry> {
        &self.tokens
    }

    fn forget_one(&mut self, outputs: &mut VecDeque<Output>) -> bool {
        let first =
            self.tokens.iter().min_by_key(|(_, token)| token.ends).filter(|(_, token)| token.ends <= self.looked);
        let Some(id) = first.map(|(id, _)| *id) else { return false };
        self.tokens.remove(&id);
        outputs.push_back(Output::Keep(Change::gone(RecordKey::Token(id))));
        true
    }
}

/// Takes the same time wherever the first difference is.
fn is_same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
