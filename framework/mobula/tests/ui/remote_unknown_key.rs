//! The keys of a remote function.
use futures_util::Stream;
use mobula::prelude::*;

#[remote(cpus = 1)]
fn one() {}

#[remote(num_cpus = "one")]
fn two() {}

#[remote(max_retries = -1)]
fn three() {}

#[remote(at_most_once = false)]
fn four() {}

#[remote(retry_errors = true)]
fn five() {}

#[remote(retry_errors = 1)]
fn six() -> impl Stream<Item = u8> + use<> {
    futures_util::stream::empty()
}

#[remote(max_calls = 0)]
fn seven() {}

#[remote(max_calls = 1)]
fn eight() -> impl Stream<Item = u8> + use<> {
    futures_util::stream::empty()
}

#[remote(priority = "high")]
fn nine() {}

#[remote(priority = 4_000_000_000)]
fn ten() {}

#[remote(priority = -1)]
fn eleven() {}

fn main() {}
