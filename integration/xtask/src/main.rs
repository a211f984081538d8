//! `cargo xtask`: how Mobula is checked, tested, measured and shown.
//!
//! Each verb has a file of its own; what they share is small: a child process that cannot outlive us ([`child`]),
//! calls of cargo that all select the same units ([`cargo`]), a table of stages with budgets ([`stages`]) and a count
//! of what passed ([`tally`]). Nothing here is needed to build or run Mobula itself.

#![forbid(unsafe_code)]

mod bench;
mod cargo;
mod check;
mod child;
mod demo;
mod fix;
mod floors;
mod http;
mod laws;
mod pip;
mod stages;
mod summary;
mod tally;
mod test;
mod transitions;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <verb>

  check                 format, lints, docs, the three laws and the version floors; writes nothing
  fix                   format and apply the lints' suggestions
  test                  check, every test and example, and the demo once
  simulate              the simulator's worlds, and how often they saw each transition of the machines
  demo [--once] [--profile dev|release]
                        build, fetch the model, serve it with two shards and ask it; goes on serving until Ctrl-C
  bench [--quick]       Mobula's own figures beside its peers', in one table; quick: one round of a moment each, to see
                        that all of it works
";

/// The exit code of a command line that was not understood.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    if let Some(compiled) = transitions::compile() {
        let code = compiled.map(|code| ExitCode::from(u8::try_from(code).unwrap_or(1)));
        return code.unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        });
    }
    child::stop_on_signals();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["check"] => check::run_alone(),
        ["fix"] => fix::run(),
        ["test"] => test::run(),
        ["simulate"] => test::simulate(),
        ["demo", options @ ..] => match demo::Options::parse(options) {
            Ok(options) => demo::run(&options),
            Err(error) => return usage(&error.to_string()),
        },
        ["bench"] => bench::run(bench::Effort::Thorough),
        ["bench", "--quick"] => bench::run(bench::Effort::Quick),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        [] => return usage("a verb is missing"),
        _ => return usage(&format!("`{}` is no verb of xtask", words.join(" "))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage(error: &str) -> ExitCode {
    eprint!("error: {error}\n\n{USAGE}");
    ExitCode::from(EXIT_USAGE)
}
