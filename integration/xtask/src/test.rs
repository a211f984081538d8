//! `cargo xtask test`: check, every test, every documentation example, every example program, and the demo once.
//!
//! Everything is built once, by one call of cargo for the whole workspace; the test programs that this call lists are
//! then run from here, so that each has a deadline and belongs to a stage with a budget. Without network and cached
//! model, what needs the model is left out by name; where the environment says `CI` that is a failure.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::child::{self, Child};
use crate::stages::Stages;
use crate::summary::Summary;
use crate::tally::Tally;
use crate::transitions::Counter;
use crate::{cargo, check, demo};

/// The longest that one test program may run; the slowest stage has 8 minutes in all.
const PROGRAM_LIMIT: Duration = Duration::from_secs(10 * 60);
/// The longest that one example may run: each shows one idea.
const EXAMPLE_LIMIT: Duration = Duration::from_secs(2 * 60);

/// Runs everything, also after something failed, and closes with the table of stages and one line of counts.
pub(crate) fn run() -> Result<()> {
    let mut stages = Stages::default();
    let mut tally = Tally::default();
    let built = stages.run("build+check", 14, || {
        check::run(&mut tally);
        build(&mut tally)
    });
    match built {
        Ok(built) => run_built(&built, &mut stages, &mut tally),
        Err(error) => tally.record("build", Err(error)),
    }
    print!("\n{}", stages.table());
    tally.finish()
}

/// Builds and runs the simulator's worlds alone.
pub(crate) fn simulate() -> Result<()> {
    let counter = Counter::new()?;
    let mut tally = Tally::default();
    let simulations = build_simulator(Some(&counter))?;
    run_simulations(&simulations, Some(&counter), &mut tally);
    tally.finish()
}

fn run_built(built: &Built, stages: &mut Stages, tally: &mut Tally) {
    stages.run("tests", 8, || {
        let model = demo::pull(&built.mobula);
        run_programs(&built.tests, tally);
        record_summary("documentation", doc_tests(), tally);
        for example in &built.examples {
            tally.record(&format!("example {}", example.name), run_example(example));
        }
        match model {
            Ok(()) => tally.record("demo --once", demo::show(&built.mobula, true)),
            Err(error) => tally.skip("demo --once, and what tests do with the real model", &error),
        }
    });
    if !built.simulations.is_empty() {
        stages.run("simulation", 3, || run_simulations(&built.simulations, built.counter.as_ref(), tally));
    }
    if !built.fuzzers.is_empty() {
        stages.run("fuzz", 3, || run_programs(&built.fuzzers, tally));
    }
    if !built.namespaces.is_empty() {
        stages.run("namespaces", 6, || {
            run_programs_with(Some(("RUST_TEST_THREADS", TURNS_MAX)), &built.namespaces, tally)
        });
    }
}

/// Tests on hosts take turns by themselves: each needs a thread to wait on.
const TURNS_MAX: &str = "64";

/// What one build of the workspace made, by the stage that runs it.
#[derive(Default)]
struct Built {
    tests: Vec<Program>,
    simulations: Vec<Program>,
    /// Who adds up what the simulator sees of the machines.
    counter: Option<Counter>,
    fuzzers: Vec<Program>,
    /// Real processes on hosts that are network namespaces.
    namespaces: Vec<Program>,
    examples: Vec<Program>,
    mobula: PathBuf,
}

/// A program that cargo made.
struct Program {
    /// Folder of the package and name of the target: `framework/actor mailbox`.
    name: String,
    /// The package's folder, where cargo would run it.
    folder: PathBuf,
    path: PathBuf,
}

fn build(tally: &mut Tally) -> Result<Built> {
    // The simulator is built apart, so that it counts; with it, the machines would have this feature anyhow.
    let words = ["--workspace", "--exclude", "mobula-sim", "--features", "mobula-logic/mutants"];
    let mut built = build_by(&mut programs(&words))?;
    if built.mobula.as_os_str().is_empty() {
        bail!("the build made no program `mobula`");
    }
    match Counter::new() {
        Ok(counter) => built.counter = Some(counter),
        Err(error) => tally.skip(COUNTED, &error),
    }
    built.simulations = build_simulator(built.counter.as_ref())?;
    Ok(built)
}

