//! Writing from the sender's own thread, where the stream takes bytes without waiting.
//!
//! A frame that waits for the writer costs a wake-up, which on an idle machine is more than all the rest of its way. But a
//! system call for each of many frames costs more than one for all. So a frame is written at once when nothing waits before
//! it and the one before went a while ago; what comes thick and fast goes through the queue.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mobula_wire::FrameHead;
use tokio::io::AsyncWrite;
use tokio::net::unix::OwnedWriteHalf;

use super::{Frame, GATHERED_BYTES_MAX};

/// Frames that follow each other faster than this are gathered: a write takes a few microseconds.
const GATHERED_WITHIN: Duration = Duration::from_micros(10);

/// The stream as senders see it.
pub(super) struct Direct {
    stream: Arc<OwnedWriteHalf>,
    last: Option<Instant>,
}

/// What became of a frame that was to be written at once.
#[derive(Debug)]
pub(super) enum Written {
    /// It is on its way.
    All,
    /// Its beginning is; this is left, and nothing may come between.
    Part(Bytes),
    /// It is better queued.
    Nothing,
}

impl Direct {
    pub(super) fn new(stream: Arc<OwnedWriteHalf>) -> Self {
        Self { stream, last: None }
    }

    /// Writes a frame, before which nothing waits, or leaves it to the writer: also when the stream is broken, which is
    /// the writer's to find.
    pub(super) fn write(&mut self, frame: &Frame) -> Written {
        let now = Instant::now();
        let last = self.last.replace(now);
        let comes_fast = last.is_some_and(|last| now.duration_since(last) < GATHERED_WITHIN);
        let Frame { kind, body } = frame;
        if comes_fast || body.len() > GATHERED_BYTES_MAX {
            return Written::Nothing;
        }
        let head = FrameHead { kind: *kind, body_bytes: body.len() }.bytes();
        match self.stream.try_write_vectored(&[IoSlice::new(&head), IoSlice::new(body)]) {
            Ok(0) | Err(_) => Written::Nothing,
            Ok(written) => match written.checked_sub(head.len()) {
                Some(of_body) if of_body == body.len() => Written::All,
                Some(of_body) => Written::Part(body.slice(of_body..)),
                None => Written::Part([&head[written..], body].concat().into()),
            },
        }
    }
}

/// The same stream as the writer sees it. It is shut down when both are gone.
pub(super) struct Shared(pub(super) Arc<OwnedWriteHalf>);

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.as_ref().as_ref().poll_write_ready(cx))?;
            match self.0.try_write_vectored(parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
