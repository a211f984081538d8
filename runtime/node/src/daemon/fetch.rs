//! Programs from node to node: asked for in parts, in order, on the lane of what is large.
//!
//! ```text
//! start of a worker ──no program──► fetch ──ask──► node of the driver
//!                                     ▲ part, part, … ──► disk ──► whole ──► workers start
//! ```

use std::collections::BTreeMap;
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

/// Fetches that are running.
#[derive(Default)]
pub(crate) struct Fetches {
    parts: BTreeMap<[u8; 32], mpsc::Sender<Part>>,
}

/// A part that has come.
#[derive(Debug)]
pub(crate) struct Part {
    from: NodeId,
    total_bytes: u64,
    offset: u64,
    bytes: Bytes,
}

impl State {
    /// Gets the program of a job: from this host's disk, or from a node that has it.
    pub(crate) fn fetch_program(&mut self, job: JobId) {
        let Some(known) = self.roster.job(job) else { return };
        let program = known.setup.program;
        let mut sources = vec![known.setup.driver.node(), known.told_by];
        if job.hosts_detached() {
            // Where it was spawned may be gone; others have hosted such an actor.
            sources.extend(self.others());
        }
        let mut seen = std::collections::BTreeSet::from([self.node, ProcessId::HEAD.node()]);
        sources.retain(|source| seen.insert(*source));
        if self.fetches.parts.contains_key(&program) {
            return;
        }
        let (parts, heard) = mpsc::channel(2 * AHEAD as usize);
        self.fetches.parts.insert(program, parts);
        let (mesh, programs, inputs) = (self.routes.mesh().cloned(), self.programs.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let hash = ProgramHash(program);
            let result = fetch(mesh, &programs, hash, &sources, heard).await;
            inputs.send(Input::Program { program: hash, result }).await.ok();
        });
    }

    /// A part has come from another node.
    pub(crate) fn program_part(
        &mut self,
        from: NodeId,
        program: [u8; 32],
        total_bytes: u64,
        offset: u64,
        bytes: Bytes,
    ) {
        if let Some(parts) = self.fetches.parts.get(&program) {
            // No more are asked for than fit; what comes unasked is dropped.
            parts.try_send(Part { from, total_bytes, offset, bytes }).ok();
        }
    }

    /// A fetch is over: workers that waited for the program start, or do not.
    pub(crate) fn program_came(&mut self, program: ProgramHash, result: Result<ProgramInUse, String>) {
        self.fetches.parts.remove(&program.0);
        let jobs: Vec<JobId> =
            self.roster.jobs().filter(|(_, job)| job.setup.program == program.0).map(|(job, _)| job).collect();
        for job in jobs {
            let in_use = match &result {
                Ok(_) => self.programs.use_program(program).map_err(|error| error.to_string()),
                Err(why) => Err(why.clone()),
            };
            let Some(known) = self.roster.job_mut(job) else { continue };
            let starts = std::mem::take(&mut known.starts);
            match in_use {
                Ok(in_use) => {
                    known.program = Some(in_use);
                    starts.into_iter().for_each(|start| self.spawn(job, start));
                }
                Err(why) => starts.into_iter().for_each(|start| self.not_started(start.start, why.clone())),
            }
        }
    }

    /// Another node wants a part of a program.
    pub(crate) fn program_asked(&self, from: NodeId, program: [u8; 32], offset: u64) {
        let Some(mesh) = self.routes.mesh().cloned() else { return };
        let programs = self.programs.clone();
        tokio::task::spawn_blocking(move || {
            let read = programs.open_chunk(ProgramHash(program), offset, PROGRAM_PART_BYTES);
            let (total_bytes, bytes) = read.map_or((0, Bytes::new()), |chunk| (chunk.total_bytes, chunk.bytes.into()));
            let talk = ClusterTalk::ProgramPart { program, total_bytes, offset, bytes };
            // Without room it is asked for again.
            if let Ok(body) = mobula_wire::encode(&talk) {
                mesh.send(from.into(), Lane::Bulk, FrameKind::Cluster, body.into()).ok();
            }
        });
    }
}

async fn fetch(
    mesh: Option<Mesh>,
    programs: &Programs,
    hash: ProgramHash,
    sources: &[NodeId],
    mut heard: mpsc::Receiver<Part>,
) -> Result<ProgramInUse, String> {
    if let Ok(in_use) = programs.use_program(hash) {
        return Ok(in_use);
    }
    let mesh = mesh.ok_or("this node has no port to other nodes")?;
    let mut why = format!("no node has the program {hash}");
    for source in sources {
        match fetch_from(&mesh, programs, hash, *source, &mut heard).await {
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
    source: NodeId,
    heard: &mut mpsc::Receiver<Part>,
) -> Result<(), String> {
    let ask = |offset: u64| {
        let talk = ClusterTalk::ProgramAsk { program: hash.0, offset };
        if let Ok(body) = mobula_wire::encode(&talk) {
            mesh.send(source.into(), Lane::Control, FrameKind::Cluster, body.into()).ok();
        }
    };
    let (mut next, mut asked, mut total) = (0, 1, u64::MAX);
    // Parts are read by several threads of the other node, and so may overtake one another.
    let mut early: BTreeMap<u64, Bytes> = BTreeMap::new();
    ask(next);
    loop {
        let part = tokio::time::timeout(PART_MAX, heard.recv()).await;
        let Part { from, total_bytes, offset, bytes } = match part {
            Ok(Some(part)) => part,
            Ok(None) => return Err("the node is stopping".to_owned()),
            Err(_) => return Err(format!("{source} did not send the program {hash} within {PART_MAX:?}")),
        };
        if from != source || offset < next {
            continue;
        }
        if total_bytes == 0 || bytes.is_empty() {
            return Err(format!("{source} has not got the program {hash}"));
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
