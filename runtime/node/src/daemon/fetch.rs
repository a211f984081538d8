//! Programs from node to node, and from drivers on other hosts: asked for in parts, in order, on the lane of what is large.
//!
//! ```text
//! start of a worker ──no program──► fetch ──ask──► node of the driver, or the driver itself
//!                                     ▲ part, part, … ──► disk ──► whole ──► workers start
//! ```
//!
//! A program that is here already is not asked for: so it is brought to a cluster's node once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use mobula_net::{Lane, Mesh};
use mobula_types::{JobId, NodeId, ProcessId};
use mobula_wire::FrameKind;
use mobula_wire::cluster::{ClusterTalk, PROGRAM_PART_BYTES};
use tokio::sync::mpsc;

use super::input::Input;
use super::state::State;
use super::workers::Programs;
use super::workers::programs::{ProgramError, ProgramHash, ProgramInUse};

/// Parts that are asked for ahead, a megabyte each: they fill a way there and back of 3 ms at 10 Gb/s. What is on its way is
/// held several times on both sides, and an allocator keeps it for the life of the node.
const AHEAD: u64 = 4;

/// A part that has not come in this time: the other node is gone or hangs, and the next one is asked.
const PART_MAX: Duration = Duration::from_secs(10);

/// Fetches that are running: as many as there are programs of drivers and of jobs with workers here at most.
#[derive(Default)]
pub(crate) struct Fetches {
    running: BTreeMap<[u8; 32], Fetch>,
}

struct Fetch {
    parts: mpsc::Sender<Part>,
    sources: Vec<ProcessId>,
}

/// A part that has come.
#[derive(Debug)]
pub(crate) struct Part {
    from: ProcessId,
    total_bytes: u64,
    offset: u64,
    bytes: Bytes,
}

impl State {
    /// Gets the program of a job: from this host's disk, or from a node that has it.
    pub(crate) fn fetch_program(&mut self, job: JobId) {
        let Some(known) = self.roster.job(job) else { return };
        let program = known.setup.program;
        let sources = self.program_sources(job);
        self.fetch(program, sources);
    }

    /// Other nodes that may have the program of a job.
    fn program_sources(&self, job: JobId) -> Vec<ProcessId> {
        let Some(known) = self.roster.job(job) else { return Vec::new() };
        let mut sources = vec![known.setup.driver.node(), known.told_by];
        if job.hosts_detached() {
            // Where it was spawned may be gone; others have hosted such an actor.
            sources.extend(self.others());
        }
        let mut seen = BTreeSet::from([self.node, ProcessId::HEAD.node()]);
        sources.retain(|source| seen.insert(*source));
        sources.into_iter().map(ProcessId::from).collect()
    }

    /// Gets the program of a driver on another host: from this host's disk, or from itself.
    pub(crate) fn fetch_from_far(&mut self, program: ProgramHash, driver: ProcessId) {
        self.fetch(program.0, vec![driver]);
    }

    /// What a driver on another host was asked for does not come any more.
    pub(crate) fn give_up_fetch_from(&mut self, driver: ProcessId) {
        // The fetch ends when nobody can bring it parts.
        self.fetches.running.retain(|_, fetch| !fetch.sources.contains(&driver));
    }

    fn fetch(&mut self, program: [u8; 32], sources: Vec<ProcessId>) {
        if self.fetches.running.contains_key(&program) {
            return;
        }
        let (parts, heard) = mpsc::channel(2 * AHEAD as usize);
        self.fetches.running.insert(program, Fetch { parts, sources: sources.clone() });
        let (mesh, programs, inputs) = (self.routes.mesh().cloned(), self.programs.clone(), self.inputs.clone());
        let resume_max = self.config.resume_max;
        tokio::spawn(async move {
            let hash = ProgramHash(program);
            let result = fetch(mesh, &programs, hash, &sources, resume_max, heard).await;
            inputs.send(Input::Program { program: hash, result, asked: sources }).await.ok();
        });
    }

    /// A part has come.
    pub(crate) fn program_part(
        &mut self,
        from: ProcessId,
        program: [u8; 32],
        total_bytes: u64,
        offset: u64,
        bytes: Bytes,
    ) {
        if let Some(fetch) = self.fetches.running.get(&program) {
            // No more are asked for than fit; what comes unasked is dropped.
            fetch.parts.try_send(Part { from, total_bytes, offset, bytes }).ok();
        }
    }

