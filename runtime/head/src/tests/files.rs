//! A head over a file: restarts, epochs, a full disk, and how long it takes to come back.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use mobula_logic::directory::{self, Claim};
use mobula_logic::head::Output;
use mobula_logic::membership;
use mobula_logic::record::JobSpec;
use mobula_types::{
    ActorId, Beat, ClusterId, Epoch, Held, Incarnation, JobId, MemberId, NameKey, NodeId, ProcessId, Registration, Time,
};

use super::disk::Disk;
use crate::store::{FILE, OpenError, Store};
use crate::{Config, Head};

/// A hang detector: a sync takes milliseconds, on a busy machine a second.
const HANGS: Duration = Duration::from_secs(30);

/// A driver with the clock stopped at the time it is given.
struct Driver {
    head: Head,
    bell: Arc<(Mutex<bool>, Condvar)>,
}

fn bell() -> (Arc<(Mutex<bool>, Condvar)>, impl Fn() + Send + Sync + 'static) {
    let bell = Arc::new((Mutex::new(false), Condvar::new()));
    let ringer = bell.clone();
    (bell, move || {
        *ringer.0.lock().unwrap() = true;
        ringer.1.notify_one();
    })
}

fn config(now: u64) -> Config {
    Config { cluster: ClusterId([9; 16]), ca: vec![1, 2, 3], now: at(now), unix_ms: 1_000_000 + now }
}

fn at(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

impl Driver {
    fn open(folder: &Path, now: u64) -> Self {
        let (bell, ring) = bell();
        Self { head: Head::open(folder, config(now), ring).unwrap(), bell }
    }

    fn on(disk: &Disk, now: u64) -> Self {
        let (bell, ring) = bell();
        let opened = Store::open_on(Box::new(disk.clone())).unwrap();
        Self { head: Head::open_on(opened, Path::new(""), config(now), ring).unwrap(), bell }
    }

    fn said(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.head.poll_output()).collect()
    }

    /// What is said until `count` outputs have come.
    fn wait_for(&mut self, now: u64, count: usize) -> Vec<Output> {
        let mut said = self.said();
        while said.len() < count {
            self.turn(now);
            said.extend(self.said());
        }
        said
    }

    /// Goes on until it is so.
    fn wake(&mut self, now: u64, is_so: impl Fn(&Head) -> bool) {
        while !is_so(&self.head) {
            self.turn(now);
        }
    }

    fn turn(&mut self, now: u64) {
        let rung = self.bell.0.lock().unwrap();
        let (mut rung, timeout) = self.bell.1.wait_timeout_while(rung, HANGS, |rung| !*rung).unwrap();
        assert!(!timeout.timed_out(), "the disk was awaited for {HANGS:?}");
        *rung = false;
        drop(rung);
        self.head.turn(at(now));
    }

    fn register(&mut self, now: u64, member: u8, node: Option<NodeId>) -> Vec<Output> {
        let registration = Registration { member: MemberId([member; 16]), node, ..Registration::default() };
        self.head.handle(at(now), membership::Input::Register { ask: 0, registration });
        self.wait_for(now, 1)
    }

    fn close(self) {
        assert!(self.head.close(HANGS));
    }
}

#[test]
fn a_restarted_head_goes_on_where_the_last_one_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Driver::open(folder.path(), 0);
    assert_eq!(first.head.id().epoch, Epoch(1));
    assert!(matches!(first.register(1, 7, None)[..], [Output::Admit { node: NodeId(1), .. }]));
    let nonce = first.head.id().nonce;
    first.close();
    let mut second = Driver::open(folder.path(), 5);
    assert_eq!(second.head.id().epoch, Epoch(2));
    assert_ne!(second.head.id().nonce, nonce);
    assert!(matches!(second.register(6, 7, Some(NodeId(1)))[..], [Output::Admit { node: NodeId(1), .. }]));
    assert!(matches!(second.register(6, 8, None)[..], [Output::Admit { node: NodeId(2), .. }]));
    assert_eq!(second.head.status(at(1_006), NodeId(1)).nodes.len(), 2);
}

#[test]
fn a_head_that_was_killed_has_kept_what_it_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut jobs = 0;
    for life in 0..10 {
        let mut driver = Driver::open(folder.path(), 0);
        driver.register(1, life, None);
        for number in 0..20 {
            let spec = JobSpec { driver: ProcessId::new(NodeId(u64::from(life) + 1), number), ..JobSpec::default() };
            driver.head.handle(at(2), directory::Input::JobStart { ask: 0, spec });
        }
        let said = driver.wait_for(2, 1);
        let started = said.iter().filter_map(|output| match output {
            Output::Directory(directory::Output::JobStarted { result: Ok(job), .. }) => Some(job.0),
            _ => None,
        });
        jobs = started.max().unwrap().max(jobs);
        // A copy of the file now is what a head would find that starts after a kill.
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(folder.path().join(FILE), copy.path().join(FILE)).unwrap();
        let found = Driver::open(copy.path(), 0);
        let known = |job| found.head.machine().directory().job(JobId(job)).is_some();
        assert!((1..=jobs).all(known), "life {life}: {jobs} jobs were told");
        driver.close();
    }
}

