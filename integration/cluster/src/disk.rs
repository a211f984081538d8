//! A disk of a node's own, which a test can fill and empty: a `tmpfs` of a few megabytes.
//!
//! What is written there takes memory of the machine, which comes back when it is dropped.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// A file on it that is not the node's.
const FOREIGN: &str = "foreign";

/// Written at once.
const PIECE_BYTES: usize = 1 << 20;

/// A mounted disk. Dropping it unmounts it.
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts a disk of so many bytes on a new folder.
    ///
    /// # Errors
    ///
    /// The kernel did not do it.
    pub fn mount(path: &Path, bytes: u64) -> Result<Self> {
        fs::create_dir(path).with_context(|| format!("make {}", path.display()))?;
        let options = format!("size={bytes},mode=700");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "mobula-test"]).arg(path))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills what is free with a file that is not the node's.
    ///
    /// # Errors
    ///
    /// It could not be written, for another reason than that the disk is full.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.path.join(FOREIGN))?;
        let piece = vec![7; PIECE_BYTES];
        loop {
            match file.write(&piece) {
                Ok(0) => bail!("the disk takes nothing"),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("fill a disk"),
            }
        }
    }

    /// Removes that file.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn free(&self) -> Result<()> {
        fs::remove_file(self.path.join(FOREIGN)).context("remove what fills a disk")
    }

    /// The files on it, in the order of their names.
    ///
    /// # Errors
    ///
    /// It could not be read.
    pub fn files(&self) -> Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also when a process that a failed test has left still has a file open there.
        if let Err(error) = run(Command::new("umount").arg("--lazy").arg(&self.path)) {
            eprintln!("a disk is left: {error:#}");
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let done = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}
