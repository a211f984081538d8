//! Where the store's bytes are.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError};

/// Something that a database can be opened on, again and again: after a failed write redb wants it.
pub(crate) trait Medium: Send + 'static {
    fn open(&self, builder: &Builder) -> Result<Database, DatabaseError>;
    /// For messages.
    fn path(&self) -> &Path;
}

/// A file.
#[derive(Debug)]
pub(crate) struct OnDisk {
    path: PathBuf,
}

/// Read and written by its owner only: it holds the hashes of secrets, and what users named.
const MODE: u32 = 0o600;

impl OnDisk {
    /// The file at `path`, which is made when there is none.
    ///
    /// It is made under another name and gets its own when it is whole: so one that is there and empty has lost what was
    /// in it.
    pub(crate) fn new(path: PathBuf, builder: &Builder) -> Result<Self, DatabaseError> {
        if !path.try_exists().map_err(storage)? {
            let unfinished = path.with_extension("new");
            let file = options().create(true).truncate(true).open(&unfinished).map_err(storage)?;
            builder.create_with_backend(FileBackend::new(file)?)?.close()?;
            File::open(&unfinished).and_then(|file| file.sync_all()).map_err(storage)?;
            fs::rename(&unfinished, &path).map_err(storage)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(storage)?;
        }
        Ok(Self { path })
    }
}

impl Medium for OnDisk {
    fn open(&self, builder: &Builder) -> Result<Database, DatabaseError> {
        let file = options().open(&self.path).map_err(storage)?;
        if file.metadata().map_err(storage)?.len() == 0 {
            return Err(DatabaseError::Storage(redb::StorageError::Corrupted("the file is empty".to_owned())));
        }
        builder.create_with_backend(FileBackend::new(file)?)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(MODE);
    options
}

fn storage(error: io::Error) -> DatabaseError {
    DatabaseError::Storage(redb::StorageError::Io(error))
}
