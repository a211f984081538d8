//! How the command ends: its exit code, its one line of error, and what a signal does.
//!
//! A signal drops the verb's future, so that guards remove what is half done and kill what was started. Nothing here
//! ends the process by itself: `main` returns the code.

use std::process::ExitCode;

use anyhow::{Context, Error, Result};
use owo_colors::OwoColorize;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A command line that cannot be: exit code 2, as clap's own errors.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The end by a signal: exit code 128 + its number, as shells report it.
#[derive(Debug)]
struct Interrupted {
    signal: SignalKind,
}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopped by a signal")
    }
}

impl std::error::Error for Interrupted {}

/// The end of a program that was run for the user: its code is ours.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) message: String,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Ended {}

/// Whether a signal ended it.
pub(crate) fn is_signal(error: &Error) -> bool {
    error.is::<Interrupted>()
}

/// Prints the error, if there is one, and says which code it ends with.
pub(crate) fn code(done: Result<()>) -> ExitCode {
    let Err(error) = done else { return ExitCode::SUCCESS };
    anstream::eprintln!("{} {error:#}", "error:".red().bold());
    ExitCode::from(code_of(&error))
}

fn code_of(error: &Error) -> u8 {
    if error.is::<Usage>() {
        return 2;
    }
    if let Some(ended) = error.downcast_ref::<Ended>() {
        return u8::try_from(ended.code & 0xff).unwrap_or(1);
    }
    let number = error.downcast_ref::<Interrupted>().map(|interrupted| interrupted.signal.as_raw_value());
    number.and_then(|number| u8::try_from(128 + number).ok()).unwrap_or(1)
}

/// Runs `work` on this thread until it is done or SIGINT or SIGTERM comes; `work` is dropped then.
pub(crate) fn until_signal<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async { Signals::listen()?.unless(work).await })
}

/// SIGINT and SIGTERM, from the moment this is made: none is lost between two waits.
pub(crate) struct Signals {
    int: Signal,
    term: Signal,
}

impl Signals {
    /// Listens from now on, in place of what the system would do.
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self {
            int: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
            term: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
        })
    }

    /// Waits for the next one, or takes the one that came meanwhile.
    pub(crate) async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.int.recv() => SignalKind::interrupt(),
            _ = self.term.recv() => SignalKind::terminate(),
        }
    }

    /// Waits for `work` until it is done or a signal comes; `work` is dropped then.
    pub(crate) async fn unless<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            signal = self.next() => Err(Interrupted { signal }.into()),
            done = work => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn codes_tell_usage_failure_and_signals_apart() {
        assert_eq!(code_of(&Usage("no".to_owned()).into()), 2);
        assert_eq!(code_of(&anyhow!("no")), 1);
        assert_eq!(code_of(&Interrupted { signal: SignalKind::interrupt() }.into()), 130);
        assert_eq!(code_of(&Interrupted { signal: SignalKind::terminate() }.into()), 143);
        assert_eq!(code_of(&Ended { code: 3, message: "no".to_owned() }.into()), 3);
        assert_eq!(code(Ok(())), ExitCode::SUCCESS);
    }

    #[test]
    fn work_that_ends_is_not_disturbed() {
        assert_eq!(until_signal(async { Ok(7) }).unwrap(), 7);
        assert!(until_signal::<()>(async { Err(anyhow!("no")) }).is_err());
    }

    #[test]
    fn a_signal_between_two_waits_is_not_lost() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut signals = Signals::listen().unwrap();
            signals.unless(async { Ok(()) }).await.unwrap();
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
            let next = tokio::time::timeout(std::time::Duration::from_secs(10), signals.next()).await;
            assert_eq!(next.expect("it came"), SignalKind::terminate());
        });
    }
}
