//! A stream is read while its actor goes on.
use mobula::prelude::*;

use futures_util::Stream;


struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    fn items(&mut self) -> impl Stream<Item = u8> {
        futures_util::stream::empty()
    }

    fn more(&mut self) -> impl Stream<Item = u8> + use<'_> {
        futures_util::stream::empty()
    }
}

fn main() {}
