//! Files to which every process of a job appends lines, and which the driver reads in the end.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Appends a line in one write: lines of several processes do not mix.
pub(crate) fn note(folder: &Path, file: &str, line: &str) -> std::io::Result<()> {
    let mut file = File::options().create(true).append(true).open(folder.join(file))?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// The lines of a file, in the order in which they came; none when nobody wrote any.
pub(crate) fn lines(folder: &Path, file: &str) -> Vec<String> {
    fs::read_to_string(folder.join(file)).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Tells one run of something from all others, wherever it runs.
pub(crate) fn run() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
