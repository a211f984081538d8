//! | number | what holds |
//! |---|---|
//! | HAUL-1 | a payload is over when nothing of it is in flight: nobody writes in a room that is its process's again |
//! | HAUL-2 | ranges in flight are bounded, of each payload from each source and of all |
//! | HAUL-3 | what was asked for has come, is in flight or is asked for again, and no byte twice at once |
//! | HAUL-4 | what waits stands behind something that is in flight: nothing is forgotten |
//! | HAUL-5 | a source that was left is asked nothing more, and a payload is over when none is left |

use super::Hauls;
use crate::invariant::{Violation, ensure};

/// Whether every invariant holds that can be seen from the state.
///
/// # Errors
///
/// The first that does not.
pub fn check(hauls: &Hauls) -> Result<(), Violation> {
    let mut in_flight = 0;
    for (haul, open) in &hauls.open {
        let is_over = open.in_flight.is_empty() && (open.is_ending || open.came == open.bytes);
        ensure(!is_over, "HAUL-1", || format!("{haul:?} is over and kept"))?;
        for source in &open.sources {
            let count = open.in_flight_of(source.node);
            let is_bounded = count <= hauls.bounds.haul_ranges_max;
            ensure(is_bounded, "HAUL-2", || format!("{count} ranges of {haul:?} are in flight from {}", source.node))?;
        }
        let has_source = open.is_ending || !open.sources.is_empty();
        ensure(has_source, "HAUL-5", || format!("{haul:?} has no source and goes on"))?;
        in_flight += open.in_flight.len();
        let ranges =
            open.in_flight.iter().map(|(offset, flight)| (*offset, flight.bytes)).chain(open.again.iter().copied());
        let mut ranges: Vec<(u64, u32)> = ranges.collect();
        ranges.sort_unstable();
        let are_apart = ranges.windows(2).all(|pair| pair[0].0 + u64::from(pair[0].1) <= pair[1].0);
        let out: u64 = ranges.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
        let is_known = open.came + out == open.asked && open.asked <= open.bytes;
        ensure(are_apart && is_known, "HAUL-3", || {
            format!(
                "of {} bytes of {haul:?} {} were asked for, {} came, {ranges:?} did not",
                open.bytes, open.asked, open.came
            )
        })?;
        let has_turn = hauls.turns.iter().filter(|turn| *turn == haul).count() == usize::from(!open.is_ending);
        ensure(has_turn, "HAUL-4", || format!("{haul:?} has no turn, or several"))?;
    }
    let is_bounded = in_flight == hauls.in_flight && in_flight <= hauls.bounds.ranges_max;
    ensure(is_bounded, "HAUL-2", || format!("{in_flight} ranges are in flight"))?;
    let is_idle = in_flight == 0 && !hauls.turns.is_empty();
    ensure(!is_idle, "HAUL-4", || format!("{} payloads wait and nothing is asked for", hauls.turns.len()))
}
