//! [`TokenStream`], an answer as it grows, and the bounded channel by which an engine on another thread fills it.
//!
//! The engine never waits for a reader: [`TokenSender::send`] returns at once, and a reader that falls behind by more than
//! [`QUEUE_BYTES_MAX`] or [`QUEUE_EVENTS_MAX`] loses its answer (promise G17), so that one stalled connection costs the
//! other sequences of the batch nothing. Cancelling goes the other way: a dropped stream makes the next `send` fail, and
//! [`TokenSender::closed`] resolves.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::engine::{Chunk, EngineError, Event};

/// What waits for one slow reader at most: 8 MiB (promises.md G17).
pub const QUEUE_BYTES_MAX: usize = 8 << 20;
/// Events that wait for one slow reader at most; a token is an event, so this is a context of 16,384 tokens unread.
pub const QUEUE_EVENTS_MAX: usize = 16_384;

/// An answer as it grows: chunks, then [`Event::Finish`] or one error, then the end. Dropping it cancels the sequence.
///
/// ```
/// use futures_util::StreamExt;
/// use mobula_serve::{Chunk, Event, SendError, TokenStream};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let (sender, mut stream) = TokenStream::channel();
/// sender.send(Ok(Event::Chunk(Chunk { text: "Hi".into(), tokens: vec![] }))).unwrap();
/// assert!(matches!(stream.next().await, Some(Ok(Event::Chunk(chunk))) if chunk.text == "Hi"));
///
/// drop(stream);
/// let more = Ok(Event::Chunk(Chunk { text: "?".into(), tokens: vec![] }));
/// assert_eq!(sender.send(more), Err(SendError::Cancelled));
/// # }
/// ```
pub struct TokenStream(BoxStream<'static, Result<Event, EngineError>>);

impl TokenStream {
    /// A stream that the engine makes in place.
    pub fn new(events: impl Stream<Item = Result<Event, EngineError>> + Send + 'static) -> Self {
        Self(Box::pin(events))
    }

    /// A stream filled from elsewhere.
    pub fn channel() -> (TokenSender, TokenStream) {
        let (queue, receiver) = mpsc::channel(QUEUE_EVENTS_MAX);
        let queued = Arc::new(Queued::default());
        (TokenSender { queue, queued: queued.clone() }, Self::new(Receiver { receiver, queued }))
    }
}

impl Stream for TokenStream {
    type Item = Result<Event, EngineError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl std::fmt::Debug for TokenStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenStream").finish_non_exhaustive()
    }
}

/// The engine's end of a [`TokenStream`].
#[derive(Debug)]
pub struct TokenSender {
    queue: mpsc::Sender<Result<Event, EngineError>>,
    queued: Arc<Queued>,
}

impl TokenSender {
    /// Hands over one event, without waiting.
    ///
    /// # Errors
    /// [`SendError::Cancelled`] when the stream was dropped, [`SendError::SlowConsumer`] when its reader fell too far
    /// behind. After either the sequence has no reader: free it.
    pub fn send(&self, event: Result<Event, EngineError>) -> Result<(), SendError> {
        let bytes = size(&event);
        let waiting = self.queued.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let refused = if waiting > QUEUE_BYTES_MAX {
            SendError::SlowConsumer
        } else {
            match self.queue.try_send(event) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(_)) => return Err(SendError::Cancelled),
                Err(TrySendError::Full(_)) => SendError::SlowConsumer,
            }
        };
        self.queued.overflow_bytes.store(waiting, Ordering::Release);
        Err(refused)
    }

    /// Whether the reader has gone.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Waits until the reader has gone.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }
}

/// Why a [`TokenSender`] could not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The stream was dropped: the client went away.
    #[error("the stream was dropped")]
    Cancelled,
    /// The bound on what waits was reached; the reader finds [`EngineError::SlowConsumer`] after what did fit.
    #[error("the reader is too far behind")]
    SlowConsumer,
}

