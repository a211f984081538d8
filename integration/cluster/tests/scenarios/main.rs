//! What is done to clusters, and what must hold meanwhile and afterwards; one subject per file.
//!
//! The tests take [turns]: each has the machine for itself, or their bounds would say nothing; but those that do little
//! but wait do so beside one another, if there are threads for all of them (`RUST_TEST_THREADS=64`).
//! `MOBULA_CLUSTER_LONG=1` makes the ones that go on for a time go on ten times longer; `MOBULA_CLUSTER_LOG=debug` has the
//! nodes log.

mod cuts;
mod deaths;
mod drains;
mod far;
mod groups;
mod heads;
mod kills;
mod left_behind;
mod lineage;
mod membership;
mod promises;
mod reasons;
mod reduces;
mod refusals;
mod shares;
mod stalls;
mod starts;
mod store;
mod turns;

use anyhow::Result;
use mobula_cluster::cluster::{Cluster, Plan};

use crate::turns::Turn;

/// Waits for the machine, and makes a cluster; `None` where there can be none.
fn cluster(plan: Plan) -> Result<Option<(Cluster, Turn)>> {
    let turn = Turn::alone();
    Ok(Cluster::start(plan)?.map(|cluster| (cluster, turn)))
}

/// The same for a test that mostly waits: others that do may have the machine at the same time.
fn waiting_cluster(plan: Plan) -> Result<Option<(Cluster, Turn)>> {
    let turn = Turn::shared();
    Ok(Cluster::start(plan)?.map(|cluster| (cluster, turn)))
}

/// How often something is repeated: ten times as often in a long run.
fn times(count: usize) -> usize {
    if std::env::var_os("MOBULA_CLUSTER_LONG").is_some() { count * 10 } else { count }
}

/// Numbers that look random and are the same in every run.
struct Chance(u64);

impl Chance {
    /// One of `count` numbers from 0 on.
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % count
    }
}
