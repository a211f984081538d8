//! A Unix socket as a connection uses it: watched for what comes, and for room only while it has none.
//!
//! The socket of a runtime is watched for both. Then each read at the other end, which makes room, wakes this process for
//! nothing: twice in a call and its answer.

use std::io::{self, IoSlice, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use mobula_wire::FrameHead;
use tokio::io::AsyncWrite;
use tokio::net::unix::pipe;

use super::{Frame, GATHERED_BYTES_MAX};

/// The two directions of a socket. What reads is called a pipe's end, which is what a runtime watches in one direction; it
/// reads sockets as well.
///
/// # Errors
///
/// The system has no descriptors left.
pub(super) fn split(stream: tokio::net::UnixStream) -> io::Result<(pipe::Receiver, Writer)> {
    let stream = stream.into_std()?;
    let reader = pipe::Receiver::from_owned_fd_unchecked(stream.try_clone()?.into())?;
    Ok((reader, Writer { stream: Arc::new(stream), waiting: None }))
}

/// The direction of what is sent. Clones write to the same socket, and must not do so at once.
pub(super) struct Writer {
    stream: Arc<UnixStream>,
    /// Writes as soon as there is room, while there is none.
    waiting: Option<pipe::Sender>,
}

impl Clone for Writer {
    fn clone(&self) -> Self {
        Self { stream: self.stream.clone(), waiting: None }
    }
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

impl Writer {
    /// Writes as much of a small frame as there is room for. A socket that is broken is left to the queue's writer to
    /// find.
    pub(super) fn write_now(&self, frame: &Frame) -> Written {
        let Frame { kind, body } = frame;
        if body.len() > GATHERED_BYTES_MAX {
            return Written::Nothing;
        }
        let head = FrameHead { kind: *kind, body_bytes: body.len() }.bytes();
        match (&*self.stream).write_vectored(&[IoSlice::new(&head), IoSlice::new(body)]) {
            Ok(0) | Err(_) => Written::Nothing,
            Ok(written) => match written.checked_sub(head.len()) {
                Some(of_body) if of_body == body.len() => Written::All,
                Some(of_body) => Written::Part(body.slice(of_body..)),
                None => Written::Part([&head[written..], body].concat().into()),
            },
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.waiting.is_none() {
            match (&*self.stream).write_vectored(parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
            self.waiting = Some(pipe::Sender::from_owned_fd_unchecked(OwnedFd::from(self.stream.try_clone()?))?);
        }
        let Some(waiting) = &mut self.waiting else { return Poll::Pending };
        let written = ready!(Pin::new(waiting).poll_write_vectored(cx, parts));
        self.waiting = None;
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The other end of one that is gone may have closed it before.
        self.stream.shutdown(std::net::Shutdown::Write).ok();
        Poll::Ready(Ok(()))
    }
}
