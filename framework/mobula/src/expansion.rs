//! What the code that macros write calls beside the traits themselves: small, and decided at compile time.
//!
//! Nothing here is for users; it is public because their crates expand to it.

mod arguments;
mod returns;
mod weight;

pub use arguments::call;
pub use returns::{Carrier, Carry, Explain, Fallback, Probe, Returned, Show, flatten, how};
pub use weight::{Light, Weighed};
