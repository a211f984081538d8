//! Results that are read while the rest is still being made, and that nobody makes when nobody reads.
//!
//! Look at `impl Stream`: the primes have no end, and a function that returned a list of them would have none either. Its
//! reader takes them as they are found; a reader that pauses makes the search pause after a few, and one that goes ends it.
//! The second function reads the first one's stream and streams in its turn, so the pace is passed on.
//!
//! Run with `cargo run --example streamed`.

use std::pin::pin;

use futures_util::{Stream, StreamExt, stream};
use mobula::prelude::*;

/// All primes.
#[remote]
fn primes() -> impl Stream<Item = u64> + use<> {
    stream::iter((2..).filter(|number| is_prime(*number)))
}

fn is_prime(number: u64) -> bool {
    (2..).take_while(|by| by * by <= number).all(|by| !number.is_multiple_of(by))
}

/// Those that differ by two, as pairs.
#[remote]
fn twins() -> impl Stream<Item = (u64, u64)> + use<> {
    let found = primes::remote().filter_map(async |prime| prime.ok());
    let pairs = found.scan(1, |before, prime| {
        let pair = (std::mem::replace(before, prime), prime);
        std::future::ready(Some(pair))
    });
    pairs.filter(|(before, prime)| std::future::ready(before + 2 == *prime))
}

const WANTED: usize = 1_000;

#[mobula::main]
async fn main() -> Result<()> {
    let _session = mobula::init().await?;
    let mut twins = pin!(twins::remote());
    let mut last = (0, 0);
    for _ in 0..WANTED {
        let Some(pair) = twins.next().await else { break };
        last = pair?;
    }
    println!("the {WANTED}th pair of twin primes is {} and {}", last.0, last.1);
    assert_eq!(last, (79_559, 79_561));
    Ok(())
}
