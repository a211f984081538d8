//! Where functions go, and in which order.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use mobula::prelude::*;

use super::{HANGS, Test};

pub(crate) const TESTS: &[Test] =
    &[("a place with nothing to do takes what waits elsewhere", || Box::pin(idle_places_take_what_waits()))];

/// How long between two looks at a folder.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A folder in which functions leave notes: unlike a call, looking there gives no CPU back.
struct Notes(PathBuf);

impl Notes {
    fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("mobula-notes-{name}-{}", std::process::id()));
        fs::remove_dir_all(&folder).ok();
        fs::create_dir_all(&folder).expect("a folder is made");
        Self(folder)
    }

    fn path(&self) -> String {
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
