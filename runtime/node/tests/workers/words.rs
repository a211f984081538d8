//! What a worker is told, and what becomes of what it writes.

use std::process::Command;

use mobula_node::daemon::workers::{LogId, Stream, WorkerEvent, WorkerEvents, Workers};
use mobula_types::{DeathCause, ProcessId};

use crate::Test;
use crate::stage::{HANG, process, run, start, worker};

pub(crate) const TESTS: &[Test] = &[
    ("a_worker_knows_its_role", a_worker_knows_its_role),
    ("a_nodes_secrets_stay_with_it", a_nodes_secrets_stay_with_it),
    ("a_workers_child_is_no_worker", a_workers_child_is_no_worker),
    ("a_driver_is_no_worker", a_driver_is_no_worker),
    ("what_is_written_reaches_log_and_terminal", what_is_written_reaches_log_and_terminal),
    ("a_flood_is_cut_for_the_terminal_only", a_flood_is_cut_for_the_terminal_only),
];

/// All lines of standard output until the worker has died.
async fn lines_of(events: &mut WorkerEvents) -> Vec<String> {
    let mut said = Vec::new();
    loop {
        match tokio::time::timeout(HANG, events.next()).await.unwrap().unwrap() {
            WorkerEvent::Output { is_stderr: false, lines, .. } => said.extend(lines),
            WorkerEvent::Died { death, .. } => {
                assert_eq!(death.cause, DeathCause::Exited { code: 0 }, "{death:?}");
                return said;
            }
            _ => {}
        }
    }
}

/// All that the log has of a worker's standard output.
fn log_of(workers: &Workers, process: ProcessId) -> String {
    let (id, mut text, mut offset) = (LogId { process, stream: Stream::Out }, Vec::new(), 0);
    loop {
        let chunk = workers.logs().read(id, offset, usize::MAX).unwrap();
        if chunk.bytes.is_empty() {
            return String::from_utf8(text).unwrap();
        }
        offset = chunk.next_offset();
        text.extend(chunk.bytes);
    }
}

fn a_worker_knows_its_role() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (workers, mut events) = start(folder.path());
        let mut spec = worker(1, &["role"]);
        spec.env.insert("COLOUR".to_owned(), "blue".to_owned());
        spec.gpus = vec![1, 3];
        spec.isolated = true;
        spec.working_dir = Some("/".into());
        workers.spawn(spec).unwrap();
        let socket = format!("socket {}", folder.path().join("node.sock").display());
        let expect = [
            "token secret of 1",
            "process 7:1",
            "isolated true",
            &socket,
            "folder /",
            "MOBULA_TOKEN unset",
            "COLOUR blue",
            "CUDA_VISIBLE_DEVICES 1,3",
            "stdin 0",
        ];
        assert_eq!(lines_of(&mut events).await, expect);
        let mut spec = worker(2, &["role"]);
        spec.working_dir = Some("/no/such/folder".into());
        workers.spawn(spec).unwrap();
        let said = lines_of(&mut events).await;
        let home = format!("folder {}", folder.path().canonicalize().unwrap().display());
        assert!(said.contains(&home), "{said:?}");
        workers.stop(DeathCause::Drained).await;
    });
}

fn a_nodes_secrets_stay_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Command::new(std::env::current_exe().unwrap());
    node.arg("told").arg(folder.path()).envs([("MOBULA_TOKEN", "of a node"), ("COLOUR", "of all")]);
    let said = String::from_utf8(node.output().unwrap().stdout).unwrap();
    assert!(said.contains("MOBULA_TOKEN unset\n") && said.contains("COLOUR of all\n"), "{said}");
}

fn a_workers_child_is_no_worker() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (workers, mut events) = start(folder.path());
        workers.spawn(worker(1, &["child"])).unwrap();
        assert_eq!(lines_of(&mut events).await, ["nobody", "child exit status: 0"]);
        workers.stop(DeathCause::Drained).await;
    });
}

fn a_driver_is_no_worker() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (workers, mut events) = start(folder.path());
        let mut spec = worker(1, &["driver"]);
        spec.is_driver = true;
        spec.env.insert("MOBULA_ADDRESS".to_owned(), "local".to_owned());
        workers.spawn(spec).unwrap();
        assert_eq!(lines_of(&mut events).await, ["address local"]);
        workers.stop(DeathCause::Drained).await;
    });
}

fn what_is_written_reaches_log_and_terminal() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (workers, mut events) = start(folder.path());
        workers.spawn(worker(1, &["say", "one", "two", "two", "two", "three"])).unwrap();
        assert_eq!(lines_of(&mut events).await, ["one", "two", "two (said 2 times more)", "three"]);
        assert_eq!(log_of(&workers, process(1)), "one\ntwo\ntwo\ntwo\nthree\n");
        assert_eq!(workers.logs().resolve("job-3").unwrap().len(), 2);
        workers.stop(DeathCause::Drained).await;
    });
}

fn a_flood_is_cut_for_the_terminal_only() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (workers, mut events) = start(folder.path());
        workers.spawn(worker(1, &["flood", "200000"])).unwrap();
        let told = lines_of(&mut events).await;
        // As many as in each second that it took, begun ones included; the rest is named.
        assert!(told.len() < 20_000, "{} lines were told", told.len());
        assert!(told.iter().any(|line| line.contains("lines left out")), "{:?}", told.last());
        let log = log_of(&workers, process(1));
        assert_eq!(log.lines().count(), 200_000);
        assert_eq!(log.lines().last(), Some("line 199999"));
        workers.stop(DeathCause::Drained).await;
    });
}
