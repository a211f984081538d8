//! What the command line sees and does.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use mobula_net::{Authority, Identity};
use mobula_node::daemon::{Node, NodeConfig};
use mobula_types::state::ClusterStatus;
use mobula_types::{ActorId, DeathCause, MemberId, Role};
use mobula_wire::local::{FromNode, ToNode, ToolQuestion};

use crate::stage::{Driver, Said, ask, claim, head, member, member_config, no_workers, play, token};

async fn status(node: &Node) -> ClusterStatus {
    serde_json::from_str(&ask(node, ToolQuestion::Status).await.unwrap()).unwrap()
}

/// A head that was stopped, at its address again.
async fn head_again(folder: &Path, addr: SocketAddr) -> Node {
    Node::start(NodeConfig { bind: addr, ..NodeConfig::head(folder.join("1")) }).await.unwrap()
}

pub(crate) fn drained() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = head(folder.path(), 1).await;
        let mut node = member(folder.path(), "2", &head, 1).await;
        ask(&head, ToolQuestion::Drain { node: node.id() }).await.unwrap();
        node.ended().await;
        // The head hears of its end a moment later.
        let states = async || -> Vec<String> { status(&head).await.nodes.into_iter().map(|node| node.state).collect() };
        while states().await != ["alive", "dead"] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let error = ask(&head, ToolQuestion::Drain { node: node.id() }).await.unwrap_err();
        assert!(error.contains("mobula status"), "{error}");
        head.stop().await;
    });
}

pub(crate) fn tokens() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = head(folder.path(), 1).await;
        let token = token(&head).await;
        let config = |name: &str| member_config(folder.path().join(name), head.addr(), Some(token.clone()));
        let node = Node::start(config("2")).await.unwrap();
        let error = Node::start(config("3")).await.unwrap_err();
        assert!(error.to_string().contains("used"), "{error}");
        // Who has joined once needs no token any more.
        node.stop().await;
        let again = Node::start(member_config(folder.path().join("2"), head.addr(), None)).await.unwrap();
        again.stop().await;
        head.stop().await;
    });
}

pub(crate) fn started_again() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let mut head = head(folder.path(), 1).await;
        let node = member(folder.path(), "2", &head, 1).await;
        let addr = head.addr();
        for _ in 0..20 {
            head.stop().await;
            head = head_again(folder.path(), addr).await;
        }
        assert_eq!((head.addr(), status(&head).await.epoch), (addr, 21));
        node.stop().await;
        head.stop().await;
    });
}

pub(crate) fn any_port() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        // Two heads of this host, in folders that do not say at which port they are.
        let heads = [head(&folder.path().join("a"), 1).await, head(&folder.path().join("b"), 1).await];
        std::os::unix::fs::symlink(folder.path().join("a/1"), folder.path().join("0")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("b/1"), folder.path().join("7")).unwrap();
        for (name, head) in [("8", &heads[0]), ("9", &heads[1])] {
            let node = Node::start(member_config(folder.path().join(name), head.addr(), None)).await.unwrap();
            assert_eq!(node.pin(), head.pin(), "without a token, and in the right cluster");
            node.stop().await;
        }
        for head in heads {
            head.stop().await;
        }
    });
}

pub(crate) fn state() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = head(folder.path(), 1).await;
        let node = member(folder.path(), "2", &head, 4).await;
        for asked in [&head, &node] {
            let status = status(asked).await;
            assert_eq!(status.nodes.len(), 2, "{status:?}");
            assert_eq!(status.epoch, 1);
            assert_eq!(status.nodes[1].addr, node.addr().to_string());
            assert_eq!(status.nodes[1].resources_total["num_cpus"], 4.0);
        }
        node.stop().await;
        head.stop().await;
    });
}

