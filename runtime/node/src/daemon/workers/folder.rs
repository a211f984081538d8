//! A folder as one file, so that what a program reads beside itself is brought to a node as its program is: by hash.
//!
//! ```text
//! "mobula folder 1\n"  (1 | path bytes, path)*  folders    (2 or 3 | path bytes, path | bytes, content)*  files    0
//! ```
//!
//! A 3 is a file that may be executed. Paths are relative and lead nowhere else; links are packed as what they lead to. The
//! same content gives the same bytes, and so the same hash. Knows nothing of how the file travels.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// Bytes of all files together: what a program reads at its start, and no data set.
pub const FOLDER_BYTES_MAX: u64 = 1 << 30;

/// Files and folders in it.
pub const ENTRIES_MAX: usize = 65_536;

/// Folders inside one another: a link to a folder above it has no end.
const DEPTH_MAX: usize = 32;

/// Bytes of a path, as the kernel takes them.
const PATH_BYTES_MAX: usize = 4_096;

const MAGIC: &[u8; 16] = b"mobula folder 1\n";
const END: u8 = 0;
const FOLDER: u8 = 1;
const FILE: u8 = 2;
const PROGRAM: u8 = 3;

/// Why a folder is not packed or unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// It is too much.
    #[error(
        "{path} has more than {FOLDER_BYTES_MAX} bytes, {ENTRIES_MAX} entries or {DEPTH_MAX} folders inside one another: name \
         a folder with only what the program needs", path = path.display()
    )]
    TooLarge {
        /// The folder.
        path: PathBuf,
    },
    /// Something in it is neither a file nor a folder.
    #[error("{path} is neither a file nor a folder: name a working folder without it", path = path.display())]
    Odd {
        /// What.
        path: PathBuf,
    },
    /// A file had fewer bytes than it had a moment before.
    #[error("{path} has changed while it was read: try again", path = path.display())]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// What is to be unpacked is no packed folder.
    #[error("what came as the working folder is none: {0}")]
    NoFolder(&'static str),
    /// The system refuses.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Writes all that is in a folder.
///
/// # Errors
///
/// [`FolderError`].
pub fn pack(folder: &Path, out: &mut impl Write) -> Result<(), FolderError> {
    let mut packing = Packing { root: folder, out, entries: 0, bytes: 0 };
    packing.write(MAGIC)?;
    packing.folder(Path::new(""), 0)?;
    packing.write(&[END])
}

struct Packing<'a, W> {
    root: &'a Path,
    out: &'a mut W,
    entries: usize,
    bytes: u64,
}

impl<W: Write> Packing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), FolderError> {
        self.out.write_all(bytes).map_err(|source| FolderError::Io { path: self.root.to_owned(), source })
    }

    fn folder(&mut self, within: &Path, depth: usize) -> Result<(), FolderError> {
        let path = self.root.join(within);
        let failed = |source| FolderError::Io { path: path.clone(), source };
        let entries: Result<Vec<_>, _> =
            fs::read_dir(&path).map_err(failed)?.map(|entry| Ok(entry?.file_name())).collect();
        let mut names = entries.map_err(failed)?;
        names.sort();
        for name in names {
            let within = within.join(name);
            let path = self.root.join(&within);
            let meta = fs::metadata(&path).map_err(|source| FolderError::Io { path: path.clone(), source })?;
            self.entries += 1;
            self.bytes += if meta.is_file() { meta.len() } else { 0 };
            if self.entries > ENTRIES_MAX || self.bytes > FOLDER_BYTES_MAX || depth >= DEPTH_MAX {
                return Err(FolderError::TooLarge { path: self.root.to_owned() });
            }
            if meta.is_dir() {
                self.head(FOLDER, &within)?;
                self.folder(&within, depth + 1)?;
            } else if meta.is_file() {
                let kind = if meta.permissions().mode() & 0o111 == 0 { FILE } else { PROGRAM };
                self.head(kind, &within)?;
                self.write(&meta.len().to_le_bytes())?;
                self.file(&path, meta.len())?;
            } else {
                return Err(FolderError::Odd { path });
            }
        }
        Ok(())
    }

    fn head(&mut self, kind: u8, within: &Path) -> Result<(), FolderError> {
        let name = within.as_os_str().as_bytes();
        let bytes = u16::try_from(name.len()).ok().filter(|bytes| usize::from(*bytes) <= PATH_BYTES_MAX);
        let bytes = bytes.ok_or_else(|| FolderError::TooLarge { path: self.root.to_owned() })?;
        self.write(&[kind])?;
        self.write(&bytes.to_le_bytes())?;
        self.write(name)
    }

    fn file(&mut self, path: &Path, bytes: u64) -> Result<(), FolderError> {
        let failed = |source| FolderError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let copied = io::copy(&mut file.take(bytes), self.out).map_err(failed)?;
        if copied == bytes { Ok(()) } else { Err(FolderError::Changed { path: path.to_owned() }) }
    }
}