    /// A fetch is over: what waited for the program begins, or does not. Who has not been asked for it yet is asked next.
    pub(crate) fn program_came(
        &mut self,
        program: ProgramHash,
        result: &Result<ProgramInUse, String>,
        asked: &[ProcessId],
    ) {
        self.fetches.running.remove(&program.0);
        self.far_program_came(program, result, asked);
        self.luggage_came(program, result, asked);
        let jobs: Vec<JobId> =
            self.roster.jobs().filter(|(_, job)| job.setup.program == program.0).map(|(job, _)| job).collect();
        for job in jobs {
            let in_use = match result {
                Ok(_) => self.programs.use_program(program).map_err(|error| error.to_string()),
                Err(why) => Err(why.clone()),
            };
            let is_all_asked = self.program_sources(job).iter().all(|source| asked.contains(source));
            let Some(known) = self.roster.job_mut(job) else { continue };
            if in_use.is_err() && !known.starts.is_empty() && !is_all_asked {
                self.fetch_program(job);
                continue;
            }
            let starts = std::mem::take(&mut known.starts);
            match in_use {
                Ok(in_use) => {
                    known.program = Some(in_use);
                    starts.into_iter().for_each(|start| self.spawn(job, start));
                }
                Err(why) => starts.into_iter().for_each(|start| self.not_started(start.start, why.clone())),
            }
        }
        if result.is_err() && !self.fetches.running.contains_key(&program.0) {
            // Nobody goes on with what has come of it.
            self.programs.give_up(program);
        }
    }

    /// Another node wants a part of a program.
    pub(crate) fn program_asked(&self, from: NodeId, program: [u8; 32], offset: u64) {
        let (routes, programs) = (self.routes.clone(), self.programs.clone());
        tokio::task::spawn_blocking(move || {
            let read = programs.open_chunk(ProgramHash(program), offset, PROGRAM_PART_BYTES);
            let (total_bytes, bytes) = read.map_or((0, Bytes::new()), |chunk| (chunk.total_bytes, chunk.bytes.into()));
            // Without room it is asked for again.
            routes.tell_peer(from, Lane::Bulk, &ClusterTalk::ProgramPart { program, total_bytes, offset, bytes });
        });
    }
}

async fn fetch(
    mesh: Option<Mesh>,
    programs: &Programs,
    hash: ProgramHash,
    sources: &[ProcessId],
    resume_max: Duration,
    mut heard: mpsc::Receiver<Part>,
) -> Result<ProgramInUse, String> {
    if let Ok(in_use) = programs.use_program(hash) {
        return Ok(in_use);
    }
    let mesh = mesh.ok_or("this node has no port to other nodes")?;
    let mut why = format!("no node has the program {hash}");
    for source in sources {
        // A driver's connection may be lost for a while; that it is gone is told by the end of `heard`.
        let part_max = if source.number() == 0 { PART_MAX } else { PART_MAX + resume_max };
        match fetch_from(&mesh, programs, hash, *source, part_max, &mut heard).await {
            Ok(()) => return programs.use_program(hash).map_err(|error| error.to_string()),
            Err(error) => why = error,
        }
    }
    Err(why)
}

async fn fetch_from(
    mesh: &Mesh,
    programs: &Programs,
    hash: ProgramHash,
    source: ProcessId,
    part_max: Duration,
    heard: &mut mpsc::Receiver<Part>,
) -> Result<(), String> {
    let ask = |offset: u64| {
        let talk = ClusterTalk::ProgramAsk { program: hash.0, offset };
        if let Ok(body) = mobula_wire::encode(&talk) {
            mesh.send(source, Lane::Control, FrameKind::Cluster, body.into()).ok();
        }
    };
    let (mut next, mut asked, mut total) = (0, 1, u64::MAX);
    // Parts are read by several threads of the other node, and so may overtake one another.
    let mut early: BTreeMap<u64, Bytes> = BTreeMap::new();
    ask(next);
    loop {
        let part = tokio::time::timeout(part_max, heard.recv()).await;
        let Part { from, total_bytes, offset, bytes } = match part {
            Ok(Some(part)) => part,
            Ok(None) => return Err(format!("process {source} has gone before it had sent the program {hash}")),
            Err(_) => return Err(format!("process {source} did not send the program {hash} within {part_max:?}")),
        };
        if from != source || offset < next {
            continue;
        }
        if total_bytes == 0 || bytes.is_empty() {
            return Err(format!("process {source} has not got the program {hash}"));
        }
        total = total.min(total_bytes);
        early.insert(offset, bytes);
        while let Some(bytes) = early.remove(&next) {
            let (programs, offset, len) = (programs.clone(), next, bytes.len() as u64);
            let stored = tokio::task::spawn_blocking(move || programs.store_chunk(hash, total_bytes, offset, &bytes));
            match stored.await.map_err(|error| error.to_string())? {
                Ok(true) => return Ok(()),
                Ok(false) => next += len,
                // A fetch that was broken off goes on where it ended.
                Err(ProgramError::OutOfOrder { expected, .. }) => {
                    (next, asked) = (expected, expected);
                    early.clear();
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        asked = asked.max(next);
        while asked < total && asked < next + AHEAD * PROGRAM_PART_BYTES as u64 {
            ask(asked);
            asked += PROGRAM_PART_BYTES as u64;
        }
    }
}
