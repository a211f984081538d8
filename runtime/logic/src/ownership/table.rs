//! What is known of each object, found by its name at once: a task with ten thousand arguments looks a hundred thousand
//! times.

use std::collections::BTreeMap;

use mobula_types::{ObjectId, ProcessId};

use super::entry::Entry;

/// Entries that lie together: an owner counts its objects, so that those of one time are neighbours.
const PAGE: usize = 32;

/// Entries by owner and number, in the order of names.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// By owner, and the number of their first object in pages.
    pages: BTreeMap<(ProcessId, u64), Box<Page>>,
    len: usize,
}

#[derive(Debug, Default)]
struct Page {
    entries: [Option<Box<Entry>>; PAGE],
    used: usize,
}

fn page_of(object: &ObjectId) -> (ProcessId, u64) {
    (object.owner, object.seq / PAGE as u64)
}

fn place_in_page(object: &ObjectId) -> usize {
    (object.seq % PAGE as u64) as usize
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, object: &ObjectId) -> bool {
        self.get(object).is_some()
    }

    /// Whether there is an object of this process.
    pub(super) fn has_of(&self, owner: ProcessId) -> bool {
        self.iter_of(owner).next().is_some()
    }

    pub(super) fn get(&self, object: &ObjectId) -> Option<&Entry> {
        self.pages.get(&page_of(object))?.entries[place_in_page(object)].as_deref()
    }

    pub(super) fn get_mut(&mut self, object: &ObjectId) -> Option<&mut Entry> {
        self.pages.get_mut(&page_of(object))?.entries[place_in_page(object)].as_deref_mut()
    }

    /// The object's entry; what `new` says when there was none.
    pub(super) fn entry(&mut self, object: ObjectId, new: impl FnOnce() -> Entry) -> &mut Entry {
        let page = self.pages.entry(page_of(&object)).or_default();
        page.entries[place_in_page(&object)].get_or_insert_with(|| {
            (page.used, self.len) = (page.used + 1, self.len + 1);
            Box::new(new())
        })
    }

    pub(super) fn remove(&mut self, object: &ObjectId) -> Option<Entry> {
        let page = self.pages.get_mut(&page_of(object))?;
        let entry = page.entries[place_in_page(object)].take()?;
        (page.used, self.len) = (page.used - 1, self.len - 1);
        if page.used == 0 {
            self.pages.remove(&page_of(object));
        }
        Some(*entry)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ObjectId, &Entry)> {
        self.pages.iter().flat_map(|(number, page)| in_page(number, page))
    }

    /// Those of one owner.
    pub(super) fn iter_of(&self, owner: ProcessId) -> impl Iterator<Item = (ObjectId, &Entry)> {
        self.pages.range((owner, 0)..=(owner, u64::MAX)).flat_map(|(number, page)| in_page(number, page))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ObjectId, &mut Entry)> {
        self.pages.iter_mut().flat_map(|((owner, number), page)| {
            let (owner, first) = (*owner, number * PAGE as u64);
            let named = page.entries.iter_mut().enumerate();
            named.filter_map(move |(at, entry)| {
                Some((ObjectId { owner, seq: first + at as u64 }, entry.as_deref_mut()?))
            })
        })
    }
}

fn in_page<'a>(
    (owner, number): &(ProcessId, u64),
    page: &'a Page,
) -> impl Iterator<Item = (ObjectId, &'a Entry)> + use<'a> {
    let (owner, first) = (*owner, number * PAGE as u64);
    let named = page.entries.iter().enumerate();
    named.filter_map(move |(at, entry)| Some((ObjectId { owner, seq: first + at as u64 }, entry.as_deref()?)))
}

#[cfg(test)]
mod tests {
    use mobula_types::NodeId;

    use super::super::entry::{Foreign, Role};
    use super::*;

    fn object(owner: u32, seq: u64) -> ObjectId {
        ObjectId { owner: ProcessId::new(NodeId(1), owner), seq }
    }

    fn names<'a>(entries: impl Iterator<Item = (ObjectId, &'a Entry)>) -> Vec<ObjectId> {
        entries.map(|(object, _)| object).collect()
    }

    #[test]
    fn entries_come_in_the_order_of_names() {
        let mut table = Table::default();
        for (owner, seq) in [(2, 7), (1, u64::MAX), (1, 9), (2, 1), (1, 300), (2, 7)] {
            table.entry(object(owner, seq), || Entry::new(Role::Foreign(Foreign::default()))).pins += 1;
        }
        let all = [object(1, 9), object(1, 300), object(1, u64::MAX), object(2, 1), object(2, 7)];
        assert_eq!((names(table.iter()), table.len()), (all.to_vec(), 5));
        assert_eq!(names(table.iter_of(object(2, 0).owner)), all[3..]);
        assert_eq!(table.get(&object(2, 7)).map(|entry| entry.pins), Some(2), "what is there stays");
        table.iter_mut().for_each(|(object, entry)| entry.pins = object.seq as usize);
        assert_eq!(table.get(&object(1, 300)).map(|entry| entry.pins), Some(300));
        assert!(table.remove(&object(1, 9)).is_some() && table.remove(&object(1, 9)).is_none());
        assert!(table.has_of(object(1, 0).owner) && !table.contains(&object(1, 9)));
        assert!(table.remove(&object(1, 300)).is_some() && table.remove(&object(1, u64::MAX)).is_some());
        assert!(!table.has_of(object(1, 0).owner));
        assert_eq!((table.len(), table.pages.len()), (2, 1), "no page is kept for nothing");
    }
}
