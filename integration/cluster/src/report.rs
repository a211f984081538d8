//! What `mobula-workload` says in the end: the words in which the driver program and the tests understand one another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The line that says that the driver has joined and begins its work: its beginning.
pub const READY: &str = "ready ";
/// The line that ends the work: the driver submits no more, and waits for what is under way.
pub const FINISH: &str = "finish";
/// The line with the [`Report`] as JSON: its beginning.
pub const REPORT: &str = "report ";
/// The line with the placement group that a driver has made: its beginning.
pub const GROUP: &str = "group ";
/// The file in the folder of records with the names that were acknowledged, one a line.
pub const NAMES: &str = "names";

/// The line that says in which process an actor lives: its beginning.
pub fn life(bundle: u32, number: u32) -> String {
    format!("bundle {bundle}, life {number}, process ")
}

/// The line with the answer to the order of this number, which begin with 1: its beginning.
pub fn answer(number: u32) -> String {
    format!("answer {number} ")
}

/// What became of values that were to be put into the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Puts {
    /// How many are held.
    pub taken: u64,
    /// How many were refused because the store is full.
    pub full: u64,
    /// What else came.
    pub wrong: Vec<String>,
    /// The longest that one took, in milliseconds.
    pub ms_max: u64,
}

impl Puts {
    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.wrong.extend(other.wrong);
        let (taken, full) = (self.taken + other.taken, self.full + other.full);
        Self { taken, full, wrong: self.wrong, ms_max: self.ms_max.max(other.ms_max) }
    }
}

/// What became of values that were to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// How many are as they were written.
    pub right: u64,
    /// What came of the others.
    pub wrong: Vec<String>,
}

impl Reads {
    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.wrong.extend(other.wrong);
        Self { right: self.right + other.right, wrong: self.wrong }
    }
}

/// What became of all that a driver has submitted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Tasks.
    pub tasks: Account,
    /// Asks of actors.
    pub calls: Account,
    /// Starts of named actors; those that succeeded are registered.
    pub names: Account,
    /// What the session itself has counted.
    pub session: Account,
    /// Tasks whose result was not that of their newest attempt, or not theirs.
    pub superseded: Vec<String>,
    /// Calls that an actor handled twice, or out of the order in which they were sent.
    pub disorder: Vec<String>,
    /// Names that were acknowledged, and led to nobody or to somebody else in the end.
    pub names_lost: Vec<String>,
    /// The most runs of one task.
    pub runs_max: u32,
    /// From the order to finish to the last outcome, in milliseconds.
    pub settled_ms: u64,
    /// The longest time that a call had no outcome, in milliseconds.
    pub call_ms_max: u64,
}

/// What was submitted and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// How much was submitted.
    pub submitted: u64,
    /// How many ended so, by the outcome's name.
    pub outcomes: BTreeMap<String, u64>,
    /// How many have no outcome.
    pub pending: u64,
    /// The first error of each text, and how many had it; bounded.
    pub errors: BTreeMap<String, u64>,
}

impl Account {
    /// Different errors that are kept; texts with ids in them are all different.
    const ERRORS_MAX: usize = 40;

    /// Counts one outcome, with its error's text if it is one.
    pub fn count(&mut self, outcome: &str, error: Option<String>) {
        *self.outcomes.entry(outcome.to_owned()).or_default() += 1;
        let Some(error) = error else { return };
        if self.errors.len() < Self::ERRORS_MAX || self.errors.contains_key(&error) {
            *self.errors.entry(error).or_default() += 1;
        }
    }

    /// How many ended so.
    pub fn of(&self, outcome: &str) -> u64 {
        self.outcomes.get(outcome).copied().unwrap_or(0)
    }

    /// How many have an outcome.
    pub fn ended(&self) -> u64 {
        self.outcomes.values().sum()
    }
}
