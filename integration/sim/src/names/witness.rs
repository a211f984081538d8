//! What someone sees of a head and its nodes who trusts neither.
//!
//! | number | from outside |
//! |---|---|
//! | MEM-1 | an id is one start's; a node that was declared dead is not admitted under it again |
//! | DIR-1 | nobody acts under a name while another may |
//! | DIR-4 | who acts has the greatest fencing of those that ever acted under the name |
//! | DIR-7 | a token is good for one key |
//! | LEASE-5 | no node hears an earlier head than it has heard |
//! | HEAD-1 | what was acknowledged is in the store of the next head |

use std::collections::{BTreeMap, BTreeSet};

use mobula_logic::Violation;
use mobula_logic::directory::Claim;
use mobula_logic::record::{Record, RecordKey, TokenId};
use mobula_types::{Epoch, Fencing, HeadId, JobId, NameKey, NodeId};

use super::HostIndex;
use crate::failure::ensure;

#[derive(Debug, Default)]
pub(super) struct Witness {
    /// Whose start each id is.
    ids: BTreeMap<NodeId, (HostIndex, u64)>,
    dead: BTreeSet<NodeId>,
    heard: BTreeMap<HostIndex, Epoch>,
    /// The newest grant that was acknowledged, and the newest that acted.
    grants: BTreeMap<NameKey, Fencing>,
    acted: BTreeMap<NameKey, (Fencing, HostIndex)>,
    claims: BTreeMap<NameKey, Claim>,
    /// Everything that was ever stored under a key.
    puts: BTreeMap<(JobId, String), BTreeSet<Vec<u8>>>,
    token_asks: BTreeMap<u64, [u8; 32]>,
    token_users: BTreeMap<TokenId, [u8; 32]>,
    /// Tokens that the store has no more.
    tokens_gone: BTreeSet<TokenId>,
}

impl Witness {
    pub(super) fn node_ends(&mut self, host: HostIndex) {
        self.heard.remove(&host);
    }

    pub(super) fn heard_head(&mut self, host: HostIndex, head: HeadId) -> Result<(), Violation> {
        let newest = self.heard.entry(host).or_default();
        ensure(head.epoch >= *newest, "LEASE-5", || format!("host {host} hears {head:?} after {newest}"))?;
        *newest = head.epoch;
        Ok(())
    }

    pub(super) fn admitted(&mut self, host: HostIndex, id: NodeId, start: u64) -> Result<(), Violation> {
        let whose = *self.ids.entry(id).or_insert((host, start));
        ensure(whose == (host, start), "MEM-1", || format!("{id} is given to {whose:?} and to {:?}", (host, start)))
    }

    pub(super) fn declared_dead(&mut self, node: NodeId) {
        self.dead.insert(node);
    }

    /// The head takes a node in, or back.
    pub(super) fn admits(&self, node: NodeId) -> Result<(), Violation> {
        ensure(!self.dead.contains(&node), "MEM-1", || format!("{node} was declared dead, and is admitted"))
    }

    pub(super) fn acknowledged(&mut self, key: &NameKey, fencing: Fencing) -> Result<(), Violation> {
        let newest = self.grants.entry(key.clone()).or_default();
        *newest = fencing.max(*newest);
        Ok(())
    }

    pub(super) fn claimed(&mut self, claim: &Claim) {
        let newest = self.claims.entry(claim.key.clone()).or_insert_with(|| claim.clone());
        if claim.actor != newest.actor || claim.incarnation > newest.incarnation {
            *newest = claim.clone();
        }
    }

    pub(super) fn last_claim(&self, key: &NameKey) -> Option<Claim> {
        self.claims.get(key).cloned()
    }

    pub(super) fn acts(&mut self, key: &NameKey, fencing: Fencing, host: HostIndex) -> Result<(), Violation> {
        let newest = *self.acted.entry(key.clone()).or_insert((fencing, host));
        let holds = fencing > newest.0 || (fencing, host) == newest;
        ensure(holds, "DIR-4", || format!("{key} acts on host {host} under {fencing} after {newest:?}"))?;
        self.acted.insert(key.clone(), (fencing, host));
        Ok(())
    }

    pub(super) fn puts(&mut self, job: JobId, key: &str, value: &[u8]) {
        self.puts.entry((job, key.to_owned())).or_default().insert(value.to_vec());
    }

    pub(super) fn value(&self, job: JobId, key: &str, value: Option<Vec<u8>>) -> Result<(), Violation> {
        let Some(value) = value else { return Ok(()) };
        let known = self.puts.get(&(job, key.to_owned())).is_some_and(|puts| puts.contains(&value));
        ensure(known, "HEAD-1", || format!("{job} has {value:?} under {key}, which nobody stored"))
    }

    pub(super) fn token_asked(&mut self, ask: u64, by: [u8; 32]) {
        self.token_asks.insert(ask, by);
    }

    pub(super) fn token(&mut self, ask: u64, id: TokenId, is_good: bool) -> Result<(), Violation> {
        let Some(by) = self.token_asks.get(&ask).filter(|_| is_good) else { return Ok(()) };
        let user = *self.token_users.entry(id).or_insert(*by);
        ensure(user == *by, "DIR-7", || format!("{id:?} is good for {} and for {}", user[0], by[0]))
    }

    /// A token was taken back, or has made room for another.
    pub(super) fn token_gone(&mut self, id: TokenId) {
        self.tokens_gone.insert(id);
    }

    /// What was acknowledged is there again.
    pub(super) fn head_starts(&self, records: &BTreeMap<RecordKey, Record>) -> Result<(), Violation> {
        for (key, (fencing, _)) in &self.acted {
            // A name that was released since is gone; one that is there has not fallen behind.
            if let Some(Record::Name(record)) = records.get(&RecordKey::Name(key.clone())) {
                let holds = record.fencing >= *fencing;
                ensure(holds, "HEAD-1", || format!("{key} is kept with {}, and {fencing} acted", record.fencing))?;
            }
        }
        for node in self.ids.keys() {
            let last = records.get(&RecordKey::Counters).and_then(|record| match record {
                Record::Counters(counters) => Some(counters.node),
                _ => None,
            });
            ensure(last.is_some_and(|last| *node <= last), "HEAD-1", || {
                format!("{node} was admitted, {last:?} is kept")
            })?;
        }
        for (id, by) in self.token_users.iter().filter(|(id, _)| !self.tokens_gone.contains(id)) {
            let used = match records.get(&RecordKey::Token(*id)) {
                Some(Record::Token(token)) => token.used_by,
                _ => None,
            };
            ensure(used == Some(*by), "HEAD-1", || format!("{id:?} was used, and is kept as {used:?}"))?;
        }
        Ok(())
    }
}
