//! What always holds of a directory.

use super::Directory;
use crate::Violation;

/// Whether all of it holds now.
///
/// # Errors
///
/// What does not.
pub fn check(_directory: &Directory) -> Result<(), Violation> {
    Ok(())
}
