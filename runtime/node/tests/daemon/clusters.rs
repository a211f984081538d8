//! What the command line sees and does.

use mobula_node::daemon::Node;
use mobula_types::state::ClusterStatus;
use mobula_wire::local::ToolQuestion;

use crate::stage::{ask, head, member, member_config, play, token};

async fn status(node: &Node) -> ClusterStatus {
    serde_json::from_str(&ask(node, ToolQuestion::Status).await.unwrap()).unwrap()
}

pub(crate) fn drained() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let head = head(folder.path(), 1).await;
        let mut node = member(folder.path(), "2", &head, 1).await;
        ask(&head, ToolQuestion::Drain { node: node.id() }).await.unwrap();
        node.ended().await;
        let states: Vec<String> = status(&head).await.nodes.into_iter().map(|node| node.state).collect();
        assert_eq!(states, ["alive", "dead"]);
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
