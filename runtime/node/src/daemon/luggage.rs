//! Programs that the command line submits from another host: first they are brought here, then they run as those of this
//! host do (`submit`).
//!
//! ```text
//! asked ──what is not here──► fetched from the asker ──all is here──► its folder is unpacked ──► submitted
//!   └── the asker goes, or has it not ─────────────────────────────────────────────────────────► refused
//! ```
//!
//! Files are kept by their hash, so that what was brought once is not brought again. The folder is the program's own and is
//! removed with its end; what a killed node has left of them goes when it starts again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mobula_net::Line;
use mobula_types::ProcessId;
use mobula_wire::local::{RequestId, Sent};

use super::input::Input;
use super::state::State;
use super::submit::Submit;
use super::tool::answer;
use super::workers::folder::{FOLDER_BYTES_MAX, unpack};
use super::workers::programs::{PROGRAM_BYTES_MAX, ProgramHash, ProgramInUse};

/// The folder in a node's folder for those of submitted programs.
const STAGED: &str = "staged";

/// Submissions that are being brought at once; who asks then is told to try again.
const COMING_MAX: usize = 64;

/// Room beside the content of a packed folder: names, and lengths.
const NAMES_BYTES_MAX: u64 = 256 << 20;

/// What is being brought.
pub(crate) type Coming = Vec<Arriving>;

/// A submission from another host that is not all here.
pub(crate) struct Arriving {
    from: ProcessId,
    line: Line,
    request: RequestId,
    submit: Submit,
    wants: Vec<ProgramHash>,
    has: Vec<ProgramInUse>,
}

/// What a submitted program runs from, for as long as it runs.
#[derive(Debug)]
pub(crate) struct Luggage {
    /// Its file, and its packed folder.
    _files: Vec<ProgramInUse>,
    /// Where it starts.
    folder: PathBuf,
}

impl Drop for Luggage {
    fn drop(&mut self) {
        let folder = std::mem::take(&mut self.folder);
        // Not on the thread that has a node's state: it may hold many files.
        std::thread::spawn(move || {
            if let Err(error) = fs::remove_dir_all(&folder) {
                tracing::warn!(folder = %folder.display(), %error, "a submitted program's folder is left");
            }
        });
    }
}

/// A submission whose folder is there, or cannot be.
#[derive(Debug)]
pub(crate) struct Arrived {
    line: Line,
    request: RequestId,
    result: Result<Submit, String>,
}

/// Removes what a node that was killed has left.
pub(crate) fn clear(folder: &Path) {
    fs::remove_dir_all(folder.join(STAGED)).ok();
}

impl State {
    /// Somebody on another host, who may, wants to have a program run here.
    pub(crate) fn submit_far(
        &mut self,
        (from, line, request): (ProcessId, Line, RequestId),
        name: String,
        (program, folder): (Sent, Option<Sent>),
        args: Vec<String>,
        env: BTreeMap<String, String>,
    ) {
        let too_large = |what: &str, bytes: u64, max: u64| {
            answer(&line, request, Err(format!("the {what} has {bytes} bytes, at most {max} are taken")));
        };
        if program.bytes > PROGRAM_BYTES_MAX {
            return too_large("program", program.bytes, PROGRAM_BYTES_MAX);
        }
        let folder_max = FOLDER_BYTES_MAX + NAMES_BYTES_MAX;
        if let Some(folder) = folder.filter(|folder| folder.bytes > folder_max) {
            return too_large("working folder", folder.bytes, folder_max);
        }
        if self.coming.len() >= COMING_MAX {
            let why = format!("{COMING_MAX} programs are being brought to this node: try again, or submit to another");
            return answer(&line, request, Err(why));
        }
        let wants: Vec<ProgramHash> =
            [Some(program), folder].into_iter().flatten().map(|sent| ProgramHash(sent.hash)).collect();
        let submit = Submit { name, program: String::new(), args, working_dir: String::new(), env, luggage: None };
        let asked = wants.clone();
        self.coming.push(Arriving { from, line, request, submit, wants, has: Vec::new() });
        for hash in asked {
            self.fetch_from_far(hash, from);
        }
    }

