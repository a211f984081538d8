//! Processes that end because they have run a function so often, or because what they run is cancelled by force.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use mobula::prelude::*;
use mobula::{Attempt, NodeId, NotCancellable};

use super::{HANGS, Test};

pub(crate) const TESTS: &[Test] = &[
    ("a process ends after so many calls", || Box::pin(so_many_calls())),
    ("what a process gives last arrives whole", || Box::pin(last_words())),
    ("a task ends by force with its process", || Box::pin(ends_by_force())),
    ("what is asked of a place that is to end by force runs elsewhere", || Box::pin(waits_behind())),
    ("what shares its process is not ended by force", || Box::pin(shared_is_refused())),
    ("cancelling reaches what a task waits for on another node", || Box::pin(reaches_other_nodes())),
    ("ending by force reaches what a task waits for on another node", || Box::pin(force_reaches_other_nodes())),
];

/// A process that is ended has ended after so long: 1 s, and what a busy machine takes to see it.
const ENDED: Duration = Duration::from_millis(1_500);

/// Between two looks at what is seen from outside only.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Where it runs, how often this process has run it, and which run of its task it is.
#[remote(max_calls = 2)]
fn count_calls() -> (u32, u32, Option<Attempt>) {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    (std::process::id(), calls, mobula::task_run().map(|(_, attempt)| attempt))
}

#[remote(max_calls = 1)]
fn fill(bytes: usize) -> Vec<u8> {
    vec![7; bytes]
}

async fn so_many_calls() -> Result<()> {
    // Those that are sent one by one, and those that wait for places together.
    let first = *mobula::get(count_calls::remote()).await?;
    let second = *mobula::get(count_calls::remote()).await?;
    let third = *mobula::get(count_calls::remote()).await?;
    assert_eq!((first.0, first.1, second.1), (second.0, 1, 2), "one process for two calls");
    assert_eq!(third.1, 1, "and then another");
    let mut calls = vec![third];
    for call in mobula::get((0..7).map(|_| count_calls::remote()).collect::<Vec<_>>()).await? {
        calls.push(*call);
    }
    let is_first = |run: Option<Attempt>| run == Some(Attempt::FIRST);
    assert!(calls.iter().all(|(_, nth, run)| *nth <= 2 && is_first(*run)), "{calls:?}");
    calls.sort_unstable_by_key(|(process, nth, _)| (*process, *nth));
    calls.dedup_by_key(|(process, nth, _)| (*process, *nth));
    assert_eq!(calls.len(), 8, "nothing is lost or run twice");
    Ok(())
}

async fn last_words() -> Result<()> {
    for bytes in [10, 100_000, 3 << 20] {
        let filled = mobula::get(fill::remote(bytes)).await?;
        assert!(filled.len() == bytes && filled.iter().all(|byte| *byte == 7), "{bytes} bytes");
    }
    Ok(())
}

/// A folder in which functions leave notes.
struct Notes(PathBuf);

impl Notes {
    fn new() -> Self {
        static NOTES: AtomicU32 = AtomicU32::new(0);
        let number = NOTES.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("mobula-retirement-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder is made");
        Self(folder)
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }

    /// What the note says, as soon as it is there.
    async fn read(&self, note: &str) -> String {
        let (path, end) = (self.0.join(note), Instant::now() + HANGS / 2);
        loop {
            match fs::read_to_string(&path) {
                Ok(said) if !said.is_empty() => return said,
                _ => assert!(Instant::now() < end, "there is no {note}"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn note(folder: &str, note: &str, said: impl ToString) {
    // The test may be over, and its folder gone.
    fs::write(Path::new(folder).join(note), said.to_string()).ok();
}

/// Never looks whether it is cancelled.
#[remote]
fn hang(folder: String) {
    note(&folder, "hangs", std::process::id());
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

#[remote]
fn place() -> u32 {
    std::process::id()
}

/// Waits for ever, and notes when it is dropped.
#[remote]
async fn wait_for_ever(folder: String) {
    struct Noted(String);
    impl Drop for Noted {
        fn drop(&mut self) {
            note(&self.0, "dropped", "so it is");
        }
    }
    let noted = Noted(folder);
    note(&noted.0, "waits", std::process::id());
    std::future::pending().await
}

/// Waits for a task on another node.
#[remote]
async fn wait_for_other(folder: String, node: NodeId) {
    wait_for_ever::options().on_node(node).remote(folder).await.ok();
}

/// The same on a thread.
#[remote]
fn block_for_other(folder: String, node: NodeId) {
    wait_for_other::options().on_node(node).remote(folder.clone(), node).wait().ok();
    note(&folder, "goes on", "so it is");
}

async fn gone(process: &str) {
    let (path, end) = (Path::new("/proc").join(process), Instant::now() + ENDED);
    while path.exists() {
        assert!(Instant::now() < end, "process {process} has not ended in {ENDED:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn ends_by_force() -> Result<()> {
    for node in mobula::nodes().await? {
        let notes = Notes::new();
        let task = hang::options().isolated().on_node(node.id).remote(notes.path());
        let process = notes.read("hangs").await;
        task.cancel_forced()?;
        assert_eq!(mobula::get(&task).await.err(), Some(CallError::Cancelled));
        gone(&process).await;
        // It is over: this is as if it were not said.
        task.cancel_forced()?;
    }
    Ok(())
}

async fn waits_behind() -> Result<()> {
    let notes = Notes::new();
    let node = mobula::nodes().await?[0].id;
    let all_cpus = || hang::options().isolated().num_cpus(2.0).on_node(node);
    let task = all_cpus().remote(notes.path());
    let hangs = notes.read("hangs").await;
    let next = place::options().isolated().num_cpus(2.0).on_node(node).remote();
    task.cancel_forced()?;
    assert_ne!(mobula::get(next).await?.to_string(), hangs);
    assert_eq!(mobula::get(task).await.err(), Some(CallError::Cancelled));
    Ok(())
}

async fn shared_is_refused() -> Result<()> {
    let notes = Notes::new();
    let task = wait_for_ever::remote(notes.path());
    notes.read("waits").await;
    assert_eq!(task.cancel_forced(), Err(NotCancellable::NotIsolated));
    assert!(!task.is_ready(), "it is as if nothing was said");
    task.cancel();
    notes.read("dropped").await;
    assert_eq!(mobula::put(1)?.cancel_forced(), Err(NotCancellable::NoTask));
    Ok(())
}

async fn reaches_other_nodes() -> Result<()> {
    let nodes = mobula::nodes().await?;
    for (here, there) in [(0, 1), (1, 0)] {
        let (here, there) = (nodes[here].id, nodes[there].id);
        let notes = Notes::new();
        let task = block_for_other::options().on_node(here).remote(notes.path(), there);
        notes.read("waits").await;
        task.cancel();
        notes.read("dropped").await;
        notes.read("goes on").await;
        assert_eq!(mobula::get(task).await.err(), Some(CallError::Cancelled));
    }
    Ok(())
}

async fn force_reaches_other_nodes() -> Result<()> {
    let nodes = mobula::nodes().await?;
    let notes = Notes::new();
    let task = wait_for_other::options().isolated().on_node(nodes[0].id).remote(notes.path(), nodes[1].id);
    notes.read("waits").await;
    task.cancel_forced()?;
    notes.read("dropped").await;
    assert_eq!(mobula::get(task).await.err(), Some(CallError::Cancelled));
    Ok(())
}
