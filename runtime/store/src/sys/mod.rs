//! Mappings of memory files. Everything unsafe about them is here, behind types that cannot be used wrongly.
#![allow(unsafe_code)]

mod map;
pub(crate) mod segment;
mod words;

pub use words::OpenError;
pub(crate) use words::SharedWords;
