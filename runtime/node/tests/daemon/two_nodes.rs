//! What two nodes do for one another's processes.

use std::time::{Duration, Instant};

use mobula_node::daemon::workers::platform::of_this_host;
use mobula_node::daemon::{Node, NodeConfig};
use mobula_types::program::{Glibc, Platform};
use mobula_types::state::Listed;
use mobula_types::{ActorId, ActorName, DeathCause, Interface, NameOwner};
use mobula_wire::local::{FromNode, ToNode, ToolQuestion};

use crate::stage::{ABORT, Driver, ECHO, Said, ask, claim, head, member, play};

pub(crate) fn elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = head(folder.path(), 1).await;
        let node = member(folder.path(), "2", &head, 4).await;
        let mut driver = Driver::attach(&head).await;
        let (lease, worker) = driver.lease(1, 3).await;
        assert_eq!(worker.node(), node.id(), "only that node has three CPUs");
        for exchange in 1..=200 {
            driver.task(exchange, ECHO, lease, worker, b"ray");
        }
        for exchange in 1..=200 {
            assert_eq!(driver.reply(exchange).await, "ray", "in the order in which they were sent");
        }
        driver.say(&ToNode::Return { lease });
        let (_, again) = driver.lease(2, 4).await;
        assert_eq!(again, worker, "what was given back is free on the other node");
        for asked in [&head, &node] {
            let workers = ask(asked, ToolQuestion::List { kind: "workers".into() }).await.unwrap();
            assert!(workers.contains(&format!("\"id\":\"{worker}\"")), "{workers}");
            assert!(workers.contains(&format!("\"node_id\":\"{}\"", node.id())), "as nodes are named: {workers}");
        }
        node.stop().await;
        head.stop().await;
    });
}

/// A host that has only a glibc of 2002, as this program was not built for.
pub(crate) fn platforms() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let old = Platform { glibc: Glibc::parse("GLIBC_2.3"), has_musl: false, ..of_this_host() };
        let config = NodeConfig::head(folder.path().join("1"));
        let config = NodeConfig {
            bind: ([127, 0, 0, 1], 0).into(),
            resources: crate::stage::cpus(8),
            platform: old.clone(),
            ..config
        };
        let head = Node::start(config).await.unwrap();
        let mut driver = Driver::attach(&head).await;
        driver.wish(7, 1);
        // Its node knows what the program was built for, from its file.
        let why = why(&head, &mut driver, 7).await;
        assert!(why.contains(&format!("is {old}, and its program was built for ")), "{why}");
        assert!(why.contains("GLIBC_2.") && why.contains(std::env::consts::ARCH), "{why}");
        // What waits goes to the first host that can run it.
        let node = member(folder.path(), "2", &head, 1).await;
        let (lease, worker) = driver.granted(7).await;
        assert_eq!(worker.node(), node.id());
        driver.task(1, ECHO, lease, worker, b"ray");
        assert_eq!(driver.reply(1).await, "ray");
        // The other way round: who is attached where it runs is not sent to where it does not.
        let mut beside = Driver::attach(&node).await;
        beside.wish(8, 2);
        let why = self::why(&node, &mut beside, 8).await;
        assert!(why.contains("no node has so much") || why.contains("num_cpus = 2, node-2 has 1"), "{why}");
        assert!(!why.contains("has been asked"), "{why}");
        node.stop().await;
        head.stop().await;
    });
}

/// Why a request of a driver by hand waits.
async fn why(node: &Node, driver: &mut Driver, number: u64) -> String {
    let asked = ask(node, ToolQuestion::Why { id: "it".into() });
    let answers = async {
        let said = |said| match said {
            Said::Node(FromNode::List { request, .. }) => Some(request),
            _ => None,
        };
        let request = driver.until(said).await;
        let items = vec![Listed { id: "it".into(), kind: "task".into(), state: "waiting".into(), ..Listed::default() }];
        driver.say(&ToNode::Listing { request, items, requests: vec![(0, number)] });
    };
    let (told, ()) = tokio::join!(asked, answers);
    let listed: Listed = serde_json::from_str(&told.unwrap()).unwrap();
    listed.why.expect("it waits")
}

