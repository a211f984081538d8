//! Actors by the traits that the macros write.

use mobula::prelude::*;
use mobula::{CallError, NotStarted};
use serde::{Deserialize, Serialize};

struct Counter(usize);

#[derive(Message, Serialize, Deserialize)]
#[message(reply = usize)]
struct Add(usize);

#[derive(Message, Serialize, Deserialize)]
#[message(reply = ReplyStream<usize>)]
struct Upto;

/// Stays where it is.
#[derive(Message)]
#[message(reply = usize, local)]
struct Apply(fn(usize) -> usize);

/// Of no use to anybody outside, but nobody says so.
#[derive(Message)]
#[message(reply = usize)]
struct Unregistered<T: Send + 'static>(T);

impl Actor for Counter {
    type Args = usize;
    type Proxy = Address<Self>;

    async fn start(start: usize, _: &Context<Self>) -> Result<Self> {
        Ok(Counter(start))
    }
}

#[handler]
impl Handler<Add> for Counter {
    async fn handle(&mut self, Add(n): Add, _: &Context<Self>) -> usize {
        self.0 += n;
        self.0
    }
}

#[handler(stream)]
impl Handler<Upto> for Counter {
    async fn handle(&mut self, _: Upto, ctx: &Context<Self>) -> ReplyStream<usize> {
        ctx.stream(futures_util::stream::iter(0..self.0))
    }
}

impl Handler<Apply> for Counter {
    async fn handle(&mut self, Apply(op): Apply, _: &Context<Self>) -> usize {
        self.0 = op(self.0);
        self.0
    }
}

impl<T: Send + 'static> Handler<Unregistered<T>> for Counter {
    async fn handle(&mut self, _: Unregistered<T>, _: &Context<Self>) -> usize {
        self.0
    }
}

#[mobula::test(plain, encoded, cluster)]
async fn a_hand_written_actor_is_asked_and_told() -> Result<()> {
    let counter: ActorRef<Counter> = mobula::spawn(1).await?;
    counter.try_send(Add(2))?;
    counter.send(Add(3)).await?;
    assert_eq!(counter.ask(Add(4)).await?, 10);
    assert_eq!(*counter.ask(Add(0)).submit().await?, 10);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_hand_written_handler_streams() -> Result<()> {
    let counter = mobula::spawn::<Counter>(3).await?;
    let mut items = counter.ask(Upto).await?;
    let mut seen = Vec::new();
    while let Some(item) = items.next().await {
        seen.push(item?);
    }
    assert_eq!(seen, [0, 1, 2]);
    Ok(())
}

/// An actor type without an entry stays in its process, whatever else is encoded: here everything works.
#[mobula::test(plain, encoded, cluster)]
async fn what_is_not_registered_works_inside_the_process() -> Result<()> {
    let counter = mobula::spawn::<Counter>(3).await?;
    assert_eq!(counter.ask(Apply(|n| 2 * n)).await?, 6);
    assert_eq!(counter.ask(Unregistered("anything")).await?, 6);
    Ok(())
}

/// Made by the macro, so that it is registered, with a message that is not.
struct Register;

#[actor]
impl Register {
    fn new() -> Self {
        Register
    }
}

impl Handler<Apply> for Register {
    async fn handle(&mut self, Apply(op): Apply, _: &Context<Self>) -> usize {
        op(1)
    }
}

/// Of the codec only: plain, there is no process to leave.
#[mobula::test(encoded, cluster)]
async fn a_message_that_is_not_registered_does_not_leave_its_process() -> Result<()> {
    let register = Register::spawn().await?;
    let refused = register.ask(Apply(|n| n)).await.unwrap_err();
    let CallError::NotStarted(NotStarted::LocalOnly { type_name }) = refused else { panic!("{refused}") };
    assert!(type_name.ends_with("Apply"));
    let told = register.try_send(Apply(|n| n + 1)).unwrap_err();
    assert_eq!((told.message.0)(1), 2);
    Ok(())
}
