//! The actix actor that hosts one of ours: placement and life on an arbiter, nothing more.
//!
//! User mail never passes actix: that costs twice per tell, and an actor that always has mail would starve its arbiter.
//! The shell runs the cell's loop as its only future and ends with it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix::fut::wrap_future;
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext};
use futures_util::future::LocalBoxFuture;
use mobula_types::ActorId;
use pin_project_lite::pin_project;

use crate::current::{Frame, SenderId};
use crate::progress;
use crate::system::System;

/// Starts `cell` on the arbiter of the thread that calls.
pub(crate) fn host(id: ActorId, system: Arc<System>, cell: impl Future<Output = ()> + 'static) {
    let cell = Turns { id, future: within(id, system, true, cell) };
    Shell { cell: Some(Box::pin(cell)) }.start();
}

struct Shell {
    cell: Option<LocalBoxFuture<'static, ()>>,
}

impl Actor for Shell {
    type Context = actix::Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(cell) = self.cell.take() {
            ctx.spawn(wrap_future::<_, Self>(cell).map(|(), _, ctx| ctx.stop()));
        }
    }
}

/// Runs `future` as code of the actor `id`, which does nothing else meanwhile or does.
pub(crate) fn within<F: Future<Output = ()>>(
    id: ActorId,
    system: Arc<System>,
    holds_actor: bool,
    future: F,
) -> impl Future<Output = ()> {
    let (system, actor, sender) = (Some(system), Some(id), SenderId::fresh());
    let frame = Frame { system, actor, sender, holds_actor, ..Frame::default() };
    Framed { frame, future }
}

pin_project! {
    /// A future each of whose polls is a turn of the actor `id`.
    struct Turns<F> {
        id: ActorId,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Turns<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        progress::turn(*this.id, || this.future.poll(cx))
    }
}

pin_project! {
    /// A future that is polled within a frame of its own.
    pub(crate) struct Framed<F> {
        pub(crate) frame: Frame,
        #[pin]
        pub(crate) future: F,
    }
}

impl<F: Future> Future for Framed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.frame.enter(|| this.future.poll(cx))
    }
}
