//! A program on a cluster of two nodes: the nodes run here, the workers are processes of this executable.
//!
//! What a test asks of the public API in one process stands in the suite beside; here is what only several processes can
//! show. It takes a filter as other tests do: `cargo test -p mobula --test attached streams`.

mod actors;
mod deaths;
mod drains;
mod ends;
mod groups;
mod hauls;
mod large;
mod names;
mod nesting;
#[path = "../nodes/mod.rs"]
mod nodes;
mod refs;
mod repeats;
mod retirement;
mod rings;
mod scheduling;
mod sharing;
mod spills;
mod values;

use std::env;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use mobula::Config;
use nodes::Nodes;

/// A test, and its name.
type Test = (&'static str, fn() -> BoxFuture<'static, mobula::Result<()>>);

/// No test takes a tenth of this.
const HANGS: Duration = Duration::from_secs(60);

/// Outcomes follow results at once; this is a hang detector.
const SETTLES: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if let Some(code) = nodes::serve_a_node() {
        return code;
    }
    if let Ok(scenario) = env::var(names::DRIVER) {
        return names::drive(&scenario);
    }
    // The process keeps its number when it begins again.
    let own = env::temp_dir().join(format!("mobula-attached-{}", std::process::id()));
    if env::var_os("MOBULA_DIR").is_none() {
        // Certificates are kept there, and not in this user's home.
        let program = env::current_exe().expect("the kernel names the program that runs");
        let error = Command::new(program).args(env::args_os().skip(1)).env("MOBULA_DIR", &own).exec();
        panic!("the tests cannot be started again: {error}");
    }
    let own = nodes::Folder(own);
    let filter = env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("there are threads");
    let passed = runtime.block_on(async {
        let nodes = Nodes::start(2, 2).await;
        names::here(&nodes.address());
        let near = Config::default().address(nodes.address());
        // Over the network, at the node that is not the head. The token is good once; then there is a certificate.
        let (address, token) = nodes.far().await;
        let far = Config::default().address(address).token(token);
        let tests = [actors::TESTS, deaths::TESTS, names::TESTS, nesting::TESTS, repeats::TESTS, values::TESTS];
        let tests =
            [&tests.concat(), refs::TESTS, large::TESTS, groups::TESTS, retirement::TESTS, scheduling::TESTS].concat();
        let tests = [&tests[..], sharing::TESTS].concat();
        let mut passed = 0;
        let is_wanted = |name: &str| filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
        for (how, plain) in [("near", near), ("far", far)] {
            let small = plain.clone().value_bytes_max(large::SMALL_MAX);
            let tests = tests.iter().map(|test| (test, &plain));
            let tests = tests.chain(large::SMALL_TESTS.iter().map(|test| (test, &small)));
            let named = tests.map(|((name, test), config)| (format!("{how}::{name}"), test, config));
            for (name, test, config) in named.filter(|(name, ..)| is_wanted(name)) {
                in_a_session(&nodes, &name, config.clone(), async |_| test().await).await;
                passed += 1;
            }
            let name = format!("{how}::what finds the queue full waits or is refused");
            if is_wanted(&name) {
                let tight = plain.clone().queue_tasks_max(scheduling::TIGHT);
                in_a_session(&nodes, &name, tight, scheduling::what_finds_the_queue_full).await;
                passed += 1;
            }
            let name = format!("{how}::refs: what is held is listed");
            if is_wanted(&name) {
                in_a_session(&nodes, &name, plain.clone(), async |_| refs::what_is_held_is_listed(&nodes).await).await;
                passed += 1;
            }
            let name = format!("{how}::what waits for itself is named");
            if is_wanted(&name) {
                in_a_session(&nodes, &name, plain, async |_| rings::what_waits_for_itself(&nodes).await).await;
                passed += 1;
            }
        }
        nodes.stop().await;
        for (name, test) in
            [ends::TESTS, large::END_TESTS, hauls::TESTS, spills::TESTS, drains::TESTS, groups::GPU_TESTS]
                .concat()
                .iter()
                .filter(|(name, _)| is_wanted(name))
        {
            let began = Instant::now();
            tokio::time::timeout(HANGS, test()).await.expect("a test does not hang").expect("a test passes");
            println!("test {name} ... ok ({} ms)", began.elapsed().as_millis());
            passed += 1;
        }
        passed
    });
    drop(own);
    println!("test result: ok. {passed} passed; 0 failed; 0 ignored");
    ExitCode::SUCCESS
}

/// Runs a test in a session of its own. After it all that it submitted has its outcome, and the nodes keep nothing of it.
async fn in_a_session(
    nodes: &Nodes,
    name: &str,
    config: Config,
    test: impl AsyncFnOnce(&mobula::Session) -> mobula::Result<()>,
) {
    let began = Instant::now();
    let session = mobula::init_with(config).await.expect("a driver attaches");
    tokio::time::timeout(HANGS, test(&session)).await.expect("a test does not hang").expect("a test passes");
    settled(&session, name).await;
    session.stop().await;
    nodes.store_is_empty(name).await;
    println!("test {name} ... ok ({} ms)", began.elapsed().as_millis());
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
