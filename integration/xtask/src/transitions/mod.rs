//! Every transition of every machine, counted while the simulator's worlds run: what was hardly ever tried is not proven.
//!
//! `runtime/logic` is compiled with the compiler's own coverage, so the machines count nothing by hand and nothing of them
//! can be forgotten. A *transition* is a region of code, that is, what runs as a whole or not at all, in a function that
//! can change something (its signature says `&mut`). What only leaves a function or a loop changes nothing and is none,
//! nor is what a planted fault does. Each must have run [`SEEN_MIN`] times, or `integration/sim/unseen.toml` says why not.
//!
//! | module | holds |
//! |---|---|
//! | [`regions`] | what ran how often, as LLVM's tools tell it |
//! | [`functions`] | which functions can change something |

mod functions;
mod regions;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use toml::Table;

use crate::cargo;
use crate::floors::{entries, word};
use functions::Functions;
use regions::{Region, Tools};

/// A transition that was seen less often says nothing.
const SEEN_MIN: u64 = 100;

/// What is compiled so that it counts: the machines, and the simulator, in which those with types to fill in are made whole.
const COUNTED: [&str; 2] = ["mobula_logic", "mobula_sim"];
/// Where its sources lie.
const SOURCES: &str = "runtime/logic/src";
/// Transitions that the worlds do not reach, each with its reason.
const UNSEEN: &str = "integration/sim/unseen.toml";

/// Names the file in which a program that counts leaves its counts.
const PROFILE: &str = "LLVM_PROFILE_FILE";

/// Says that this program was started by cargo in place of the compiler.
const COMPILES: &str = "MOBULA_XTASK_COMPILES";

/// Counts transitions: a build that counts, a folder for what was counted, and the tools that read it.
pub(crate) struct Counter {
    tools: Tools,
    folder: PathBuf,
}

impl Counter {
    /// # Errors
    /// LLVM's tools are not there.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { tools: Tools::find()?, folder: cargo::target().join("transitions") })
    }

    /// Lets `command`, which calls cargo, build programs that count.
    pub(crate) fn builds(command: &mut Command) -> Result<()> {
        let this = std::env::current_exe().context("find this program")?;
        command.env("RUSTC_WORKSPACE_WRAPPER", this).env(COMPILES, "1");
        Ok(())
    }

    /// Forgets what was counted before.
    pub(crate) fn begin(&self) -> Result<()> {
        if self.folder.exists() {
            std::fs::remove_dir_all(&self.folder).with_context(|| format!("empty {}", self.folder.display()))?;
        }
        std::fs::create_dir_all(&self.folder).with_context(|| format!("make {}", self.folder.display()))
    }

    /// Where a program that counts, and each that it starts, is to leave its counts.
    pub(crate) fn env(&self) -> (&'static str, PathBuf) {
        (PROFILE, self.folder.join("%p.profraw"))
    }

    /// What keeps a program that counts from leaving its counts anywhere.
    pub(crate) fn uncounted() -> (&'static str, &'static Path) {
        (PROFILE, Path::new("/dev/null"))
    }

    /// Prints how often the transitions of each machine were seen by `programs`.
    ///
    /// # Errors
    /// A line for each that was seen too rarely, and for each exception that is none.
    pub(crate) fn check(&self, programs: &[&Path]) -> Result<()> {
        let regions = self.tools.read(&self.folder, programs, SOURCES)?;
        let unseen = std::fs::read_to_string(cargo::root().join(UNSEEN)).with_context(|| format!("read {UNSEEN}"))?;
        let mut exceptions = exceptions(&unseen)?;
        let mut machines = BTreeMap::<String, Row>::new();
        let mut lines = Vec::new();
        for (file, regions) in regions {
            let path = cargo::root().join(SOURCES).join(&file);
            let source = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let functions = Functions::read(&source).with_context(|| format!("read {}", path.display()))?;
            let machine = file.split(['/', '.']).next().unwrap_or(&file).to_owned();
            let row = machines.entry(machine).or_default();
            for transition in transitions(&source, &functions, regions) {
                let line = (file.clone(), transition.line.to_owned());
                let is_rare = transition.count < SEEN_MIN;
                if let Some(is_used) = exceptions.get_mut(&line).filter(|_| is_rare) {
                    *is_used = true;
                    row.exceptions += 1;
                    continue;
                }
                row.see(transition.count);
                if is_rare {
                    let (number, column) = transition.place;
                    lines.push(format!("{SOURCES}/{file}:{number}:{column} [{}] {}", transition.count, line.1));
                }
            }
        }
        print!("{}", table(&machines));
        ensure!(!machines.is_empty(), "no region of {SOURCES} was found in the programs");
        let idle = exceptions.into_iter().filter(|(_, is_used)| !is_used);
        lines.extend(idle.map(|((file, line), _)| format!("{UNSEEN}: `{line}` of {file} is seen, or not there")));
        if lines.is_empty() {
            return Ok(());
        }
        bail!("seen fewer than {SEEN_MIN} times, or no exception any more:\n{}", lines.join("\n"))
    }
}

