//! A registered message can be written by serde.
use mobula::prelude::*;

struct Counter;

#[derive(Message)]
struct Add(usize);

impl Actor for Counter {
    type Args = ();
    type Proxy = Address<Self>;

    async fn start((): (), _: &Context<Self>) -> Result<Self> {
        Ok(Counter)
    }
}

#[handler]
impl Handler<Add> for Counter {
    async fn handle(&mut self, _: Add, _: &Context<Self>) {}
}

fn main() {}
