//! What holds of a group of children after every input.
//!
//! | number | invariant |
//! |---|---|
//! | SUP-1 | in one_for_all and rest_for_one one child starts at a time, and none that was added before it is down |
//! | SUP-2 | children that must stop are told one after another, the last one first |
//! | SUP-3 | there are never more restarts in a period than the intensity allows |
//! | SUP-4 | the first restart in a row is at once, every later one waits as the backoff says |
//! | SUP-5 | a temporary child is started once |
//! | SUP-6 | a supervisor that ends restarts nobody, and one that has ended has left no child behind |
//! | SUP-7 | whoever is down has something that will start it: a time, its turn, or the end of a stop |
//! | SUP-8 | every child that was added ends exactly once |
//! | SUP-9 | what the indexes say of a child is what its state says |

use mobula_types::{Restart, Strategy};

use super::machine::{Child, Phase, Place, State, Supervision};
use crate::invariant::{Violation, ensure};

/// Whether everything in the table above holds of `group`.
///
/// # Errors
/// The first one that does not.
pub fn check(group: &Supervision) -> Result<(), Violation> {
    starts_in_order(group)?;
    stops_in_reverse_order(group)?;
    restarts_are_bounded(group)?;
    nobody_waits_for_ever(group)?;
    everybody_is_accounted_for(group)
}

fn starts_in_order(group: &Supervision) -> Result<(), Violation> {
    if group.strategy == Strategy::OneForOne {
        return Ok(());
    }
    let first_down = group.down.iter().map(|&(_, place)| place).min();
    let last_alive = last_alive(group, 0);
    let is_in_order = match (first_down, last_alive) {
        (Some(down), Some(alive)) if matches!(group.phase, Phase::Up) => alive < down,
        _ => true,
    };
    ensure(is_in_order && group.starting <= 1, "SUP-1", || {
        format!("{} start; {last_alive:?} lives where {first_down:?} is down", group.starting)
    })
}

fn stops_in_reverse_order(group: &Supervision) -> Result<(), Violation> {
    let from = match group.phase {
        Phase::Stopping { from, .. } => from,
        Phase::Ending { .. } => 0,
        _ => return Ok(()),
    };
    let is_asked = |child: &Child| child.state == State::Stopping && !child.is_removed;
    let asked: Vec<Place> =
        group.children.range(from..).filter(|(_, child)| is_asked(child)).map(|(&place, _)| place).collect();
    let last_alive = last_alive(group, from);
    let is_last = asked.iter().all(|&place| Some(place) == last_alive);
    let last_is_stopping = last_alive.is_none_or(|place| group.children[&place].state == State::Stopping);
    ensure(is_last && last_is_stopping, "SUP-2", || format!("{asked:?} are told to stop, {last_alive:?} is the last"))
}

fn restarts_are_bounded(group: &Supervision) -> Result<(), Violation> {
    let (count, max) = (group.recent.count(), group.intensity.restarts_max);
    ensure(count <= max, "SUP-3", || format!("{count} restarts in a period, {max} are allowed"))?;
    if let Phase::Waiting { until } | Phase::Stopping { until, .. } = group.phase {
        let holds = group.series.waits_as(group.backoff) && until >= group.series.due();
        ensure(holds, "SUP-4", || format!("{:?} until {until:?}", group.series))?;
    }
    for child in group.children.values() {
        let is_waiting = group.strategy == Strategy::OneForOne && child.starts > 0;
        if let State::Down { at, .. } = child.state {
            let holds = !is_waiting || child.series.waits_as(group.backoff) && at == child.series.due();
            ensure(holds, "SUP-4", || format!("child {} until {at:?}: {:?}", child.key, child.series))?;
        }
        let holds = child.restart != Restart::Temporary || child.starts <= 1;
        ensure(holds, "SUP-5", || format!("temporary child {} was started {} times", child.key, child.starts))?;
    }
    Ok(())
}

fn nobody_waits_for_ever(group: &Supervision) -> Result<(), Violation> {
    let is_down = !group.down.is_empty();
    let will_start = match group.phase {
        Phase::Up => group.strategy == Strategy::OneForOne || group.starting > 0,
        Phase::Stopping { from, .. } => last_alive(group, from).is_some(),
        Phase::Waiting { .. } => true,
        Phase::Ending { .. } | Phase::Over => false,
    };
    let invariant = if matches!(group.phase, Phase::Ending { .. } | Phase::Over) { "SUP-6" } else { "SUP-7" };
    ensure(will_start || !is_down, invariant, || format!("{} are down in {:?}", group.down.len(), group.phase))?;
    ensure(!group.is_over() || group.children.is_empty(), "SUP-6", || {
        format!("{} children are left behind", group.children.len())
    })
}

fn everybody_is_accounted_for(group: &Supervision) -> Result<(), Violation> {
    let present = group.children.len() as u64;
    ensure(group.next_place == group.ended + present, "SUP-8", || {
        format!("{} were added, {} have ended, {present} are here", group.next_place, group.ended)
    })?;
    let is_listed = |(&place, child): (&Place, &Child)| {
        let is_down = match child.state {
            State::Down { at, .. } => group.down.contains(&(at, place)),
            State::Starting | State::Running | State::Stopping => true,
        };
        is_down && group.places.get(&child.key) == Some(&place)
    };
    let count = |is: fn(&Child) -> bool| group.children.values().filter(|child| is(child)).count();
    let starting = count(|child| child.state == State::Starting);
    let holds = group.down.len() == count(|child| !child.is_alive())
        && group.places.len() == group.children.len()
        && group.children.iter().all(is_listed)
        && starting == group.starting;
    ensure(holds, "SUP-9", || format!("{group:?}"))
}

fn last_alive(group: &Supervision, from: Place) -> Option<Place> {
    group.children.range(from..).rev().find(|(_, child)| child.is_alive()).map(|(&place, _)| place)
}
