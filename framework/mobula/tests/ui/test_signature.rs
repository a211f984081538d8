//! What a test is.
use mobula::prelude::*;

#[mobula::test(twice)]
async fn one() {}

#[mobula::test]
fn two() {}

#[mobula::test]
async fn three<T>(n: usize) {}

fn main() {}
