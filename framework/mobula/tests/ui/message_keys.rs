//! The keys of a message.
use mobula::prelude::*;

#[derive(Message)]
#[message(replies = usize)]
struct Add(usize);

#[derive(Message)]
#[message(reply = 3)]
struct Three;

#[derive(Message)]
#[message(local, local)]
struct Twice;

fn main() {}
