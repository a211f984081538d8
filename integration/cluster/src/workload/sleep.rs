//! Tasks of a second that only sleep: what becomes of CPUs is seen by when they ran.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mobula::prelude::*;
use mobula_cluster::report::READY;

use crate::until_told;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many.
    #[arg(long)]
    tasks: usize,
}

/// Its process, and when it ran.
#[remote]
fn sleep() -> (u32, u64, u64) {
    let begun = now_ms();
    std::thread::sleep(Duration::from_secs(1));
    (std::process::id(), begun, now_ms())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Says of each task, when it is over, which process ran it, and when.
pub(crate) async fn stand(Args { tasks }: Args) -> Result<()> {
    let results = (0..tasks).map(|_| sleep::remote());
    let mut runs: FuturesUnordered<_> = results.map(|result| async move { result.await }).collect();
    println!("{READY}{}", std::process::id());
    while let Some(run) = runs.next().await {
        let (pid, begun, ended) = *run?;
        println!("ran {pid} {begun} {ended}");
    }
    until_told().await
}
