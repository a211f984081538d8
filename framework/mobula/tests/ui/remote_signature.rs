//! What cannot travel to a remote function or back.
use mobula::prelude::*;

#[remote]
fn generic<T>(n: T) {}

#[remote]
fn words(text: &str) -> usize {
    1
}

#[remote]
fn any(n: impl Into<usize>) {}

#[remote]
unsafe fn poke(address: usize) {}

#[remote]
const fn fixed() {}

#[remote]
fn point((x, y): (i32, i32)) {}

#[remote]
fn longest(words: Vec<String>) -> &'static str {
    "word"
}

fn main() {}
