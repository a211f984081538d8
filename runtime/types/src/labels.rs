//! What the labels of a node must say so that something may run there (design.md §7).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Rules in one selector: each is looked at for every node, for every place that is asked for.
pub const RULES_MAX: usize = 32;
/// Values in one rule, likewise.
pub const VALUES_MAX: usize = 64;
/// Selectors that are tried after the first.
pub const FALLBACKS_MAX: usize = 8;
/// Bytes of a key or a value: they are printed on one line.
pub const WORD_BYTES_MAX: usize = 256;

/// What one label of a node must be.
///
/// ```
/// use mobula_types::LabelRule;
/// let rule: LabelRule = "zone not in (a, b)".parse().unwrap();
/// assert_eq!(rule, LabelRule::none_of("zone", ["a", "b"]));
/// assert_eq!("zone == a".parse::<LabelRule>().unwrap_err().to_string().split(':').next(), Some("`zone == a` is no rule for labels"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LabelRule {
    /// The label's name.
    pub key: String,
    /// Whether it must be among the values, or must not.
    pub op: LabelOp,
    /// The values; one for `=` and `!=`.
    pub values: Vec<String>,
}

/// How a rule reads a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LabelOp {
    /// The label is there and has one of the values: `=`, `in`.
    In,
    /// The label has none of the values, or is not there: `!=`, `not in`.
    NotIn,
}

impl LabelRule {
    /// The label has this value: `key = value`.
    pub fn equal(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), op: LabelOp::In, values: vec![value.into()] }
    }

    /// The label has another value, or is not there: `key != value`.
    pub fn not_equal(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), op: LabelOp::NotIn, values: vec![value.into()] }
    }

    /// The label has one of these values: `key in (a, b)`.
    pub fn one_of<V: Into<String>>(key: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        Self { key: key.into(), op: LabelOp::In, values: values.into_iter().map(Into::into).collect() }
    }

    /// The label has none of these values, or is not there: `key not in (a, b)`.
    pub fn none_of<V: Into<String>>(key: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        Self { key: key.into(), op: LabelOp::NotIn, values: values.into_iter().map(Into::into).collect() }
    }

    /// Whether a node that carries `labels` will do.
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let is_among = labels.get(&self.key).is_some_and(|value| self.values.contains(value));
        is_among == (self.op == LabelOp::In)
    }

    fn check(&self) -> Result<(), String> {
        let fits = |word: &str| !word.is_empty() && word.len() <= WORD_BYTES_MAX;
        if !fits(&self.key) {
            return Err(format!("the key of `{self}` has {} bytes: use 1 to {WORD_BYTES_MAX}", self.key.len()));
        }
        if self.values.is_empty() || self.values.len() > VALUES_MAX {
            return Err(format!("`{}` is given {} values: use 1 to {VALUES_MAX}", self.key, self.values.len()));
        }
        match self.values.iter().find(|value| value.len() > WORD_BYTES_MAX) {
            Some(value) => {
                let bytes = value.len();
                Err(format!("a value for `{}` has {bytes} bytes: use {WORD_BYTES_MAX} at most", self.key))
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for LabelRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.op, &self.values[..]) {
            (LabelOp::In, [only]) => write!(f, "{}={only}", self.key),
            (LabelOp::NotIn, [only]) => write!(f, "{}!={only}", self.key),
            (LabelOp::In, all) => write!(f, "{} in ({})", self.key, all.join(", ")),
            (LabelOp::NotIn, all) => write!(f, "{} not in ({})", self.key, all.join(", ")),
        }
    }
}

/// The text is no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotARule {
    text: String,
}

impl fmt::Display for NotARule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text } = self;
        write!(
            f,
            "`{text}` is no rule for labels: expected `key = value`, `key != value`, `key in (a, b)` or `key not in (a, b)`"
        )
    }
}

impl std::error::Error for NotARule {}

impl FromStr for LabelRule {
    type Err = NotARule;

    fn from_str(text: &str) -> Result<Self, NotARule> {
        let wrong = || NotARule { text: text.chars().take(WORD_BYTES_MAX).collect() };
        let is_word = |word: &str| !word.is_empty() && !word.contains(['=', '!', '(', ')', ',']);
        let word = |word: &str| Some(word.trim().to_owned()).filter(|word| is_word(word)).ok_or_else(wrong);
        if let Some((key, value)) = text.split_once("!=") {
            return Ok(Self::not_equal(word(key)?, word(value)?));
        }
        if let Some((key, value)) = text.split_once('=') {
            return Ok(Self::equal(word(key)?, word(value)?));
        }
        let (head, values) = text.split_once('(').ok_or_else(wrong)?;
        let values = values.trim_end().strip_suffix(')').ok_or_else(wrong)?;
        let values: Vec<String> = values.split(',').map(word).collect::<Result<_, _>>()?;
        match head.split_whitespace().collect::<Vec<_>>()[..] {
            [key, "in"] => Ok(Self::one_of(word(key)?, values)),
            [key, "not", "in"] => Ok(Self::none_of(word(key)?, values)),
            _ => Err(wrong()),
        }
    }
}