/// What was seen of a machine.
#[derive(Default)]
struct Row {
    transitions: usize,
    rarest: Option<u64>,
    exceptions: usize,
}

impl Row {
    fn see(&mut self, count: u64) {
        self.transitions += 1;
        self.rarest = Some(self.rarest.map_or(count, |rarest| rarest.min(count)));
    }
}

fn table(machines: &BTreeMap<String, Row>) -> String {
    let mut table = format!("{:<14}{:>12}{:>10}{:>12}\n", "machine", "transitions", "rarest", "exceptions");
    for (machine, Row { transitions, rarest, exceptions }) in machines.iter().filter(|(_, row)| row.rarest.is_some()) {
        let rarest = rarest.unwrap_or_default();
        table += &format!("{machine:<14}{transitions:>12}{rarest:>10}{exceptions:>12}\n");
    }
    table
}

/// A region that changes something.
struct Transition<'a> {
    place: (usize, usize),
    line: &'a str,
    count: u64,
}

/// The transitions among `regions`; of those that were seen too rarely, the ones that hang together with another are left
/// out: what is inside it, or follows it in its block.
fn transitions<'a>(source: &'a str, functions: &Functions, mut regions: Vec<Region>) -> Vec<Transition<'a>> {
    let lines: Vec<&str> = source.lines().collect();
    // What holds others comes before them.
    regions.sort_by_key(|region| (region.start, std::cmp::Reverse(region.end)));
    let mut told = (0, 0);
    let mut transitions = Vec::new();
    for region in regions {
        let (number, column) = region.start;
        let Some(line) = number.checked_sub(1).and_then(|at| lines.get(at)) else { continue };
        let end = if region.end.0 == number { region.end.1 - 1 } else { line.len() };
        let text = line.get(column - 1..end.min(line.len())).unwrap_or_default();
        if !functions.can_change(region.start) || only_leaves(text) || line.trim() == "{" {
            continue;
        }
        if region.count < SEEN_MIN {
            if region.start < told || functions.is_planted(region.start) {
                continue;
            }
            told = region.end.max((together(&lines, region.start), 1));
        }
        transitions.push(Transition { place: region.start, line: line.trim(), count: region.count });
    }
    transitions
}

/// The first line that does not hang together with what begins at a place: after its block when it is a statement, and else
/// the next.
fn together(lines: &[&str], (number, column): (usize, usize)) -> usize {
    let indent = |line: &&str| line.len() - line.trim_start().len();
    let Some(line) = number.checked_sub(1).and_then(|at| lines.get(at)) else { return number };
    let before = line.get(..column - 1).unwrap_or_default();
    let is_statement =
        before.split_whitespace().all(|word| ["let", "mut", "if", "for", "while", "return"].contains(&word));
    if line.contains("=>") || !is_statement {
        return number + 1;
    }
    let is_after = |other: &&str| !other.trim().is_empty() && indent(other) < indent(line);
    lines.iter().skip(number).position(is_after).map_or(lines.len() + 1, |after| number + after + 1)
}

