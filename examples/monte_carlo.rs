//! Monte Carlo π: many tasks throw darts, and tell an actor how far they are while they run.
//!
//! Look at `progress`: a reference to an actor goes into a task like any other argument, and the task tells it something
//! from wherever it runs. The tasks' results do not depend on it.
//!
//! Run with `cargo run --example monte_carlo`.

use mobula::prelude::*;

/// Throws `darts` at the unit square and counts those in the circle.
#[remote]
fn throw(seed: u64, darts: u64, progress: ActorRef<Progress>) -> u64 {
    let mut chance = Chance(seed);
    let mut inside = 0;
    for part in split(darts, REPORTS) {
        inside += (0..part).filter(|_| chance.unit().powi(2) + chance.unit().powi(2) <= 1.0).count() as u64;
        // A report that does not arrive is no reason to stop.
        progress.add(part).tell().ok();
    }
    inside
}

struct Progress {
    thrown: u64,
}

#[actor]
impl Progress {
    fn new() -> Self {
        Progress { thrown: 0 }
    }

    fn add(&mut self, darts: u64) {
        self.thrown += darts;
    }

    fn thrown(&self) -> u64 {
        self.thrown
    }
}

const TASKS: u64 = 32;
const DARTS: u64 = 20_000;
const REPORTS: u64 = 4;

#[mobula::main]
async fn main() -> Result<()> {
    let _session = mobula::init().await?;
    let progress = Progress::spawn().await?;
    let tasks: Vec<ObjectRef<u64>> = (0..TASKS).map(|seed| throw::remote(seed, DARTS, progress.clone())).collect();

    let mut rest = tasks.clone();
    while !rest.is_empty() {
        rest = mobula::wait(&rest).count(rest.len().min(8)).await?.1;
        println!("{} tasks to go, {} darts thrown", rest.len(), progress.thrown().await?);
    }

    let inside: u64 = mobula::get(&tasks).await?.iter().map(|inside| **inside).sum();
    let pi = 4.0 * inside as f64 / (TASKS * DARTS) as f64;
    println!("π is about {pi:.4}");
    // The same seeds give the same darts, wherever they are thrown.
    assert!((pi - std::f64::consts::PI).abs() < 0.01, "{pi}");
    Ok(())
}

/// `total` in `parts` parts, as even as they can be.
fn split(total: u64, parts: u64) -> impl Iterator<Item = u64> {
    (0..parts).map(move |part| total / parts + u64::from(part < total % parts))
}

/// SplitMix64: enough chance for darts.
struct Chance(u64);

impl Chance {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) as f64 / u64::MAX as f64
    }
}
