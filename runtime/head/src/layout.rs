//! Records to bytes and back: a byte that says which layout, then the codec's.

use mobula_logic::record::{JobRecord, NameRecord, NodeRecord, Record, RecordKey, TokenRecord};
use mobula_types::{ClusterId, Epoch, JobId, NodeId};
use mobula_wire::{DecodeError, EncodeError, decode, encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Which layout this version writes. A field that is added makes the next one, and this one is read still.
pub(crate) const LAYOUT: u8 = 1;

/// What the store knows of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The cluster.
    pub id: ClusterId,
    /// The hash by which its members know its certificate authority.
    pub ca: Vec<u8>,
    /// Which head wrote it.
    pub epoch: Epoch,
    /// That head's random number.
    pub nonce: u64,
}

/// Why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    /// A later version wrote it.
    #[error(
        "it was written in layout {found}, this version reads up to {LAYOUT}: use the version of mobula that wrote it"
    )]
    Newer { found: u8 },
    /// It is empty.
    #[error("a record is empty")]
    Empty,
    /// It lies under another's key.
    #[error("a record of {} lies under a key that is not its own", table.name())]
    Misplaced { table: Table },
    /// It is not what its table holds.
    #[error("a record cannot be read: {0}")]
    Damaged(#[from] DecodeError),
}

pub(crate) fn to_bytes(value: &impl Serialize) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = vec![LAYOUT];
    bytes.append(&mut encode(value)?);
    Ok(bytes)
}

pub(crate) fn of_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    match bytes {
        [] => Err(Unreadable::Empty),
        [LAYOUT, rest @ ..] => Ok(decode(rest)?),
        [found, ..] => Err(Unreadable::Newer { found: *found }),
    }
}

/// The tables of records, in the order of [`Table::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Counters,
    Nodes,
    Jobs,
    Names,
    Detached,
    Tokens,
    Values,
}

impl Table {
    pub(crate) const ALL: [Self; 7] =
        [Self::Counters, Self::Nodes, Self::Jobs, Self::Names, Self::Detached, Self::Tokens, Self::Values];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Counters => "counters",
            Self::Nodes => "nodes",
            Self::Jobs => "jobs",
            Self::Names => "names",
            Self::Detached => "detached",
            Self::Tokens => "tokens",
            Self::Values => "values",
        }
    }
}

/// Where a record is: its table and its key there.
pub(crate) fn place(key: &RecordKey) -> Result<(Table, Vec<u8>), EncodeError> {
    Ok(match key {
        RecordKey::Counters => (Table::Counters, Vec::new()),
        RecordKey::Node(NodeId(node)) => (Table::Nodes, node.to_be_bytes().to_vec()),
        RecordKey::Job(JobId(job)) => (Table::Jobs, job.to_be_bytes().to_vec()),
        RecordKey::Name(name) => (Table::Names, encode(name)?),
        RecordKey::Detached(name) => (Table::Detached, encode(name)?),
        RecordKey::Token(token) => (Table::Tokens, token.0.to_vec()),
        RecordKey::Value(job, key) => (Table::Values, encode(&(job, key))?),
    })
}

/// A record's bytes; which kind it is stands in its table.
pub(crate) fn record_bytes(record: &Record) -> Result<Vec<u8>, EncodeError> {
    match record {
        Record::Counters(record) => to_bytes(record),
        Record::Node(record) => to_bytes(record),
        Record::Job(record) => to_bytes(record),
        Record::Name(record) => to_bytes(record),
        Record::Detached(record) => to_bytes(record),
        Record::Token(record) => to_bytes(record),
        Record::Value(value) => to_bytes(value),
    }
}

/// The opposite of [`place`] and [`record_bytes`]. The machines trust that a record is what its key says.
pub(crate) fn read(table: Table, key: &[u8], bytes: &[u8]) -> Result<(RecordKey, Record), Unreadable> {
    let (record_key, record) = read_record(table, key, bytes)?;
    match place(&record_key) {
        Ok((_, place)) if place == key => Ok((record_key, record)),
        _ => Err(Unreadable::Misplaced { table }),
    }
}

fn read_record(table: Table, key: &[u8], bytes: &[u8]) -> Result<(RecordKey, Record), Unreadable> {
    Ok(match table {
        Table::Counters => (RecordKey::Counters, Record::Counters(of_bytes(bytes)?)),
        Table::Nodes => {
            let record: NodeRecord = of_bytes(bytes)?;
            (RecordKey::Node(record.node), Record::Node(record))
        }
        Table::Jobs => {
            let record: JobRecord = of_bytes(bytes)?;
            (RecordKey::Job(record.job), Record::Job(record))
        }
        Table::Names => {
            let record: NameRecord = of_bytes(bytes)?;
            (RecordKey::Name(record.key.clone()), Record::Name(record))
        }
        Table::Detached => (RecordKey::Detached(decode(key)?), Record::Detached(of_bytes(bytes)?)),
        Table::Tokens => {
            let record: TokenRecord = of_bytes(bytes)?;
            (RecordKey::Token(record.id), Record::Token(record))
        }
        Table::Values => {
            let (job, key) = decode(key)?;
            (RecordKey::Value(job, key), Record::Value(of_bytes(bytes)?))
        }
    })
}
