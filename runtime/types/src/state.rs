//! What `status` and `list` print: records of what a cluster holds now.
//!
//! With `--json` a record is one line: names in snake case, units at their end, ids as text. Later versions add fields
//! and never change or remove one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What `mobula status --json` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's id, made with its certificate authority.
    pub cluster_id: String,
    /// The version of the language between its nodes.
    pub protocol: u32,
    /// Which head this is: a restarted one takes the next.
    pub epoch: u64,
    /// The head's node.
    pub head: String,
    /// Since the head was started, in seconds.
    pub uptime_s: f64,
    /// Every node that is known, the dead ones of the last hour too.
    pub nodes: Vec<NodeStatus>,
    /// What was submitted and how it ended, and who was refused.
    pub counters: OutcomeCounters,
}

/// One node of a [`ClusterStatus`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Which node.
    pub node_id: String,
    /// Where the others reach it.
    pub addr: String,
    /// `alive`, `draining` or `dead`.
    pub state: String,
    /// Which start of this node this is.
    pub incarnation: u32,
    /// What it has, by name.
    pub resources_total: BTreeMap<String, f64>,
    /// What of it is free, by name.
    pub resources_free: BTreeMap<String, f64>,
    /// Its process on its host.
    pub pid: u32,
    /// Its own resident memory, without its workers.
    pub rss_bytes: u64,
    /// Bytes of its object store: memory that its processes may share.
    #[serde(default)]
    pub store_bytes_total: u64,
    /// Bytes of it that processes have.
    #[serde(default)]
    pub store_bytes_used: u64,
    /// Objects of which it knows: its own, and others' that are held there.
    #[serde(default)]
    pub objects: u64,
    /// Bytes of values that its memory had no room for, and that are in files.
    #[serde(default)]
    pub spilled_bytes: u64,
    /// Its disk has no room for more of them.
    #[serde(default)]
    pub is_disk_full: bool,
}

/// What was submitted and how it ended, who was turned away, and what went nowhere (G21).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeCounters {
    /// Tasks and asks.
    pub submitted: u64,
    /// How many ended so, by the outcome's name.
    pub outcomes: BTreeMap<String, u64>,
    /// How often somebody was turned away at the door of a node that runs now, by the cause's word; causes that never
    /// were are left out.
    #[serde(default)]
    pub refusals: BTreeMap<String, u64>,
    /// How many words and parcels between nodes and processes went nowhere, by the cause's word, on nodes that run now and in
    /// what they ran; tells that reached no actor are `dead_letter`. Causes that never were are left out.
    #[serde(default)]
    pub losses: BTreeMap<String, u64>,
}

impl OutcomeCounters {
    /// Adds what another process has counted.
    pub fn add(&mut self, other: &Self) {
        self.submitted += other.submitted;
        let maps = [
            (&mut self.outcomes, &other.outcomes),
            (&mut self.refusals, &other.refusals),
            (&mut self.losses, &other.losses),
        ];
        for (sum, counts) in maps {
            for (name, count) in counts {
                *sum.entry(name.clone()).or_default() += count;
            }
        }
    }
}

/// One line of `mobula list --json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// `node`, `job`, `worker`, `actor`, `task` or `object`.
    pub kind: String,
    /// Its name, its function's or its type's.
    pub name: String,
    /// The job it belongs to; none for nodes.
    pub job_id: Option<String>,
    /// Where it is.
    pub node_id: Option<String>,
    /// What it does now.
    pub state: String,
    /// For how long, in seconds.
    pub since_s: f64,
    /// Which run of a task.
    pub attempt: Option<u32>,
    /// Which life of an actor or node.
    pub incarnation: Option<u32>,
    /// Why it ended, if it has.
    pub cause: Option<String>,
    /// What it waits for, if it waits.
    pub why: Option<String>,
    /// The ids of what its code awaits: actors, tasks and objects.
    pub awaits: Vec<String>,
    /// How many bytes an object has.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Where an object was made: a place in the code of the process that made its reference.
    #[serde(default)]
    pub made_at: Option<String>,
    /// The nodes that have the bytes of an object.
    #[serde(default)]
    pub copies: Vec<String>,
    /// Who holds an object: processes, and other nodes for theirs.
    #[serde(default)]
    pub held_by: Vec<String>,
}

/// One line of `mobula token list --json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenStatus {
    /// Its id, which is not secret.
    pub id: String,
    /// As what its user may come.
    pub role: String,
    /// When it ends, in milliseconds since the Unix epoch.
    pub expires_unix_ms: u64,
    /// Whether it was used.
    pub is_used: bool,
    /// Wrong secrets shown with its id.
    pub failures: u32,
}

/// What `mobula submit --json` prints: a program that the cluster runs as a driver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmissionStatus {
    /// Its job.
    pub job_id: String,
    /// The process that runs it; `mobula logs` takes it.
    pub process_id: String,
    /// `starting`, `running` or `ended`.
    pub state: String,
    /// As a shell would say it: its own code, or 128 and the signal's number; none before its end.
    pub exit_code: Option<i32>,
    /// Why it ended, if it has.
    pub cause: Option<String>,
}

/// What `mobula logs --json` prints: a part of what a process wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPart {
    /// The lines, as text; bytes that are none are replaced.
    pub text: String,
    /// Where the next part begins.
    pub next_offset: u64,
    /// Nothing will follow once all that is there was read.
    pub has_ended: bool,
}
