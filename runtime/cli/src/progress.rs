//! Progress on standard error: a bar on a terminal, plain lines elsewhere, so that a log stays readable.

use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// How often a plain log hears of work that goes on.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// One piece of work of a known or guessed size in bytes.
pub(crate) struct Progress {
    what: String,
    bytes: u64,
    /// Hidden where standard error is no terminal.
    bar: ProgressBar,
    told: Instant,
}

impl Progress {
    /// Announces `what`, of about `bytes`.
    pub(crate) fn start(what: impl Into<String>, bytes: u64) -> Progress {
        let what = what.into();
        let bar = ProgressBar::new(bytes);
        let style =
            ProgressStyle::with_template("{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}");
        bar.set_style(style.expect("the template is a constant and is tried by a test"));
        bar.set_message(what.clone());
        let progress = Progress { what, bytes, bar, told: Instant::now() };
        if progress.bar.is_hidden() {
            anstream::eprintln!("{} ({})", progress.what, HumanBytes(bytes));
        }
        progress
    }

    /// Shows that `done` bytes are there; more than announced is no mistake, the size may have been a guess.
    pub(crate) fn set(&mut self, done: u64) {
        self.bar.set_position(done.min(self.bytes));
        if self.bar.is_hidden() && self.told.elapsed() >= PLAIN_EVERY {
            self.told = Instant::now();
            anstream::eprintln!("{}: {} of {}", self.what, HumanBytes(done), HumanBytes(self.bytes));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // The bar makes room for what is said next.
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_takes_any_position() {
        let mut progress = Progress::start("testing", 10);
        progress.set(5);
        progress.set(50);
        assert_eq!(progress.bar.position(), 10);
    }
}
