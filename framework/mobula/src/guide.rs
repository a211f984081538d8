//! One page for each part; every example runs as a test.

#[doc = include_str!("docs/actors.md")]
pub mod actors {}
#[doc = include_str!("docs/remote_functions.md")]
pub mod remote_functions {}
#[doc = include_str!("docs/objects.md")]
pub mod objects {}
#[doc = include_str!("docs/supervision.md")]
pub mod supervision {}
#[doc = include_str!("docs/errors.md")]
pub mod errors {}
