//! Which parts of a segment are free: taken by the best fit, joined again when they are given back.

use std::collections::{BTreeMap, BTreeSet};

/// Parts begin at multiples of this and take whole ones: a cache line, so that no two writers meet in one.
pub(crate) const GRAIN: usize = 64;

/// The free parts of one segment.
#[derive(Debug)]
pub(crate) struct Free {
    /// Where each begins, and how long it is. No two of them touch.
    parts: BTreeMap<usize, usize>,
    /// The same, the smallest first.
    by_size: BTreeSet<(usize, usize)>,
    taken: usize,
}

impl Free {
    /// A segment of which nothing is taken.
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes / GRAIN * GRAIN;
        let mut free = Self { parts: BTreeMap::new(), by_size: BTreeSet::new(), taken: 0 };
        if bytes > 0 {
            free.add(0, bytes);
        }
        free
    }

    /// Takes the smallest part that holds so many bytes; says where it begins.
    pub(crate) fn take(&mut self, bytes: usize) -> Option<usize> {
        let wanted = whole(bytes)?;
        let (found, at) = self.by_size.range((wanted, 0)..).next().copied()?;
        self.remove(at, found);
        if found > wanted {
            self.add(at + wanted, found - wanted);
        }
        self.taken += wanted;
        Some(at)
    }

    /// Gives back what [`take`](Self::take) has given for so many bytes.
    pub(crate) fn give(&mut self, at: usize, bytes: usize) {
        let Some(mut len) = whole(bytes) else { return };
        self.taken -= len;
        let mut at = at;
        let before = self.parts.range(..at).next_back().map(|(start, len)| (*start, *len));
        if let Some((start, size)) = before.filter(|(start, size)| start + size == at) {
            self.remove(start, size);
            (at, len) = (start, size + len);
        }
        if let Some(size) = self.parts.get(&(at + len)).copied() {
            self.remove(at + len, size);
            len += size;
        }
        self.add(at, len);
    }

    /// Whether nothing is taken.
    pub(crate) fn is_whole(&self) -> bool {
        self.taken == 0
    }

    /// Bytes that are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    fn add(&mut self, at: usize, len: usize) {
        self.parts.insert(at, len);
        self.by_size.insert((len, at));
    }

    fn remove(&mut self, at: usize, len: usize) {
        self.parts.remove(&at);
        self.by_size.remove(&(len, at));
    }
}

/// Whole grains for so many bytes; nothing is as long as one byte, so that no two parts begin at one place.
fn whole(bytes: usize) -> Option<usize> {
    bytes.max(1).checked_next_multiple_of(GRAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FREE-1: free and taken parts cover the segment, none twice; FREE-2: no two free parts touch.
    fn check(free: &Free, bytes: usize, taken: &BTreeMap<usize, usize>) {
        let taken = taken.iter().map(|(at, bytes)| (*at, whole(*bytes).unwrap(), false));
        let parts = free.parts.iter().map(|(at, len)| (*at, *len, true));
        let mut all: Vec<_> = parts.chain(taken).collect();
        all.sort_unstable();
        let mut end = 0;
        let mut was_free = false;
        for (at, len, is_free) in all {
            assert_eq!(at, end, "FREE-1");
            assert!(!(is_free && was_free), "FREE-2: two free parts meet at {at}");
            (end, was_free) = (at + len, is_free);
        }
        assert_eq!(end, bytes, "FREE-1");
        assert_eq!(free.by_size.len(), free.parts.len());
        assert_eq!(free.taken, bytes - free.parts.values().sum::<usize>());
    }

    #[test]
    fn the_best_fit_is_taken() {
        let mut free = Free::new(10 * GRAIN);
        let parts: Vec<usize> = (0..5).map(|_| free.take(2 * GRAIN).unwrap()).collect();
        assert_eq!(free.take(1), None, "it is full");
        free.give(parts[0], 2 * GRAIN);
        free.give(parts[2], 2 * GRAIN);
        free.give(parts[3], 2 * GRAIN);
        assert_eq!(free.take(2 * GRAIN), Some(parts[0]), "the hole of its size, not the first of the larger one");
        assert_eq!(free.take(4 * GRAIN), Some(parts[2]), "two that met are one");
    }

    #[test]
    fn what_no_segment_holds_is_refused() {
        let mut free = Free::new(GRAIN);
        assert_eq!(free.take(GRAIN + 1), None);
        assert_eq!(free.take(usize::MAX), None, "no sum overflows");
        assert_eq!(Free::new(GRAIN - 1).take(1), None, "less than a grain is nothing");
    }

    const BYTES: usize = 1 << 16;

    #[test]
    fn it_keeps_its_books_over_any_order() {
        for seed in 0..50u64 {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut random = move |below: usize| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                usize::try_from(state >> 33).unwrap() % below
            };
            let mut free = Free::new(BYTES);
            let mut taken = BTreeMap::new();
            for _ in 0..500 {
                if random(3) > 0 {
                    let bytes = random(4_000);
                    if let Some(at) = free.take(bytes) {
                        assert!(taken.insert(at, bytes).is_none(), "seed {seed}: {at} is taken twice");
                    }
                } else if let Some((at, bytes)) = taken.iter().nth(random(taken.len().max(1))).map(|(a, b)| (*a, *b)) {
                    taken.remove(&at);
                    free.give(at, bytes);
                }
                check(&free, BYTES, &taken);
            }
            for (at, bytes) in std::mem::take(&mut taken) {
                free.give(at, bytes);
            }
            assert!(free.is_whole(), "seed {seed}");
            check(&free, BYTES, &taken);
        }
    }
}
