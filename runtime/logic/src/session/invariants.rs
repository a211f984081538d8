//! What is always true of a session.

use super::{Link, Session};
use crate::invariant::{Violation, ensure};

/// Checks those that one side alone can see: SES-3 and SES-6.
///
/// - SES-1: what was sent and not acknowledged is sent again on the next connection, in order; nothing is left out.
/// - SES-2: what has come before is not handed on again.
/// - SES-3: a connection's next frame is never beyond what was received: there is no hole.
/// - SES-4: of two connections for one link both sides choose the same.
/// - SES-5: words of another session change nothing, and a session that is over stays over.
/// - SES-6: what is in flight and what waits is bounded.
/// - SES-7: time in which this side did not run is no silence of the other.
///
/// # Errors
///
/// The first that is broken.
pub fn check<F: Clone>(session: &Session<F>) -> Result<(), Violation> {
    for link in Link::ALL {
        let Some(current) = session.link(link).current else { continue };
        ensure(!session.is_over, "SES-5", || "a session that is over has a connection".into())?;
        for (lane, next) in session.lanes.iter().zip(current.next) {
            let next = next.unwrap_or(0);
            ensure(next <= lane.received(), "SES-3", || format!("{next} comes next after {}", lane.received()))?;
        }
    }
    for lane in &session.lanes {
        ensure(lane.counts_hold(), "SES-6", || format!("a lane holds {:?}", lane.held()))?;
    }
    Ok(())
}
