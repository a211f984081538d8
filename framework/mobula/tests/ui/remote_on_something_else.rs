//! The attribute stands on a function.
use mobula::prelude::*;

#[remote]
struct Words;

fn main() {}
