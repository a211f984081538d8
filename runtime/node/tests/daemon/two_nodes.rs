//! What two nodes do for one another's processes.

use std::time::{Duration, Instant};

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

/// Three questions that somebody does not answer, with twenty times the wait of each.
const SILENCE_MAX: Duration = Duration::from_secs(24);

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
