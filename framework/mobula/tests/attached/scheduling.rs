//! Where functions go, and in which order.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use mobula::prelude::*;
use mobula::{Count, Session, WhenFull};

use super::{HANGS, Test, names};

pub(crate) const TESTS: &[Test] = &[
    ("a place with nothing to do takes what waits elsewhere", || Box::pin(idle_places_take_what_waits())),
    ("a short job does not wait behind a long one", || Box::pin(a_short_job_beside_a_long_one())),
];

/// How long between two looks at a folder.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A folder in which functions leave notes: unlike a call, looking there gives no CPU back.
pub(crate) struct Notes(PathBuf);

impl Notes {
    pub(crate) fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("mobula-notes-{name}-{}", std::process::id()));
        fs::remove_dir_all(&folder).ok();
        fs::create_dir_all(&folder).expect("a folder is made");
        Self(folder)
    }

    pub(crate) fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// Ends when so many run at once.
#[remote]
fn meet(folder: String, number: usize, count_min: usize) -> bool {
    let folder = PathBuf::from(folder);
    fs::write(folder.join(number.to_string()), []).ok();
    let end = Instant::now() + HANGS / 2;
    while count(&folder) < count_min && Instant::now() < end {
        thread::sleep(LOOK_AGAIN);
    }
    count(&folder) >= count_min
}

/// The first place that is given has room for all of them in its queue; two of them cannot run there, and the others must.
async fn idle_places_take_what_waits() -> Result<()> {
    let notes = Notes::new("meet");
    let met: Vec<_> = (0..4).map(|number| meet::remote(notes.path(), number, 4)).collect();
    let met = mobula::get(met).await?;
    assert!(met.iter().all(|met| **met), "all CPUs of the cluster run one each");
    Ok(())
}

/// Tasks of a job that has little to do, and of one that has much.
pub(crate) const FEW: usize = 100;
const MANY: usize = 8_000;
/// How long one of them takes.
const NAP: Duration = Duration::from_millis(10);

/// Behind all of the long job the short one would begin after 40 s. It gets 40 % of two CPUs after 1 s, which makes 2.3 s in
/// all; this is ten times that.
const SHORT_MAX: Duration = Duration::from_secs(23);

#[remote]
fn nap() {
    thread::sleep(NAP);
}

/// So many tasks on the first node; says how many of them ended well.
pub(crate) async fn naps(count: usize) -> Result<usize> {
    let here = mobula::nodes().await?[0].id;
    let naps: Vec<_> = (0..count).map(|_| nap::options().on_node(here).remote()).collect();
    Ok(mobula::get(naps).await?.len())
}

async fn a_short_job_beside_a_long_one() -> Result<()> {
    let here = mobula::nodes().await?[0].id;
    let long: Vec<_> = (0..MANY).map(|_| nap::options().on_node(here).remote()).collect();
    // All of its places are taken by then.
    mobula::wait(&long).count(50).await?;
    let began = Instant::now();
    let answer = names::run(&names::this_program(), "nap", None).await;
    let taken = began.elapsed();
    let left = mobula::wait(&long).count(0).await?.1.len();
    println!("{FEW} tasks beside {MANY} of another job took {taken:?}, and {left} of those were left");
    assert_eq!(answer, FEW.to_string());
    assert!(taken < SHORT_MAX && left > 0, "{taken:?}, {left} left");
    long.iter().for_each(ObjectRef::cancel);
    Ok(())
}

/// Tasks of one process that may be without an outcome in [`what_finds_the_queue_full`].
pub(crate) const TIGHT: u64 = 4;

/// Ends when there is a note.
#[remote(num_cpus = 0.1)]
fn wait_for_note(folder: String) {
    let folder = PathBuf::from(folder);
    let end = Instant::now() + HANGS / 2;
    while count(&folder) == 0 && Instant::now() < end {
        thread::sleep(LOOK_AGAIN);
    }
}

/// Submits so many, which wait for a place each.
#[remote(num_cpus = 0.1)]
fn naps_of_its_own(count: usize) -> usize {
    let naps: Vec<_> = (0..count).map(|_| nap::remote()).collect();
    naps.iter().filter(|nap| nap.wait().is_ok()).count()
}

/// The same without waiting: says how many were refused.
#[remote(num_cpus = 0.1)]
fn naps_at_once(count: usize) -> usize {
    let naps: Vec<_> = (0..count).map(|_| nap::options().when_full(WhenFull::Refuse).remote()).collect();
    naps.iter().filter(|nap| nap.wait().is_err()).count()
}

/// In a session whose processes may have [`TIGHT`] tasks without an outcome.
pub(crate) async fn what_finds_the_queue_full(session: &Session) -> Result<()> {
    let full = || CallError::NotStarted(NotStarted::QueueFull { waiting: TIGHT as usize });
    let counted = |count| session.counters().of(count);
    let notes = Notes::new("full");
    let held: Vec<_> = (0..TIGHT).map(|_| wait_for_note::remote(notes.path())).collect();
    assert_eq!(nap::options().when_full(WhenFull::Refuse).remote().await.unwrap_err(), full());
    let async_code = tokio::spawn(async { nap::remote().await.map(|_| ()) });
    assert_eq!(async_code.await.expect("it does not panic").unwrap_err(), full());
    let late = nap::options().timeout(mobula::millis(5)).remote().await.unwrap_err();
    assert_eq!(late, CallError::DeadlineExceeded { given: Some(mobula::millis(5)) });

    let waiting = thread::spawn(nap::remote);
    while counted(Count::Waited) < 2 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished());
    fs::write(notes.0.join("go"), [])?;
    waiting.join().expect("it does not panic").await?;
    mobula::get(held).await?;
    mobula::task_room().await?;
    // A worker has the same bound, and keeps to it.
    assert_eq!(*naps_of_its_own::remote(20).await?, 20);
    assert!(*naps_at_once::remote(20).await? > 0);
    assert_eq!((counted(Count::Refused), counted(Count::Waited)), (2, 2));
    Ok(())
}
