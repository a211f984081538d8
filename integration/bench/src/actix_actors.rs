//! Plain actix: an actor of a `u64` and one message, measured like ours on one arbiter.

use std::process::Command;
use std::time::Instant;

use actix::prelude::*;
use anyhow::{Context as _, Result, ensure};

use crate::Effort;
use crate::row::{Better, Row};

/// Messages on the way at once, as in `mobula microbenchmark`.
const PIPELINED: usize = 500;
/// Messages of one run that pipelines them.
const BURST: usize = 100 * PIPELINED;
const ACTORS: usize = 100_000;
const PEER: Option<&str> = Some("actix");

pub(crate) fn rows(effort: Effort) -> Result<Vec<Row>> {
    let mut rows = System::new().block_on(async {
        let counter = Counter(0).start();
        for _ in 0..10_000 {
            counter.send(Add(1)).await?;
        }
        let mut latencies = Vec::new();
        for _ in 0..effort.runs(200_000) {
            let start = Instant::now();
            counter.send(Add(1)).await?;
            latencies.push(start.elapsed().as_secs_f64() * 1e6);
        }
        let (mut asks, mut tells) = (Vec::new(), Vec::new());
        for _ in 0..effort.runs(20) {
            asks.push(cpu_of_asks(&counter).await?);
            tells.push(cpu_of_tells(&counter).await?);
        }
        anyhow::Ok(vec![
            Row::of("ask, one arbiter", "us", Better::Lower, PEER, latencies),
            Row::of("pipelined ask, CPU", "ns", Better::Lower, PEER, asks),
            Row::of("tell, CPU", "ns", Better::Lower, PEER, tells),
        ])
    })?;
    let (mut rates, mut bytes) = (Vec::new(), Vec::new());
    for _ in 0..effort.runs(10) {
        // A process of its own: memory that others have freed would be taken for none.
        let bench = std::env::current_exe().context("find our own executable")?;
        let output = Command::new(bench).arg("--alone").output().context("start ourselves")?;
        ensure!(output.status.success(), "--alone ended with {}", output.status);
        let text = String::from_utf8(output.stdout).context("read --alone")?;
        let mut figures = text.split_whitespace().map(str::parse::<f64>);
        rates.push(figures.next().context("no rate")??);
        bytes.push(figures.next().context("no size")??);
    }
    rows.push(Row::of("spawn, 100,000 actors", "1/s", Better::Higher, PEER, rates));
    rows.push(Row::of("memory per actor, of 100,000", "B", Better::Lower, PEER, bytes));
    Ok(rows)
}

async fn cpu_of_asks(counter: &Addr<Counter>) -> Result<f64> {
    let start = thread_cpu_ns()?;
    for _ in 0..BURST / PIPELINED {
        let waits: Vec<_> = (0..PIPELINED).map(|_| counter.send(Add(1))).collect();
        for wait in waits {
            wait.await?;
        }
    }
    Ok((thread_cpu_ns()? - start) / BURST as f64)
}

async fn cpu_of_tells(counter: &Addr<Counter>) -> Result<f64> {
    let start = thread_cpu_ns()?;
    for _ in 0..BURST / PIPELINED {
        for _ in 0..PIPELINED {
            counter.do_send(Add(1));
        }
        // Answered when all before it are handled.
        counter.send(Add(0)).await?;
    }
    Ok((thread_cpu_ns()? - start) / BURST as f64)
}

/// Spawns a hundred thousand actors and prints the rate, and the bytes that each takes.
pub(crate) fn alone() -> Result<()> {
    System::new().block_on(async {
        let before = resident_bytes()?;
        let start = Instant::now();
        let actors: Vec<_> = (0..ACTORS).map(|_| Counter(0).start()).collect();
        // An actor has started when its first message is answered; that of the last comes last.
        actors[ACTORS - 1].send(Add(1)).await?;
        let rate = ACTORS as f64 / start.elapsed().as_secs_f64();
        println!("{rate} {}", resident_bytes()?.saturating_sub(before) / ACTORS);
        Ok(())
    })
}

/// Nanoseconds of CPU this thread has had.
fn thread_cpu_ns() -> Result<f64> {
    let time =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).context("read the thread's clock")?;
    Ok(time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64)
}

/// Memory of this process that is in RAM.
fn resident_bytes() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc/self/status")?;
    let kib: usize = line.trim().trim_end_matches(" kB").parse().context("read VmRSS")?;
    Ok(kib * 1024)
}

struct Counter(u64);

impl Actor for Counter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Like ours; 16 by default.
        ctx.set_mailbox_capacity(1024);
    }
}

struct Add(u64);

impl Message for Add {
    type Result = u64;
}

impl Handler<Add> for Counter {
    type Result = u64;

    fn handle(&mut self, Add(n): Add, _: &mut Context<Self>) -> u64 {
        self.0 += n;
        self.0
    }
}
