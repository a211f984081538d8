//! What is decided about workers without doing anything: causes of death, lines, how much of them is told.

pub(crate) mod cause;
pub(crate) mod lines;
pub(crate) mod talk;
