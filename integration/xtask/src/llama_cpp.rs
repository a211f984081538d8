//! The peer of `cargo xtask bench` that no registry of crates has: llama.cpp, built for this machine by pip.
//!
//! `llama-cpp-python` carries llama.cpp as source; built natively it uses all instructions that the machine has, which
//! the wheels do not. The build takes minutes, so it is kept beside cargo's output, and only the bench asks for it.
//! Whatever is missing (python3, pip, a C++ compiler, the network) is said, and llama.cpp is left out of the table.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cargo;
use crate::child::{self, Child};

/// The version whose build made the reference that the model is tested against.
const PACKAGE: &str = "llama-cpp-python==0.3.36";
/// A Python that has it already, for who does not want another.
const PYTHON: &str = "MOBULA_BENCH_LLAMA_PYTHON";
/// The longest that pip may build: ten minutes on 2 idle cores.
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
/// The longest that making an environment or a look at one may take.
const LIMIT: Duration = Duration::from_secs(120);

/// A Python that has llama-cpp-python, or none after a line that says why.
///
/// # Errors
/// When a signal asked us to stop.
pub(crate) fn python() -> Result<Option<PathBuf>> {
    if let Some(python) = std::env::var_os(PYTHON) {
        return Ok(Some(python.into()));
    }
    match build(&cargo::target().join("peers").join(PACKAGE)) {
        Ok(python) => Ok(Some(python)),
        Err(error) => {
            child::fail_if_stopped()?;
            println!("skipped: llama.cpp, because it could not be built: {error:#}");
            Ok(None)
        }
    }
}

/// The Python of the environment at `folder`, which is made and filled where it is not.
fn build(folder: &Path) -> Result<PathBuf> {
    let python = folder.join("bin/python");
    if quietly("a look for llama.cpp", Command::new(&python).args(["-c", "import llama_cpp"]), LIMIT).is_ok() {
        return Ok(python);
    }
    child::fail_if_stopped()?;
    println!("building {PACKAGE} in {}, which takes minutes", folder.display());
    let mut venv = Command::new("python3");
    quietly("python3 -m venv", venv.args(["-m", "venv", "--clear"]).arg(folder), LIMIT)
        .context("install python3 with venv, for example `apt install python3-venv`")?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--no-cache-dir", "--progress-bar", "off"]);
    // Only its own source: pip brings cmake and numpy as wheels.
    pip.args(["--no-binary", "llama-cpp-python", PACKAGE]).env("CMAKE_ARGS", "-DGGML_NATIVE=ON");
    quietly("pip install", &mut pip, BUILD_LIMIT).context("it needs a C++ compiler and pip's index")?;
    Ok(python)
}

/// Runs `command` to its end; what it prints is shown only where it fails.
fn quietly(name: &str, command: &mut Command, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    let mut child = Child::watch(name, command)?;
    while child.next_line(deadline)?.is_some() {}
    let status = child.wait(deadline)?;
    ensure!(status.success(), "{name} ended with {status}:\n{}", child.tail());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_told_with_its_last_lines() {
        let mut command = Command::new("sh");
        let error = quietly("a build", command.args(["-c", "echo no compiler; exit 7"]), LIMIT).unwrap_err();
        assert!(error.to_string().contains("no compiler"), "{error}");
        assert!(quietly("nothing", &mut Command::new("true"), LIMIT).is_ok());
    }

    #[test]
    fn what_hangs_is_ended() {
        let mut command = Command::new("sleep");
        let error = quietly("a build", command.arg("600"), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("in time"), "{error}");
    }
}
