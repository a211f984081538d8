//! Each way to end has its cause, with what was running and what was said last.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mobula_node::daemon::workers::{MemoryFiles, SpawnError, WorkerEvent, WorkerEvents, Workers, WorkersConfig};
use mobula_types::{Culprit, DeathCause, TaskId};

use crate::Test;
use crate::stage::{HANG, JOB, died, kill_hard, mark, next, process, run, start, started, until_marked, worker};

pub(crate) const TESTS: &[Test] = &[
    ("each_end_has_its_cause", each_end_has_its_cause),
    ("out_of_memory_is_told", out_of_memory_is_told),
    ("short_memory_ends_the_newest_task", short_memory_ends_the_newest_task),
    ("what_the_node_ends_has_the_nodes_reason", what_the_node_ends_has_the_nodes_reason),
    ("a_worker_that_cannot_start_says_why", a_worker_that_cannot_start_says_why),
    ("stopping_ends_all_and_takes_no_more", stopping_ends_all_and_takes_no_more),
];

fn each_end_has_its_cause() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (workers, mut events) = start(folder.path());
        let task = |seq| vec![Culprit::Task(TaskId { process: process(9), seq })];
        let ends: [(&[&str], DeathCause, Vec<Culprit>, &str); 6] = [
            (&["exit", "0"], DeathCause::Exited { code: 0 }, vec![], ""),
            (&["exit", "7"], DeathCause::Exited { code: 7 }, vec![], ""),
            (&["panic"], DeathCause::Exited { code: 101 }, task(11), "on purpose"),
            (&["abort"], DeathCause::Aborted, task(12), ""),
            (&["overflow"], DeathCause::StackOverflow, vec![], "has overflowed its stack"),
            (&["signal"], DeathCause::Signal { signal: 15 }, vec![], ""),
        ];
        for (number, (act, cause, culprits, said)) in (1..).zip(ends) {
            workers.spawn(worker(number, act)).unwrap();
            assert_eq!(started(&mut events).await.0, process(number));
            let death = died(&mut events).await;
            assert_eq!((death.process, &death.cause, &death.culprits), (process(number), &cause, &culprits), "{act:?}");
            assert!(death.stderr.iter().any(|line| line.contains(said)) || said.is_empty(), "{death:?}");
            assert!(death.stderr.len() <= 64 && death.seen_unix_ms > 0);
        }
        // Somebody else kills it; its node knows at once.
        workers.spawn(worker(20, &["sleep"])).unwrap();
        let (_, pid) = started(&mut events).await;
        let killed = Instant::now();
        kill_hard(pid);
        assert_eq!(died(&mut events).await.cause, DeathCause::Signal { signal: 9 });
        println!("  a killed worker's death was told after {:?}", killed.elapsed());
        assert!(killed.elapsed() < Duration::from_secs(1));
        assert_eq!(workers.alive(), 0);
        workers.stop(DeathCause::Drained).await;
    });
}

fn out_of_memory_is_told() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (workers, mut events) = start(folder.path());
        workers.spawn(worker(1, &["exit", "0"])).unwrap();
        started(&mut events).await;
        died(&mut events).await;
        match workers.memory_groups().expect("the warden has said by now") {
            Ok(groups) => println!("  memory is bounded by {groups}"),
            Err(why) => {
                assert!(std::env::var_os("CI").is_none(), "CI may not skip this: {why}");
                println!("  skipped: {why}");
                return workers.stop(DeathCause::Drained).await;
            }
        }
        let mut spec = worker(2, &["eat"]);
        spec.memory_max = Some(64 << 20);
        workers.spawn(spec).unwrap();
        started(&mut events).await;
        assert_eq!(died(&mut events).await.cause, DeathCause::OutOfMemory);
        // The next one is in a group of its own, and not accused of that.
        workers.spawn(worker(3, &["sleep"])).unwrap();
        kill_hard(started(&mut events).await.1);
        assert_eq!(died(&mut events).await.cause, DeathCause::Signal { signal: 9 });
        workers.stop(DeathCause::Drained).await;
    });
}

/// The host's memory, as a file says it.
fn say_memory(file: &Path, available_kb: u64) {
    // Renamed, since it is read all the time.
    let new = file.with_extension("new");
    fs::write(&new, format!("MemTotal: 1000 kB\nMemAvailable: {available_kb} kB\n")).unwrap();
    fs::rename(new, file).unwrap();
}