/// Makes a folder with what [`pack`] wrote, closed to others. The bytes came from somebody: they make nothing outside it.
///
/// # Errors
///
/// [`FolderError`]; the folder is there already, or part of it is there now.
pub fn unpack(packed: &mut impl Read, folder: &Path) -> Result<(), FolderError> {
    let made = DirBuilder::new().mode(0o700).create(folder);
    made.map_err(|source| FolderError::Io { path: folder.to_owned(), source })?;
    if take::<16>(packed)? != *MAGIC {
        return Err(FolderError::NoFolder("it begins otherwise"));
    }
    let (mut entries, mut bytes) = (0, 0u64);
    loop {
        let [kind] = take::<1>(packed)?;
        if kind == END {
            let is_over = matches!(packed.read(&mut [0]), Ok(0));
            return if is_over { Ok(()) } else { Err(FolderError::NoFolder("it goes on behind its end")) };
        }
        entries += 1;
        let path = folder.join(relative(packed)?);
        let failed = |source| FolderError::Io { path: path.clone(), source };
        let len = match kind {
            FOLDER => 0,
            FILE | PROGRAM => u64::from_le_bytes(take::<8>(packed)?),
            _ => return Err(FolderError::NoFolder("it holds what is neither a file nor a folder")),
        };
        bytes = bytes.saturating_add(len);
        if entries > ENTRIES_MAX || bytes > FOLDER_BYTES_MAX {
            return Err(FolderError::TooLarge { path: folder.to_owned() });
        }
        if kind == FOLDER {
            DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
            continue;
        }
        let mode = if kind == PROGRAM { 0o700 } else { 0o600 };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).map_err(failed)?;
        if io::copy(&mut packed.by_ref().take(len), &mut file).map_err(failed)? < len {
            return Err(FolderError::NoFolder("it is cut off"));
        }
    }
}

fn relative(packed: &mut impl Read) -> Result<PathBuf, FolderError> {
    let len = usize::from(u16::from_le_bytes(take::<2>(packed)?));
    if len > PATH_BYTES_MAX {
        return Err(FolderError::NoFolder("a path is too long"));
    }
    let mut name = vec![0; len];
    packed.read_exact(&mut name).map_err(|_| FolderError::NoFolder("it is cut off"))?;
    let path = PathBuf::from(OsStr::from_bytes(&name));
    let components = || path.components();
    // Nothing that it makes is a link, so a path of names leads into the folder.
    let stays = components().all(|part| matches!(part, Component::Normal(_))) && components().next().is_some();
    if stays && components().count() <= DEPTH_MAX {
        Ok(path)
    } else {
        Err(FolderError::NoFolder("a path leads out of it"))
    }
}

