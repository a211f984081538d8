//! An actor that dies in the way it is told, and what its caller is told of that.

use std::io::Write;

use mobula::prelude::*;
use mobula_cluster::report::{READY, REPORT};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How it dies.
    #[arg(value_enum)]
    how: How,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
enum How {
    Panic,
    Abort,
    Exit,
    Signal,
    Stack,
    Memory,
    /// Waits for somebody else to end it.
    Wait,
}

struct Mortal;

#[actor(max_restarts = 0)]
impl Mortal {
    fn new() -> Self {
        Mortal
    }

    async fn die(&mut self, how: How) -> u64 {
        eprintln!("the last words of a mortal");
        std::io::stderr().flush().ok();
        match how {
            How::Panic => panic!("a mortal panics"),
            How::Abort => std::process::abort(),
            How::Exit => exit(),
            How::Signal => signal_itself(),
            How::Stack => deeper(1),
            How::Memory => fill_memory(),
            How::Wait => std::future::pending().await,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "user code that ends the process is what is tried")]
fn exit() -> u64 {
    std::process::exit(7)
}

/// Not SIGSEGV or SIGBUS: Rust's own handler takes those, and goes on when no guard page was touched.
fn signal_itself() -> u64 {
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).ok();
    0
}

#[expect(unconditional_recursion, reason = "the stack is to overflow")]
fn deeper(depth: u64) -> u64 {
    let page = std::hint::black_box([depth; 512]);
    deeper(depth + 1) + page[usize::try_from(depth % 512).unwrap_or(0)]
}

fn fill_memory() -> u64 {
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    loop {
        // Written to, or the kernel gives no memory for it.
        blocks.push(std::hint::black_box(vec![1; 8 << 20]));
    }
}

pub(crate) async fn show(Args { how }: Args) -> Result<()> {
    let mortal = Mortal::spawn().num_cpus(1.0).await?;
    println!("{READY}{}", std::process::id());
    let error = mortal.die(how).no_timeout().await.map_or_else(|error| error, |_| unreachable!("nobody returns"));
    println!("{REPORT}{}", serde_json::json!({ "outcome": error.outcome().name(), "text": error.to_string() }));
    Ok(())
}
