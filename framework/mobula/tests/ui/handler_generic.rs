//! A handler is registered for one type.
use mobula::prelude::*;

struct Counter;

#[derive(Message)]
struct Add<T: Send + 'static>(T);

impl Actor for Counter {
    type Args = ();
    type Proxy = Address<Self>;

    async fn start((): (), _: &Context<Self>) -> Result<Self> {
        Ok(Counter)
    }
}

#[handler]
impl<T: Send + 'static> Handler<Add<T>> for Counter {
    async fn handle(&mut self, _: Add<T>, _: &Context<Self>) {}
}

fn main() {}
