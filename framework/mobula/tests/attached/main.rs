//! A program on a cluster of two nodes: the nodes run here, the workers are processes of this executable.
//!
//! What a test asks of the public API in one process stands in the suite beside; here is what only several processes can
//! show. It takes a filter as other tests do: `cargo test -p mobula --test attached streams`.

mod actors;
mod deaths;
mod names;
mod nesting;
mod repeats;
mod values;

use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs};

use futures_util::future::BoxFuture;
use mobula::Config;
use mobula_node::attached::run_if_worker;
use mobula_node::daemon::workers::warden;
use mobula_node::daemon::{Node, NodeConfig};

/// A test, and its name.
type Test = (&'static str, fn() -> BoxFuture<'static, mobula::Result<()>>);

/// No test takes a tenth of this.
const HANGS: Duration = Duration::from_secs(60);

/// Outcomes follow results at once; this is a hang detector.
const SETTLES: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if let Some(code) = warden::run_if_warden() {
        return code;
    }
    run_if_worker();
    if let Ok(scenario) = env::var(names::DRIVER) {
        return names::drive(&scenario);
    }
    let filter = env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let folder = env::temp_dir().join(format!("mobula-attached-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("there are threads");
    let passed = runtime.block_on(async {
        let (head, other) = nodes(&folder).await;
        let address = head.socket().display().to_string();
        names::here(&address);
        let tests = actors::TESTS.iter().chain(deaths::TESTS).chain(names::TESTS).chain(nesting::TESTS);
        let tests = tests.chain(repeats::TESTS).chain(values::TESTS);
        let mut passed = 0;
        for (name, test) in
            tests.filter(|(name, _)| filter.as_ref().is_none_or(|filter| name.contains(filter.as_str())))
        {
            let began = Instant::now();
            let session = mobula::init_with(Config::default().address(&address)).await.expect("a driver attaches");
            tokio::time::timeout(HANGS, test()).await.expect("a test does not hang").expect("a test passes");
            settled(&session, name).await;
            session.stop().await;
            println!("test {name} ... ok ({} ms)", began.elapsed().as_millis());
            passed += 1;
        }
        other.stop().await;
        head.stop().await;
        passed
    });
    fs::remove_dir_all(&folder).ok();
    println!("test result: ok. {passed} passed; 0 failed; 0 ignored");
    ExitCode::SUCCESS
}

/// Waits until all that was submitted has its outcome: a stream's is counted when its last item has been handed over,
/// which its reader may see a moment before.
async fn settled(session: &mobula::Session, name: &str) {
    let until = Instant::now() + SETTLES;
    while session.counters().pending() > 0 {
        assert!(Instant::now() < until, "{name}: {} submitted have no outcome", session.counters().pending());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Two nodes: a head, and one with a label.
async fn nodes(folder: &std::path::Path) -> (Node, Node) {
    // A folder named by the head's port is where others of this host look for a token.
    let probe = std::net::UdpSocket::bind(("127.0.0.1", 0)).expect("a port is free");
    let port = probe.local_addr().expect("it has an address").port();
    drop(probe);
    let mut head = NodeConfig::head(folder.join(port.to_string()));
    head.bind.set_port(port);
    head.resources.cpus = mobula_types::resources::Amount::whole(2);
    let head = Node::start(head).await.expect("a head starts");
    let mut other = NodeConfig::member(folder.join("other"), head.addr(), None);
    other.bind.set_port(0);
    other.resources.cpus = mobula_types::resources::Amount::whole(2);
    other.labels.insert("zone".into(), "b".into());
    let other = Node::start(other).await.expect("a node joins");
    (head, other)
}
