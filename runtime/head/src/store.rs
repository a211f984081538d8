//! Records in a redb file: all of a batch or none, synced before it is said to be written.
//!
//! A write that fails leaves the file as it was; the database is opened again before the next, as redb asks for. What a
//! record means is the machines'.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use mobula_logic::record::{Change, Record, RecordKey};
use mobula_types::ClusterId;
use mobula_wire::EncodeError;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use crate::layout::{self, Table, Unreadable};
use crate::medium::{Medium, OnDisk};

pub use crate::layout::Cluster;

/// The file's name in a head's folder.
pub const FILE: &str = "head.redb";

/// The file whose lock says that a head uses the store.
const LOCK: &str = "head.lock";

/// Memory for pages of the file. All records are held by the machines: it is read once, at the start.
const CACHE_BYTES: usize = 8 << 20;

const CLUSTER: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("cluster");

type Bytes<'a> = TableDefinition<'a, &'static [u8], &'static [u8]>;

/// An open control store.
pub struct Store {
    medium: Box<dyn Medium>,
    /// None after a write failed, until the next one.
    database: Option<Database>,
    /// What this head has written of itself: as long as the file says so, it is this head's.
    cluster: Option<Cluster>,
    /// Held for as long as this lives, also while redb has let go of the file.
    _lock: Option<File>,
}

/// What was read when a store was opened.
pub(crate) struct Kept {
    pub(crate) cluster: Option<Cluster>,
    pub(crate) records: Vec<(RecordKey, Record)>,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file is not what this head wrote.
    #[error("{path} is damaged: {why}; restore it from a copy, or remove it to begin a new cluster")]
    Corrupted {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A later version wrote it.
    #[error("{path}: {why}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Which.
        why: String,
    },
    /// Another head uses it.
    #[error("{path} is in use by another process: end the other head first")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is another cluster's.
    #[error("{path} belongs to cluster {found}, not to {wanted}: give each cluster a folder of its own")]
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// Whose it should be.
        wanted: ClusterId,
    },
    /// The next epoch cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// The thread that writes cannot be started.
    #[error("no thread can be started: {0}")]
    Thread(io::Error),
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The disk is full (G16).
    #[error("the disk of {path} is full: free some space, the head goes on by itself")]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// The system says no.
    #[error("{path} cannot be written: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// A record has no bytes.
    #[error("a record cannot be written: {0}")]
    Record(#[from] EncodeError),
    /// Another head has taken the file while a write had failed (G13).
    #[error("{path} was taken over by another head: this one ends")]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// The file has changed under the head.
    #[error("{path} is damaged: {why}")]
    Corrupted {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl Store {
    /// Opens the store in `folder`, which is made there when there is none.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Kept), OpenError> {
        let path = folder.join(FILE);
        let lock = lock(&folder.join(LOCK), &path)?;
        let medium = OnDisk::new(path.clone(), &builder()).map_err(|error| open_error(&path, error))?;
        let (store, kept) = Self::open_on(Box::new(medium))?;
        Ok((Self { _lock: Some(lock), ..store }, kept))
    }

    pub(crate) fn open_on(medium: Box<dyn Medium>) -> Result<(Self, Kept), OpenError> {
        let path = medium.path().to_owned();
        // redb may panic over a file that something else has changed.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = medium.open(&builder()).map_err(|error| open_error(&path, error))?;
            let kept = read(&database, &path)?;
            Ok((database, kept))
        }));
        let (database, kept) = opened.unwrap_or_else(|panic| {
            let why = panic.downcast::<String>().map_or_else(|_| "it cannot be read".to_owned(), |text| *text);
            Err(OpenError::Corrupted { path: path.clone(), why })
        })?;
        Ok((Self { medium, database: Some(database), cluster: None, _lock: None }, kept))
    }

    /// Writes who the cluster and its head are.
    pub(crate) fn set_cluster(&mut self, cluster: &Cluster) -> Result<(), WriteError> {
        let bytes = layout::to_bytes(cluster)?;
        self.write(|transaction| {
            transaction.open_table(CLUSTER)?.insert(&[][..], &bytes[..])?;
            Ok(())
        })?;
        self.cluster = Some(cluster.clone());
        Ok(())
    }

    /// Writes all of `changes` or none; returns when they are synced.
    pub(crate) fn commit(&mut self, changes: &[Change]) -> Result<(), WriteError> {
        let mut tables: Vec<(Table, Vec<u8>, Option<Vec<u8>>)> = Vec::with_capacity(changes.len());
        for Change { key, record } in changes {
            let (table, key) = layout::place(key)?;
            tables.push((table, key, record.as_ref().map(layout::record_bytes).transpose()?));
        }
        self.write(|transaction| {
            for table in Table::ALL {
                let mut of_table = tables.iter().filter(|(other, ..)| *other == table).peekable();
                if of_table.peek().is_none() {
                    continue;
                }
                let mut open = transaction.open_table(definition(table))?;
                for (_, key, bytes) in of_table {
                    match bytes {
                        Some(bytes) => drop(open.insert(&key[..], &bytes[..])?),
                        None => drop(open.remove(&key[..])?),
                    }
                }
            }
            Ok(())
        })
    }

    /// Opens the file after a write has failed. Whoever has taken it meanwhile has a later epoch, which nodes hear.
    fn open_again(&self, path: &Path) -> Result<Database, WriteError> {
        let opened = catch_unwind(AssertUnwindSafe(|| -> Result<_, OpenError> {
            let database = self.medium.open(&builder()).map_err(|error| open_error(path, error))?;
            let cluster = read_cluster(&database, path)?;
            Ok((database, cluster))
        }));
        let path = path.to_owned();
        match opened {
            Ok(Ok((_, cluster))) if cluster != self.cluster => Err(WriteError::Replaced { path }),
            Ok(Ok((database, _))) => Ok(database),
            Ok(Err(OpenError::Write(error))) => Err(error),
            Ok(Err(error)) => Err(WriteError::Corrupted { path, why: error.to_string() }),
            Err(_) => Err(WriteError::Corrupted { path, why: "redb gave up on it".to_owned() }),
        }
    }

    fn write(
        &mut self,
        fill: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), WriteError> {
        let path = self.medium.path().to_owned();
        let database = match self.database.take() {
            Some(database) => database,
            None => self.open_again(&path)?,
        };
        let written = catch_unwind(AssertUnwindSafe(|| {
            let mut transaction = database.begin_write()?;
            // A restart after a crash must not walk the whole file.
            transaction.set_quick_repair(true);
            fill(&transaction)?;
            transaction.commit()?;
            Ok(())
        }));
        match written {
            // Only a database that has never failed is used again.
            Ok(Ok(())) => {
                self.database = Some(database);
                Ok(())
            }
            Ok(Err(error)) => Err(write_error(&path, error)),
            Err(_) => Err(WriteError::Corrupted { path, why: "redb gave up on it".to_owned() }),
        }
    }
}

