//! `mobula submit`: runs a program on a node, as the driver of a job, and follows what it writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use mobula_node::attached::{FarSubmission, FarTool};
use mobula_node::daemon::workers::folder;
use mobula_types::state::SubmissionStatus;
use mobula_wire::local::ToolQuestion;

use super::ask::{Node, Which};
use super::logs::Follow;
use crate::exit::{self, Ended, Usage};

/// Run a program in the cluster, as the driver of a job.
///
/// It runs on the node of this host, belongs to it, and goes on when this command is ended by Ctrl-C. Else this command
/// prints what the program writes and ends with its exit code.
///
/// With --address=host:port of a node on another host, and a token of `mobula token create --role driver`, the program and
/// the folder of --working-dir are brought there first, each once: it starts in a copy of that folder, or in an empty one.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where the program starts; here unless set, and on another host in an empty folder unless set
    #[arg(long, value_name = "DIR")]
    working_dir: Option<PathBuf>,

    /// A variable of its environment; may be said several times
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// Print the ids of its process and job, and do not wait
    #[arg(long)]
    detach: bool,

    /// With --detach: as one line of JSON
    #[arg(long, requires = "detach")]
    json: bool,

    #[command(flatten)]
    which: Which,

    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  mobula submit -- ./target/release/count-words big.txt
  mobula submit --working-dir /data --env SEED=7 --detach -- ./train --epochs 3
  mobula submit --address 10.0.0.1:6379 --token token.txt --working-dir job -- ./train --epochs 3
";

/// Between two looks for more output.
const LOOK: Duration = Duration::from_millis(100);

/// Submits the program.
pub(crate) fn run(args: &Args) -> Result<()> {
    let wish = Wish::of(args)?;
    let submitted = exit::until_signal(async {
        let mut node = Node::to_submit(&args.which).await?;
        let answer = match node.as_far() {
            Some(far) => wish.submit_far(far, args.working_dir.is_some()).await,
            None => node.ask(wish.question()).await,
        };
        match answer.and_then(|answer| status(&answer)) {
            Ok(submitted) => Ok((way(node), submitted)),
            Err(error) => {
                node.leave().await;
                Err(error)
            }
        }
    });
    let (way, submitted) = submitted?;
    let SubmissionStatus { job_id, process_id, .. } = &submitted;
    if args.detach {
        if args.json {
            anstream::println!("{}", serde_json::to_string(&submitted)?);
        } else {
            anstream::println!("{process_id} {job_id}");
        }
        return exit::until_signal(async {
            if let Way::Far(node) = way {
                node.leave().await;
            }
            Ok(())
        });
    }
    anstream::eprintln!("{job_id} runs as {process_id}; to end it: mobula stop-job {job_id}");
    let followed = exit::until_signal(async {
        let mut node = match way {
            Way::Here(socket) => Node::at(&socket).await?,
            Way::Far(node) => *node,
        };
        let followed = follow(&mut node, process_id).await;
        node.leave().await;
        followed
    });
    if followed.as_ref().is_err_and(exit::is_signal) {
        anstream::eprintln!("{job_id} goes on: mobula logs -f {process_id}");
    }
    followed
}

/// The way on to the node after the first signals were listened to: a socket is opened anew, because what reads it ends with
/// the runtime that it was opened on.
enum Way {
    Here(PathBuf),
    Far(Box<Node>),
}

fn way(node: Node) -> Way {
    match node.socket() {
        Some(socket) => Way::Here(socket.to_owned()),
        None => Way::Far(Box::new(node)),
    }
}

