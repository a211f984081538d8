//! Which task may run now: amounts, and the line of those that wait for them. Pure: no clock, thread or lock.

mod ledger;
mod line;

pub use ledger::{Amount, Fit, Ledger, Request, Resources};
pub use line::Line;
