//! Figures that need a process which has done nothing before: the command starts itself for each.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mobula::Count;
use mobula::remote::{Body, RemoteFn, TaskOptions, submit};

use super::calls::Counter;
use super::within::{a_session, per_second, resident_bytes};
use super::{Better, Effort, Row};

const ACTORS: usize = 100_000;

/// What the process that was started does before it ends.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Alone {
    /// Runs one remote function and says so.
    FirstTask,
    /// Spawns actors and says how fast and how large.
    Actors,
}

pub(crate) fn rows(effort: Effort) -> Result<Vec<Row>> {
    let (mut first, mut rates, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.runs(30) {
        let start = Instant::now();
        let line = first_line(Alone::FirstTask)?;
        first.push(start.elapsed().as_secs_f64() * 1e3);
        ensure!(line.trim() == "42", "the first task gave `{line}`");
    }
    for _ in 0..effort.runs(10) {
        let line = first_line(Alone::Actors)?;
        let mut figures = line.split_whitespace().map(str::parse::<f64>);
        rates.push(figures.next().context("no rate")??);
        bytes.push(figures.next().context("no size")??);
    }
    Ok(vec![
        Row::of("process start to first task's result", "ms", Better::Lower, first),
        Row::of("spawn, 100,000 actors", "1/s", Better::Higher, rates),
        Row::of("memory per actor, of 100,000", "B", Better::Lower, bytes),
    ])
}

/// Starts ourselves with this to do and gives the line that says how it went.
fn first_line(alone: Alone) -> Result<String> {
    let word = clap::ValueEnum::to_possible_value(&alone).context("a hidden value")?;
    let mobula = std::env::current_exe().context("find our own executable")?;
    let mut child = Command::new(mobula)
        .args(["microbenchmark", "--alone", word.get_name()])
        .stdout(Stdio::piped())
        .spawn()
        .context("start ourselves")?;
    let mut output = BufReader::new(child.stdout.take().context("no output")?);
    let mut line = String::new();
    output.read_line(&mut line).context("read the figure")?;
    // What follows is nothing; the process must not wait for a reader.
    output.read_to_string(&mut String::new()).ok();
    let status = child.wait().context("wait for ourselves")?;
    ensure!(status.success(), "--alone {} ended with {status}", word.get_name());
    Ok(line)
}

/// The other side of [`first_line`].
pub(crate) fn run(alone: Alone) -> Result<()> {
    a_session(async |session| match alone {
        Alone::FirstTask => {
            let answer = submit::<Answer>(&Answer::OPTIONS, mobula::IntoArg::into_arg(())).await?;
            println!("{}", *answer);
            Ok(())
        }
        Alone::Actors => {
            let before = resident_bytes()?;
            let start = Instant::now();
            let mut actors = Vec::with_capacity(ACTORS);
            for _ in 0..ACTORS {
                actors.push(mobula::spawn::<Counter>(()).now()?);
            }
            while session.counters().of(Count::Starts) < ACTORS as u64 {
                if start.elapsed() > Duration::from_secs(60) {
                    bail!("{} of {ACTORS} actors started in 60 s", session.counters().of(Count::Starts));
                }
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            let rate = per_second(ACTORS, start);
            let bytes = resident_bytes()?.saturating_sub(before) / ACTORS;
            println!("{rate} {bytes}");
            Ok(())
        }
    })
}

struct Answer;

impl RemoteFn for Answer {
    type Args = ();
    type Reply = u64;
    type Error = mobula::NoError;
    const NAME: &'static str = "mobula::microbenchmark::answer";
    const OPTIONS: TaskOptions = TaskOptions::new();
    const BODY: Body<Self> = Body::Sync(|()| Ok(42));
}