async fn follow(node: &mut Node, process: &str) -> Result<()> {
    let is_far = node.socket().is_none();
    let mut follow = Follow::of_process(process);
    loop {
        let asked = node.ask(ToolQuestion::Submission { process: process.to_owned() }).await;
        let lost = match is_far {
            true => "the way to the node that runs it is lost",
            false => "the node that ran it has gone, and it with the node",
        };
        let now = status(&asked.context(lost)?)?;
        // What is asked after the end was told has all that was written.
        match follow.print(node).await {
            Ok(()) => {}
            // A program that did not start has no log, and one that starts has none yet.
            Err(_) if now.state != "running" => {}
            Err(error) => return Err(error),
        }
        if now.state == "ended" {
            let code = now.exit_code.unwrap_or(1);
            let message = format!("{}: the program {}", now.job_id, now.cause.unwrap_or_default());
            return if code == 0 { Ok(()) } else { Err(Ended { code, message }.into()) };
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn status(answer: &str) -> Result<SubmissionStatus> {
    serde_json::from_str(answer).context("read the node's answer")
}

/// What is to be run, with paths of this host.
struct Wish {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    working_dir: PathBuf,
    env: BTreeMap<String, String>,
}

impl Wish {
    fn of(args: &Args) -> Result<Self> {
        let here = std::env::current_dir().context("find this folder")?;
        let working_dir = args.working_dir.as_ref().map_or(here.clone(), |folder| here.join(folder));
        if !working_dir.is_dir() {
            return Err(Usage(format!("--working-dir {}: there is no such folder", working_dir.display())).into());
        }
        let pairs = args.env.iter().map(|pair| match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(Usage(format!("--env {pair}: expected NAME=VALUE"))),
        });
        let env = pairs.collect::<Result<_, _>>()?;
        let (name, words) = args.program.split_first().context("a program is required")?;
        let program = find(name, &working_dir, std::env::var_os("PATH"))?;
        for path in [&program, &working_dir] {
            if path.to_str().is_none() {
                let why = format!("{}: paths that are sent to a node must be UTF-8", path.display());
                return Err(Usage(why).into());
            }
        }
        Ok(Self { name: name.clone(), program, args: words.to_vec(), working_dir, env })
    }

    /// For a node of this host, which finds the program by its path.
    fn question(self) -> ToolQuestion {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let (program, working_dir) = (text(self.program), text(self.working_dir));
        ToolQuestion::Submit { program, args: self.args, working_dir, env: self.env }
    }

    /// To a node of another host, which is given the files.
    async fn submit_far(self, far: &mut FarTool, brings_folder: bool) -> Result<String> {
        let Self { name, program, args, working_dir, env } = self;
        let read = tokio::task::spawn_blocking(move || {
            let file = File::open(&program).with_context(|| format!("read {}", program.display()))?;
            let folder = brings_folder.then(|| packed(&working_dir)).transpose()?;
            anyhow::Ok((file, folder))
        });
        let (program, folder) = read.await.context("read what is to be submitted")??;
        far.submit(FarSubmission { name, program, folder, args, env }).await.map_err(|why| anyhow!(why))
    }
}

/// A folder as one file, which goes when it is closed.
fn packed(folder: &Path) -> Result<File> {
    let mut file = BufWriter::new(tempfile::tempfile().context("make a file for the working folder")?);
    folder::pack(folder, &mut file).with_context(|| format!("pack --working-dir {}", folder.display()))?;
    file.into_inner().map_err(|error| error.into_error()).context("pack the working folder")
}

/// The program's file: as a shell in the working folder would find it.
fn find(name: &str, working_dir: &Path, path: Option<std::ffi::OsString>) -> Result<PathBuf> {
    let is_program = |file: &Path| {
        std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        let file = working_dir.join(name);
        return match (is_program(&file), file.exists()) {
            (true, _) => Ok(file),
            (false, true) => Err(Usage(format!("{} is no program: `chmod +x` makes it one", file.display())).into()),
            (false, false) => Err(Usage(format!("there is no {}", file.display())).into()),
        };
    }
    let path = path.unwrap_or_default();
    // An empty entry stands for no folder, not for this one: `PATH=` finds nothing.
    let folders = std::env::split_paths(&path).filter(|folder| !folder.as_os_str().is_empty());
    let found = folders.map(|folder| working_dir.join(folder).join(name)).find(|file| is_program(file));
    found.ok_or_else(|| {
        Usage(format!("there is no program {name} in PATH: one of a folder is named as ./{name}")).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("run"), "").unwrap();
        std::fs::set_permissions(at("run"), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(at("data"), "").unwrap();
        let path = || Some(folder.path().as_os_str().to_owned());
        assert_eq!(find("./run", folder.path(), None).unwrap(), folder.path().join("./run"));
        assert_eq!(find("run", Path::new("/"), path()).unwrap(), at("run"));
        for (name, says) in [("run", "named as ./run"), ("./data", "chmod +x"), ("./none", "there is no")] {
            let error = find(name, folder.path(), None).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().contains(says), "{error}");
        }
    }
}
