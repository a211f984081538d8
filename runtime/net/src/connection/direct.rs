//! Writing from the sender's own thread, where the stream takes bytes without waiting.
//!
//! Whether a frame goes so is decided by its [`Pace`]. Nothing ever waits here: what the stream does not take is the
//! writer's, and so is a stream that is broken.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use mobula_types::Time;
use mobula_wire::FrameHead;
use tokio::io::AsyncWrite;
use tokio::net::unix::OwnedWriteHalf;

use super::{Frame, GATHERED_BYTES_MAX};
use crate::logic::Pace;

/// The stream as senders see it.
pub(super) struct Direct {
    stream: Arc<OwnedWriteHalf>,
    begun: Instant,
    pace: Pace,
}

/// What became of a frame that was to be written at once.
#[derive(Debug)]
pub(super) enum Written {
    /// It is on its way.
    All,
    /// Its beginning is; this is left, and nothing may come between.
    Part(Bytes),
    /// It is to be queued.
    Nothing,
}

impl Direct {
    pub(super) fn new(stream: Arc<OwnedWriteHalf>) -> Self {
        Self { stream, begun: Instant::now(), pace: Pace::default() }
    }

    /// A frame is queued, because others wait before it.
    pub(super) fn queued(&mut self) {
        self.pace.gathered();
    }

    /// Writes a frame before which nothing waits, or leaves it to the writer.
    pub(super) fn write(&mut self, frame: &Frame) -> Written {
        let now = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let is_alone = self.pace.is_alone(Time::from_nanos(now));
        let Frame { kind, body } = frame;
        if !is_alone || body.len() > GATHERED_BYTES_MAX {
            return Written::Nothing;
        }
        let head = FrameHead { kind: *kind, body_bytes: body.len() }.bytes();
        match self.stream.try_write_vectored(&[IoSlice::new(&head), IoSlice::new(body)]) {
            // The writer meets the same error, and ends the connection.
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