/// What holds when every transition was seen often enough.
const COUNTED: &str = "every transition of every machine";

/// Of the simulator's tests, those that run no world to its end, or one with a planted fault.
const UNCOUNTED: [&str; 2] = ["integration/sim mobula_sim", "integration/sim mutants"];

/// Builds the simulator; with a counter so that it counts the machines' transitions.
fn build_simulator(counter: Option<&Counter>) -> Result<Vec<Program>> {
    let mut command = programs(&["--package", "mobula-sim"]);
    if counter.is_some() {
        Counter::builds(&mut command)?;
    }
    Ok(build_by(&mut command)?.simulations)
}

/// The call of cargo that builds the test programs of `packages`.
fn programs(packages: &[&str]) -> Command {
    let words = ["--locked", "--no-run", "--message-format=json-render-diagnostics"];
    cargo::command(&[&["test"], packages, &words].concat())
}

/// What a call of cargo builds.
fn build_by(command: &mut Command) -> Result<Built> {
    let mut cargo = Child::watch("cargo test --no-run", command)?;
    let deadline = Instant::now() + cargo::LIMIT;
    let mut built = Built::default();
    while let Some(line) = cargo.next_line(deadline)? {
        let message: Value = serde_json::from_str(&line).with_context(|| format!("cargo said `{line}`"))?;
        if message["reason"] == "compiler-artifact" && message["executable"].is_string() {
            built.add(&message).with_context(|| format!("read the artifact {line}"))?;
        }
    }
    let status = cargo.wait(deadline)?;
    if !status.success() {
        bail!("cargo test --no-run ended with {status}");
    }
    Ok(built)
}

impl Built {
    /// Sorts one of cargo's messages about a program into its stage.
    fn add(&mut self, artifact: &Value) -> Option<()> {
        let path = PathBuf::from(artifact["executable"].as_str()?);
        let folder = Path::new(artifact["manifest_path"].as_str()?).parent()?.to_owned();
        let target = artifact["target"]["name"].as_str()?;
        let kind = artifact["target"]["kind"][0].as_str()?;
        let is_test = artifact["profile"]["test"].as_bool()?;
        let root = cargo::root();
        let package = folder.strip_prefix(&root).unwrap_or(&folder).display().to_string();
        let stage = match kind {
            _ if is_test && package == "integration/sim" => &mut self.simulations,
            _ if is_test && package == "integration/cluster" => &mut self.namespaces,
            _ if is_test && target.starts_with("fuzz") => &mut self.fuzzers,
            _ if is_test => &mut self.tests,
            // Other crates' examples are tools to measure and to try with: they are built, and some never end.
            "example" if package == "examples" => &mut self.examples,
            "bin" if target == "mobula" => {
                self.mobula = path;
                return Some(());
            }
            _ => return Some(()),
        };
        stage.push(Program { name: format!("{package} {target}"), folder, path });
        Some(())
    }
}

fn run_programs(programs: &[Program], tally: &mut Tally) {
    run_programs_with(None::<(&str, &str)>, programs, tally);
}

/// Runs the simulator, and holds what its worlds have seen of the machines against what must be seen.
fn run_simulations(simulations: &[Program], counter: Option<&Counter>, tally: &mut Tally) {
    let Some(counter) = counter else { return run_programs(simulations, tally) };
    let (worlds, others): (Vec<&Program>, Vec<&Program>) = simulations.iter().partition(|program| program.is_world());
    run_programs_with(Some(Counter::uncounted()), others, tally);
    let counted = counter.begin().and_then(|()| {
        run_programs_with(Some(counter.env()), worlds.iter().copied(), tally);
        counter.check(&worlds.iter().map(|world| world.path.as_path()).collect::<Vec<_>>())
    });
    tally.record(COUNTED, counted);
}

fn run_programs_with<'a>(
    env: Option<(&str, impl AsRef<OsStr>)>,
    programs: impl IntoIterator<Item = &'a Program>,
    tally: &mut Tally,
) {
    for program in programs {
        println!("-- {}", program.name);
        let mut command = program.command();
        command.envs(env.as_ref().map(|(name, value)| (*name, value)));
        let summary = Child::watch(&program.name, &mut command).and_then(read_tests);
        record_summary(&program.name, summary, tally);
    }
}

