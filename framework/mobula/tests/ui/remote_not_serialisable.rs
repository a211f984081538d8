//! Arguments and results can be written by serde.
use mobula::prelude::*;

struct Opaque;

#[remote]
fn take(opaque: Opaque) {}

#[remote]
fn give() -> Opaque {
    Opaque
}

fn main() {}
