//! A message owns what it says.
use mobula::prelude::*;

#[derive(Message)]
struct Name<'a>(&'a str);

fn main() {}
