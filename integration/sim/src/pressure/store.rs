//! The memory and the disk of a node as they truly are.

use std::collections::BTreeMap;

use mobula_logic::pressure::{FULL_PART, part};
use mobula_wire::segments::SegmentId;

/// Segments that are leased, as the node's arena counts them.
#[derive(Debug)]
pub(super) struct Arena {
    pub(super) budget: u64,
    pub(super) segments_max: usize,
    pub(super) leased: u64,
    last: SegmentId,
    pub(super) segments: BTreeMap<SegmentId, Leased>,
    /// The longest that a process was refused since somebody looked.
    pub(super) refused: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Leased {
    pub(super) bytes: u64,
    /// Of which so many are written: nothing is written in the same place twice.
    pub(super) used: u64,
    /// The process that gives it back; without one the node does, at once.
    pub(super) writer: Option<u32>,
    /// Copies in it.
    pub(super) copies: usize,
    /// Others who need it, of whom the machine knows nothing.
    pub(super) holds: usize,
}

impl Leased {
    pub(super) fn is_empty(&self) -> bool {
        self.copies == 0 && self.holds == 0
    }
}

impl Arena {
    pub(super) fn new(budget: u64, segments_max: usize) -> Self {
        Self { budget, segments_max, leased: 0, last: 0, segments: BTreeMap::new(), refused: None }
    }

    /// As many as there may be: no bytes help.
    pub(super) fn is_crowded(&self) -> bool {
        self.segments.len() >= self.segments_max
    }

    /// A segment for a process.
    pub(super) fn lease(&mut self, writer: u32, bytes: u64) -> Option<SegmentId> {
        let max = part(self.budget, FULL_PART);
        let segment = self.reserve(bytes, max, Some(writer));
        if segment.is_none() && bytes <= max {
            self.refused = self.refused.max(Some(bytes));
        }
        segment
    }

    /// A segment for what is read from a file.
    pub(super) fn bring(&mut self, bytes: u64, is_beyond: bool) -> Option<SegmentId> {
        self.reserve(bytes, if is_beyond { self.budget + bytes } else { self.budget }, None)
    }

    fn reserve(&mut self, bytes: u64, max: u64, writer: Option<u32>) -> Option<SegmentId> {
        if self.leased + bytes > max || self.is_crowded() {
            return None;
        }
        (self.last, self.leased) = (self.last + 1, self.leased + bytes);
        self.segments.insert(
            self.last,
            Leased { bytes, used: if writer.is_some() { 0 } else { bytes }, writer, copies: 0, holds: 0 },
        );
        Some(self.last)
    }

    pub(super) fn take(&mut self, segment: SegmentId) {
        if let Some(leased) = self.segments.remove(&segment) {
            self.leased -= leased.bytes;
        }
    }
}

/// A disk that is not this node's alone.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) room: u64,
    pub(super) used: u64,
    /// What somebody else has written to it.
    pub(super) others: u64,
    pub(super) is_broken: bool,
}

impl Disk {
    /// Whether so many bytes are written.
    pub(super) fn write(&mut self, bytes: u64) -> bool {
        let is_written = !self.is_broken && self.used + bytes + self.others <= self.room;
        if is_written {
            self.used += bytes;
        }
        is_written
    }
}
