//! Wakes that are called together: who waits for many things that come one after the other is woken for several of them.

use std::cell::RefCell;
use std::task::Waker;

/// Nobody is kept waiting for more than so many others.
const TOGETHER_MAX: usize = 32;

thread_local! {
    /// Who is to be woken when what has come to this thread is handed out.
    static LATER: RefCell<Option<Vec<Waker>>> = const { RefCell::new(None) };
}

/// Runs `hand_out`, which gives values to those who wait for them, and wakes these at the end of it.
pub fn together<T>(hand_out: impl FnOnce() -> T) -> T {
    let is_outermost = LATER.with_borrow_mut(|later| later.is_none() && later.replace(Vec::new()).is_none());
    let _called = is_outermost.then(|| Called);
    hand_out()
}

/// Wakes who waits, at once or with others.
pub(crate) fn wake(waker: Waker) {
    let full = LATER.with_borrow_mut(|later| {
        let Some(waiting) = later else { return Err(waker) };
        waiting.push(waker);
        Ok(if waiting.len() >= TOGETHER_MAX { std::mem::take(waiting) } else { Vec::new() })
    });
    // Without the list: whoever wakes may wake others.
    match full {
        Ok(full) => full.into_iter().for_each(Waker::wake),
        Err(waker) => waker.wake(),
    }
}

/// Calls those that wait, on every way out, a panic too.
struct Called;

impl Drop for Called {
    fn drop(&mut self) {
        let waiting = LATER.with_borrow_mut(Option::take);
        waiting.into_iter().flatten().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn wakes_are_called_at_the_end_and_none_is_lost() {
        let counted = Arc::new(Counted::default());
        let count = || counted.0.load(Ordering::Relaxed);
        let wake = || super::wake(Waker::from(counted.clone()));
        wake();
        assert_eq!(count(), 1, "at once");
        together(|| {
            wake();
            together(wake);
            assert_eq!(count(), 1, "the outer one calls them");
            (0..TOGETHER_MAX).for_each(|_| wake());
            assert!(count() >= TOGETHER_MAX, "nobody waits for too many others");
        });
        assert_eq!(count(), 3 + TOGETHER_MAX);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            together(|| {
                wake();
                panic!("on purpose");
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(count(), 4 + TOGETHER_MAX);
    }
}
