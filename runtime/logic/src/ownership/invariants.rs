//! What holds of an ownership after every input.
//!
//! | number | invariant |
//! |---|---|
//! | OWN-1 | an object that somebody holds is not freed: what messages, bytes and runs hold is in the books, as often as they say |
//! | OWN-2 | a message is counted when every owner has heard that its receiver's node holds what it names, and not before |
//! | OWN-3 | nothing is kept for nobody, or for the dead |
//! | OWN-4 | a word is heard once and in its turn, whatever is lost, doubled or overtaken |
//! | OWN-5 | what bytes name is held as long as they can be read |
//! | OWN-6 | recipes take no more than they may; a task runs again only as often as it may |
//! | OWN-7 | what is sealed has bytes somewhere, and what has bytes is not made again |
//! | OWN-8 | an object's bytes are the same for ever |
//! | OWN-9 | whoever waits for an object is thought of, and answered once |
//! | OWN-10 | tables are bounded |
//! | OWN-11 | of nodes that get an object of one another none waits for itself |

use std::collections::BTreeMap;

use mobula_types::ObjectId;

use super::entry::{Entry, Owned, Role, State};
use super::lane::{Subject, WINDOW};
use super::{Bounds, DEAD_MAX, Ownership};
use crate::invariant::{Violation, ensure};

/// Whether every invariant holds that can be seen from one node's state.
///
/// # Errors
///
/// The first that does not.
pub fn check(ownership: &Ownership) -> Result<(), Violation> {
    check_holds(ownership)?;
    check_messages(ownership)?;
    check_recipes(ownership)?;
    ownership.entries.iter().try_for_each(|(object, entry)| check_entry(ownership, object, entry))?;
    let sizes = (ownership.entries.len(), ownership.sent.len(), ownership.arrived.len(), ownership.dead.len());
    let Bounds { objects_max, messages_max, .. } = ownership.bounds;
    let is_bounded =
        sizes.0 <= objects_max && sizes.1 <= messages_max && sizes.2 <= messages_max && sizes.3 <= DEAD_MAX;
    ensure(is_bounded, "OWN-10", || format!("objects, messages both ways, dead nodes: {sizes:?}"))?;
    ownership.lanes.iter().try_for_each(|(node, lane)| {
        ensure(lane.on_way() <= WINDOW, "OWN-10", || format!("{} words are on their way to {node}", lane.on_way()))
    })
}

fn count(counts: &mut BTreeMap<ObjectId, usize>, objects: &[ObjectId]) {
    objects.iter().for_each(|object| *counts.entry(*object).or_default() += 1);
}

fn check_holds(ownership: &Ownership) -> Result<(), Violation> {
    let (mut pins, mut containers) = (BTreeMap::new(), BTreeMap::new());
    ownership.sent.values().for_each(|sent| count(&mut pins, &sent.objects));
    ownership.arrived.values().for_each(|arrival| count(&mut pins, &arrival.objects));
    ownership
        .entries
        .iter()
        .filter_map(|(_, entry)| entry.owned())
        .for_each(|owned| count(&mut containers, &owned.inner));
    for (object, entry) in ownership.entries.iter() {
        let said = (pins.remove(&object).unwrap_or(0), containers.remove(&object).unwrap_or(0));
        ensure(said == (entry.pins, entry.containers), "OWN-1", || {
            format!(
                "{object} is held by messages and bytes {:?} times, they say {said:?}",
                (entry.pins, entry.containers)
            )
        })?;
    }
    let unknown = pins.keys().chain(containers.keys()).next();
    ensure(unknown.is_none(), "OWN-1", || format!("{unknown:?} is held by a message or by bytes, and was freed"))
}

fn check_messages(ownership: &Ownership) -> Result<(), Violation> {
    let mut awaited: BTreeMap<_, usize> = BTreeMap::new();
    for foreign in ownership.entries.iter().filter_map(|(_, entry)| entry.foreign()) {
        foreign.arrivals.iter().for_each(|key| *awaited.entry(*key).or_default() += 1);
        ensure(foreign.arrivals.is_empty() || !foreign.is_counted, "OWN-2", || {
            format!("{:?} wait for what has been heard", foreign.arrivals)
        })?;
    }
    for (key, arrival) in &ownership.arrived {
        let open = awaited.remove(key).unwrap_or(0);
        ensure(open == arrival.unclaimed, "OWN-2", || format!("{key:?} waits for {open} owners: {arrival:?}"))?;
        let is_sound = arrival.is_counted != (open > 0) || ownership.dead.contains(&key.0);
        ensure(is_sound, "OWN-2", || format!("{open} owners have not heard of {key:?}: {arrival:?}"))?;
        let is_over = arrival.is_counted && arrival.is_taken && open == 0;
        ensure(!is_over, "OWN-3", || format!("{key:?} is over and kept: {arrival:?}"))?;
    }
    ensure(awaited.is_empty(), "OWN-2", || format!("nobody knows the messages {awaited:?}"))
}