fn take<const N: usize>(packed: &mut impl Read) -> Result<[u8; N], FolderError> {
    let mut bytes = [0; N];
    packed.read_exact(&mut bytes).map_err(|_| FolderError::NoFolder("it is cut off"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(folder: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        pack(folder, &mut bytes).unwrap();
        bytes
    }

    /// A folder with a file, a program, a folder with a file in it, and an empty one.
    fn filled(folder: &Path) {
        fs::create_dir_all(folder.join("data/empty")).unwrap();
        fs::write(folder.join("words.txt"), "ray\n").unwrap();
        fs::write(folder.join("data/none"), "").unwrap();
        fs::write(folder.join("run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(folder.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("words.txt", folder.join("link")).unwrap();
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let place = tempfile::tempdir().unwrap();
        let (one, other) = (place.path().join("one"), place.path().join("other"));
        fs::create_dir(&one).unwrap();
        filled(&one);
        let bytes = packed(&one);
        unpack(&mut &bytes[..], &other).unwrap();
        assert_eq!(fs::read_to_string(other.join("words.txt")).unwrap(), "ray\n");
        assert_eq!(fs::read_to_string(other.join("link")).unwrap(), "ray\n");
        assert!(!fs::symlink_metadata(other.join("link")).unwrap().is_symlink(), "links are packed as files");
        assert_eq!(fs::read(other.join("data/none")).unwrap(), b"");
        assert!(other.join("data/empty").is_dir());
        let mode = |name: &str| fs::metadata(other.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("run"), mode("words.txt"), mode("data"), mode("")), (0o700, 0o600, 0o700, 0o700));
        assert_eq!(packed(&other), bytes, "the same content gives the same bytes");
        let again = unpack(&mut &bytes[..], &other).unwrap_err();
        assert!(matches!(again, FolderError::Io { .. }), "it mixes with nothing: {again}");
    }

    #[test]
    fn what_cannot_be_packed_says_so() {
        let place = tempfile::tempdir().unwrap();
        let refused = || pack(place.path(), &mut io::sink()).unwrap_err().to_string();
        fs::write(place.path().join("large"), "").unwrap();
        OpenOptions::new().write(true).open(place.path().join("large")).unwrap().set_len(FOLDER_BYTES_MAX + 1).unwrap();
        assert!(refused().contains("only what the program needs"), "{}", refused());
        fs::remove_file(place.path().join("large")).unwrap();
        std::os::unix::fs::symlink(".", place.path().join("round")).unwrap();
        assert!(refused().contains("32 folders inside one another"), "{}", refused());
        fs::remove_file(place.path().join("round")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(place.path().join("socket")).unwrap();
        assert!(refused().contains("socket is neither"), "{}", refused());
    }

    #[test]
    fn nothing_is_made_outside_the_folder() {
        let place = tempfile::tempdir().unwrap();
        let escape = place.path().join("escape");
        let absolute = escape.to_str().unwrap();
        for (turn, path) in ["../escape", "a/../../escape", absolute, "", ".", "/", ".."].into_iter().enumerate() {
            let mut bytes = MAGIC.to_vec();
            bytes.push(FILE);
            bytes.extend_from_slice(&(path.len() as u16).to_le_bytes());
            bytes.extend_from_slice(path.as_bytes());
            bytes.extend_from_slice(&3u64.to_le_bytes());
            bytes.extend_from_slice(b"ray\0");
            let error = unpack(&mut &bytes[..], &place.path().join(turn.to_string())).unwrap_err();
            assert!(matches!(error, FolderError::NoFolder("a path leads out of it")), "{path}: {error}");
            assert!(!escape.exists(), "{path}");
        }
    }

    #[test]
    fn bytes_that_are_no_folder_are_no_fault() {
        let place = tempfile::tempdir().unwrap();
        let one = place.path().join("one");
        fs::create_dir(&one).unwrap();
        filled(&one);
        let whole = packed(&one);
        for cut in 0..whole.len() {
            let to = place.path().join(format!("cut-{cut}"));
            assert!(unpack(&mut &whole[..cut], &to).is_err(), "{cut} of {} bytes", whole.len());
            fs::remove_dir_all(to).unwrap();
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(matches!(unpack(&mut &longer[..], &place.path().join("longer")), Err(FolderError::NoFolder(_))));
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x81;
            let to = place.path().join(format!("changed-{at}"));
            // Content may be anything; all else is found out, and what is made stays inside.
            unpack(&mut &changed[..], &to).ok();
            fs::remove_dir_all(to).unwrap();
        }
    }
}
