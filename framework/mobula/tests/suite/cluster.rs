//! The suite for the third time: on a cluster of two nodes, with functions and actors in processes of their own.
//!
//! The tests are those of the suite, by the list that `#[mobula::test(cluster)]` makes. Each has a session of its own, so
//! that all processes of it are new; several run at once. The driver is attached to the head, where actors live; functions
//! run on the other node, since the head has no CPU. Words and results are libtest's; what makes no sense on a cluster is
//! shown with its reason, and is not counted as left out. It takes filters as other tests do:
//! `cargo test -p mobula --test suite_cluster streams`.

#[path = "../nodes/mod.rs"]
mod nodes;
#[path = "main.rs"]
mod suite;

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use mobula::__private::{ClusterTest, inventory};
use mobula::Config;
use nodes::Nodes;

pub(crate) use suite::apparatus;

/// Tests that run at once: most of a test is waiting for processes to start and end.
const AT_ONCE: usize = 4;

/// CPUs of the node that runs functions: each of the tests that run at once may hold some.
const CPUS: u64 = 8;

/// No test takes a tenth of this.
const HANGS: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    if let Some(code) = nodes::serve_a_node() {
        return code;
    }
    let filters: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let all = all();
    let count = all.len();
    let tests: Vec<Test> = all.into_iter().filter(|test| test.is_wanted(&filters)).collect();
    let filtered = count - tests.len();
    println!("\nrunning {} tests", tests.len());
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("there are threads");
    let nodes = runtime.block_on(Nodes::start(0, CPUS));
    let Tally { passed, failed, elsewhere } = run(tests, &nodes.address());
    runtime.block_on(nodes.stop());
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    if !failed.is_empty() {
        println!("\nfailures:\n    {}", failed.join("\n    "));
    }
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured; {filtered} filtered out; \
         {elsewhere} make no sense on a cluster; finished in {:.2}s\n",
        failed.len(),
        began.elapsed().as_secs_f64()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Test {
    name: String,
    run: Result<Run, &'static str>,
}

type Run = Box<dyn FnOnce(Config) -> ExitCode + Send>;

impl Test {
    fn is_wanted(&self, filters: &[String]) -> bool {
        filters.is_empty() || filters.iter().any(|filter| self.name.contains(filter.as_str()))
    }
}

/// The tests of the suite by their names, and one more.
fn all() -> Vec<Test> {
    let listed = inventory::iter::<ClusterTest>();
    let mut tests: Vec<Test> = listed
        .map(|test| Test {
            name: format!("{}::cluster", test.name.trim_start_matches(concat!(module_path!(), "::suite::"))),
            run: test.run.map(|run| Box::new(run) as Run),
        })
        .collect();
    let listed = tests.len();
    let complete = Box::new(move |_| nothing_is_missing(listed));
    tests.push(Test { name: "nothing_is_missing".to_owned(), run: Ok(complete) });
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    tests
}

/// Every test of the suite runs here or says why it does not.
fn nothing_is_missing(listed: usize) -> ExitCode {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite");
    let files = fs::read_dir(folder).expect("the suite is there").map(|entry| entry.expect("it can be read").path());
    let written: usize = files
        .map(|file| fs::read_to_string(file).expect("a source is text"))
        .map(|source| source.lines().filter(|line| line.starts_with("#[mobula::test")).count())
        .sum();
    assert_eq!(listed, written, "every test of the suite says `cluster`, or `cluster(ignore = \"why\")`");
    ExitCode::SUCCESS
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
    /// What makes sense in one process only.
    elsewhere: usize,
}

/// Runs the tests, a few at once, each on a thread of its own.
fn run(tests: Vec<Test>, address: &str) -> Tally {
    let mut tally = Tally::default();
    let mut waiting = VecDeque::new();
    for Test { name, run } in tests {
        match run {
            Ok(run) => waiting.push_back((name, run)),
            Err(why) => {
                println!("test {name} ... ignored, {why}");
                tally.elsewhere += 1;
            }
        }
    }
    let waiting = Mutex::new(waiting);
    let next = || waiting.lock().expect("no test holds it").pop_front();
    let (done, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let (done, next) = (done.clone(), &next);
            scope.spawn(move || {
                while let Some((name, run)) = next() {
                    let began = Instant::now();
                    let ended = run_one(&name, run, Config::default().address(address));
                    done.send((name, ended, began.elapsed())).expect("the results are read to their end");
                }
            });
        }
        drop(done);
        for (name, ended, took) in results {
            match ended {
                Ok(()) => {
                    println!("test {name} ... ok");
                    tally.passed += 1;
                }
                Err(why) => {
                    eprintln!("{name}: {why} after {took:?}");
                    println!("test {name} ... FAILED");
                    tally.failed.push(name);
                }
            }
        }
    });
    tally
}

fn run_one(name: &str, run: Run, config: Config) -> Result<(), String> {
    let (sender, ended) = mpsc::channel();
    let body = move || {
        // Not sent when the test panics: then its receiver finds nobody.
        sender.send(run(config)).ok();
    };
    thread::Builder::new().name(name.to_owned()).spawn(body).expect("there are threads");
    match ended.recv_timeout(HANGS) {
        Ok(code) if code == ExitCode::SUCCESS => Ok(()),
        Ok(_) => Err("it returned an error".to_owned()),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err("it panicked".to_owned()),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(format!("it hangs: nothing came of it in {HANGS:?}")),
    }
}
