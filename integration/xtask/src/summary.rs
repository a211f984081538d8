//! What a test program built with libtest says of its tests.

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitStatus;

use anyhow::Result;

/// The last lines of a failed test, before its backtrace, that are said again at the end.
const LAST_WORDS: usize = 12;

/// What a test program said in its closing lines.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Summary {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    /// Names of tests that failed.
    pub(crate) failures: Vec<String>,
    /// What tests said that they could not do here.
    pub(crate) skipped: Vec<String>,
    /// The last words of each failed test.
    words: BTreeMap<String, VecDeque<String>>,
    /// The failed test whose output is being shown.
    shown: Option<String>,
    /// Whether that output is in a backtrace.
    in_trace: bool,
    /// Whether there was a closing line at all.
    closed: bool,
}

impl Summary {
    /// Takes in one line of libtest's output.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED")) {
            self.failures.push(name.to_owned());
        }
        // Said past libtest's capture, which would keep the words of a test that passes.
        if let Some(what) = line.strip_prefix("skipped: ")
            && !self.skipped.iter().any(|said| said == what)
        {
            self.skipped.push(what.to_owned());
        }
        self.hear(line);
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        self.closed = true;
        for count in counts.split([';', '.']) {
            match count.trim().split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                Some((number, "ignored")) => self.ignored += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }

    /// Keeps the last words of a failed test, which libtest shows after all have run.
    fn hear(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----")) {
            (self.shown, self.in_trace) = (Some(name.to_owned()), false);
            return;
        }
        if line == "failures:" {
            self.shown = None;
        }
        let Some(name) = &self.shown else { return };
        self.in_trace = match line.trim_start() {
            "stack backtrace:" | "Stack backtrace:" => true,
            line if line.starts_with("Error: ") || line.contains(" panicked at ") => false,
            _ => self.in_trace,
        };
        if !self.in_trace && !line.trim().is_empty() {
            let words = self.words.entry(name.clone()).or_default();
            if words.len() == LAST_WORDS {
                words.pop_front();
            }
            words.push_back(line.to_owned());
        }
    }

    /// A failed test's name, and below it its last words.
    pub(crate) fn failure(&self, test: &str) -> String {
        let words = self.words.get(test).into_iter().flatten();
        words.fold(test.to_owned(), |said, line| said + "\n    " + line)
    }

    /// Holds the lines against how the program ended: a crash after the last line, or no line at all, is a failure.
    pub(crate) fn close(mut self, status: ExitStatus) -> Result<Summary> {
        if !self.closed {
            // A program without libtest (`harness = false`) is one test.
            anyhow::ensure!(status.success(), "it ended with {status} and no result");
            self.passed = 1;
        }
        anyhow::ensure!(status.success() || self.failed > 0, "it ended with {status} though no test failed");
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str) -> Summary {
        let mut summary = Summary::default();
        lines.lines().for_each(|line| summary.read(line));
        summary
    }

    #[test]
    fn closing_lines_are_summed() {
        let summary = read(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\
            test a::b ... FAILED\nskipped: no hosts\nskipped: no hosts\n\
            test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        assert_eq!((summary.passed, summary.failed, summary.ignored), (5, 1, 1));
        assert_eq!((summary.failures, summary.skipped), (vec!["a::b".to_owned()], vec!["no hosts".to_owned()]));
        assert!(summary.closed);
    }

    #[test]
    fn a_failed_test_is_told_with_its_last_words() {
        let chatter = "one of many lines\n".repeat(2 * LAST_WORDS);
        let summary = read(&format!(
            "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\n{chatter}\n\
            thread 'a' panicked at a.rs:1:1:\nexpected\nstack backtrace:\n   0: a frame\n\
            Error: the sum is late\n\nCaused by:\n    a node\n\nStack backtrace:\n   0: a frame\n\n\
            failures:\n    a\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored"
        ));
        let said = summary.failure("a");
        assert!(said.starts_with("a\n    one of many"), "{said}");
        assert!(said.ends_with("expected\n    Error: the sum is late\n    Caused by:\n        a node"), "{said}");
        assert_eq!(said.lines().count(), 1 + LAST_WORDS);
        assert_eq!(summary.failure("b"), "b");
    }
}
