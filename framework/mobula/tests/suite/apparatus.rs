//! What tests hold things back with and learn of what happened by, wherever the code of actors and functions runs: in the
//! test's own process, over the codec or not, or in a worker of a cluster.
//!
//! A thing is kept by the process that made it and travels as a number. From another process it is used over a Unix
//! socket of its maker.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use mobula::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

/// Ten times what takes longest here, the start of a worker among several on a busy machine: whoever waits longer hangs.
const HANGS: Duration = Duration::from_secs(30);

/// How long to wait before asking another process again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

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

/// Runs something with one deadline after another, each twice the one before, until its code has begun before one: where
/// a process has to start first, or others have all the CPUs, that takes a while. The code notes `begun` and then `dropped`.
pub(crate) async fn until_it_begins(journal: Journal, run: impl AsyncFn(Duration)) {
    let mut deadline = millis(10);
    while journal.is_read().await {
        within(run(deadline)).await;
        deadline *= 2;
    }
    // An earlier one may have begun late.
    let mut note = journal.next().await;
    while note == "begun" {
        note = journal.next().await;
    }
    assert_eq!(note, "dropped");
}

struct Witness;

#[actor]
impl Witness {
    fn new() -> Self {
        Witness
    }

    fn hear(&self) {}
}

/// Waits until all that the test has said to its actors has come to their process, where that is another: those that ask
/// for no place live in one, and what follows comes behind.
pub(crate) async fn heard() -> Result<()> {
    Ok(within(Witness::spawn().await?.hear()).await?)
}

/// Opened once, by the test; whoever waits at it goes on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Gate(Thing);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(thing(watch::channel(false).0))
    }

    pub(crate) fn open(self) {
        self.0.find::<watch::Sender<bool>>().send_replace(true);
    }

    pub(crate) async fn passed(self) {
        if !self.0.is_here() {
            while !self.0.ask("pass", "") {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            return;
        }
        let mut open = self.0.find::<watch::Sender<bool>>().subscribe();
        open.wait_for(|open| *open).await.expect("gates are kept");
    }

    /// The same for a thread that may block.
    pub(crate) fn pass(self) {
        if !self.0.is_here() {
            while !self.0.ask("pass", "") {
                std::thread::sleep(LOOK_AGAIN);
            }
            return;
        }
        let open = self.0.find::<watch::Sender<bool>>();
        while !*open.borrow() {
            std::thread::yield_now();
        }
    }
}

/// Notes of what happened, read one by one in their order by the test.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Journal(Thing);

type Pages = (mpsc::UnboundedSender<String>, tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>);

impl Journal {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self(thing::<Pages>((sender, tokio::sync::Mutex::new(receiver))))
    }

    pub(crate) fn note(self, what: impl Into<String>) {
        if self.0.is_here() {
            self.0.find::<Pages>().0.send(what.into()).expect("journals are kept");
        } else {
            // Nobody reads it when the test is gone.
            self.0.ask("note", &what.into());
        }
    }

    /// The next note, as soon as there is one.
    pub(crate) async fn next(self) -> String {
        let pages = self.0.find::<Pages>();
        within(async { pages.1.lock().await.recv().await.expect("journals are kept") }).await
    }

    /// Whether nothing is noted that has not been read.
    pub(crate) async fn is_read(self) -> bool {
        self.0.find::<Pages>().1.lock().await.is_empty()
    }
}

/// Notes its end when it is dropped.
pub(crate) struct NotedDrop(pub(crate) Journal, pub(crate) &'static str);

impl Drop for NotedDrop {
    fn drop(&mut self) {
        self.0.note(self.1);
    }
}

/// Leads to what its maker keeps.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Thing {
    /// The process that made it.
    maker: u32,
    key: u64,
}

type Things = HashMap<u64, Arc<dyn std::any::Any + Send + Sync>>;

static THINGS: LazyLock<Mutex<Things>> = LazyLock::new(Mutex::default);

/// Where this process is asked for its things; open from the first thing on.
static DOOR: LazyLock<()> = LazyLock::new(|| {
    let door = UnixListener::bind_addr(&door(std::process::id())).expect("no other process has this number");
    std::thread::spawn(move || {
        for guest in door.incoming().flatten() {
            std::thread::spawn(move || answer(guest));
        }
    });
});

/// An abstract name, which is gone with the process.
fn door(maker: u32) -> SocketAddr {
    SocketAddr::from_abstract_name(format!("mobula-suite-{maker}")).expect("the name is short")
}

/// Does what one other process asks, once, and says when it is done. That process may be gone by then.
fn answer(mut guest: UnixStream) {
    let mut line = String::new();
    if BufReader::new(&guest).read_line(&mut line).is_err() {
        return;
    }
    let mut words = line.trim_end_matches('\n').splitn(3, ' ');
    let (what, key, text) = (words.next(), words.next().and_then(|key| key.parse().ok()), words.next());
    let thing = Thing { maker: std::process::id(), key: key.expect("a thing has a number") };
    match what {
        Some("pass") => {
            if !*thing.find::<watch::Sender<bool>>().borrow() {
                // Not opened yet, and perhaps never: whoever waits looks again.
                guest.write_all(b"n").ok();
                return;
            }
        }
        Some("note") => Journal(thing).note(text.unwrap_or_default()),
        other => panic!("nobody asks for {other:?}"),
    }
    guest.write_all(b"y").ok();
}

fn thing<T: Send + Sync + 'static>(thing: T) -> Thing {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    LazyLock::force(&DOOR);
    let key = NEXT.fetch_add(1, Ordering::Relaxed);
    THINGS.lock().unwrap().insert(key, Arc::new(thing));
    Thing { maker: std::process::id(), key }
}

impl Thing {
    fn is_here(self) -> bool {
        self.maker == std::process::id()
    }

    fn find<T: Send + Sync + 'static>(self) -> Arc<T> {
        assert!(self.is_here(), "only its maker reads a journal and opens a gate");
        let thing = THINGS.lock().unwrap()[&self.key].clone();
        thing.downcast().unwrap_or_else(|_| panic!("thing {} is of another type", self.key))
    }

    /// Has the maker do something; whether it did. A maker that is gone does nothing any more.
    fn ask(self, what: &str, text: &str) -> bool {
        let asked = UnixStream::connect_addr(&door(self.maker)).and_then(|mut maker| {
            maker.write_all(format!("{what} {} {text}\n", self.key).as_bytes())?;
            let mut done = [0];
            maker.read_exact(&mut done).map(|()| done == *b"y")
        });
        asked.unwrap_or(false)
    }
}