/// Rules that must all hold; one without rules takes every node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LabelSelector {
    rules: Vec<LabelRule>,
}

impl LabelSelector {
    /// With one rule more. Those that a key had been given by `=` before give way to a new `=`.
    pub fn push(&mut self, rule: LabelRule) {
        let is_equality = |rule: &LabelRule| rule.op == LabelOp::In && rule.values.len() == 1;
        if is_equality(&rule) {
            self.rules.retain(|known| known.key != rule.key || !is_equality(known));
        }
        self.rules.push(rule);
    }

    /// Whether every node will do.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The first rule that does not hold on a node that carries `labels`.
    pub fn broken_by(&self, labels: &BTreeMap<String, String>) -> Option<&LabelRule> {
        self.rules.iter().find(|rule| !rule.holds(labels))
    }

    /// Whether it can be asked for.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and what would be right.
    pub fn check(&self) -> Result<(), String> {
        if self.rules.len() > RULES_MAX {
            return Err(format!("{} rules for labels: use {RULES_MAX} at most", self.rules.len()));
        }
        self.rules.iter().try_for_each(LabelRule::check)
    }
}

impl FromIterator<LabelRule> for LabelSelector {
    fn from_iter<I: IntoIterator<Item = LabelRule>>(rules: I) -> Self {
        let mut selector = Self::default();
        rules.into_iter().for_each(|rule| selector.push(rule));
        selector
    }
}

impl From<LabelRule> for LabelSelector {
    fn from(rule: LabelRule) -> Self {
        Self { rules: vec![rule] }
    }
}

impl<const N: usize> From<[LabelRule; N]> for LabelSelector {
    fn from(rules: [LabelRule; N]) -> Self {
        rules.into_iter().collect()
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: Vec<String> = self.rules.iter().map(ToString::to_string).collect();
        f.write_str(&rules.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn rules_read_back_and_hold_where_they_say() {
        let (a, b, none) = (labels(&[("zone", "a")]), labels(&[("zone", "b")]), labels(&[]));
        for (text, printed, holds) in [
            ("zone=a", "zone=a", [true, false, false]),
            (" zone = a ", "zone=a", [true, false, false]),
            ("zone != a", "zone!=a", [false, true, true]),
            ("zone in (a, c)", "zone in (a, c)", [true, false, false]),
            ("zone in (b)", "zone=b", [false, true, false]),
            ("zone not in (a,b)", "zone not in (a, b)", [false, false, true]),
        ] {
            let rule: LabelRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), printed);
            assert_eq!([&a, &b, &none].map(|labels| rule.holds(labels)), holds, "{text}");
            assert_eq!(rule.to_string().parse(), Ok(rule));
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            "zone",
            "zone=",
            "=a",
            "zone==a",
            "zone in a, b",
            "zone in ()",
            "zone in (a,)",
            "zone on (a)",
            "a b in (c)",
            "zone!=!a",
        ] {
            let error = text.parse::<LabelRule>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` is no rule for labels: expected")), "{error}");
        }
    }

    #[test]
    fn a_selector_is_bounded_and_says_which_rule_lacks() {
        let selector: LabelSelector = [LabelRule::equal("zone", "a"), LabelRule::not_equal("disk", "hdd")].into();
        let carried = labels(&[("zone", "a"), ("disk", "hdd")]);
        assert_eq!(selector.broken_by(&carried), Some(&LabelRule::not_equal("disk", "hdd")));
        assert_eq!(selector.to_string(), "zone=a and disk!=hdd");
        assert_eq!(selector.check(), Ok(()));
        let many: LabelSelector = (0..=RULES_MAX).map(|at| LabelRule::equal(format!("k{at}"), "v")).collect();
        assert_eq!(many.check().unwrap_err(), "33 rules for labels: use 32 at most");
        let wide: LabelSelector = LabelRule::one_of("zone", (0..=VALUES_MAX).map(|at| at.to_string())).into();
        assert_eq!(wide.check().unwrap_err(), "`zone` is given 65 values: use 1 to 64");
        let long: LabelSelector = LabelRule::equal("zone", "x".repeat(WORD_BYTES_MAX + 1)).into();
        assert_eq!(long.check().unwrap_err(), "a value for `zone` has 257 bytes: use 256 at most");
        assert!(LabelSelector::from(LabelRule::equal("", "x")).check().is_err());
    }

    #[test]
    fn a_second_equality_of_a_key_replaces_the_first() {
        let mut selector = LabelSelector::from(LabelRule::equal("zone", "a"));
        selector.push(LabelRule::not_equal("zone", "c"));
        selector.push(LabelRule::equal("zone", "b"));
        assert_eq!(selector.to_string(), "zone!=c and zone=b");
    }
}
