//! The parts that processes play, and what the tests see of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mobula_node::daemon::workers::guard::Role;
use mobula_node::daemon::workers::{SpawnSpec, WorkerEvent, WorkerEvents, Workers, WorkersConfig};
use mobula_store::slots::{KIND_LAST_RUN, KIND_TASK};
use mobula_types::{Death, DeathCause, JobId, NodeId, ProcessId};
use rustix::process::{Pid, Signal, kill_process};

/// Everything here is over in milliseconds, or by the 2 s of G9; a test waits ten times as long before it calls it a hang.
pub(crate) const HANG: Duration = Duration::from_secs(20);

/// Processes and memory are free this long after a kill (G9).
pub(crate) const FREED: Duration = Duration::from_secs(2);

pub(crate) const JOB: JobId = JobId(3);

pub(crate) fn process(number: u32) -> ProcessId {
    ProcessId::new(NodeId(7), number)
}

/// A word that all processes of one test have among their arguments.
pub(crate) fn mark() -> String {
    static MARKS: AtomicU32 = AtomicU32::new(0);
    format!("mark-{}-{}.", std::process::id(), MARKS.fetch_add(1, Ordering::Relaxed))
}

/// The processes that have the mark and are alive.
pub(crate) fn marked(mark: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has_mark = |pid: &i32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.windows(mark.len()).any(|window| window == mark.as_bytes())
    };
    pids.filter(has_mark).collect()
}

