//! Rings of waits: a waits for b, which waits for a, so that none of them ever goes on by itself.
//!
//! Whoever waits here does nothing else meanwhile: a run of a task, or an actor that handles one message after another. So a
//! ring is a deadlock, unless one of its waits has a deadline or is given up.
//!
//! The waits are heard from many processes within a while. A ring is none if one of its waits had ended before another began:
//! so only those count that are as old as the asking can take ([`AGE_MIN`]), which makes all waits of a ring ones that there
//! were at the moment when the question went out.
//!
//! Pure, and bounded: by [`WAITS_MAX`] waits, and [`RINGS_MAX`] rings.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// A wait that is younger is not told: longer than a question to all processes takes (400 ms), and what waits for itself waits
/// much longer.
pub const AGE_MIN: Duration = Duration::from_millis(500);

/// Waits that are looked at; those beyond are left out. As many as a list of the cluster has lines.
pub const WAITS_MAX: usize = 1 << 16;

/// Members for which a ring is looked for: each costs a look at all waits that are part of some ring or lead from one to
/// another.
pub const RINGS_MAX: usize = 256;

/// Who waits for whom.
#[derive(Clone, Debug)]
pub struct Waits<T> {
    on: BTreeMap<T, BTreeSet<T>>,
    count: usize,
}

impl<T> Default for Waits<T> {
    fn default() -> Self {
        Self { on: BTreeMap::new(), count: 0 }
    }
}

impl<T: Ord + Clone> Waits<T> {
    /// `who` waits for `on`.
    pub fn add(&mut self, who: T, on: T) {
        if self.count < WAITS_MAX && self.on.entry(who).or_default().insert(on) {
            self.count += 1;
        }
    }

    /// Whom `who` waits for.
    pub fn of(&self, who: &T) -> impl Iterator<Item = &T> {
        self.on.get(who).into_iter().flatten()
    }

    /// The shortest ring that `who` is a member of, from it on, and it once.
    pub fn ring(&self, who: &T) -> Option<Vec<T>> {
        let mut from: BTreeMap<&T, &T> = BTreeMap::new();
        let mut next = VecDeque::from([who]);
        while let Some(at) = next.pop_front() {
            for on in self.of(at) {
                if on == who {
                    let mut ring: Vec<T> =
                        std::iter::successors(Some(at), |at| from.get(*at).copied()).cloned().collect();
                    ring.reverse();
                    return Some(ring);
                }
                if !from.contains_key(on) {
                    from.insert(on, at);
                    next.push_back(on);
                }
            }
        }
        None
    }

    /// A ring for each member of one, by member.
    pub fn rings(&self) -> BTreeMap<T, Vec<T>> {
        let left = self.without_ends();
        let members = left.on.keys().filter_map(|who| Some((who.clone(), left.ring(who)?)));
        members.take(RINGS_MAX).collect()
    }

    /// Without those that wait for nobody who waits, and those for whom nobody waits: a healthy cluster has no others.
    fn without_ends(&self) -> Self {
        let mut by: BTreeMap<&T, BTreeSet<&T>> = BTreeMap::new();
        let mut on: BTreeMap<&T, BTreeSet<&T>> = BTreeMap::new();
        for (who, others) in &self.on {
            for other in others {
                on.entry(who).or_default().insert(other);
                by.entry(other).or_default().insert(who);
            }
        }
        peel(&mut on, &mut by);
        peel(&mut by, &mut on);
        let mut left = Self::default();
        for (who, others) in on {
            others.into_iter().for_each(|other| left.add(who.clone(), other.clone()));
        }
        left
    }
}

/// Takes those out that lead nowhere by `to`, and then those that led only there.
fn peel<'a, T: Ord>(to: &mut BTreeMap<&'a T, BTreeSet<&'a T>>, back: &mut BTreeMap<&'a T, BTreeSet<&'a T>>) {
    let mut ends: Vec<&T> = back.keys().copied().filter(|who| !to.contains_key(who)).collect();
    while let Some(end) = ends.pop() {
        for before in back.remove(end).unwrap_or_default() {
            let Some(others) = to.get_mut(before) else { continue };
            others.remove(end);
            if others.is_empty() {
                to.remove(before);
                ends.push(before);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(all: &str) -> Waits<char> {
        let mut waits = Waits::default();
        for wait in all.split_whitespace() {
            let mut ends = wait.chars();
            waits.add(ends.next().unwrap(), ends.next().unwrap());
        }
        waits
    }

    fn check(all: &str, expect: &[&str]) {
        let waits = waits(all);
        let rings: Vec<String> = waits.rings().into_values().map(|ring| ring.into_iter().collect()).collect();
        assert_eq!(rings, expect, "{all}");
        for ring in expect {
            let ring: Vec<char> = ring.chars().collect();
            assert_eq!(waits.ring(&ring[0]), Some(ring));
        }
    }

    #[test]
    fn a_ring_is_told_from_each_of_its_members_on() {
        check("ab ba", &["ab", "ba"]);
        check("ab bc ca", &["abc", "bca", "cab"]);
        check("aa", &["a"]);
        check("ab ba cd dc", &["ab", "ba", "cd", "dc"]);
    }

    #[test]
    fn who_waits_for_a_member_and_for_whom_one_waits_is_none() {
        check("", &[]);
        check("ab bc cd", &[]);
        check("xa ab ba ay", &["ab", "ba"]);
        // Between two rings, and part of none.
        check("ab ba bm mc cd dc", &["ab", "ba", "cd", "dc"]);
        // Two ways to one end are no ring.
        check("ab ac bd cd", &[]);
    }

    #[test]
    fn the_shortest_ring_is_told() {
        check("ab bc ca ba", &["ab", "ba", "cab"]);
    }

    #[test]
    fn it_is_bounded() {
        let mut many = Waits::default();
        for n in 0..WAITS_MAX + 100 {
            many.add(n, (n + 1) % 1_000);
        }
        assert_eq!(many.count, WAITS_MAX);
        let rings = many.rings();
        assert_eq!(rings.len(), RINGS_MAX);
        assert!(rings.values().all(|ring| ring.len() == 1_000));
        // A long way to nowhere costs a look at each of its waits.
        let mut chain = Waits::default();
        (0..WAITS_MAX).for_each(|n| chain.add(n, n + 1));
        assert!(chain.rings().is_empty());
    }
}
