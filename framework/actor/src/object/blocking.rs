//! Blocking waits, and who must know of them.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use mobula_types::NotStarted;

/// Waits in the name of a pool's thread, so that the pool can let another take its place meanwhile.
pub trait Blocking: Send + Sync {
    /// Calls `wait` until it says that the value is there. `wait` sleeps at most the time it is given, or as long as
    /// it takes.
    ///
    /// # Errors
    ///
    /// Why this thread may not wait.
    fn block(&self, wait: &mut dyn FnMut(Option<Duration>) -> bool) -> Result<(), NotStarted>;
}

thread_local!(static HOOK: RefCell<Option<Arc<dyn Blocking>>> = const { RefCell::new(None) });

/// Sets who does this thread's blocking waits.
pub fn set_hook(hook: Arc<dyn Blocking>) {
    HOOK.with_borrow_mut(|slot| *slot = Some(hook));
}

/// Waits for `future` on this thread, which must be one that may block.
///
/// # Errors
///
/// Why a pool's thread may not wait.
pub fn wait<F: Future + Unpin>(mut future: F) -> Result<F::Output, NotStarted> {
    let output = match hook() {
        None => block_on(&mut future, None),
        Some(hook) => {
            let mut output = None;
            hook.block(&mut |limit| {
                output = output.take().or_else(|| block_on(&mut future, limit));
                output.is_some()
            })?;
            output
        }
    };
    Ok(output.expect("a wait without a limit ends with a value"))
}

fn hook() -> Option<Arc<dyn Blocking>> {
    HOOK.with_borrow(Clone::clone)
}

/// Polls a future on this thread, which sleeps meanwhile, at most `limit`.
fn block_on<F: Future + Unpin>(mut future: F, limit: Option<Duration>) -> Option<F::Output> {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    let end = limit.map(|limit| Instant::now() + limit);
    loop {
        if let Poll::Ready(result) = Pin::new(&mut future).poll(&mut cx) {
            return Some(result);
        }
        match end.map(|end| end.saturating_duration_since(Instant::now())) {
            None => thread::park(),
            Some(Duration::ZERO) => return None,
            Some(left) => thread::park_timeout(left),
        }
    }
}
