//! The `mobula` command: one verb per file.
//!
//! Answers go to standard output, progress and errors to standard error. An error is one line that names the value and
//! what would be right; the exit code is 2 for a command line that cannot be, 1 for all else, and 128 + the signal's
//! number after a signal.

#![forbid(unsafe_code)]

mod cluster;
mod exit;
mod microbenchmark;
mod model;
mod progress;
mod pull;
mod run;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Actors, remote functions and served language models, from one command.
#[derive(Parser)]
#[command(name = "mobula", version, max_term_width = 100, after_help = EXAMPLES, arg_required_else_help = true)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  mobula serve smollm2                    serve a small model over HTTP, fetched first if need be
  mobula run smollm2 'What is a ray?'     answer on the terminal
  mobula microbenchmark --quick           see what this machine can do
  mobula start --head                     begin a cluster on this host
";

/// What is logged unless `MOBULA_LOG` says otherwise. Bytes of anybody that are no HTTP are no error of ours.
const USUAL_LOG: &str = "warn,actix_http::h1::dispatcher=off";

#[derive(Subcommand)]
enum Verb {
    Serve(serve::Args),
    Run(run::Args),
    Pull(pull::Args),
    Microbenchmark(microbenchmark::Args),
    Start(cluster::start::Args),
    Stop(cluster::stop::Args),
    Status(cluster::status::Args),
    List(cluster::list::Args),
    Memory(cluster::memory::Args),
    Why(cluster::why::Args),
    Logs(cluster::logs::Args),
    Token(cluster::token::Args),
    Drain(cluster::drain::Args),
    Submit(cluster::submit::Args),
    StopJob(cluster::stop_job::Args),
    StopActor(cluster::stop_actor::Args),
}

fn main() -> ExitCode {
    // Before all else: a warden has no threads, arguments or logs.
    if let Some(code) = mobula_node::daemon::workers::warden::run_if_warden() {
        return code;
    }
    // A program like any other: what measures a cluster is started by its nodes as their worker.
    mobula_node::attached::run_if_worker();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("MOBULA_LOG").unwrap_or_else(|_| USUAL_LOG.into()))
        .init();
    let done = match Command::parse().verb {
        Verb::Serve(args) => serve::run(&args),
        Verb::Run(args) => run::run(&args),
        Verb::Pull(args) => pull::run(&args),
        Verb::Microbenchmark(args) => microbenchmark::run(&args),
        Verb::Start(args) => cluster::start::run(&args),
        Verb::Stop(args) => cluster::stop::run(&args),
        Verb::Status(args) => cluster::status::run(&args),
        Verb::List(args) => cluster::list::run(&args),
        Verb::Memory(args) => cluster::memory::run(&args),
        Verb::Why(args) => cluster::why::run(&args),
        Verb::Logs(args) => cluster::logs::run(&args),
        Verb::Token(args) => cluster::token::run(&args),
        Verb::Drain(args) => cluster::drain::run(&args),
        Verb::Submit(args) => cluster::submit::run(&args),
        Verb::StopJob(args) => cluster::stop_job::run(&args),
        Verb::StopActor(args) => cluster::stop_actor::run(&args),
    };
    exit::code(done)
}
