//! What tests hold things back with and learn of what happened by, over the codec too: both sides are this process, so
//! a number that travels leads to the same thing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

/// Ten times the longest bound that is promised of anything here: whoever waits longer hangs.
const HANGS: Duration = Duration::from_secs(10);

/// What `future` gives, unless it hangs.
pub(crate) async fn within<F: IntoFuture>(future: F) -> F::Output {
    match tokio::time::timeout(HANGS, future.into_future()).await {
        Ok(output) => output,
        Err(_) => panic!("nothing came of it in {HANGS:?}: it hangs"),
    }
}

/// Waits until `holds`, for what is seen from outside only.
pub(crate) async fn until(holds: impl Fn() -> bool) {
    within(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Opened once, by the test; whoever waits at it goes on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Gate(u64);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(thing(watch::channel(false).0))
    }

    pub(crate) fn open(self) {
        find::<watch::Sender<bool>>(self.0).send_replace(true);
    }

    pub(crate) async fn passed(self) {
        let mut open = find::<watch::Sender<bool>>(self.0).subscribe();
        open.wait_for(|open| *open).await.expect("gates are kept");
    }

    /// The same for a thread that may block.
    pub(crate) fn pass(self) {
        let open = find::<watch::Sender<bool>>(self.0);
        while !*open.borrow() {
            std::thread::yield_now();
        }
    }
}

/// Notes of what happened, read one by one in their order.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Journal(u64);

type Pages = (mpsc::UnboundedSender<String>, tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>);

impl Journal {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self(thing::<Pages>((sender, tokio::sync::Mutex::new(receiver))))
    }

    pub(crate) fn note(self, what: impl Into<String>) {
        find::<Pages>(self.0).0.send(what.into()).expect("journals are kept");
    }

    /// The next note, as soon as there is one.
    pub(crate) async fn next(self) -> String {
        let pages = find::<Pages>(self.0);
        within(async { pages.1.lock().await.recv().await.expect("journals are kept") }).await
    }

    /// Whether nothing is noted that has not been read.
    pub(crate) async fn is_read(self) -> bool {
        find::<Pages>(self.0).1.lock().await.is_empty()
    }
}

/// Notes its end when it is dropped.
pub(crate) struct NotedDrop(pub(crate) Journal, pub(crate) &'static str);

impl Drop for NotedDrop {
    fn drop(&mut self) {
        self.0.note(self.1);
    }
}

type Things = HashMap<u64, Arc<dyn std::any::Any + Send + Sync>>;

static THINGS: LazyLock<Mutex<Things>> = LazyLock::new(Mutex::default);

fn thing<T: Send + Sync + 'static>(thing: T) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let key = NEXT.fetch_add(1, Ordering::Relaxed);
    THINGS.lock().unwrap().insert(key, Arc::new(thing));
    key
}

fn find<T: Send + Sync + 'static>(key: u64) -> Arc<T> {
    THINGS.lock().unwrap()[&key].clone().downcast().unwrap_or_else(|_| panic!("thing {key} is of another type"))
}
