//! What main is.
use mobula::prelude::*;

#[mobula::main(threads = 2)]
async fn one() {}

#[mobula::main]
fn two() {}

#[mobula::main]
async fn main(arguments: Vec<String>) {}

fn main() {}
