//! [`Clocked`]: a TCP connection that ends itself when its client is too slow or too eager, and [`Phase`], by which the
//! routes tell it what the client is expected to do.
//!
//! actix-web has a clock on the first head of a connection and on idle ones. It has none on a later head, on a write that
//! nobody reads, on the rest of a body that was refused, or on requests piled up behind a running one (beyond 128 KiB of
//! those its loop spins). Each of them holds memory and a sequence of the engine, so each ends here:
//!
//! ```text
//!   New ───────────── first head complete ────────────┐
//!            bytes                      head complete ▼          body read
//!   Idle ────────────▶ Head{deadline} ───────────▶ Reading ────────────────▶ Serving{behind}
//!    ▲                    │ 10 s: close              │ answered unread           │ 64 KiB behind: close
//!    │                    ▼                          ▼                           │
//!    │                                          Refused{left} ──▶ 0: no more     │
//!    └──────── response sent ────────────────────────────────────────────────────┘
//! ```
//!
//! A write that makes no progress for its time closes the connection in every phase.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_rt::net::TcpStream;
use actix_rt::time::{Instant, Sleep, sleep_until};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::Limits;
use crate::metrics::{Close, Metrics};

/// What may pile up behind a request that is being served; actix's own loop spins beyond 128 KiB.
const BEHIND_BYTES_MAX: usize = 64 << 10;

/// What the client is expected to do next. Shared between a connection and the requests that came by it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Phase {
    /// Send its first head, for which actix has a clock and an answer of its own (408).
    New,
    /// Nothing.
    Idle,
    /// Send the rest of a head.
    Head { deadline: Instant },
    /// Send the body; its own clock is where it is read.
    Reading,
    /// Wait for the answer. `behind`: bytes that came all the same.
    Serving { behind: usize },
    /// Notice the answer: so many more bytes are taken and thrown away, because closing on unread bytes would reset
    /// the connection before the client has read why.
    Refused { left: usize },
}

/// A request's hold on the phase of its connection; dropped when its response is sent or given up.
#[derive(Debug)]
pub(crate) struct Hold(Rc<Cell<Phase>>);

impl Hold {
    pub(crate) fn new(phase: Rc<Cell<Phase>>, begin: Phase) -> Self {
        phase.set(begin);
        Self(phase)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !matches!(self.0.get(), Phase::Refused { .. }) {
            self.0.set(Phase::Idle);
        }
    }
}

/// A connection with its clocks.
pub(crate) struct Clocked {
    io: TcpStream,
    phase: Rc<Cell<Phase>>,
    head_timeout: Duration,
    head_clock: Clock,
    write_stall_timeout: Duration,
    write_clock: Clock,
    /// When the write that waits now will have waited too long.
    write_deadline: Option<Instant>,
    metrics: Arc<Metrics>,
}

impl Clocked {
    pub(crate) fn new(io: TcpStream, limits: &Limits, metrics: Arc<Metrics>) -> Self {
        Self {
            io,
            phase: Rc::new(Cell::new(Phase::New)),
            head_timeout: limits.head_timeout,
            head_clock: Clock::default(),
            write_stall_timeout: limits.write_stall_timeout,
            write_clock: Clock::default(),
            write_deadline: None,
            metrics,
        }
    }

    pub(crate) fn phase(&self) -> Rc<Cell<Phase>> {
        self.phase.clone()
    }

    fn close(&self, cause: Close, message: &'static str) -> Poll<io::Result<()>> {
        self.metrics.count_close(cause);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }
}

impl AsyncRead for Clocked {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Phase::Refused { left: 0 } = this.phase.get() {
            // To actix the client has closed; it sends what it has to send and ends the connection.
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf)?;
        let bytes = buf.filled().len() - before;
        match this.phase.get() {
            Phase::Idle if bytes > 0 => {
                this.phase.set(Phase::Head { deadline: Instant::now() + this.head_timeout });
            }
            Phase::Head { deadline } if this.head_clock.is_past(deadline, cx) => {
                return this.close(Close::HeadTimeout, "the head of a request took too long");
            }
            Phase::Serving { behind } if behind + bytes > BEHIND_BYTES_MAX => {
                return this.close(Close::Pipelined, "too much was sent behind a running request");
            }
            Phase::Serving { behind } => this.phase.set(Phase::Serving { behind: behind + bytes }),
            Phase::Refused { left } => this.phase.set(Phase::Refused { left: left.saturating_sub(bytes) }),
            Phase::New | Phase::Idle | Phase::Head { .. } | Phase::Reading => {}
        }
        read.map(Ok)
    }
}

impl AsyncWrite for Clocked {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.io).poll_write(cx, bytes);
        if written.is_ready() {
            this.write_deadline = None;
            return written;
        }
        let timeout = this.write_stall_timeout;
        let deadline = *this.write_deadline.get_or_insert_with(|| Instant::now() + timeout);
        if this.write_clock.is_past(deadline, cx) {
            return this.close(Close::WriteStalled, "the client does not read its answer").map_ok(|()| 0);
        }
        Poll::Pending
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Wakes the connection at a deadline. Made when first needed, and then moved only after it has rung: a deadline that
/// is met costs no work on the timer, and a connection under load is woken once per time-out for nothing.
#[derive(Default)]
struct Clock(Option<Pin<Box<Sleep>>>);

impl Clock {
    fn is_past(&mut self, deadline: Instant, cx: &mut Context<'_>) -> bool {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                return true;
            }
            sleep.as_mut().reset(deadline);
        }
        false
    }
}
