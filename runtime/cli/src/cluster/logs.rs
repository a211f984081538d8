//! `mobula logs`: what a worker, a submitted program or a job wrote.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use mobula_types::state::LogPart;
use mobula_wire::local::ToolQuestion;

use super::ask::{Node, Which};
use crate::exit::{self, Usage};

/// Show what a worker, a submitted program or a job wrote.
///
/// Of a process all that is kept is printed, its standard output here and its standard error there; of a job the last
/// lines of each of its processes on this node.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A process's id, as 1:3, one of its streams, as 1:3.err, or a job's id, as job-2
    id: String,

    /// Go on as it writes, until it has ended
    #[arg(short, long)]
    follow: bool,

    #[command(flatten)]
    which: Which,
}

/// Between two looks for more.
const LOOK: Duration = Duration::from_millis(200);

/// Prints the log.
pub(crate) fn run(args: &Args) -> Result<()> {
    let is_job = args.id.starts_with("job-");
    if is_job && args.follow {
        let why = format!("{}: only a process can be followed: see `mobula list workers`", args.id);
        return Err(Usage(why).into());
    }
    exit::until_signal(async {
        let mut node = Node::of(&args.which).await?;
        let printed = print(args, is_job, &mut node).await;
        node.leave().await;
        printed
    })
}

async fn print(args: &Args, is_job: bool, node: &mut Node) -> Result<()> {
    if is_job {
        let part = part(node, &args.id, 0).await?;
        return write(false, &part.text).map(drop);
    }
    let mut follow = Follow::of(&args.id);
    loop {
        follow.print(node).await?;
        if follow.is_over() || !args.follow {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The streams of a process, each printed up to somewhere.
pub(crate) struct Follow {
    streams: Vec<Stream>,
}

struct Stream {
    id: String,
    is_stderr: bool,
    offset: u64,
    is_over: bool,
}

impl Follow {
    /// A process, or one of its streams.
    fn of(id: &str) -> Self {
        if id.ends_with(".out") || id.ends_with(".err") {
            return Self { streams: vec![Stream { id: id.to_owned(), is_stderr: false, offset: 0, is_over: false }] };
        }
        Self::of_process(id)
    }

    /// Both streams of a process.
    pub(crate) fn of_process(process: &str) -> Self {
        let stream =
            |(ending, is_stderr)| Stream { id: format!("{process}.{ending}"), is_stderr, offset: 0, is_over: false };
        Self { streams: [("out", false), ("err", true)].map(stream).into() }
    }

    fn is_over(&self) -> bool {
        self.streams.iter().all(|stream| stream.is_over)
    }

    /// Prints all that is there and was not printed.
    pub(crate) async fn print(&mut self, node: &mut Node) -> Result<()> {
        for stream in &mut self.streams {
            while !stream.is_over {
                let LogPart { text, next_offset, has_ended } = part(node, &stream.id, stream.offset).await?;
                let is_at_end = next_offset == stream.offset;
                stream.offset = next_offset;
                let is_taken = write(stream.is_stderr, &text)?;
                stream.is_over = !is_taken || (is_at_end && has_ended);
                if is_at_end {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The part of a log from an offset on.
async fn part(node: &mut Node, id: &str, offset: u64) -> Result<LogPart> {
    let answer = node.ask(ToolQuestion::Logs { id: id.to_owned(), offset }).await?;
    serde_json::from_str(&answer).context("read the node's answer")
}

/// Whether somebody reads it: one that has gone, as `| head` does, is no error.
fn write(is_stderr: bool, text: &str) -> Result<bool> {
    let mut out: Box<dyn Write> = if is_stderr { Box::new(std::io::stderr()) } else { Box::new(std::io::stdout()) };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(anyhow!(error).context("print the log")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_two_streams_and_a_stream_is_one() {
        let ids = |id| Follow::of(id).streams.into_iter().map(|stream| stream.id).collect::<Vec<_>>();
        assert_eq!(ids("1:3"), ["1:3.out", "1:3.err"]);
        assert_eq!(ids("1:3.err"), ["1:3.err"]);
    }
}
