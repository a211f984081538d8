//! Who is not let in, and what is said to them.

use std::collections::BTreeMap;

use mobula_node::daemon::{Node, NodeConfig, StartError};
use mobula_types::state::ClusterStatus;
use mobula_wire::PROTOCOL;
use mobula_wire::local::{FromNode, Hello, ToolQuestion};

use crate::stage::{Said, ask, greet, head, member_config, play, read, token};

pub(crate) fn strangers() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let node = head(folder.path(), 1).await;
        let driver = Hello::Driver { protocol: PROTOCOL + 1, name: "x".into(), env: BTreeMap::new(), namespace: None };
        let worker = Hello::Worker { protocol: PROTOCOL, token: "0".repeat(64) };
        for (hello, expect) in [(driver, "one version of mobula"), (worker, "started no such worker")] {
            let (_connection, mut incoming) = greet(node.socket(), &hello).await;
            match read(&mut incoming).await {
                Said::Node(FromNode::Refused { message }) => assert!(message.contains(expect), "{message}"),
                other => panic!("{other:?}"),
            }
            assert!(matches!(read(&mut incoming).await, Said::Over), "a stranger is not kept");
        }
        // Not beside the head, as on another host.
        let elsewhere = folder.path().join("elsewhere/2");
        let error = Node::start(member_config(elsewhere, node.addr(), None)).await.unwrap_err();
        assert!(matches!(error, StartError::NoToken { .. }), "{error}");
        assert!(error.to_string().contains("mobula token create"), "{error}");
        let mut wrong = token(&node).await;
        wrong.secret = token(&node).await.secret;
        let config = member_config(folder.path().join("3"), node.addr(), Some(wrong));
        let error = Node::start(config).await.unwrap_err();
        assert!(error.to_string().contains("mobula token create"), "{error}");
        let status: ClusterStatus = serde_json::from_str(&ask(&node, ToolQuestion::Status).await.unwrap()).unwrap();
        for cause in ["protocol", "worker_unknown", "token_unknown"] {
            assert_eq!(status.counters.refusals.get(cause), Some(&1), "{cause}: {:?}", status.counters);
        }
        node.stop().await;
    });
}

pub(crate) fn same_folder() {
    let folder = tempfile::tempdir().unwrap();
    play(async {
        let node = head(folder.path(), 1).await;
        let config = NodeConfig { bind: ([127, 0, 0, 1], 0).into(), ..NodeConfig::head(folder.path().join("1")) };
        let error = Node::start(config).await.unwrap_err();
        assert!(matches!(error, StartError::Running { .. }), "{error}");
        node.stop().await;
    });
}