    /// A file is here, or cannot be had from those that were asked.
    pub(crate) fn luggage_came(
        &mut self,
        hash: ProgramHash,
        result: &Result<ProgramInUse, String>,
        asked: &[ProcessId],
    ) {
        let (waiting, others) = std::mem::take(&mut self.coming).into_iter().partition(|arriving: &Arriving| {
            let is_here = arriving.has.iter().any(|file| file.hash() == hash);
            arriving.wants.contains(&hash) && !is_here
        });
        self.coming = others;
        for mut arriving in waiting {
            let file = match result {
                Ok(_) => self.programs.use_program(hash).map_err(|error| error.to_string()),
                Err(why) if asked.contains(&arriving.from) => Err(why.clone()),
                // Another one that wanted the same had it not.
                Err(_) => {
                    let from = arriving.from;
                    self.coming.push(arriving);
                    self.fetch_from_far(hash, from);
                    continue;
                }
            };
            match file {
                Ok(file) => arriving.has.push(file),
                Err(why) => {
                    answer(&arriving.line, arriving.request, Err(why));
                    continue;
                }
            }
            // One file may be both.
            match arriving.wants.iter().all(|wanted| arriving.has.iter().any(|file| file.hash() == *wanted)) {
                true => self.unpack(arriving),
                false => self.coming.push(arriving),
            }
        }
    }

    fn unpack(&mut self, arriving: Arriving) {
        let Arriving { line, request, mut submit, wants, has, .. } = arriving;
        let Some(number) = self.roster.number() else {
            return answer(&line, request, Err("this node has no process numbers left: start it again".to_owned()));
        };
        let base = self.config.folder.join(STAGED);
        let folder = base.join(number.to_string());
        let path_of = |hash: &ProgramHash| has.iter().find(|file| file.hash() == *hash).map(ProgramInUse::path);
        let (program, packed) = (wants.first().and_then(path_of), wants.get(1).and_then(path_of));
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let unpacked = tokio::task::spawn_blocking(move || {
                let luggage = Luggage { _files: has, folder };
                make(&base, &luggage.folder, packed.as_deref()).map(|()| luggage)
            });
            let result = unpacked.await.map_err(|error| error.to_string()).and_then(|made| made).and_then(|luggage| {
                let text =
                    |path: &Path| path.to_str().map(str::to_owned).ok_or("this node's folder is not UTF-8".to_owned());
                submit.program = text(&program.unwrap_or_default())?;
                submit.working_dir = text(&luggage.folder)?;
                submit.luggage = Some(Arc::new(luggage));
                Ok(submit)
            });
            inputs.send(Input::Arrived(Arrived { line, request, result })).await.ok();
        });
    }

    /// All of a submission is here, or not all of it can be.
    pub(crate) fn arrived(&mut self, arrived: Arrived) {
        let Arrived { line, request, result } = arrived;
        match result {
            Ok(submit) => self.submit(line, request, submit),
            Err(why) => answer(&line, request, Err(why)),
        }
    }

    /// Who brought something has gone.
    pub(crate) fn luggage_without(&mut self, from: ProcessId) {
        self.coming.retain(|arriving| arriving.from != from);
    }
}

/// The folder in which a program starts.
fn make(base: &Path, folder: &Path, packed: Option<&Path>) -> Result<(), String> {
    use std::os::unix::fs::DirBuilderExt;
    let private = |recursive| {
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700).recursive(recursive);
        builder
    };
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    private(true).create(base).map_err(failed)?;
    match packed {
        None => private(false).create(folder).map_err(failed),
        Some(packed) => {
            let file = fs::File::open(packed).map_err(failed)?;
            unpack(&mut std::io::BufReader::new(file), folder).map_err(|error| error.to_string())
        }
    }
}
