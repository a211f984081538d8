//! What a panic said and where: kept by a hook, because the payload alone has no location.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::panic;
use std::sync::Once;

use mobula_types::Panic;

thread_local! {
    static LAST: RefCell<Option<Panic>> = const { RefCell::new(None) };
    static CAUGHT_HERE: Cell<bool> = const { Cell::new(false) };
}

/// Installs the hook, once. On threads that catch panics it records instead of printing; elsewhere the former hook goes
/// on as before.
pub(crate) fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let former = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CAUGHT_HERE.get() {
                return former(info);
            }
            let backtrace = Backtrace::capture();
            let panic = Panic {
                message: message(info.payload()),
                location: info.location().map(ToString::to_string),
                backtrace: (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string()),
            };
            tracing::warn!(target: "mobula", %panic, "a panic was caught");
            // A panic inside `Drop` during unwinding aborts; the first one is the cause, keep it.
            LAST.with_borrow_mut(|last| *last = Some(panic));
        }));
    });
}

/// Says that panics of this thread are caught and told to whom they concern.
pub fn caught_on_this_thread() {
    CAUGHT_HERE.set(true);
}

/// The panic behind a caught payload.
pub fn describe(payload: Box<dyn Any + Send>) -> Panic {
    let recorded = LAST.with_borrow_mut(Option::take);
    let panic = recorded.unwrap_or_else(|| Panic { message: message(&*payload), location: None, backtrace: None });
    // The payload is the user's value: its `Drop` may panic in turn, which must not take the thread down.
    if panic::catch_unwind(panic::AssertUnwindSafe(|| drop(payload))).is_err() {
        LAST.with_borrow_mut(|last| *last = None);
    }
    panic
}

fn message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is not text".into())
}
