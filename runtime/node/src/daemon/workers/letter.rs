//! What a node and its warden say to one another: one message a packet, bounded, never answered by a panic.
//!
//! A spawn travels with three descriptors, in this order: standard input (the worker's slots), output and error.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use mobula_types::ProcessId;
use serde::{Deserialize, Serialize};

use super::{SpawnError, SpawnSpec, guard};

/// The bytes of one message. A packet of a Unix socket must fit the socket's buffer, which systems set to 208 KiB.
pub(crate) const LETTER_BYTES_MAX: usize = 128 << 10;

/// Descriptors that travel with a spawn.
pub(crate) const BIRTH_FDS: usize = 3;

/// From the node.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum ToWarden {
    /// Start a worker.
    Spawn(Birth),
    /// Kill it and all below it.
    Kill { process: ProcessId },
}

/// All that a process needs to begin.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Birth {
    pub(crate) process: ProcessId,
    pub(crate) program: Vec<u8>,
    pub(crate) args: Vec<Vec<u8>>,
    pub(crate) env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Tried in this order.
    pub(crate) working_dirs: Vec<Vec<u8>>,
    pub(crate) memory_max: Option<u64>,
}

/// From the warden.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum FromWarden {
    /// It can work; and which memory groups it can make, or why none.
    Ready { memory_groups: Result<String, String> },
    /// The worker runs.
    Started { process: ProcessId, pid: i32 },
    /// It does not, and will not.
    NotStarted { process: ProcessId, message: String },
    /// It has ended.
    Ended { process: ProcessId, how: Ended, out_of_memory: bool },
}

/// How a process ended, in the kernel's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ended {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

/// The message that starts a worker, encoded.
pub(crate) fn birth(spec: &SpawnSpec, socket: &Path, folder: &Path) -> Result<Vec<u8>, SpawnError> {
    let mut env: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut set = |name: &str, value: &[u8]| env.push((name.as_bytes().to_vec(), value.to_vec()));
    if !spec.gpus.is_empty() || !spec.env.contains_key(VISIBLE_GPUS) {
        let list = spec.gpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        set(VISIBLE_GPUS, list.as_bytes());
    }
    for (name, value) in &spec.env {
        // Ours below come last and win: a job cannot say for its workers what only the node may.
        if name != VISIBLE_GPUS || spec.gpus.is_empty() {
            set(name, value.as_bytes());
        }
    }
    set(guard::PROCESS, spec.process.as_u64().to_string().as_bytes());
    set(guard::TOKEN, spec.token.as_bytes());
    set(guard::SOCKET, socket.as_os_str().as_bytes());
    set(guard::ISOLATED, if spec.isolated { b"1" } else { b"0" });
    for (name, value) in &env {
        let is_bad = name.is_empty() || name.contains(&b'=') || name.contains(&0) || value.contains(&0);
        if is_bad {
            return Err(not_passable("variable", name));
        }
    }
    let args: Vec<_> = spec.args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
    if let Some(bad) = args.iter().find(|arg| arg.contains(&0)) {
        return Err(not_passable("argument", bad));
    }
    let bytes_of = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let working_dirs = spec.working_dir.iter().map(|path| bytes_of(path)).chain([bytes_of(folder)]).collect();
    let birth = Birth {
        process: spec.process,
        program: bytes_of(&spec.program),
        args,
        env,
        working_dirs,
        memory_max: spec.memory_max,
    };
    let too_large = |bytes| SpawnError::TooLarge { bytes, max: LETTER_BYTES_MAX };
    let letter = mobula_wire::encode(&ToWarden::Spawn(birth)).map_err(|_| too_large(usize::MAX))?;
    if letter.len() > LETTER_BYTES_MAX { Err(too_large(letter.len())) } else { Ok(letter) }
}

/// By which CUDA is told what it may see.
const VISIBLE_GPUS: &str = "CUDA_VISIBLE_DEVICES";

fn not_passable(kind: &str, bytes: &[u8]) -> SpawnError {
    SpawnError::NotPassable { what: format!("the {kind} `{}`", OsStr::from_bytes(bytes).display()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mobula_types::{JobId, NodeId};

    use super::*;

    fn spec() -> SpawnSpec {
        SpawnSpec {
            process: ProcessId::new(NodeId(2), 5),
            job: JobId(1),
            program: "/programs/x".into(),
            args: vec!["--seed".into(), "7".into()],
            env: BTreeMap::from([("COLOUR".to_owned(), "blue".to_owned())]),
            working_dir: Some("/somewhere".into()),
            token: "secret".to_owned(),
            is_driver: false,
            isolated: true,
            gpus: vec![0, 2],
            memory_max: None,
        }
    }

    fn written(spec: &SpawnSpec) -> Birth {
        let letter = birth(spec, Path::new("/n/node.sock"), Path::new("/n")).unwrap();
        let ToWarden::Spawn(birth) = mobula_wire::decode(&letter).unwrap() else { panic!("expected a spawn") };
        birth
    }

    fn value(birth: &Birth, name: &str) -> Option<String> {
        let found = birth.env.iter().rev().find(|(key, _)| key == name.as_bytes());
        found.map(|(_, value)| String::from_utf8(value.clone()).unwrap())
    }

    #[test]
    fn a_worker_is_told_what_it_needs() {
        let birth = written(&spec());
        assert_eq!(birth.args, [b"--seed".to_vec(), b"7".to_vec()]);
        assert_eq!(birth.working_dirs, [b"/somewhere".to_vec(), b"/n".to_vec()]);
        assert_eq!(value(&birth, "COLOUR").as_deref(), Some("blue"));
        assert_eq!(value(&birth, "CUDA_VISIBLE_DEVICES").as_deref(), Some("0,2"));
        assert_eq!(value(&birth, guard::TOKEN).as_deref(), Some("secret"));
        assert_eq!(value(&birth, guard::SOCKET).as_deref(), Some("/n/node.sock"));
    }

    #[test]
    fn a_job_cannot_overrule_the_node() {
        let env = [(guard::TOKEN, "mine"), (VISIBLE_GPUS, "0,1,2,3")];
        let env: BTreeMap<_, _> = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let birth = written(&SpawnSpec { env: env.clone(), ..spec() });
        assert_eq!(value(&birth, guard::TOKEN).as_deref(), Some("secret"));
        assert_eq!(value(&birth, VISIBLE_GPUS).as_deref(), Some("0,2"));
        let birth = written(&SpawnSpec { env, gpus: Vec::new(), ..spec() });
        assert_eq!(value(&birth, VISIBLE_GPUS).as_deref(), Some("0,1,2,3"), "without a grant the user's word stands");
        let birth = written(&SpawnSpec { gpus: Vec::new(), ..spec() });
        assert_eq!(value(&birth, VISIBLE_GPUS).as_deref(), Some(""), "what asked for no GPU sees none");
    }

    #[test]
    fn what_no_process_can_be_given_is_refused() {
        let refused = |spec: SpawnSpec| birth(&spec, Path::new("/s"), Path::new("/n")).unwrap_err();
        let with = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        for env in [with("A=B", ""), with("", "x"), with("A", "\0")] {
            assert!(matches!(refused(SpawnSpec { env, ..spec() }), SpawnError::NotPassable { .. }));
        }
        assert!(matches!(refused(SpawnSpec { args: vec!["\0".into()], ..spec() }), SpawnError::NotPassable { .. }));
        let env = with("LONG", &"x".repeat(LETTER_BYTES_MAX));
        assert!(matches!(refused(SpawnSpec { env, ..spec() }), SpawnError::TooLarge { .. }));
    }
}
