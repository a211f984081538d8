//! The peers of `cargo xtask bench` that no registry of crates has: llama.cpp and Ray, which pip installs.
//!
//! Each has an environment of its own beside cargo's output, since to make one takes minutes, and only the bench asks for it.
//! Whatever is missing (python3, pip, a C++ compiler, the network) is said, and that peer is left out of the table.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cargo;
use crate::child::{self, Child};

/// The longest that pip may build: ten minutes on 2 idle cores.
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
/// The longest that making an environment or a look at one may take.
const LIMIT: Duration = Duration::from_secs(120);

/// A peer that pip installs.
pub(crate) struct Peer {
    name: &'static str,
    /// What pip is asked for; the first is the peer itself.
    packages: &'static [&'static str],
    /// How Python calls it.
    module: &'static str,
    /// Names a Python that has it already, for who does not want another.
    variable: &'static str,
    /// Further words for pip, and a setting for what it builds.
    options: &'static [&'static str],
    setting: Option<(&'static str, &'static str)>,
}

/// llama.cpp as `llama-cpp-python` carries it: built natively from its source it uses all instructions that the machine
/// has, which the wheels do not. The version is the one whose build made the reference that the model is tested against.
pub(crate) const LLAMA_CPP: Peer = Peer {
    name: "llama.cpp",
    packages: &["llama-cpp-python==0.3.36"],
    module: "llama_cpp",
    variable: "MOBULA_BENCH_LLAMA_PYTHON",
    // Only its own source: pip brings cmake and numpy as wheels.
    options: &["--no-binary", "llama-cpp-python"],
    setting: Some(("CMAKE_ARGS", "-DGGML_NATIVE=ON")),
};

/// Ray, whose figures the goals are written against.
pub(crate) const RAY: Peer = Peer {
    name: "Ray",
    packages: &["ray[default]==2.60.0", "numpy"],
    module: "ray, numpy",
    variable: "MOBULA_BENCH_RAY_PYTHON",
    options: &[],
    setting: None,
};

impl Peer {
    /// A Python that has it, or none after a line that says why.
    ///
    /// # Errors
    /// When a signal asked us to stop.
    pub(crate) fn python(&self) -> Result<Option<PathBuf>> {
        if let Some(python) = std::env::var_os(self.variable) {
            return Ok(Some(python.into()));
        }
        match self.build(&cargo::target().join("peers").join(self.packages[0])) {
            Ok(python) => Ok(Some(python)),
            Err(error) => {
                child::fail_if_stopped()?;
                println!("skipped: {}, because it could not be installed: {error:#}", self.name);
                Ok(None)
            }
        }
    }

    /// The Python of the environment at `folder`, which is made and filled where it is not.
    fn build(&self, folder: &Path) -> Result<PathBuf> {
        let python = folder.join("bin/python");
        let import = format!("import {}", self.module);
        if quietly(&format!("a look for {}", self.name), Command::new(&python).args(["-c", &import]), LIMIT).is_ok() {
            return Ok(python);
        }
        child::fail_if_stopped()?;
        println!("installing {} in {}, which takes minutes", self.packages[0], folder.display());
        let mut venv = Command::new("python3");
        quietly("python3 -m venv", venv.args(["-m", "venv", "--clear"]).arg(folder), LIMIT)
            .context("install python3 with venv, for example `apt install python3-venv`")?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--no-cache-dir", "--progress-bar", "off"]);
        pip.args(self.options).args(self.packages).envs(self.setting);
        quietly("pip install", &mut pip, BUILD_LIMIT)
            .context("it needs pip's index, and a C++ compiler where it builds")?;
        Ok(python)
    }
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
