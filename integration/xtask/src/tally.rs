//! What passed, what failed, what was left out and why.
//!
//! Where the environment says `CI`, nothing may be left out: a skip counts as a failure there.

use anyhow::{Error, Result, bail};

/// The count of one run of `check` or `test`.
#[derive(Default)]
pub(crate) struct Tally {
    passed: u64,
    failures: Vec<String>,
    skipped: Vec<String>,
}

impl Tally {
    /// Counts one check and shows its error at once.
    pub(crate) fn record(&mut self, name: &str, done: Result<()>) {
        match done {
            Ok(()) => self.passed += 1,
            Err(error) => self.fail(name, &error),
        }
    }

    /// Counts `passed` tests, and each of `failures` by its name.
    pub(crate) fn count(&mut self, passed: u64, failures: impl IntoIterator<Item = String>) {
        self.passed += passed;
        self.failures.extend(failures);
    }

    /// Leaves `what` out, saying why; with `CI` set it fails instead.
    pub(crate) fn skip(&mut self, what: &str, why: &Error) {
        self.skip_unless(std::env::var_os("CI").is_some(), what, why);
    }

    fn skip_unless(&mut self, ci: bool, what: &str, why: &Error) {
        if ci {
            return self.fail(&format!("{what} (CI may not skip it)"), why);
        }
        println!("skipped: {what}: {why:#}");
        self.skipped.push(what.to_owned());
    }

    fn fail(&mut self, name: &str, error: &Error) {
        println!("FAILED: {name}: {error:#}");
        self.failures.push(name.to_owned());
    }

    /// Prints the closing lines and turns failures into an error.
    pub(crate) fn finish(self) -> Result<()> {
        for skipped in &self.skipped {
            println!("skipped: {skipped}");
        }
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        println!("{} passed, {} failed", self.passed, self.failures.len());
        if self.failures.is_empty() { Ok(()) } else { bail!("{} failed", self.failures.len()) }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_skip_passes_at_home_and_fails_in_ci() {
        let mut home = Tally::default();
        home.record("format", Ok(()));
        home.skip_unless(false, "demo", &anyhow!("no network"));
        assert_eq!(home.skipped, ["demo"]);
        assert!(home.finish().is_ok());

        let mut ci = Tally::default();
        ci.skip_unless(true, "demo", &anyhow!("no network"));
        assert!(ci.finish().is_err());
    }

    #[test]
    fn failures_keep_their_names() {
        let mut tally = Tally::default();
        tally.record("lints", Err(anyhow!("one warning")));
        tally.count(7, ["actor::tests::restart".to_owned()]);
        assert_eq!(
            (tally.passed, tally.failures.as_slice()),
            (7, &["lints".to_owned(), "actor::tests::restart".to_owned()][..])
        );
        assert_eq!(tally.finish().unwrap_err().to_string(), "2 failed");
    }
}