impl Program {
    fn is_world(&self) -> bool {
        !UNCOUNTED.contains(&self.name.as_str())
    }

    /// The program as `cargo test` would start it.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder);
        command
    }
}

fn doc_tests() -> Result<Summary> {
    println!("-- documentation");
    read_tests(Child::watch(
        "cargo test --doc",
        &mut cargo::command(&["test", "--workspace", "--locked", "--doc", "--no-fail-fast"]),
    )?)
}

/// An example passes when it ends by itself without an error.
fn run_example(example: &Program) -> Result<()> {
    println!("-- example {}", example.name);
    child::run(&example.name, &mut example.command(), EXAMPLE_LIMIT)
}

/// Shows a test program's output as it comes and reads its result.
fn read_tests(mut child: Child) -> Result<Summary> {
    let deadline = Instant::now() + PROGRAM_LIMIT;
    let mut summary = Summary::default();
    while let Some(line) = child.next_line(deadline)? {
        println!("{line}");
        summary.read(&line);
    }
    let status = child.wait(deadline)?;
    summary.close(status).map_err(|error| anyhow!("{error}; its last lines:\n{}", child.tail()))
}

fn record_summary(name: &str, summary: Result<Summary>, tally: &mut Tally) {
    match summary {
        Ok(summary) => {
            // libtest prints a failed test's name on a line that other output may have broken.
            let unnamed = summary.failed.saturating_sub(summary.failures.len() as u64);
            let named = summary.failures.iter().map(|test| format!("{name}: {}", summary.failure(test)));
            tally.count(summary.passed, named.chain((0..unnamed).map(|_| format!("{name}: a test"))));
            for what in &summary.skipped {
                tally.skip(name, &anyhow!("{what}"));
            }
            if summary.ignored > 0 {
                tally.skip(&format!("{name}: {} ignored tests", summary.ignored), &anyhow!("marked `ignore`"));
            }
        }
        Err(error) => tally.record(name, Err(error)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shell(script: &str) -> Result<Summary> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        read_tests(Child::watch("test program", &mut command)?)
    }

    #[test]
    fn a_crash_is_a_failure_with_its_last_words() {
        let error = shell("echo 'running 9 tests'; kill -KILL $$").unwrap_err().to_string();
        assert!(error.contains("no result") && error.contains("running 9 tests"), "{error}");
        assert!(shell("echo 'test result: ok. 3 passed; 0 failed; 0 ignored'; exit 1").is_err());
    }

    #[test]
    fn a_program_without_libtest_is_one_test() {
        assert_eq!(shell("exit 0").unwrap().passed, 1);
        assert!(shell("exit 7").is_err());
    }

    #[test]
    fn programs_are_sorted_into_stages() {
        let mut built = Built::default();
        let mut add = |folder: &str, target: &str, kind: &str, test: bool| {
            let manifest = cargo::root().join(folder).join("Cargo.toml");
            let artifact = json!({
                "executable": format!("/bin/{target}"), "manifest_path": manifest,
                "target": {"name": target, "kind": [kind]}, "profile": {"test": test},
            });
            built.add(&artifact).unwrap();
        };
        add("framework/actor", "mobula_actor", "lib", true);
        add("integration/sim", "mobula_sim", "lib", true);
        add("integration/cluster", "cuts", "test", true);
        add("gpu/llm", "fuzz_gguf", "test", true);
        add("examples", "word_count", "example", false);
        add("runtime/cli", "mobula", "bin", true);
        add("runtime/cli", "mobula", "bin", false);
        add("integration/xtask", "xtask", "bin", false);
        let names = |programs: &[Program]| programs.iter().map(|program| program.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&built.tests), ["framework/actor mobula_actor", "runtime/cli mobula"]);
        assert_eq!(names(&built.simulations), ["integration/sim mobula_sim"]);
        assert_eq!(names(&built.fuzzers), ["gpu/llm fuzz_gguf"]);
        assert_eq!(names(&built.namespaces), ["integration/cluster cuts"]);
        assert_eq!(names(&built.examples), ["examples word_count"]);
        assert_eq!(built.mobula, Path::new("/bin/mobula"));
    }
}
