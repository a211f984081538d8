//! What one node does for its processes.

use std::collections::BTreeMap;

use mobula_types::resources::{Amount, Request};
use mobula_types::state::{Listed, OutcomeCounters};
use mobula_types::{ActorId, Bundle, DeathCause, GroupId, GroupSpec, NodeId, PlacementSpec, ProcessId, Within};
use mobula_wire::local::{FromNode, ToNode, ToolQuestion};
use rustix::process::test_kill_process;

use crate::stage::{ABORT, Driver, ECHO, Said, ask, claim, head, no_workers, play, until_ended, worker_pids};

pub(crate) fn task() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let node = head(folder.path(), 2).await;
        let mut driver = Driver::attach(&node).await;
        assert_eq!((driver.welcome.process.node(), driver.welcome.nodes), (node.id(), 1));
        let (lease, worker) = driver.lease(1, 1).await;
        assert_eq!(worker.node(), node.id());
        driver.task(5, ECHO, lease, worker, b"ray");
        assert_eq!(driver.reply(5).await, "ray");
        let (_, second) = driver.lease(2, 1).await;
        assert_eq!(second, worker, "one worker for the job");
        let workers = ask(&node, ToolQuestion::List { kind: "workers".into() }).await.unwrap();
        assert_eq!(workers.lines().count(), 1, "{workers}");
        node.stop().await;
    });
}

pub(crate) fn killed() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let node = head(folder.path(), 2).await;
        let mut driver = Driver::attach(&node).await;
        let (lease, worker) = driver.lease(1, 1).await;
        driver.task(1, ABORT, lease, worker, b"");
        let death = driver.death(worker).await;
        assert_eq!(death.cause, DeathCause::Aborted);
        assert_eq!(death.stderr, ["about to abort"]);
        // Whoever writes to the dead is told again.
        driver.task(2, ECHO, lease, worker, b"");
        assert_eq!(driver.death(worker).await.cause, DeathCause::Aborted);
        // What it held is free again.
        let (_, next) = driver.lease(2, 2).await;
        assert_ne!(next, worker);
        node.stop().await;
    });
}

pub(crate) fn driver_gone() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let node = head(folder.path(), 2).await;
        let mut driver = Driver::attach(&node).await;
        driver.lease(1, 1).await;
        let job = driver.welcome.job;
        let pids = worker_pids();
        assert_eq!(pids.len(), 1, "{pids:?}");
        drop(driver);
        while pids.iter().any(|pid| test_kill_process(*pid).is_ok()) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        until_ended(&node, job).await;
        node.stop().await;
    });
}

pub(crate) fn waits() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let node = head(folder.path(), 2).await;
        let mut driver = Driver::attach(&node).await;
        let (lease, _) = driver.lease(1, 2).await;
        driver.wish(2, 1);
        // A list is answered after the wish was heard.
        ask(&node, ToolQuestion::List { kind: "jobs".into() }).await.unwrap();
        driver.say(&ToNode::Return { lease });
        driver.granted(2).await;
        node.stop().await;
    });
}

pub(crate) fn names_and_values() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let node = head(folder.path(), 2).await;
        let mut driver = Driver::attach(&node).await;
        let actor = |slot| ActorId { process: driver.welcome.process, slot, generation: 0 };
        let (first, second) = (actor(1), actor(2));
        for (request, actor) in [(1, first), (2, second)] {
            driver.say(&claim(request, None, "counter", actor));
            let owner = driver
                .until(|said| match said {
                    Said::Node(FromNode::NameClaimed { request: of, owner }) if of == request => Some(owner),
                    _ => None,
                })
                .await;
            assert_eq!(owner.map(|owner| owner.actor), Ok(first), "who came first has it");
        }
        driver.say(&ToNode::ReleaseName { namespace: None, name: "counter".into(), actor: first });
        driver.say(&ToNode::LookUpName { request: 3, namespace: None, name: "counter".into() });
        let owner = driver
            .until(|said| match said {
                Said::Node(FromNode::NameFound { request: 3, owner }) => Some(owner),
                _ => None,
            })
            .await;
        assert_eq!(owner, None);
        driver.say(&ToNode::KvPut { request: 4, key: "k".into(), value: Some(vec![7]) });
        driver.say(&ToNode::KvGet { request: 5, key: "k".into() });
        driver.say(&ToNode::KvGet { request: 6, key: "other".into() });
        // What rests on no new record may be answered first.
        let mut values = BTreeMap::new();
        while values.len() < 3 {
            let value = |said| match said {
                Said::Node(FromNode::KvValue { request, value }) => Some((request, value)),
                _ => None,
            };
            let (request, value) = driver.until(value).await;
            values.insert(request, value);
        }
        let expect = [(4, Ok(Some(vec![7]))), (5, Ok(Some(vec![7]))), (6, Ok(None))];
        assert_eq!(values, BTreeMap::from(expect));
        node.stop().await;
    });
}

