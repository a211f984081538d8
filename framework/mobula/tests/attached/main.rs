//! A program on a cluster of two nodes: the nodes run here, the workers are processes of this executable.
//!
//! What a test asks of the public API in one process stands in the suite beside; here is what only several processes can
//! show. It takes a filter as other tests do: `cargo test -p mobula --test attached streams`.

mod actors;
mod deaths;
mod large;
mod nesting;
mod refs;
mod values;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{env, fs};

use futures_util::future::BoxFuture;
use mobula::Config;
use mobula_node::attached::run_if_worker;
use mobula_node::daemon::workers::warden;
use mobula_node::daemon::{Node, NodeConfig};
use mobula_types::Role;

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
    let folder = env::temp_dir().join(format!("mobula-attached-{}", std::process::id()));
    if env::var_os("MOBULA_DIR").is_none() {
        // Certificates are kept there, and not in this user's home.
        let program = env::current_exe().expect("the kernel names the program that runs");
        let error = Command::new(program).args(env::args_os().skip(1)).env("MOBULA_DIR", folder.join("own")).exec();
        panic!("the tests cannot be started again: {error}");
    }
    let filter = env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("there are threads");
    let passed = runtime.block_on(async {
        let (head, other) = nodes(&folder).await;
        let near = Config::default().address(head.socket().display().to_string());
        // Over the network, at the node that is not the head. The token is good once; then there is a certificate.
        let far = Config::default()
            .address(other.addr().to_string())
            .token(head.token(Role::Driver).await.expect("a token is made"));
        let tests = [actors::TESTS, deaths::TESTS, nesting::TESTS, values::TESTS, refs::TESTS, large::TESTS].concat();
        let mut passed = 0;
        let is_wanted = |name: &str| filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
        for (how, plain) in [("near", near), ("far", far)] {
            let small = plain.clone().value_bytes_max(large::SMALL_MAX);
            let tests = tests.iter().map(|test| (test, &plain));
            let tests = tests.chain(large::SMALL_TESTS.iter().map(|test| (test, &small)));
            let named = tests.map(|((name, test), config)| (format!("{how}::{name}"), test, config));
            for (name, test, config) in named.filter(|(name, ..)| is_wanted(name)) {
                let began = Instant::now();
                let session = mobula::init_with(config.clone()).await.expect("a driver attaches");
                tokio::time::timeout(HANGS, test()).await.expect("a test does not hang").expect("a test passes");
                settled(&session, &name).await;
                session.stop().await;
                println!("test {name} ... ok ({} ms)", began.elapsed().as_millis());
                passed += 1;
            }
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
