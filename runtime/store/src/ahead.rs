//! Memory that is made before a process asks for it.
//!
//! Most of what a new segment costs is not the copy into it: the system makes its pages and clears them. A node does that
//! while nobody waits, a few segments ahead, and cuts one of them to the length that is asked for.

use crate::sys::segment::Blank;

const MIB: u64 = 1 << 20;

/// What is kept, the most usual first: two of the segments that processes have by and by, and one for a value of a gigabyte.
const LENGTHS: [u64; 3] = [66 * MIB, 66 * MIB, 1_026 * MIB];

/// All that is kept where there is room for it.
pub const AHEAD_BYTES: u64 = 2 * 66 * MIB + 1_026 * MIB;

/// Files that nobody has yet.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// What it may hold, in bytes.
    max: u64,
    ready: Vec<Blank>,
}

impl Ahead {
    pub(crate) fn new(max: u64) -> Self {
        Self { max, ready: Vec::new() }
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> u64 {
        self.ready.iter().map(|blank| blank.bytes() as u64).sum()
    }

    /// How long what it lacks most is; it has all that it may where it lacks none.
    pub(crate) fn lacks(&self) -> Option<u64> {
        let mut allowed = self.max;
        let mut there: Vec<u64> = self.ready.iter().map(|blank| blank.bytes() as u64).collect();
        for length in LENGTHS {
            allowed = allowed.checked_sub(length)?;
            match there.iter().position(|bytes| *bytes == length) {
                Some(at) => drop(there.swap_remove(at)),
                None => return Some(length),
            }
        }
        None
    }

    /// What was lacking is there.
    pub(crate) fn add(&mut self, blank: Blank) {
        self.ready.push(blank);
    }

    /// The shortest that is long enough, but none that is more than twice as long: what is cut off was made for nothing.
    pub(crate) fn take(&mut self, bytes: u64) -> Option<Blank> {
        let lengths = bytes..=bytes.saturating_mul(2);
        let fitting = self.ready.iter().enumerate().filter(|(_, blank)| lengths.contains(&(blank.bytes() as u64)));
        let (at, _) = fitting.min_by_key(|(_, blank)| blank.bytes())?;
        Some(self.ready.swap_remove(at))
    }

    /// All of it.
    pub(crate) fn take_all(&mut self) -> Vec<Blank> {
        std::mem::take(&mut self.ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(max: u64) -> Ahead {
        let mut ahead = Ahead::new(max);
        while let Some(lacks) = ahead.lacks() {
            // As long, and of no memory.
            ahead.add(Blank::hollow(usize::try_from(lacks).unwrap()));
        }
        ahead
    }

    #[test]
    fn it_holds_no_more_than_it_may() {
        for (max, bytes) in [(0, 0), (66 * MIB - 1, 0), (131 * MIB, 66 * MIB), (500 * MIB, 132 * MIB)] {
            assert_eq!(full(max).bytes(), bytes, "of {max}");
        }
        assert_eq!(full(u64::MAX).bytes(), AHEAD_BYTES);
    }

    #[test]
    fn what_is_taken_is_lacking_until_it_is_made_again() {
        let mut ahead = full(AHEAD_BYTES);
        assert_eq!(ahead.take(1_000 * MIB).map(|blank| blank.bytes() as u64), Some(1_026 * MIB));
        assert_eq!(ahead.lacks(), Some(1_026 * MIB));
        assert_eq!(ahead.take(64 * MIB).map(|blank| blank.bytes() as u64), Some(66 * MIB));
        assert_eq!(ahead.lacks(), Some(66 * MIB), "the shorter ones come first");
        for bytes in [0, 32 * MIB, 67 * MIB, 512 * MIB, 1_027 * MIB, u64::MAX] {
            assert!(ahead.take(bytes).is_none(), "{bytes}");
        }
        assert_eq!((ahead.take_all().len(), ahead.bytes()), (1, 0));
    }
}
