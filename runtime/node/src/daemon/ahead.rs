//! A node's shared memory is made ahead of use while the host has memory to spare, and given back when it has not.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mobula_store::Arena;
use rustix::process::setpriority_process;
use rustix::thread::gettid;
use tokio::sync::oneshot;

use super::workers::{Memory, MemoryFiles};

/// Between two looks at the host's memory; one segment is made in this time at most.
const PACE: Duration = Duration::from_secs(1);

/// While more than this part of the host's memory would be used, nothing is made ahead.
const MADE_BELOW: f64 = 0.5;

/// When more than this part is used, what was made ahead is given back: long before workers end for it (G15).
const DROPPED_ABOVE: f64 = 0.75;

/// The priority of a thread that waits for all others.
const LOWEST: i32 = 19;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Make,
    Drop,
    Nothing,
}

fn step(memory: Memory, lacks: Option<u64>) -> Step {
    let with = |bytes: u64| Memory { used_bytes: memory.used_bytes.saturating_add(bytes), ..memory }.used();
    match lacks {
        _ if with(0) > DROPPED_ABOVE => Step::Drop,
        Some(bytes) if with(bytes) <= MADE_BELOW => Step::Make,
        _ => Step::Nothing,
    }
}

/// Goes on until the task is ended.
pub(super) async fn keep(arena: Arc<Arena>, memory: MemoryFiles) {
    let mut next = tokio::time::interval(PACE);
    next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        next.tick().await;
        // A host that does not say how much it uses gets nothing that nobody has asked for.
        let Some(memory) = memory.read() else { continue };
        match step(memory, arena.lacks_ahead()) {
            Step::Make => {
                if let Err(error) = make(arena.clone()).await {
                    tracing::debug!(%error, "no memory is made ahead");
                }
            }
            Step::Drop => arena.drop_ahead(),
            Step::Nothing => {}
        }
    }
}

/// Makes one segment, on a thread that runs when no other wants to: some hosts take seconds for a gigabyte.
async fn make(arena: Arc<Arena>) -> io::Result<()> {
    let (done, made) = oneshot::channel();
    let work = move || {
        let is_quiet = setpriority_process(Some(gettid()), LOWEST);
        done.send(is_quiet.map_err(io::Error::from).and_then(|()| arena.make_ahead())).ok();
    };
    std::thread::Builder::new().name("mobula-ahead".to_owned()).spawn(work)?;
    made.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_with_memory_to_spare_makes_some_ahead() {
        let used = |used_bytes| Memory { used_bytes, total_bytes: 1_000 };
        assert_eq!(step(used(400), Some(100)), Step::Make);
        assert_eq!(step(used(400), None), Step::Nothing);
        assert_eq!(step(used(400), Some(101)), Step::Nothing);
        assert_eq!(step(used(750), Some(1)), Step::Nothing);
        assert_eq!(step(used(751), Some(1)), Step::Drop);
        assert_eq!(step(used(751), None), Step::Drop);
        assert_eq!(step(used(1), Some(u64::MAX)), Step::Nothing);
    }

    #[tokio::test]
    async fn a_segment_is_made_and_given_back_as_the_host_has_memory() {
        const SEGMENT: u64 = 66 << 20;
        let file = tempfile::NamedTempFile::new().unwrap();
        let says = |available_kb: u64| {
            let text = format!("MemTotal: 1000000 kB\nMemAvailable: {available_kb} kB\n");
            std::fs::write(file.path(), text).unwrap();
        };
        says(900_000);
        let arena = Arc::new(Arena::new(4 * SEGMENT).with_ahead(SEGMENT));
        let kept = tokio::spawn(keep(arena.clone(), MemoryFiles::only(file.path().to_owned())));
        let until = async |bytes: u64| {
            while arena.usage().ahead != bytes {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), until(SEGMENT)).await.expect("it is made");
        assert_eq!(arena.usage().leased, 0);
        says(200_000);
        tokio::time::timeout(Duration::from_secs(60), until(0)).await.expect("it is given back");
        kept.abort();
    }
}