#[test]
fn ten_thousand_names_and_a_thousand_jobs_are_back_soon() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::open(folder.path(), 0);
    driver.register(0, 1, None);
    let node = NodeId(1);
    for number in 0..1_000 {
        let spec = JobSpec { driver: ProcessId::new(node, number + 1), setup: vec![7; 300], ..JobSpec::default() };
        driver.head.handle(at(1), directory::Input::JobStart { ask: 0, spec });
    }
    let mut held = Vec::new();
    for slot in 0..10_000u32 {
        let actor = ActorId { process: ProcessId::new(node, slot % 1_000 + 1), slot, generation: 0 };
        let key = NameKey::of_job(JobId(u64::from(slot % 1_000) + 1), format!("actor-{slot}"));
        let (process, interface) = (actor.process, Default::default());
        let claim = Claim { key, actor, incarnation: Incarnation(1), job: None, detached: None, process, interface };
        driver.head.handle(at(1), directory::Input::Claim { ask: 0, node, claim });
    }
    for output in driver.wait_for(1, 11_000) {
        if let Output::Directory(directory::Output::Claimed { key, result, .. }) = output {
            let grant = result.unwrap();
            held.push(Held { key, actor: grant.owner, fencing: grant.fencing });
        }
    }
    driver.close();
    let started = Instant::now();
    let mut driver = Driver::open(folder.path(), 0);
    let took = started.elapsed();
    let directory = driver.head.machine().directory();
    assert_eq!((directory.names().count(), directory.jobs().count()), (10_000, 1_000));
    // G12 says 3 s; this build is not optimised and the machine is busy with other tests.
    assert!(took < Duration::from_secs(15), "it took {took:?}");
    println!("10,000 names and 1,000 jobs: open after {took:?}");
    let processes = (1..=1_000).map(|number| ProcessId::new(node, number)).collect();
    let registration =
        Registration { member: MemberId([1; 16]), node: Some(node), held, processes, ..Registration::default() };
    let started = Instant::now();
    driver.head.handle(at(1), membership::Input::Register { ask: 0, registration });
    assert!(matches!(driver.said()[..], [Output::Admit { .. }]));
    assert!(started.elapsed() < Duration::from_secs(10), "it took {:?}", started.elapsed());
}

#[test]
fn a_full_disk_turns_the_head_read_only_until_there_is_room() {
    let disk = Disk::default();
    let mut driver = Driver::on(&disk, 0);
    driver.register(0, 1, None);
    disk.set_full_at(Some(0));
    let spec = |number| JobSpec { driver: ProcessId::new(NodeId(1), number), ..JobSpec::default() };
    driver.head.handle(at(1), directory::Input::JobStart { ask: 1, spec: spec(1) });
    assert_eq!(driver.said(), []);
    driver.wake(1, |head| head.machine().read_only().is_some());
    driver.head.handle(at(2), directory::Input::JobStart { ask: 2, spec: spec(2) });
    let said = driver.said();
    assert!(matches!(&said[..], [Output::ReadOnly { ask: 2, cause }] if cause.contains("is full")), "{said:?}");
    driver.head.handle(at(3), membership::Input::Heartbeat { node: NodeId(1), beat: Beat::default() });
    assert!(matches!(driver.said()[..], [Output::Beat { .. }]));
    disk.set_full_at(None);
    let said = driver.wait_for(4, 1);
    assert!(
        matches!(said[..], [Output::Directory(directory::Output::JobStarted { ask: 1, result: Ok(JobId(1)) })]),
        "{said:?}"
    );
    driver.head.handle(at(5), directory::Input::JobStart { ask: 3, spec: spec(3) });
    assert_eq!(driver.wait_for(5, 1).len(), 1);
}

#[test]
fn a_head_whose_store_another_one_took_ends() {
    let disk = Disk::default();
    let mut first = Driver::on(&disk, 0);
    first.register(0, 1, None);
    disk.set_broken(true);
    let spec = JobSpec { driver: ProcessId::new(NodeId(1), 1), ..JobSpec::default() };
    first.head.handle(at(1), directory::Input::JobStart { ask: 1, spec });
    assert_eq!(first.said(), []);
    first.wake(1, |head| head.machine().read_only().is_some());
    // Another head is there before the disk comes back for the first.
    let second = Driver::on(&disk.of_another(), 2);
    disk.set_broken(false);
    assert_eq!(second.head.id().epoch, Epoch(2));
    first.wake(3, |head| head.ended().is_some());
    assert!(first.head.ended().unwrap().contains("another head"));
    first.head.handle(at(4), membership::Input::Heartbeat { node: NodeId(1), beat: Beat::default() });
    assert_eq!(first.said(), [], "two heads never act (G13)");
    assert_eq!(second.head.machine().directory().jobs().count(), 0);
}

#[test]
fn what_cannot_be_opened_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let open = |config| Head::open(folder.path(), config, || {}).map(|head| assert!(head.close(HANGS)));
    open(config(0)).unwrap();
    let other = Config { cluster: ClusterId([8; 16]), ..config(0) };
    assert!(matches!(open(other), Err(OpenError::OtherCluster { .. })));
    let head = Head::open(folder.path(), config(0), || {}).unwrap();
    assert!(matches!(open(config(0)), Err(OpenError::InUse { .. })));
    assert!(head.close(HANGS));

    use std::os::unix::fs::PermissionsExt;
    let file = folder.path().join(FILE);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&file, b"").unwrap();
    let error = open(config(0)).unwrap_err();
    assert!(matches!(error, OpenError::Corrupted { .. }) && error.to_string().contains(FILE), "{error}");
    std::fs::write(&file, [7; 9_000]).unwrap();
    let error = open(config(0)).unwrap_err();
    assert!(matches!(error, OpenError::Corrupted { .. }), "{error:?}");

    let nowhere = folder.path().join("nothing/here");
    let error = Head::open(&nowhere, config(0), || {}).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Write(_)), "{error:?}");
}
