//! An async function on its arbiter: dropped at its next await when its caller gives up.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::LocalBoxFuture;
use mobula_actor::current::{self, Frame};
use mobula_actor::{Arg, CallState};
use mobula_types::{CallError, Unknown};

use super::{Task, drop_quietly};
use crate::admission::Room;
use crate::compute::Job;
use crate::function::{RemoteFn, Returned};
use crate::host::{Host, Plan};
use crate::running;

/// A task on an arbiter: dropped with it, it still ends.
pub(super) struct Owed<F: RemoteFn>(pub(super) Arc<Task<F>>);

impl<F: RemoteFn> Drop for Owed<F> {
    fn drop(&mut self) {
        self.0.finish(Err(CallError::MayHaveRun(Unknown::NoReply)));
    }
}

type BodyFuture<F> = LocalBoxFuture<'static, Returned<F>>;
type AsyncBody<F> = fn(<F as RemoteFn>::Args) -> BodyFuture<F>;

pub(super) async fn run<F: RemoteFn>(
    owed: Owed<F>,
    host: Arc<Host>,
    plan: Plan,
    room: Room,
    body: AsyncBody<F>,
    args: Arg<F::Args>,
) {
    let task = &owed.0;
    let begin = async {
        let args = host.resolved(&plan, args).await?;
        let in_bundle = Arc::downgrade(task);
        let end = move |why| {
            if let Some(task) = in_bundle.upgrade() {
                task.abandon(why);
            }
        };
        Ok((args, host.permit(plan, task.run.is_some(), end).await?))
    };
    let begun = tokio::select! {
        begun = begin => begun,
        () = task.given_up() => return,
    };
    drop(room);
    let (args, permit) = match begun {
        Ok(begun) => begun,
        Err(cause) => return task.finish(Err(CallError::NotStarted(cause))),
    };
    if !task.begin() {
        return;
    }
    let mut frame = task.frame();
    let made = running::task(task.known(), || frame.enter(|| catch_unwind(AssertUnwindSafe(|| body(args)))));
    let result = match made {
        Err(panic) => Some(Err(panic)),
        Ok(future) => {
            let mut framed = Framed::<F> { known: task.known(), frame, future: Some(future) };
            // Lent while it awaits what others make: they may need the very CPUs.
            let mut lent = None;
            poll_fn(|cx| {
                lent = None;
                current::take_wait();
                let polled = match task.poll_cancelled(cx) {
                    Poll::Ready(()) => Poll::Ready(None),
                    Poll::Pending => framed.poll(cx).map(Some),
                };
                if polled.is_pending() && current::take_wait() {
                    lent = permit.lend();
                }
                polled
            })
            .await
        }
    };
    drop(permit);
    if let Some(result) = result {
        task.finish_run(result);
    }
}

/// The future of an async function, whose code and whose `Drop` run as the task's.
struct Framed<F: RemoteFn> {
    known: Option<running::Known>,
    frame: Frame,
    future: Option<BodyFuture<F>>,
}

impl<F: RemoteFn> Framed<F> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<std::thread::Result<Returned<F>>> {
        let Self { known, frame, future } = self;
        let Some(future) = future else { return Poll::Pending };
        let poll = || frame.enter(|| catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))));
        match running::task(*known, poll) {
            Ok(result) => result.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

impl<F: RemoteFn> Drop for Framed<F> {
    fn drop(&mut self) {
        let future = self.future.take();
        self.frame.enter(|| drop_quietly(future));
    }
}
