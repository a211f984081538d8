//! The keys of a remote function.
use mobula::prelude::*;

#[remote(cpus = 1)]
fn one() {}

#[remote(num_cpus = "one")]
fn two() {}

#[remote(max_retries = -1)]
fn three() {}

fn main() {}
