//! What someone sees who knows every id that was given and every death that was told.

use std::collections::{BTreeMap, BTreeSet};

use mobula_logic::Violation;
use mobula_logic::record::TokenId;
use mobula_types::{Fencing, NameKey, NodeId};

use super::Index;
use crate::failure::ensure;

/// What was seen of ids, grants and tokens.
#[derive(Debug, Default)]
pub(super) struct Witness {
    given: BTreeMap<NodeId, (Index, u64)>,
    dead: BTreeSet<NodeId>,
    granted: BTreeMap<NameKey, (Fencing, Index)>,
    tokens: BTreeMap<TokenId, Index>,
}

impl Witness {
    /// MEM-1: an id is given once, and never after its death was told.
    pub(super) fn admitted(&mut self, node: NodeId, index: Index, start: u64) -> Result<(), Violation> {
        let before = *self.given.entry(node).or_insert((index, start));
        ensure(before == (index, start), "MEM-1", || {
            format!("{node} was given to {before:?} and to {index}, {start}")
        })?;
        ensure(!self.dead.contains(&node), "MEM-1", || format!("{node} was declared dead and is admitted"))
    }

    pub(super) fn died(&mut self, node: NodeId) {
        self.dead.insert(node);
    }

    /// Whose death was told.
    pub(super) fn dead(&self) -> &BTreeSet<NodeId> {
        &self.dead
    }

    /// The last id of a host whose death was told, with the start of the process that had it.
    pub(super) fn ended_on(&self, index: Index) -> Option<(NodeId, u64)> {
        let of_host = |node: &&NodeId| self.given.get(node).is_some_and(|(of, _)| *of == index);
        self.dead.iter().rev().find(of_host).map(|node| (*node, self.given[node].1))
    }

    /// Who has this id.
    pub(super) fn host(&self, node: NodeId) -> Option<(Index, u64)> {
        self.given.get(&node).copied()
    }

    /// DIR-4: whoever begins to act under a name has a greater fencing than all before.
    pub(super) fn begins(&mut self, key: &NameKey, fencing: Fencing, index: Index) -> Result<bool, Violation> {
        let last = self.granted.insert(key.clone(), (fencing, index));
        let Some((last, of)) = last else { return Ok(true) };
        ensure(last < fencing || last == fencing && of == index, "DIR-4", || {
            format!("host {index} acts under {key} with {fencing}, host {of} did with {last}")
        })?;
        Ok(of != index)
    }

    /// DIR-7: a token is good for one.
    pub(super) fn token_used(&mut self, id: TokenId, by: Index) -> Result<(), Violation> {
        let first = *self.tokens.entry(id).or_insert(by);
        ensure(first == by, "DIR-7", || format!("{id} was good for hosts {first} and {by}"))
    }
}