/// Waits until as many processes have the mark, and returns them.
pub(crate) fn until_marked(mark: &str, count: usize, within: Duration) -> Vec<i32> {
    let began = Instant::now();
    loop {
        let found = marked(mark);
        if found.len() == count {
            return found;
        }
        assert!(began.elapsed() < within, "{} processes after {within:?}, expected {count}: {found:?}", found.len());
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn kill_hard(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// The workers of a node in `folder`, which is this process.
pub(crate) fn start(folder: &Path) -> (Workers, WorkerEvents) {
    Workers::start(WorkersConfig::new(folder, folder.join("node.sock"))).unwrap()
}

/// A worker of this executable that does `act`.
pub(crate) fn worker(number: u32, act: &[&str]) -> SpawnSpec {
    SpawnSpec {
        process: process(number),
        job: JOB,
        program: std::env::current_exe().unwrap(),
        args: act.iter().map(OsString::from).collect(),
        env: BTreeMap::new(),
        working_dir: None,
        token: format!("secret of {number}"),
        is_driver: false,
        isolated: false,
        gpus: Vec::new(),
        memory_max: None,
    }
}

/// The next event that is no output.
pub(crate) async fn next(events: &mut WorkerEvents) -> WorkerEvent {
    loop {
        match tokio::time::timeout(HANG, events.next()).await.expect("an event").expect("more events") {
            WorkerEvent::Output { .. } => {}
            event => return event,
        }
    }
}

pub(crate) async fn started(events: &mut WorkerEvents) -> (ProcessId, i32) {
    match next(events).await {
        WorkerEvent::Started { process, pid } => (process, pid.cast_signed()),
        other => panic!("expected a start: {other:?}"),
    }
}

pub(crate) async fn died(events: &mut WorkerEvents) -> Death {
    match next(events).await {
        WorkerEvent::Died { death, .. } => death,
        other => panic!("expected a death: {other:?}"),
    }
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

/// Plays a worker: does what its arguments say.
pub(crate) fn work(role: &Role) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |at: usize| args.get(at).map_or("", String::as_str);
    match arg(0) {
        "exit" => return ExitCode::from(arg(1).parse::<u8>().unwrap()),
        "panic" => {
            begin_task(role, 11);
            panic!("on purpose");
        }
        "abort" => {
            begin_task(role, 12);
            std::process::abort();
        }
        "overflow" => println!("{}", deep(1)),
        "signal" => kill_process(rustix::process::getpid(), Signal::TERM).unwrap(),
        "eat" => eat(512 << 20),
        "sleep" => sleep(),
        "run" => {
            let kind = if arg(2) == "last" { KIND_LAST_RUN } else { KIND_TASK };
            write_slot(role, [1, kind, process(9).as_u64(), 1, arg(1).parse().unwrap()]);
            println!("runs");
            sleep();
        }
        "family" => family(arg(1)),
        "say" => args[1..].iter().for_each(|line| println!("{line}")),
        "flood" => (0..arg(1).parse::<u32>().unwrap()).for_each(|n| println!("line {n}")),
        "role" => tell_role(role),
        "child" => {
            let child = Command::new(std::env::current_exe().unwrap()).arg("who").status().unwrap();
            println!("child {child}");
        }
        other => panic!("no act {other}"),
    }
    ExitCode::SUCCESS
}

/// Plays what is no worker: a node that will be killed, or what workers start. `None` for the test itself.
pub(crate) fn play(args: &[String]) -> Option<ExitCode> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["node", folder, mark] => run(async {
            let (workers, mut events) = start(Path::new(folder));
            for number in [1, 2] {
                workers.spawn(worker(number, &["family", mark])).unwrap();
                started(&mut events).await;
            }
            while events.next().await.is_some() {}
        }),
        // A node that says what its worker is told.
        ["told", folder] => run(async {
            let (workers, mut events) = start(Path::new(folder));
            workers.spawn(worker(1, &["role"])).unwrap();
            loop {
                match events.next().await.unwrap() {
                    WorkerEvent::Output { lines, .. } => println!("{}", lines.join("\n")),
                    WorkerEvent::Died { .. } => break,
                    _ => {}
                }
            }
            workers.stop(DeathCause::Drained).await;
        }),
        // A child that stays where it is.
        ["who", _mark] => sleep(),
        // One that a node started as a worker's child: it asked `guard` already, and is none.
        ["who"] => println!("nobody"),
        // A user's program that the node runs.
        ["driver-sleeps"] => sleep(),
        ["driver"] => println!("address {}", std::env::var("MOBULA_ADDRESS").unwrap()),
        // One that leaves its group and session.
        ["leaver", mark] => {
            rustix::process::setsid().unwrap();
            leave_child(&mut child(&["who", mark]));
            sleep();
        }
        // One that leaves its parent too, and inherits nothing by which it could be known.
        ["daemon", mark] => {
            rustix::process::setsid().unwrap();
            leave_child(child(&["who", mark]).env_clear());
        }
        _ => return None,
    }
    Some(ExitCode::SUCCESS)
}

/// Processes that `family` makes: itself, a child, a leaver with its child, a daemon.
pub(crate) const FAMILY: usize = 5;

fn family(mark: &str) {
    leave_child(&mut child(&["who", mark]));
    leave_child(&mut child(&["leaver", mark]));
    child(&["daemon", mark]).status().unwrap();
    sleep();
}

fn child(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(args).stdin(Stdio::null());
    command
}

#[expect(clippy::zombie_processes, reason = "who waits for it in the end is what the tests are about")]
fn leave_child(command: &mut Command) {
    command.spawn().unwrap();
}

fn sleep() {
    std::thread::sleep(Duration::from_secs(600));
}

/// Says in a slot that a task runs.
fn begin_task(role: &Role, seq: u64) {
    write_slot(role, [1, KIND_TASK, process(9).as_u64(), seq, 0]);
}

fn write_slot(role: &Role, words: [u64; 5]) {
    role.slots.words(0).unwrap().iter().zip(words).rev().for_each(|(slot, word)| slot.store(word, Ordering::Release));
}

fn deep(n: u64) -> u64 {
    let room = black_box([n; 1_000]);
    if n == 0 { 0 } else { deep(n + 1) + room[n as usize % 1_000] }
}

fn eat(bytes: usize) {
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    for _ in 0..bytes >> 20 {
        eaten.push(black_box(vec![1; 1 << 20]));
    }
    println!("nobody stopped it: {}", eaten.len());
}

fn tell_role(role: &Role) {
    println!("token {}", role.token);
    println!("process {}", role.process);
    println!("isolated {}", role.isolated);
    println!("socket {}", role.socket.display());
    println!("folder {}", std::env::current_dir().unwrap().display());
    for name in ["MOBULA_TOKEN", "COLOUR", "CUDA_VISIBLE_DEVICES"] {
        println!("{name} {}", std::env::var(name).unwrap_or_else(|_| "unset".to_owned()));
    }
    let mut stdin = String::new();
    println!("stdin {}", std::io::stdin().read_line(&mut stdin).unwrap());
}
