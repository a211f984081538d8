//! Word count over many files: each file is read where its task runs, and only so many tasks are under way at once.
//!
//! Look at `mobula::wait`: it gives the results that are there, whichever they are, and the loop tops up what is under
//! way. Only counts travel, never a file's text.
//!
//! Run with `cargo run --example count_files`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mobula::prelude::*;

type Counts = BTreeMap<String, u64>;

/// Reads a file that every node finds under the same path. A file that cannot be read is the task's own error, which
/// names it.
#[remote(max_retries = 3)]
fn count_file(path: PathBuf) -> Result<Counts> {
    let text = std::fs::read_to_string(&path).map_err(|error| Error::from(error).context(path.display()))?;
    let mut counts = Counts::new();
    for word in text.split_whitespace() {
        *counts.entry(word.to_lowercase()).or_default() += 1;
    }
    Ok(counts)
}

const FILES: u64 = 120;
const UNDER_WAY: usize = 16;

#[mobula::main]
async fn main() -> Result<()> {
    let _session = mobula::init().await?;
    let folder = tempfile::tempdir()?;
    let mut paths = write_files(folder.path())?.into_iter();

    let mut under_way: Vec<ObjectRef<Counts>> = paths.by_ref().take(UNDER_WAY).map(count_file::remote).collect();
    let mut total = Counts::new();
    while !under_way.is_empty() {
        let (ready, rest) = mobula::wait(&under_way).await?;
        under_way = rest;
        under_way.extend(paths.by_ref().take(ready.len()).map(count_file::remote));
        for counts in mobula::get(ready).await? {
            for (word, count) in counts.iter() {
                *total.entry(word.clone()).or_default() += count;
            }
        }
    }

    // One word of each file is its own; the others are in all of them.
    assert_eq!(total.len() as u64, FILES + WORDS.len() as u64);
    assert_eq!(total["ray"], FILES);
    for (word, count) in total.iter().filter(|(_, count)| **count > 1) {
        println!("{count} {word}");
    }
    let missing = mobula::get(count_file::remote(folder.path().join("missing"))).await;
    println!("a file that is not there: {}", missing.expect_err("nobody wrote it"));
    Ok(())
}

const WORDS: [&str; 3] = ["manta", "Ray", "whale"];

fn write_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let write = |number: u64| {
        let path = folder.join(format!("page-{number}.txt"));
        std::fs::write(&path, format!("{} only-in-{number}\n", WORDS.join(" ")))?;
        Ok(path)
    };
    (0..FILES).map(write).collect()
}