/// Takes the folder's store for this process.
fn lock(lock: &Path, path: &Path) -> Result<File, OpenError> {
    let io = |source| OpenError::Write(WriteError::Io { path: lock.to_owned(), source });
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(lock).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn definition(table: Table) -> Bytes<'static> {
    TableDefinition::new(table.name())
}

fn unreadable(path: &Path, error: &Unreadable) -> OpenError {
    let (path, why) = (path.to_owned(), error.to_string());
    match error {
        Unreadable::Newer { .. } => OpenError::Newer { path, why },
        _ => OpenError::Corrupted { path, why },
    }
}

fn read_cluster(database: &Database, path: &Path) -> Result<Option<Cluster>, OpenError> {
    let damaged = |error: redb::Error| open_error_of(path, error);
    let transaction = database.begin_read().map_err(|error| damaged(error.into()))?;
    let table = match transaction.open_table(CLUSTER) {
        Ok(table) => table,
        // No head has opened it yet.
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(damaged(error.into())),
    };
    let bytes = table.get(&[][..]).map_err(|error| damaged(error.into()))?;
    bytes.map(|bytes| layout::of_bytes(bytes.value()).map_err(|error| unreadable(path, &error))).transpose()
}

fn read(database: &Database, path: &Path) -> Result<Kept, OpenError> {
    let damaged = |error: redb::Error| open_error_of(path, error);
    let mut kept = Kept { cluster: read_cluster(database, path)?, records: Vec::new() };
    let transaction = database.begin_read().map_err(|error| damaged(error.into()))?;
    for table in Table::ALL {
        let rows = match transaction.open_table(definition(table)) {
            Ok(rows) => rows,
            Err(redb::TableError::TableDoesNotExist(_)) => continue,
            Err(error) => return Err(damaged(error.into())),
        };
        for row in rows.iter().map_err(|error| damaged(error.into()))? {
            let (key, bytes) = row.map_err(|error| damaged(error.into()))?;
            kept.records
                .push(layout::read(table, key.value(), bytes.value()).map_err(|error| unreadable(path, &error))?);
        }
    }
    Ok(kept)
}

fn open_error(path: &Path, error: DatabaseError) -> OpenError {
    open_error_of(path, error.into())
}

fn open_error_of(path: &Path, error: redb::Error) -> OpenError {
    let path = path.to_owned();
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => OpenError::InUse { path },
        redb::Error::UpgradeRequired(version) => {
            OpenError::Newer { path, why: format!("its format is {version}: use the version of mobula that wrote it") }
        }
        redb::Error::Io(error) if is_damage(&error) => OpenError::Corrupted { path, why: error.to_string() },
        redb::Error::Io(_) => OpenError::Write(write_error(&path, error)),
        other => OpenError::Corrupted { path, why: other.to_string() },
    }
}

fn write_error(path: &Path, error: redb::Error) -> WriteError {
    let path = path.to_owned();
    match error {
        redb::Error::Io(source) if is_full(&source) => WriteError::DiskFull { path },
        redb::Error::Io(source) => WriteError::Io { path, source },
        other => WriteError::Corrupted { path, why: other.to_string() },
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// What a file says that is too short, or is no database.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}