pub(crate) fn renewed() {
    /// Both the head and a node look so often: a test does not wait for an hour.
    const LOOK: Duration = Duration::from_millis(50);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let config = NodeConfig { bind: ([127, 0, 0, 1], 0).into(), ..NodeConfig::head(folder.path().join("1")) };
        let head = Node::start(NodeConfig { renewal_look: LOOK, ..config }).await.unwrap();
        // A node that has joined five days ago, and the head's own: two of seven days are left.
        let authority = Authority::open(&folder.path().join("1"), SystemTime::now()).unwrap();
        let place = folder.path().join("2");
        std::fs::create_dir_all(&place).unwrap();
        let old = |member| Identity::issue(&authority, member, Role::Node, SystemTime::now() - 5 * DAY).unwrap();
        old(MemberId([7; 16])).store(&place).unwrap();
        let config = member_config(place.clone(), head.addr(), None);
        let node = Node::start(NodeConfig { renewal_look: LOOK, ..config }).await.unwrap();
        let own = folder.path().join("1");
        let member = Identity::load(&own).unwrap().expect("the head has one").peer().member;
        old(member).store(&own).unwrap();
        for place in [&place, &own] {
            loop {
                let identity = Identity::load(place).unwrap().expect("it is never gone");
                if identity.not_after() > SystemTime::now() + 6 * DAY {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        // Without a restart, under the same ids, and what shows the new certificate is let in.
        let states: Vec<String> = status(&node).await.nodes.into_iter().map(|node| node.state).collect();
        assert_eq!(states, ["alive", "alive"]);
        let third = member_config(folder.path().join("3"), head.addr(), Some(token(&head).await));
        let third = Node::start(third).await.unwrap();
        let mut driver = Driver::attach(&third).await;
        // Three CPUs of three nodes: one worker is on the node with the new certificate.
        for request in 1..=3 {
            driver.wish(request, 1);
        }
        let mut places = std::collections::BTreeSet::new();
        for _ in 1..=3 {
            let granted = |said| match said {
                Said::Node(FromNode::Granted { process, .. }) => Some(process.node()),
                Said::Node(FromNode::NoPlace { missing, .. }) => panic!("no place: {missing}"),
                _ => None,
            };
            places.insert(driver.until(granted).await);
        }
        assert!(places.contains(&node.id()), "{places:?}");
        third.stop().await;
        node.stop().await;
        head.stop().await;
    });
}

pub(crate) fn fenced() {
    /// In place of 30 s.
    const FENCE_AFTER: Duration = Duration::from_millis(1_500);
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = head(folder.path(), 1).await;
        let config = member_config(folder.path().join("2"), head.addr(), Some(token(&head).await));
        let node = Node::start(NodeConfig { fence_after: FENCE_AFTER, ..config }).await.unwrap();
        let mut driver = Driver::attach(&node).await;
        let (_, worker) = driver.lease(1, 1).await;
        assert_eq!(worker.node(), node.id(), "its node is asked first");
        let (addr, before) = (head.addr(), node.id());
        head.stop().await;
        let cause = driver.until(|said| match said {
            Said::Node(FromNode::Stop { cause }) => Some(cause),
            _ => None,
        });
        let silent_ms = FENCE_AFTER.as_millis() as u64;
        assert_eq!(cause.await, DeathCause::NodeSilent { silent_ms }, "G13: it stops all that it runs");
        no_workers().await;
        // The head is back, and the node with it, as a new one.
        let head = head_again(folder.path(), addr).await;
        loop {
            let nodes = status(&head).await.nodes;
            let alive: Vec<_> = nodes.iter().filter(|node| node.state == "alive").map(|node| &node.node_id).collect();
            if alive.len() == 2 && !alive.contains(&&before.to_string()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Driver::attach(&node).await.lease(1, 1).await;
        node.stop().await;
        head.stop().await;
    });
}

pub(crate) fn names() {
    /// More than first words of a frame could name, and of a stranger by far.
    const NAMES: u64 = 5_000;
    const LONG: usize = 250;
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = head(folder.path(), 1).await;
        let node = member(folder.path(), "2", &head, 1).await;
        let mut driver = Driver::attach(&node).await;
        let actor = ActorId { process: driver.welcome.process, slot: 1, generation: 0 };
        let name = |number: u64| format!("{number:0LONG$}");
        let mut claimed = 0;
        for number in 0..NAMES {
            driver.say(&claim(number, None, &name(number), actor));
            // The head lets so many wait only.
            while number + 1 - claimed >= 2_500 || (number + 1 == NAMES && claimed < NAMES) {
                let owner = driver.until(|said| match said {
                    Said::Node(FromNode::NameClaimed { owner, .. }) => Some(owner),
                    _ => None,
                });
                assert_eq!(owner.await.map(|owner| owner.actor), Ok(actor));
                claimed += 1;
            }
        }
        // Its head is lost, and comes back: the node says which names it holds, and keeps them.
        let (addr, before) = (head.addr(), node.id());
        head.stop().await;
        let head = head_again(folder.path(), addr).await;
        loop {
            let nodes = status(&head).await.nodes;
            let again = nodes.iter().find(|node| node.node_id == before.to_string() && node.state == "alive");
            // A beat is heard only of who has registered with this head.
            if again.is_some_and(|node| node.rss_bytes > 0) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for number in [0, NAMES / 2, NAMES - 1] {
            driver.say(&ToNode::LookUpName { request: NAMES + number, namespace: None, name: name(number) });
            let owner = driver.until(|said| match said {
                Said::Node(FromNode::NameLost { name, .. }) => panic!("{name} was lost"),
                Said::Node(FromNode::NameFound { owner, .. }) => Some(owner),
                _ => None,
            });
            assert_eq!(owner.await.map(|owner| owner.actor), Some(actor));
        }
        node.stop().await;
        head.stop().await;
    });
}
