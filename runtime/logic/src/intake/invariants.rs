//! | number | what holds |
//! |---|---|
//! | INTAKE-1 | messages of one line are handed on in the order in which they came |
//! | INTAKE-2 | payloads that are pulled, or whole and not handed on, are bounded, per peer and together; one alone always goes |
//! | INTAKE-3 | bytes that are asked for and have not come are bounded |
//! | INTAKE-4 | only what was asked for is taken, and in its turn |
//! | INTAKE-5 | of a payload no more comes than it has room for, and nothing before there is room |
//! | INTAKE-6 | what waits is asked for or moved by the nodes, or stands behind something that is: nothing is forgotten |
//! | INTAKE-7 | a living sender is told of each of its payloads once that it need not keep it any more |

use super::{Bounds, Intake, Payload};
use crate::invariant::{Violation, ensure};

/// Whether every invariant holds that can be seen from the state.
///
/// # Errors
///
/// The first that does not.
pub fn check<M>(intake: &Intake<M>) -> Result<(), Violation> {
    let Bounds { peer_bytes_max, open_bytes_max, asked_bytes_max, .. } = intake.bounds;
    let (mut open, mut asked, mut transfers, mut opened, mut opening, mut hauled) = (0, 0, 0, 0, 0, 0);
    for (from, peer) in &intake.peers {
        for (line, numbers) in &peer.lines {
            let is_in_order = numbers.iter().zip(numbers.iter().skip(1)).all(|(before, after)| before < after);
            ensure(is_in_order, "INTAKE-1", || format!("{line:?} of {from} holds {numbers:?}"))?;
            let first = numbers.front().and_then(|number| peer.letters.get(number));
            let is_awaited = first.is_some_and(|it| it.payload.as_ref().is_some_and(|payload| !payload.is_whole()));
            ensure(is_awaited, "INTAKE-6", || format!("the first of {line:?} of {from} waits for nothing"))?;
        }
        let payloads = || peer.letters.values().filter_map(|letter| letter.payload.as_ref());
        let pulled = || payloads().filter(|payload| payload.is_open);
        let peer_open: u64 = pulled().map(|payload| payload.announced.bytes).sum();
        ensure(peer_open == peer.open_bytes, "INTAKE-2", || format!("{peer_open} bytes of {from} are open"))?;
        let is_bounded = peer_open <= peer_bytes_max || pulled().count() == 1;
        ensure(is_bounded, "INTAKE-2", || format!("{peer_open} bytes of {from} are pulled at once"))?;
        asked += pulled().map(Payload::outstanding).sum::<u64>();
        open += peer_open;
        opened += pulled().count();
        transfers += payloads().filter(|payload| !payload.is_whole()).count();
        for Payload { announced, asked, came, is_open, has_room, is_hauled } in payloads() {
            let is_within =
                came <= asked && *asked <= announced.bytes && (*has_room || *asked == 0) && is_open >= has_room;
            let is_within = is_within && has_room >= is_hauled && (!is_hauled || *asked == 0);
            ensure(is_within, "INTAKE-5", || format!("{came} of {asked} bytes asked of {announced:?} have come"))?;
        }
        hauled += payloads().filter(|payload| payload.is_hauled).count();
        opening += payloads().filter(|payload| payload.is_open && !payload.has_room).count();
        ensure(!peer.letters.is_empty(), "INTAKE-6", || format!("{from} is known for nothing"))?;
    }
    let is_bounded = open == intake.open_bytes && (open <= open_bytes_max || opened == 1);
    ensure(is_bounded, "INTAKE-2", || format!("{open} bytes are pulled"))?;
    ensure(asked == intake.asked_bytes && asked <= asked_bytes_max, "INTAKE-3", || format!("{asked} bytes are asked"))?;
    let known = intake.waiting.len() + opening + hauled + intake.pulled.len();
    ensure(known == transfers, "INTAKE-6", || format!("{transfers} payloads have not come, {known} are thought of"))?;
    let is_idle = asked == 0 && opening == 0 && hauled == 0 && transfers > 0;
    ensure(!is_idle, "INTAKE-6", || format!("{transfers} payloads wait and none is asked for"))
}
