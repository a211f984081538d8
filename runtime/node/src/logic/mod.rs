//! Which task may run now: the line of those that wait for amounts. Pure: no clock, thread or lock.

mod line;

pub use line::{Line, Plain};
pub use mobula_logic::ledger::{Fit, Ledger};
pub use mobula_types::resources::{Amount, Request, Resources};