/// Whether a region does nothing but leave, or is what the compiler makes of a closing brace.
fn only_leaves(text: &str) -> bool {
    // An arm of a match counts from its pattern on.
    let text = text.rsplit("=>").next().unwrap_or(text);
    let text = text.trim().trim_end_matches([';', ',']);
    let left = ["return", "continue", "break"].iter().find_map(|word| text.strip_prefix(word)).map(str::trim);
    matches!(left, Some("" | "None" | "false" | "true")) || matches!(text, "" | "None" | "{}" | "}" | "?")
}

/// The exceptions by file and line, none of them used yet.
fn exceptions(text: &str) -> Result<BTreeMap<(String, String), bool>> {
    let table: Table = text.parse().with_context(|| format!("parse {UNSEEN}"))?;
    let exception = |entry: &Table| {
        word(entry, "reason")?;
        Ok(((word(entry, "file")?.to_owned(), word(entry, "line")?.to_owned()), false))
    };
    let exceptions: Result<_> = entries(&table, "unseen").into_iter().map(exception).collect();
    exceptions.with_context(|| format!("read {UNSEEN}"))
}

/// Whether cargo has started this program in place of the compiler; then it is the compiler, and gives its exit code.
pub(crate) fn compile() -> Option<Result<i32>> {
    std::env::var_os(COMPILES)?;
    let mut words = std::env::args_os().skip(1);
    let compiler = words.next()?;
    let words: Vec<_> = words.collect();
    // A program leaves its counts only when it is compiled so, too.
    let counts = words.windows(2).any(|pair| pair[0] == "--crate-name" && COUNTED.iter().any(|name| pair[1] == *name))
        || words.iter().any(|word| word == "--test");
    let mut command = Command::new(compiler);
    command.args(words).args(counts.then_some("-Cinstrument-coverage")).env_remove(COMPILES);
    Some(command.status().context("start the compiler").map(|status| status.code().unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "impl A {
    fn handle(&mut self, now: u8) {
        let Some(node) = self.find() else { return };
        if now > 3 {
            self.dead.push(node);
            self.tell(node);
        }
        self.wake();
        if self.planted.is(Mutant::Forget) { self.forget() }
    }
    fn find(&self) -> Option<u8> {
        None
    }
}";

    fn region(start: (usize, usize), end: (usize, usize), count: u64) -> Region {
        Region { start, end, count }
    }

    #[test]
    fn what_was_hardly_seen_is_told_once() {
        let regions = vec![
            region((2, 5), (3, 50), 900),
            region((3, 45), (3, 51), 3),
            region((4, 20), (7, 10), 7),
            region((5, 13), (5, 17), 7),
            region((6, 13), (6, 17), 7),
            region((8, 9), (8, 13), 97),
            region((9, 12), (9, 40), 97),
            region((9, 47), (9, 60), 0),
            region((11, 5), (13, 6), 0),
        ];
        let functions = Functions::read(SOURCE).unwrap();
        let found: Vec<_> =
            transitions(SOURCE, &functions, regions).iter().map(|it| (it.place.0, it.line, it.count)).collect();
        assert_eq!(
            found,
            [(2, "fn handle(&mut self, now: u8) {", 900), (4, "if now > 3 {", 7), (8, "self.wake();", 97)]
        );
    }

    #[test]
    fn leaving_changes_nothing() {
        for text in [
            "return",
            "return;",
            "return None",
            "continue",
            "break;",
            "None",
            "}",
            "",
            "?",
            "return false",
            "A if b => {}",
        ] {
            assert!(only_leaves(text), "{text}");
        }
        for text in ["return self.violated(now)", "self.end()", "{", "returned()"] {
            assert!(!only_leaves(text), "{text}");
        }
    }

    #[test]
    fn an_exception_has_a_reason() {
        let entry = "[[unseen]]\nfile = 'a.rs'\nline = 'self.b()'\n";
        assert!(exceptions(entry).unwrap_err().root_cause().to_string().contains("`reason`"));
        assert_eq!(exceptions(&format!("{entry}reason = 'c'")).unwrap().len(), 1);
        assert!(exceptions("").unwrap().is_empty());
    }
}
