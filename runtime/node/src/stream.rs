//! Remote functions whose answer is a stream: they run on an arbiter, ahead of their reader as far as its credit goes.
//!
//! The deadline of a stream is per item and kept by its reader; dropping the reader drops the stream where it is. A
//! stream is never run a second time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::stream::LocalBoxStream;
use mobula_actor::current::{self, Frame, SenderId};
use mobula_actor::object::Cancellable;
use mobula_actor::stream::{Source, channel};
use mobula_actor::{Arg, CallState, Count, Placement, ReplyStream, System, describe_panic};
use mobula_types::{CallError, Deadline, NotStarted, Outcome, Unknown};
use tokio::sync::watch;

use crate::admission::Room;
use crate::encoded;
use crate::function::RemoteStream;
use crate::host::{Host, Plan};
use crate::linked::Linked;
use crate::options::TaskOptions;
use crate::task::{Inherited, drop_quietly};

/// Runs a remote function that streams: gives the reading end at once.
///
/// Whatever happens, the reader is given an end or the reason why it did not come.
pub fn submit_stream<F: RemoteStream>(options: &TaskOptions, args: Arg<F::Args>) -> ReplyStream<F::Item> {
    let (source, reader) = channel();
    let Some((system, host)) = Host::here() else {
        source.fail(CallError::NotStarted(NotStarted::NoSession));
        return reader;
    };
    system.counters().add_submitted();
    let owed = Owed { source: Some(source), counted: Some(system.clone()) };
    let call = Linked::to(current::with(|frame| frame.call.clone()));
    if host.goes_away(options) {
        encoded::submit_stream::<F>(&system, &host, options, call, owed, args);
    } else {
        let inherited = Inherited { deadline: Deadline::NEVER, given: None, parent: Some(call.clone()) };
        let room = host.door().submit(&system, options.when_full, &inherited, size_of::<F::Args>());
        start::<F>(&system, &host, options, call, owed, (room, args));
    }
    reader.item_timeout(options.timeout)
}

/// Takes a stream on its way, if it has room in the queue.
pub(crate) fn start<F: RemoteStream>(
    system: &Arc<System>,
    host: &Arc<Host>,
    options: &TaskOptions,
    call: Arc<Linked>,
    owed: Owed<F::Item>,
    (room, args): (Result<Room, CallError>, Arg<F::Args>),
) {
    let room = match room {
        Ok(room) => room,
        Err(error) => return owed.fail(error),
    };
    let plan = match host.plan(options, false) {
        Ok(plan) => plan,
        Err(cause) => {
            system.counters().add(Count::Refused);
            return owed.fail(CallError::NotStarted(cause));
        }
    };
    let (host, home) = (host.clone(), system.clone());
    // Not placed, the job is dropped, and what it owes with it.
    system.run_on_arbiter(Placement::Spread, move || {
        actix_rt::spawn(run::<F>(home, host, plan, room, call, owed, args));
    });
}

async fn run<F: RemoteStream>(
    system: Arc<System>,
    host: Arc<Host>,
    plan: Plan,
    room: Room,
    call: Arc<Linked>,
    mut owed: Owed<F::Item>,
    args: Arg<F::Args>,
) {
    let (ended, end) = watch::channel(None);
    let begin = async {
        let args = host.resolved(&plan, args).await?;
        Ok((args, host.permit(plan, false, move |why| drop(ended.send(Some(why)))).await?))
    };
    let begun = tokio::select! {
        begun = begin => begun,
        () = owed.gone() => return owed.fail(CallError::Cancelled),
        () = call.cancelled() => return owed.fail(CallError::Cancelled),
    };
    drop(room);
    let (args, permit) = match begun {
        Ok(begun) => begun,
        Err(cause) => return owed.fail(CallError::NotStarted(cause)),
    };
    let frame = Frame {
        system: Some(system),
        actor: None,
        sender: SenderId::fresh(),
        deadline: Deadline::NEVER,
        deadline_explicit: false,
        call: Some(call.clone() as Arc<dyn CallState>),
        holds_actor: false,
        run: None,
    };
    let mut framed = Framed::<F::Item> { frame, items: None };
    let opened = framed.frame.enter(|| catch_unwind(AssertUnwindSafe(|| F::open(args))));
    let result = match opened {
        Err(panic) => {
            let error = CallError::Panicked(describe_panic(panic));
            return owed.fail(error);
        }
        Ok(items) => {
            framed.items = Some(items);
            let Some(source) = owed.source.take() else { return };
            tokio::select! {
                result = source.run_until(framed, bundle_ended(end)) => result,
                () = call.cancelled() => Err(CallError::Cancelled),
            }
        }
    };
    drop(permit);
    if result.is_err() {
        // What the stream itself called ends with it.
        call.cancel();
    }
    owed.count(result.as_ref().map_or_else(CallError::outcome, |()| Outcome::Ok));
}

/// Why the bundle in which it runs is no more; never, if it runs in none.
async fn bundle_ended(mut end: watch::Receiver<Option<Unknown>>) -> CallError {
    match end.wait_for(Option::is_some).await {
        Ok(why) => CallError::MayHaveRun(why.clone().unwrap_or(Unknown::NoReply)),
        Err(_) => std::future::pending().await,
    }
}

/// A stream whose code runs as the task's.
struct Framed<T> {
    frame: Frame,
    items: Option<LocalBoxStream<'static, T>>,
}

impl<T> Stream for Framed<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let Self { frame, items } = &mut *self;
        match items {
            Some(items) => frame.enter(|| items.as_mut().poll_next(cx)),
            None => Poll::Ready(None),
        }
    }
}

impl<T> Drop for Framed<T> {
    fn drop(&mut self) {
        let items = self.items.take();
        self.frame.enter(|| drop_quietly(items));
    }
}

/// A stream that is owed an end, and an outcome that is to be counted once.
pub(crate) struct Owed<T: Send + 'static> {
    pub(crate) source: Option<Source<T>>,
    /// Whose outcome it is; `None` when it is counted on the other side of the codec.
    pub(crate) counted: Option<Arc<System>>,
}

impl<T: Send + 'static> Owed<T> {
    /// Ready when the reader has gone.
    pub(crate) fn gone(&self) -> impl Future<Output = ()> + Send + use<T> {
        let gone = self.source.as_ref().map(Source::gone);
        async move {
            match gone {
                Some(gone) => gone.await,
                None => std::future::pending().await,
            }
        }
    }

    pub(crate) fn fail(mut self, error: CallError) {
        self.end(error);
    }

    /// Gives the reader what `items` gives.
    pub(crate) async fn forward(mut self, items: ReplyStream<T>, call: Arc<Linked>) {
        let Some(source) = self.source.take() else { return };
        let result = source.forward(items).await;
        if result.is_err() {
            call.cancel();
        }
        self.count(result.as_ref().map_or_else(CallError::outcome, |()| Outcome::Ok));
    }

    pub(crate) fn count(&mut self, outcome: Outcome) {
        if let Some(system) = self.counted.take() {
            system.counters().add_outcome(outcome);
        }
    }

    fn end(&mut self, error: CallError) {
        self.count(error.outcome());
        if let Some(source) = self.source.take() {
            source.fail(error);
        }
    }
}

impl<T: Send + 'static> Drop for Owed<T> {
    fn drop(&mut self) {
        self.end(CallError::MayHaveRun(Unknown::NoReply));
    }
}