/// What is here beside what is silent: a driver by hand answers only when the test says so.
pub(crate) fn silent() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = head(folder.path(), 1).await;
        let node = member(folder.path(), "2", &head, 1).await;
        let (mut speaks, sleeps) = (Driver::attach(&head).await, Driver::attach(&node).await);
        let item = Listed { id: "task-1".into(), kind: "task".into(), state: "waiting".into(), ..Listed::default() };
        let silent = sleeps.welcome.process.to_string();
        let began = Instant::now();
        let asked = async {
            // The head's node hears of the other with its next view. Who has much to do may be too late with an answer,
            // and is taken for silent then.
            let answered = async |question: ToolQuestion, is_whole: &dyn Fn(&Result<String, String>) -> bool| {
                loop {
                    let answer = ask(&head, question.clone()).await;
                    if is_whole(&answer) || began.elapsed() >= SILENCE_MAX {
                        break answer;
                    }
                }
            };
            let lists = |answer: &Result<String, String>| {
                answer.as_ref().is_ok_and(|tasks| tasks.contains("task-1") && tasks.contains(&silent))
            };
            let tasks = answered(ToolQuestion::List { kind: "tasks".into() }, &lists).await.unwrap();
            let why = answered(ToolQuestion::Why { id: "task-1".into() }, &Result::is_ok).await.unwrap();
            let names = |answer: &Result<String, String>| answer.as_ref().is_err_and(|text| text.contains(&silent));
            let unknown = answered(ToolQuestion::Why { id: "task-2".into() }, &names).await.unwrap_err();
            (tasks, why, unknown)
        };
        let answers = async {
            loop {
                let request = speaks
                    .until(|said| match said {
                        Said::Node(FromNode::List { request, .. }) => Some(request),
                        _ => None,
                    })
                    .await;
                speaks.say(&ToNode::Listing { request, items: vec![item.clone()], requests: Vec::new() });
            }
        };
        let (tasks, why, unknown) = tokio::select! {
            said = asked => said,
            () = answers => unreachable!("it answers for ever"),
        };
        assert!(began.elapsed() < SILENCE_MAX, "three questions took {:?}", began.elapsed());
        let tasks: Vec<Listed> = tasks.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let state_of = |id: String| tasks.iter().find(|item| item.id == id).map(|item| item.state.as_str());
        assert_eq!(state_of("task-1".into()), Some("waiting"));
        assert_eq!(state_of(silent.clone()), Some("silent"), "{tasks:?}");
        assert_eq!(tasks.len(), 2, "{tasks:?}");
        assert!(why.contains("task-1"), "{why}");
        assert!(unknown.contains(&format!("{silent} did not answer")), "{unknown}");
        node.stop().await;
        head.stop().await;
    });
}

/// Three questions that somebody does not answer, with ten times the wait of each.
const SILENCE_MAX: Duration = Duration::from_secs(12);

pub(crate) fn far_death() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = head(folder.path(), 1).await;
        let node = member(folder.path(), "2", &head, 4).await;
        let mut driver = Driver::attach(&head).await;
        let (lease, worker) = driver.lease(1, 3).await;
        driver.task(1, ABORT, lease, worker, b"");
        let death = driver.death(worker).await;
        assert_eq!((death.cause, &death.stderr[..]), (DeathCause::Aborted, &["about to abort".to_owned()][..]));
        driver.task(2, ECHO, lease, worker, b"");
        assert_eq!(driver.death(worker).await.cause, DeathCause::Aborted, "the other node says so once more");
        let logs = ask(&head, ToolQuestion::Logs { id: format!("{worker}.err"), offset: 0 }).await.unwrap();
        assert!(logs.contains("about to abort"), "{logs}");
        node.stop().await;
        head.stop().await;
    });
}

pub(crate) fn names() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = head(folder.path(), 1).await;
        let node = member(folder.path(), "2", &head, 1).await;
        let mut driver = Driver::attach(&node).await;
        let actor = ActorId { process: driver.welcome.process, slot: 1, generation: 0 };
        let namespace = Some("shared".to_owned());
        driver.say(&claim(1, namespace.clone(), "n", actor));
        let claimed = |said| match said {
            Said::Node(FromNode::NameClaimed { owner, .. }) => Some(owner),
            _ => None,
        };
        let owner = NameOwner { actor, interface: Interface { type_name: "n".into(), handlers: vec![(1, 2)] } };
        assert_eq!(driver.until(claimed).await, Ok(owner.clone()));
        let mut other = Driver::attach(&head).await;
        other.say(&ToNode::LookUpName { request: 2, namespace, name: "n".into() });
        let found = |said| match said {
            Said::Node(FromNode::NameFound { owner, .. }) => Some(owner),
            _ => None,
        };
        assert_eq!(other.until(found).await, Some(owner), "with what it can be asked");
        // Whoever has it is told to stop; the name is another's when it has.
        let name = ActorName { namespace: Some("shared".to_owned()), name: "n".into() };
        ask(&head, ToolQuestion::StopActor { name: name.clone() }).await.unwrap();
        let lost = |said| match said {
            Said::Node(FromNode::NameLost { actor, .. }) => Some(actor),
            _ => None,
        };
        assert_eq!(driver.until(lost).await, actor);
        let next = ActorId { process: other.welcome.process, slot: 1, generation: 0 };
        other.say(&claim(3, name.namespace.clone(), "n", next));
        driver.say(&ToNode::NameStopped { namespace: name.namespace.clone(), name: name.name.clone(), actor });
        let claimed = |said| match said {
            Said::Node(FromNode::NameClaimed { request: 3, owner }) => Some(owner),
            _ => None,
        };
        assert_eq!(other.until(claimed).await.map(|owner| owner.actor), Ok(next));
        let nobody = ActorName { name: "nobody".into(), ..name };
        let error = ask(&head, ToolQuestion::StopActor { name: nobody }).await.unwrap_err();
        assert!(error.contains("no actor is named shared/nobody"), "{error}");
        node.stop().await;
        head.stop().await;
    });
}

pub(crate) fn node_stops() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = head(folder.path(), 1).await;
        let node = member(folder.path(), "2", &head, 4).await;
        let mut driver = Driver::attach(&head).await;
        let (lease, worker) = driver.lease(1, 3).await;
        let id = node.id();
        node.stop().await;
        let death = driver.death(id.into()).await;
        assert_eq!(death.cause, DeathCause::Drained);
        driver.task(1, ECHO, lease, worker, b"");
        driver.until(|said| matches!(said, Said::Node(FromNode::Died(_))).then_some(())).await;
        head.stop().await;
    });
}