pub(crate) fn lost() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let node = head(folder.path(), 2).await;
        let mut driver = Driver::attach(&node).await;
        let (lease, _) = driver.lease(1, 1).await;
        assert_eq!(node.status().await.unwrap().counters.losses, BTreeMap::new());
        let never = ProcessId::new(node.id(), 77);
        driver.task(5, ECHO, lease, never, b"ray");
        driver.death(never).await;
        // What a process counts itself is added to what its node does.
        let losses = BTreeMap::from([("process_gone".to_owned(), 2), ("queue_full".to_owned(), 3)]);
        driver.say(&ToNode::Counters(OutcomeCounters { losses, ..OutcomeCounters::default() }));
        // Words and questions come by two ways: an answer to the driver says that all before it was heard.
        driver.lease(2, 1).await;
        let expect = BTreeMap::from([("process_gone".to_owned(), 3), ("queue_full".to_owned(), 3)]);
        assert_eq!(node.status().await.unwrap().counters.losses, expect);
        // They stay when it has gone.
        drop(driver);
        no_workers().await;
        let after = node.status().await.unwrap().counters.losses;
        assert!(expect.iter().all(|(word, count)| after.get(word) == Some(count)), "{after:?}");
        node.stop().await;
    });
}

/// A group that fits is there, one that does not says why it waits and comes when there is room.
pub(crate) fn placement_groups() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let node = head(folder.path(), 2).await;
        let mut driver = Driver::attach(&node).await;
        let id = |number| GroupId { process: driver.welcome.process, number };
        let (first, second) = (id(1), id(2));
        let request = Request { cpus: Amount::whole(2), ..Request::default() };
        let bundles = vec![Bundle { request, ..Bundle::default() }];
        let spec = GroupSpec { bundles, ..GroupSpec::default() };
        driver.say(&ToNode::CreateGroup { group: first, spec: spec.clone() });
        // Said twice makes one.
        driver.say(&ToNode::CreateGroup { group: first, spec: spec.clone() });
        assert_eq!(ready(&mut driver, first).await, [node.id()]);
        driver.say(&ToNode::CreateGroup { group: second, spec });
        let why = format!("1 bundles have no room now: most is free on {}, num_cpus 0, num_gpus 0", node.id());
        // The word and the question come by different ways.
        let waits = loop {
            if let Ok(waits) = ask(&node, ToolQuestion::Why { id: second.to_string() }).await {
                break serde_json::from_str::<Listed>(&waits).unwrap();
            }
        };
        assert_eq!((waits.state.as_str(), waits.why.as_deref()), ("waiting", Some(why.as_str())));
        let list = ask(&node, ToolQuestion::List { kind: "placement-groups".into() }).await.unwrap();
        let listed: Vec<Listed> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let states: Vec<(&str, &str)> = listed.iter().map(|group| (group.id.as_str(), group.state.as_str())).collect();
        assert_eq!(states, [(first.to_string().as_str(), "ready"), (second.to_string().as_str(), "waiting")]);
        // Nothing is left beside the group, and all of it is in the group.
        driver.wish(1, 1);
        let within = Some(Within { group: first, bundle: Some(0) });
        let spec = PlacementSpec { request: Request::ONE_CPU, within, ..PlacementSpec::default() };
        driver.say(&ToNode::Lease { request: 2, spec: spec.clone(), avoid: Vec::new(), lives_on: false });
        let (_, worker) = driver.granted(2).await;
        driver.say(&ToNode::RemoveGroup { group: first });
        let death = driver.death(worker).await;
        assert_eq!(death.cause, DeathCause::GroupEnded { group: first });
        driver.say(&ToNode::Lease { request: 3, spec, avoid: Vec::new(), lives_on: false });
        let refused = driver
            .until(|said| match said {
                Said::Node(FromNode::NoPlace { request: 3, missing, for_ever }) => Some((missing, for_ever)),
                _ => None,
            })
            .await;
        assert_eq!(refused, (format!("its placement group {first} is no more"), true));
        let gone = ask(&node, ToolQuestion::Why { id: first.to_string() }).await.unwrap_err();
        assert!(gone.starts_with("there is no placement group"), "{gone}");
        node.stop().await;
    });
}

async fn ready(driver: &mut Driver, of: GroupId) -> Vec<NodeId> {
    driver
        .until(|said| match said {
            Said::Node(FromNode::GroupReady { group, nodes }) if group == of => Some(nodes),
            Said::Node(FromNode::GroupEnded { group, why }) => panic!("{group}: {why}"),
            _ => None,
        })
        .await
}
