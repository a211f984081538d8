//! Many seeds through one world, or the one that `MOBULA_SIM_SEED` names.

use std::process::{Command, Stdio};

use mobula_logic::Mutant;

use crate::coverage::Coverage;
use crate::failure::Failure;

/// A world: seed in, system out.
pub type World = fn(u64, Option<Mutant>) -> Result<Coverage, Failure>;

/// Tells a process which part of the seeds is its own: `1/2` is the second half.
const PART: &str = "MOBULA_SIM_PART";

/// Runs the seeds that failed once, then those below `seeds`, in as many processes as there are CPUs; every misfortune must
/// reach its floor.
///
/// Processes and not threads: where the runs are counted line by line, threads would wait for each other's counters.
///
/// # Panics
/// When a promise did not hold, with the seed and the command that replays it; when a misfortune was too rare.
pub fn run(world: World, kept: &[u64], seeds: u64, floors: &[(&'static str, u64)]) {
    let named = std::env::var("MOBULA_SIM_SEED").ok();
    if let Some(text) = named {
        let seed = text.parse().unwrap_or_else(|_| panic!("MOBULA_SIM_SEED is a number, found `{text}`"));
        match world(seed, None) {
            Ok(coverage) => println!("seed {seed} keeps every promise\n{coverage}"),
            Err(failure) => panic!("{failure}"),
        }
        return;
    }
    if let Some((nth, parts)) = own_part() {
        let mut coverage = Coverage::default();
        // What takes long comes at the same place of every sixteen.
        let is_own = |at: &usize| (at / 16 + at) % parts == nth;
        let of_all = kept.iter().copied().chain(0..seeds).enumerate();
        for (_, seed) in of_all.filter(|(at, _)| is_own(at)) {
            coverage.add(&world(seed, None).unwrap_or_else(|failure| panic!("{failure}")));
        }
        println!("{}", coverage.encode());
        return;
    }
    let coverage = all_parts();
    println!("{seeds} seeds kept every promise\n{coverage}");
    coverage.at_least(floors).unwrap_or_else(|lines| panic!("the seeds do not say enough:\n{lines}"));
}

/// Which part of how many this process was started for.
fn own_part() -> Option<(usize, usize)> {
    let text = std::env::var(PART).ok()?;
    let numbers = text.split_once('/').map(|(nth, parts)| (nth.parse(), parts.parse()));
    match numbers {
        Some((Ok(nth), Ok(parts))) if nth < parts => Some((nth, parts)),
        _ => panic!("{PART} is `nth/parts`, found `{text}`"),
    }
}

/// Starts this test once more for each part, and adds up what they have seen.
fn all_parts() -> Coverage {
    let parts = std::thread::available_parallelism().map_or(1, usize::from);
    let program = std::env::current_exe().expect("the path of this program");
    let test = std::thread::current().name().expect("a test's thread has its name").to_owned();
    let start = |nth: usize| {
        let mut command = Command::new(&program);
        command.args([&test, "--exact", "--nocapture"]).env(PART, format!("{nth}/{parts}"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("this program can be started once more")
    };
    // All run before the first is waited for.
    let processes: Vec<_> = (0..parts).map(start).collect();
    let ends: Vec<_> = processes.into_iter().map(|process| process.wait_with_output().expect("its output")).collect();
    let mut coverage = Coverage::default();
    for end in &ends {
        let output = String::from_utf8_lossy(&end.stdout);
        let seen = output.lines().find_map(Coverage::decode);
        match seen.filter(|_| end.status.success()) {
            Some(seen) => coverage.add(&seen),
            None => panic!("{}", indented(&output) + &indented(&String::from_utf8_lossy(&end.stderr))),
        }
    }
    coverage
}

/// So that a part's lines are not taken for this program's own.
fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("  {line}\n")).collect()
}

/// Whether `world` notices `mutant` below `seeds`: the first failure that cites `invariant`.
pub fn find(world: World, mutant: Mutant, invariant: &str, seeds: u64) -> Option<Failure> {
    let failures = (0..seeds).filter_map(|seed| world(seed, Some(mutant)).err());
    failures.into_iter().find(|failure| failure.violation.invariant == invariant)
}