fn check_recipes(ownership: &Ownership) -> Result<(), Violation> {
    let (mut bytes, mut idle) = (0, 0);
    let (mut recipes, mut users) = (BTreeMap::new(), BTreeMap::new());
    for (object, entry) in ownership.entries.iter() {
        let Some((owned, kept)) = entry.owned().and_then(|owned| Some((owned, owned.recipe.as_ref()?))) else {
            continue;
        };
        bytes += kept.recipe.bytes;
        count(&mut recipes, &kept.recipe.arguments);
        let is_idle = ownership.lineage.idle.contains(&(kept.order, object));
        idle += usize::from(is_idle);
        let is_pending = matches!(owned.state, State::Pending { .. });
        ensure(is_idle != is_pending, "OWN-6", || {
            format!("{object} is {:?}, its recipe idle: {is_idle}", owned.state)
        })?;
        if is_pending {
            count(&mut users, &kept.recipe.arguments);
        }
        let is_allowed = owned.runs <= kept.recipe.runs_max.max(1);
        ensure(is_allowed, "OWN-6", || format!("the task of {object} has run {} times: {kept:?}", owned.runs))?;
    }
    let lineage = &ownership.lineage;
    let bytes_max = ownership.bounds.lineage_bytes_max;
    ensure(bytes == lineage.bytes && bytes <= bytes_max, "OWN-6", || {
        format!("recipes take {bytes} bytes, {} are counted and {bytes_max} allowed", lineage.bytes)
    })?;
    ensure(idle == lineage.idle.len(), "OWN-6", || format!("{idle} recipes are idle, {} listed", lineage.idle.len()))?;
    for (object, entry) in ownership.entries.iter() {
        let said = (recipes.remove(&object).unwrap_or(0), users.remove(&object).unwrap_or(0));
        ensure(said == (entry.recipes, entry.users.len()), "OWN-1", || {
            format!(
                "{object} is named by recipes and used {:?} times, they say {said:?}",
                (entry.recipes, &entry.users)
            )
        })?;
    }
    ensure(recipes.is_empty(), "OWN-3", || format!("recipes name {recipes:?}, of which nothing is known"))
}

fn check_entry(ownership: &Ownership, object: ObjectId, entry: &Entry) -> Result<(), Violation> {
    let fetch = &entry.fetch;
    let waits = !entry.wanted.is_empty();
    let is_fetched = fetch.is_tried();
    for time in [fetch.again_at, fetch.until].into_iter().flatten() {
        let is_timed = ownership.timers.contains(&(time, object));
        ensure(is_timed, "OWN-9", || format!("nobody looks at {object} at {time:?}"))?;
    }
    let holder = entry.holders.iter().find(|holder| match holder.number() {
        0 => holder.node() == ownership.me || ownership.dead.contains(&holder.node()),
        _ => !ownership.processes.contains_key(holder),
    });
    ensure(holder.is_none(), "OWN-3", || format!("{object} is held by {holder:?}, which does not live"))?;
    match &entry.role {
        Role::Owned(owned) => {
            ensure(object.owner.node() == ownership.me, "OWN-1", || format!("{object} is not this node's"))?;
            let is_kept = entry.is_held() || entry.recipes > 0;
            ensure(is_kept, "OWN-3", || format!("{object} is kept for nobody: {entry:?}"))?;
            let is_read = entry.is_held() || !matches!(owned.state, State::Sealed { .. });
            ensure(is_read, "OWN-3", || format!("nobody reads {object}, and its bytes are kept"))?;
            check_owned(object, entry, owned)?;
            let is_thought_of = match owned.state {
                State::Pending { .. } => true,
                State::Sealed { .. } => is_fetched,
                State::Missing(_) | State::Lost(_) => is_fetched,
            };
            ensure(!waits || is_thought_of, "OWN-9", || format!("nobody thinks of who waits for {object}: {entry:?}"))
        }
        Role::Foreign(foreign) => {
            ensure(object.owner.node() != ownership.me, "OWN-1", || format!("{object} is this node's"))?;
            ensure(!waits || is_fetched || foreign.is_asked, "OWN-9", || {
                format!("nobody thinks of who waits for {object}: {entry:?}")
            })?;
            let lane = ownership.lanes.get(&object.owner.node());
            let is_noted = lane.is_some_and(|lane| lane.waiting().any(|subject| subject == Subject::Claim(object)));
            let is_told = entry.stance() == foreign.said && foreign.said != (false, None);
            ensure(foreign.end.is_some() || is_told || is_noted, "OWN-3", || {
                format!("the owner of {object} is not told how it is held: {entry:?}")
            })?;
            let is_kept = foreign.end.is_none() || entry.is_held() || foreign.is_to_take_back();
            ensure(is_kept, "OWN-3", || format!("{object} is kept for nobody: {entry:?}"))
        }
    }
}

fn check_owned(object: ObjectId, entry: &Entry, owned: &Owned) -> Result<(), Violation> {
    let has_bytes = entry.copy.is_some() || owned.sources().next().is_some();
    match owned.state {
        State::Sealed { is_inline } => {
            ensure(is_inline || has_bytes, "OWN-7", || format!("{object} is sealed and nowhere"))?;
        }
        State::Pending { is_running: true } => {}
        State::Pending { is_running: false } | State::Missing(_) | State::Lost(_) => {
            ensure(!has_bytes, "OWN-7", || format!("{object} is {:?}, and there is a copy", owned.state))?;
        }
    }
    let is_asked_in_vain = matches!(owned.state, State::Missing(_)) && !owned.askers.is_empty();
    ensure(!is_asked_in_vain, "OWN-9", || format!("{:?} ask for {object} in vain", owned.askers))?;
    let digests = owned.copies.values().copied().chain(entry.digest_here());
    let first = owned.sealed.map(|sealed| sealed.digest);
    let wrong = digests.into_iter().find(|digest| first.is_some_and(|first| first != *digest));
    let circle = owned.pullers.circle();
    ensure(circle.is_none(), "OWN-11", || format!("{circle:?} gets {object} of who waits for it"))?;
    ensure(wrong.is_none(), "OWN-8", || format!("a copy of {object} is {wrong:?}, it is {first:?}"))
}