/// What waits in the channel, in bytes; `overflow_bytes` is set once, when the bound was passed.
#[derive(Debug, Default)]
struct Queued {
    bytes: AtomicUsize,
    overflow_bytes: AtomicUsize,
}

struct Receiver {
    receiver: mpsc::Receiver<Result<Event, EngineError>>,
    queued: Arc<Queued>,
}

impl Stream for Receiver {
    type Item = Result<Event, EngineError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(event) = std::task::ready!(self.receiver.poll_recv(cx)) {
            self.queued.bytes.fetch_sub(size(&event), Ordering::Relaxed);
            return Poll::Ready(Some(event));
        }
        // The sender has gone: because the bound was passed, or because all was said.
        Poll::Ready(match self.queued.overflow_bytes.swap(0, Ordering::Acquire) {
            0 => None,
            queued_bytes => Some(Err(EngineError::SlowConsumer { queued_bytes })),
        })
    }
}

/// What an event weighs in the queue: its text and the tables of its log probabilities.
fn size(event: &Result<Event, EngineError>) -> usize {
    let Ok(Event::Chunk(Chunk { text, tokens })) = event else { return size_of::<Event>() };
    let scored = |token: &crate::ScoredToken| size_of_val(token) + token.bytes.len();
    let tokens: usize = tokens.iter().map(|at| scored(&at.token) + at.top.iter().map(scored).sum::<usize>()).sum();
    size_of::<Event>() + text.len() + tokens
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::engine::{Finish, FinishReason, Usage};

    fn text(text: impl Into<String>) -> Result<Event, EngineError> {
        Ok(Event::Chunk(Chunk { text: text.into(), tokens: Vec::new() }))
    }

    #[tokio::test]
    async fn a_reader_that_is_too_far_behind_in_bytes_loses_the_answer_after_what_did_fit() {
        let (sender, mut stream) = TokenStream::channel();
        let megabyte = "x".repeat(1 << 20);
        let sent = (0..9).take_while(|_| sender.send(text(&megabyte)).is_ok()).count();
        assert_eq!(sent, 7, "seven of 1 MiB and their headers fit into 8 MiB");
        drop(sender);
        for _ in 0..sent {
            assert_eq!(stream.next().await, Some(text(&megabyte)));
        }
        assert!(
            matches!(stream.next().await, Some(Err(EngineError::SlowConsumer { queued_bytes })) if queued_bytes > QUEUE_BYTES_MAX)
        );
        assert_eq!(stream.next().await, None);
    }

    #[tokio::test]
    async fn a_reader_that_is_too_far_behind_in_events_loses_the_answer() {
        let (sender, _stream) = TokenStream::channel();
        let sent = (0..QUEUE_EVENTS_MAX + 1).take_while(|_| sender.send(text("a")).is_ok()).count();
        assert_eq!(sent, QUEUE_EVENTS_MAX);
        assert_eq!(sender.send(text("a")), Err(SendError::SlowConsumer));
    }

    #[tokio::test]
    async fn a_reader_that_keeps_up_may_read_any_amount() {
        let (sender, mut stream) = TokenStream::channel();
        for _ in 0..3 * QUEUE_EVENTS_MAX {
            sender.send(text("0123456789".repeat(100))).expect("the queue is empty each time");
            assert!(stream.next().await.is_some());
        }
        let usage = Usage { prompt_tokens: 1, completion_tokens: 2 };
        sender.send(Ok(Event::Finish(Finish { reason: FinishReason::Stop, usage }))).expect("there is room");
        drop(sender);
        assert!(matches!(stream.next().await, Some(Ok(Event::Finish(_)))));
        assert_eq!(stream.next().await, None);
    }

    #[tokio::test]
    async fn dropping_the_stream_is_noticed_by_the_sender() {
        let (sender, stream) = TokenStream::channel();
        assert!(!sender.is_closed());
        drop(stream);
        sender.closed().await;
        assert_eq!(sender.send(text("a")), Err(SendError::Cancelled));
    }
}
