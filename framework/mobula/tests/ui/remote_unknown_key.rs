//! The keys of a remote function.
use mobula::prelude::*;

#[remote(cpus = 1)]
fn one() {}

#[remote(num_cpus = "one")]
fn two() {}

#[remote(max_retries = -1)]
fn three() {}

#[remote(at_most_once = false)]
fn four() {}

fn main() {}
