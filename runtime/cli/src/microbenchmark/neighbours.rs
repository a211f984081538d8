//! Whether an actor that always has mail leaves its arbiter to the others.

use std::time::Instant;

use anyhow::{Result, ensure};
use mobula::{Actor, ActorRef, Address, Context, Handler, Message, Mode};

use super::calls::{Add, Counter};
use super::within::a_session;
use super::{Better, Effort, Row};

/// Letters that a busy actor has at every moment.
const LETTERS: usize = 512;

pub(crate) fn rows(effort: Effort) -> Result<Vec<Row>> {
    a_session(async |_| {
        let busy = mobula::spawn::<Busy>(()).await?;
        let neighbour = busy.ask(Begin).await?;
        let mut waits = Vec::new();
        for _ in 0..effort.runs(500) {
            let start = Instant::now();
            neighbour.ask(Add(1)).await?;
            waits.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let handled = busy.ask(Handled).await?;
        ensure!(handled > LETTERS, "the busy actor handled {handled} letters: it was not busy");
        busy.stop();
        Ok(vec![Row::of("neighbour of an actor that always has mail", "ms", Better::Lower, waits)])
    })
}

/// Writes to itself whenever it reads.
struct Busy {
    neighbour: ActorRef<Counter>,
    handled: usize,
}

impl Actor for Busy {
    type Args = ();
    type Proxy = Address<Self>;

    async fn start((): (), ctx: &Context<Self>) -> Result<Self, mobula::Error> {
        Ok(Self { neighbour: ctx.spawn::<Counter>(()).await?, handled: 0 })
    }
}

/// Begins to be busy; answered with the neighbour.
struct Begin;

/// Answered with the letters handled so far.
struct Handled;

struct Letter;

impl Message for Begin {
    type Reply = ActorRef<Counter>;
}

impl Message for Handled {
    type Reply = usize;
}

impl Message for Letter {
    type Reply = ();
}

impl Handler<Begin> for Busy {
    async fn handle(&mut self, _: Begin, ctx: &Context<Self>) -> ActorRef<Counter> {
        for _ in 0..LETTERS {
            ctx.me().try_send(Letter).ok();
        }
        self.neighbour.clone()
    }
}

impl Handler<Handled> for Busy {
    async fn handle(&mut self, _: Handled, _: &Context<Self>) -> usize {
        self.handled
    }
}

impl Handler<Letter> for Busy {
    const MODE: Mode = Mode::Sync;

    async fn handle(&mut self, letter: Letter, ctx: &Context<Self>) {
        self.handle_sync(letter, ctx);
    }

    fn handle_sync(&mut self, _: Letter, ctx: &Context<Self>) {
        self.handled += 1;
        ctx.me().try_send(Letter).ok();
    }
}
