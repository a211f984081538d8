//! Workers as real processes: how they end, what they leave behind, what they write.
//!
//! This executable plays every part: the test, a node that is killed, the warden, workers, and what workers start. It
//! takes a filter as other tests do: `cargo test -p mobula-node --test workers killed`.

mod ends;
mod left;
mod stage;
mod words;

use std::process::ExitCode;
use std::time::Instant;

use mobula_node::daemon::workers::{guard, warden};

type Test = (&'static str, fn());

fn main() -> ExitCode {
    if let Some(code) = warden::run_if_warden() {
        return code;
    }
    match guard::enter() {
        Ok(Some(role)) => return stage::work(&role),
        Ok(None) => {}
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(9);
        }
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = stage::play(&args) {
        return code;
    }
    let filter = args.iter().find(|arg| !arg.starts_with('-'));
    let tests = ends::TESTS.iter().chain(left::TESTS).chain(words::TESTS);
    let mut passed = 0;
    for (name, test) in tests.filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter.as_str()))) {
        let began = Instant::now();
        // A test that fails panics: that ends this process, and with it all that it started.
        test();
        println!("test {name} ... ok ({} ms)", began.elapsed().as_millis());
        passed += 1;
    }
    println!("test result: ok. {passed} passed; 0 failed; 0 ignored");
    ExitCode::SUCCESS
}
