//! Streamed answers: a handler gives a stream, its reader takes items with credit, and the actor takes its next message
//! meanwhile.
//!
//! The source runs beside the actor, at most `ITEMS_MAX` items or `BYTES_MAX` bytes of items ahead of its reader.
//! Dropping the reader drops the source. The deadline of a stream is per item.

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt, future};
use mobula_types::{CallError, Unknown};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use crate::panics;

/// Items a source may be ahead: enough that a reader on another thread is woken once for many.
pub const ITEMS_MAX: usize = 256;

/// Bytes of items a source may be ahead, by the items' own size.
pub const BYTES_MAX: usize = 1 << 20;

/// Items that a source may be ahead when one takes `item_bytes`.
pub(crate) fn credit(item_bytes: usize) -> usize {
    (BYTES_MAX / item_bytes.max(1)).clamp(1, ITEMS_MAX)
}

/// Splits a source into the future that runs it and the end that reads it.
pub(crate) fn pump<T: Send + 'static>(items: impl Stream<Item = T>) -> (impl Future<Output = ()>, ReplyStream<T>) {
    let (source, reader) = channel();
    (async move { source.run(items).await.unwrap_or(()) }, reader)
}

/// The two ends of a streamed answer whose items come later.
pub fn channel<T: Send + 'static>() -> (Source<T>, ReplyStream<T>) {
    let (sender, receiver) = mpsc::channel(credit(size_of::<T>()));
    (Source { sender }, ReplyStream::from_channel(receiver))
}

/// The writing end of a streamed answer. Dropped before it has run, it says that nobody answered.
pub struct Source<T> {
    sender: mpsc::Sender<StreamItem<T>>,
}

impl<T: Send + 'static> Source<T> {
    /// Ready when the reader has gone.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + use<T> {
        let sender = self.sender.clone();
        async move { sender.closed().await }
    }

    /// Gives the reader the items as it takes them, then the end.
    ///
    /// # Errors
    ///
    /// What the reader was told when `items` panicked, or [`CallError::Cancelled`] when it went away.
    pub async fn run(self, items: impl Stream<Item = T>) -> Result<(), CallError> {
        self.run_until(items, future::pending()).await
    }

    /// The same, unless something ends it with an error first.
    ///
    /// # Errors
    ///
    /// That error, too.
    pub async fn run_until(
        self,
        items: impl Stream<Item = T>,
        ended: impl Future<Output = CallError>,
    ) -> Result<(), CallError> {
        let caught = |payload| CallError::Panicked(panics::describe(payload));
        self.pass(AssertUnwindSafe(items).catch_unwind().map(move |item| item.map_err(caught)), ended).await
    }

    /// Gives the reader what another stream gives, its failure too.
    ///
    /// # Errors
    ///
    /// That failure, or [`CallError::Cancelled`] when the reader went away.
    pub async fn forward(self, items: impl Stream<Item = Result<T, CallError>>) -> Result<(), CallError> {
        self.pass(items, future::pending()).await
    }

    async fn pass(
        self,
        items: impl Stream<Item = Result<T, CallError>>,
        ended: impl Future<Output = CallError>,
    ) -> Result<(), CallError> {
        let (mut items, mut ended) = (pin!(items), pin!(ended));
        loop {
            let item = tokio::select! {
                biased;
                item = items.next() => item,
                () = self.sender.closed() => return Err(CallError::Cancelled),
                why = &mut ended => Some(Err(why)),
            };
            let (item, end) = match item {
                Some(Ok(item)) => (StreamItem::Item(item), None),
                Some(Err(error)) => (StreamItem::Failed(error.clone()), Some(Err(error))),
                None => (StreamItem::End, Some(Ok(()))),
            };
            tokio::select! {
                biased;
                sent = self.sender.send(item) => sent.map_err(|_| CallError::Cancelled)?,
                // Its reader has to read before it is told more, and then finds out by the missing end.
                why = &mut ended, if end.is_none() => return Err(why),
            }
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Ends the stream with `error`.
    pub fn fail(self, error: CallError) {
        // Full only when the source has run before: then its reader finds out by the missing end.
        self.sender.try_send(StreamItem::Failed(error)).ok();
    }
}

pub(crate) enum StreamItem<T> {
    Item(T),
    Failed(CallError),
    /// Said in so many words: a source that just goes away has failed.
    End,
}

/// The reading end of a streamed answer.
///
/// Reads with [`next`](Self::next) or as a `Stream`. An error is the last item.
pub struct ReplyStream<T> {
    receiver: mpsc::Receiver<StreamItem<T>>,
    timeout: Option<Duration>,
    alarm: Option<Pin<Box<Sleep>>>,
    over: bool,
}

impl<T: Send + 'static> ReplyStream<T> {
    pub(crate) fn from_channel(receiver: mpsc::Receiver<StreamItem<T>>) -> Self {
        Self { receiver, timeout: None, alarm: None, over: false }
    }

    /// Gives up when one item takes longer than `timeout` to come.
    #[must_use]
    pub fn item_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// The next item, or `None` after the last.
    ///
    /// # Errors
    ///
    /// The source panicked, its actor ended, or the item took too long. Nothing follows an error.
    pub async fn next(&mut self) -> Option<Result<T, CallError>> {
        StreamExt::next(self).await
    }
}

impl<T: Send + 'static> Stream for ReplyStream<T> {
    type Item = Result<T, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        let failure = match this.receiver.poll_recv(cx) {
            Poll::Ready(Some(StreamItem::Item(item))) => {
                this.alarm = None;
                return Poll::Ready(Some(Ok(item)));
            }
            Poll::Ready(Some(StreamItem::End)) => {
                this.over = true;
                return Poll::Ready(None);
            }
            Poll::Ready(Some(StreamItem::Failed(error))) => error,
            Poll::Ready(None) => CallError::MayHaveRun(Unknown::NoReply),
            Poll::Pending => {
                let Some(timeout) = this.timeout else { return Poll::Pending };
                let alarm =
                    this.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + timeout)));
                if Future::poll(alarm.as_mut(), cx).is_pending() {
                    return Poll::Pending;
                }
                CallError::DeadlineExceeded { given: Some(timeout) }
            }
        };
        this.over = true;
        this.receiver.close();
        Poll::Ready(Some(Err(failure)))
    }
}

impl<T> std::fmt::Debug for ReplyStream<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReplyStream")
    }
}
