//! `mobula submit`: runs a program on a node, as the driver of a job, and follows what it writes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use mobula_types::state::SubmissionStatus;
use mobula_wire::local::ToolQuestion;

use super::ask::{Node, Which};
use super::logs::Follow;
use crate::exit::{self, Ended, Usage};

/// Run a program in the cluster, as the driver of a job.
///
/// It runs on the node of this host, belongs to it, and goes on when this command is ended by Ctrl-C. Else this command
/// prints what the program writes and ends with its exit code.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where the program starts; here unless set
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
";

/// Between two looks for more output.
const LOOK: Duration = Duration::from_millis(100);

/// Submits the program.
pub(crate) fn run(args: &Args) -> Result<()> {
    let question = question(args)?;
    let submitted = exit::until_signal(async {
        let mut node = Node::of(&args.which).await?;
        // From another host the node says what to do instead.
        let answer = match node.ask(question).await {
            Ok(answer) => answer,
            Err(error) => {
                node.leave().await;
                return Err(error);
            }
        };
        let submitted = status(&answer)?;
        Ok((node.socket()?.to_owned(), submitted))
    });
    let (socket, submitted) = submitted?;
    let SubmissionStatus { job_id, process_id, .. } = &submitted;
    if args.detach {
        if args.json {
            anstream::println!("{}", serde_json::to_string(&submitted)?);
        } else {
            anstream::println!("{process_id} {job_id}");
        }
        return Ok(());
    }
    anstream::eprintln!("{job_id} runs as {process_id}; to end it: mobula stop-job {job_id}");
    let followed = exit::until_signal(follow(&socket, process_id));
    if followed.as_ref().is_err_and(exit::is_signal) {
        anstream::eprintln!("{job_id} goes on: mobula logs -f {process_id}");
    }
    followed
}

async fn follow(socket: &Path, process: &str) -> Result<()> {
    let mut node = Node::at(socket).await?;
    let mut follow = Follow::of_process(process);
    loop {
        let asked = node.ask(ToolQuestion::Submission { process: process.to_owned() }).await;
        let now = status(&asked.context("the node that ran it has gone, and it with the node")?)?;
        // What is asked after the end was told has all that was written.
        match follow.print(&mut node).await {
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

fn question(args: &Args) -> Result<ToolQuestion> {
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
    let as_text = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| Usage(format!("{}: paths that are sent to a node must be UTF-8", path.display())))
    };
    let (program, working_dir) = (as_text(&program)?, as_text(&working_dir)?);
    Ok(ToolQuestion::Submit { program, args: words.to_vec(), working_dir, env })
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