fn short_memory_ends_the_newest_task() {
    let folder = tempfile::tempdir().unwrap();
    let meminfo = folder.path().join("meminfo");
    say_memory(&meminfo, 500);
    run(async {
        let mut config = WorkersConfig::new(folder.path(), folder.path().join("node.sock"));
        config.memory_files = MemoryFiles::only(meminfo.clone());
        let (workers, mut events) = Workers::start(config).unwrap();
        // The newest worker has no task that may run again, the one before it has the newest of those that may.
        let acts: [&[&str]; 4] = [&["sleep"], &["run", "10"], &["run", "20"], &["run", "30", "last"]];
        for (number, act) in (1..).zip(acts) {
            workers.spawn(worker(number, act)).unwrap();
        }
        let mut driver = worker(5, &["driver-sleeps"]);
        driver.is_driver = true;
        workers.spawn(driver).unwrap();
        until_running(&mut events, 5, 3).await;
        say_memory(&meminfo, 40);
        let cause = DeathCause::MemoryPressure { used_bytes: 960 << 10, total_bytes: 1000 << 10 };
        for number in [3, 2, 4, 1] {
            let death = died(&mut events).await;
            assert_eq!((death.process, &death.cause), (process(number), &cause));
        }
        // Nobody is left but the program that is the job itself.
        assert_eq!(workers.alive(), 1);
        say_memory(&meminfo, 500);
        workers.stop(DeathCause::Drained).await;
        assert_eq!(died(&mut events).await.process, process(5));
    });
}

/// Waits until so many workers have started, and so many of them have said that their task runs.
async fn until_running(events: &mut WorkerEvents, workers: usize, tasks: usize) {
    let (mut started, mut running) = (0, 0);
    while (started, running) != (workers, tasks) {
        match tokio::time::timeout(HANG, events.next()).await.expect("an event").expect("more events") {
            WorkerEvent::Output { lines, .. } => running += lines.iter().filter(|line| *line == "runs").count(),
            WorkerEvent::Started { .. } => started += 1,
            WorkerEvent::Died { death, .. } => panic!("nobody dies yet: {death:?}"),
        }
    }
}

fn what_the_node_ends_has_the_nodes_reason() {
    let (folder, mark) = (tempfile::tempdir().unwrap(), mark());
    run(async {
        let (workers, mut events) = start(folder.path());
        for number in 1..=4 {
            let mut spec = worker(number, &["sleep", &mark]);
            spec.job.0 = JOB.0 + u64::from(number / 4);
            workers.spawn(spec).unwrap();
            started(&mut events).await;
        }
        workers.kill(process(2), DeathCause::Drained);
        let death = died(&mut events).await;
        assert_eq!((death.process, death.cause), (process(2), DeathCause::Drained));
        let asked = Instant::now();
        workers.end_job(JOB, DeathCause::JobStopped, Duration::from_millis(100));
        let mut ended = [died(&mut events).await, died(&mut events).await];
        assert!(asked.elapsed() >= Duration::from_millis(100), "they had time to end by themselves");
        ended.sort_by_key(|death| death.process);
        let ended = ended.map(|death| (death.process, death.cause));
        assert_eq!(ended, [(process(1), DeathCause::JobStopped), (process(3), DeathCause::JobStopped)]);
        until_marked(&mark, 1, HANG);
        workers.stop(DeathCause::Drained).await;
        assert_eq!(died(&mut events).await.cause, DeathCause::Drained);
    });
}

fn a_worker_that_cannot_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (workers, mut events) = start(folder.path());
        let mut spec = worker(1, &[]);
        spec.program = folder.path().join("no-such-program");
        workers.spawn(spec).unwrap();
        let death = died(&mut events).await;
        let DeathCause::NotStarted { message } = death.cause else { panic!("{death:?}") };
        assert!(message.contains("no-such-program") && message.contains("No such file"), "{message}");
        let mut spec = worker(2, &[]);
        spec.program = "/proc/self/status".into();
        workers.spawn(spec).unwrap();
        assert!(matches!(died(&mut events).await.cause, DeathCause::NotStarted { .. }));
        assert_eq!(workers.alive(), 0);
        workers.stop(DeathCause::Drained).await;
    });
}

fn stopping_ends_all_and_takes_no_more() {
    let (folder, mark) = (tempfile::tempdir().unwrap(), mark());
    run(async {
        let (workers, mut events) = start(folder.path());
        for number in 1..=8 {
            workers.spawn(worker(number, &["sleep", &mark])).unwrap();
        }
        // Some of them may not have started yet.
        let began = Instant::now();
        workers.stop(DeathCause::Drained).await;
        println!("  eight workers were ended within {:?}", began.elapsed());
        until_marked(&mark, 0, Duration::from_millis(1));
        let mut deaths = Vec::new();
        for _ in 0..16 {
            match tokio::time::timeout(HANG, events.next()).await.unwrap() {
                Some(mobula_node::daemon::workers::WorkerEvent::Died { death, .. }) => deaths.push(death),
                Some(_) => {}
                None => break,
            }
        }
        assert_eq!(deaths.len(), 8);
        assert!(deaths.iter().all(|death| death.cause == DeathCause::Drained), "{deaths:?}");
        assert!(matches!(workers.spawn(worker(9, &["sleep"])), Err(SpawnError::Stopped)));
        drop(workers);
        // What is dropped without a stop ends its workers too.
        let (workers, mut events) = start(folder.path());
        workers.spawn(worker(10, &["sleep", &mark])).unwrap();
        next(&mut events).await;
        drop(workers);
        assert_eq!(died(&mut events).await.cause, DeathCause::JobStopped);
        until_marked(&mark, 0, HANG);
    });
}
