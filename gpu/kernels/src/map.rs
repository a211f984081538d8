//! A model file, mapped read-only, so that its weights are multiplied where they lie.
//!
//! Knows nothing of GGUF: it hands out bytes. Pages come in when they are touched and the system may drop them again;
//! they are shared between the shards of a process and between processes.

use std::{fs::File, io, ops::Deref, path::Path, path::PathBuf, sync::Arc};

use memmap2::Mmap;

/// A file mapped read-only; clones share the mapping.
///
/// **The file must not be shortened or rewritten in place while it is mapped.** Shortening ends the process with
/// `SIGBUS` when a page past the end is read, and rewriting changes weights under a running model. Replacing the file
/// by a rename, as `mobula pull` does, is safe: the mapping keeps the old one.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use mobula_kernels::MappedFile;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("model.gguf");
/// std::fs::write(&path, b"GGUF")?;
/// assert_eq!(MappedFile::open(&path)?.bytes(), b"GGUF");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MappedFile {
    map: Arc<Mmap>,
    path: Arc<Path>,
}

/// Why a file could not be mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The file could not be opened, asked for its size, or mapped.
    #[error("cannot read {path}: {source}", path = path.display())]
    Io {
        /// The path as it was given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder, a pipe, a device: it has no fixed contents to map.
    #[error("{path} is not a regular file", path = path.display())]
    NotAFile {
        /// The path as it was given.
        path: PathBuf,
    },
    /// There is nothing in it.
    #[error("{path} is empty", path = path.display())]
    Empty {
        /// The path as it was given.
        path: PathBuf,
    },
}

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    ///
    /// [`MapError`] when it cannot be read, is no regular file, or is empty.
    pub fn open(path: &Path) -> Result<Self, MapError> {
        let io = |source| MapError::Io { path: path.to_owned(), source };
        // Asked before opening: to open a pipe waits for a writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(MapError::NotAFile { path: path.to_owned() });
        }
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(MapError::Empty { path: path.to_owned() });
        }
        // SAFETY: a mapping is sound as long as nobody shortens or changes the file under it, which no process can
        // rule out for another; it is the documented contract of this type, as of every program that maps models.
        // The mapping is read-only, and its length is that of the file just asked by memmap2 itself.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self { map: Arc::new(map), path: path.into() })
    }

    /// The bytes of the file, as long as it was when it was opened.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl std::fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MappedFile").field("path", &self.path).field("len", &self.map.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_bytes_and_outlive_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, [7; 5000]).unwrap();
        let file = MappedFile::open(&path).unwrap();
        let clone = file.clone();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.bytes(), [7; 5000]);
        assert_eq!(clone.bytes().as_ptr(), file.bytes().as_ptr());
        fn crosses_threads<T: Send + Sync>(_: T) {}
        crosses_threads(clone);
    }

    #[test]
    fn what_cannot_be_mapped_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty");
        std::fs::write(&empty, []).unwrap();
        assert!(matches!(MappedFile::open(&empty), Err(MapError::Empty { .. })));
        assert!(matches!(MappedFile::open(folder.path()), Err(MapError::NotAFile { .. })));
        let absent = MappedFile::open(&folder.path().join("absent")).unwrap_err();
        assert!(absent.to_string().contains("absent"), "{absent}");
        #[cfg(unix)]
        assert!(matches!(MappedFile::open(Path::new("/dev/null")), Err(MapError::NotAFile { .. })));
    }
}
