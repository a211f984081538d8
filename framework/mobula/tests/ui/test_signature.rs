//! What a test is.
use mobula::prelude::*;

#[mobula::test(twice)]
async fn one() {}

#[mobula::test(cluster(skip = "slow"))]
async fn one_more() {}

#[mobula::test(cluster())]
async fn no_reason() {}

#[mobula::test]
fn two() {}

#[mobula::test]
async fn three<T>(n: usize) {}

fn main() {}
