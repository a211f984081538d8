//! What is decided about workers without doing anything: causes of death, who ends when memory is short, what a program was
//! built for, lines, how much of them is told.

pub(crate) mod cause;
pub(crate) mod elf;
pub(crate) mod lines;
pub(crate) mod pressure;
pub(crate) mod talk;
