//! The cluster as the command line prints it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use mobula_logic::membership::{Known, Standing};
use mobula_types::Time;
use mobula_types::resources::{CPUS, GPUS, Resources};
use mobula_types::state::{ClusterStatus, Listed, NodeStatus, OutcomeCounters, TokenStatus};

use super::Seat;

impl Seat {
    /// The state, without counters.
    pub(super) fn status(&self) -> ClusterStatus {
        ClusterStatus {
            cluster_id: self.authority.cluster().to_string(),
            protocol: mobula_wire::PROTOCOL,
            epoch: self.head.epoch.0,
            head: self.own.0.to_string(),
            uptime_s: self.clock.now().since(Time::ZERO).as_secs_f64(),
            nodes: self.membership.nodes().map(|known| node_status(&known)).collect(),
            counters: OutcomeCounters::default(),
        }
    }

    pub(super) fn jobs(&self) -> Vec<Listed> {
        let unix_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let now = u64::try_from(unix_ms).unwrap_or(u64::MAX);
        let line = |record: &mobula_logic::record::JobRecord| {
            let since = record.ended.as_ref().map_or(record.started_unix_ms, |(at, _)| *at);
            Listed {
                id: record.job.to_string(),
                kind: "job".to_owned(),
                name: record.spec.name.clone(),
                job_id: Some(record.job.to_string()),
                node_id: Some(record.spec.driver.node().0.to_string()),
                state: if record.ended.is_none() { "running" } else { "ended" }.to_owned(),
                since_s: now.saturating_sub(since) as f64 / 1000.0,
                cause: record.ended.as_ref().map(|(_, cause)| cause.to_string()),
                ..Listed::default()
            }
        };
        self.directory.jobs().map(line).collect()
    }

    pub(super) fn tokens(&self) -> Vec<TokenStatus> {
        let line = |record: &mobula_logic::record::TokenRecord| TokenStatus {
            id: mobula_net::token::TokenId(record.id.0).to_string(),
            role: record.role.to_string(),
            expires_unix_ms: record.expires_unix_ms,
            is_used: record.used_by.is_some(),
            failures: record.failures,
        };
        self.directory.tokens().map(line).collect()
    }
}

fn node_status(known: &Known<'_>) -> NodeStatus {
    NodeStatus {
        node_id: known.node.0.to_string(),
        addr: known.addr.to_owned(),
        state: match known.standing {
            Standing::Coming => "coming",
            Standing::Alive => "alive",
            Standing::Draining => "draining",
            Standing::Dead(_) => "dead",
        }
        .to_owned(),
        incarnation: known.incarnation.0,
        resources_total: amounts(&known.load.total),
        resources_free: amounts(&known.load.free),
        pid: known.pid,
        rss_bytes: known.rss_bytes,
    }
}

fn amounts(resources: &Resources) -> BTreeMap<String, f64> {
    let number =
        |amount: mobula_types::resources::Amount| amount.steps() as f64 / mobula_types::resources::Amount::STEPS as f64;
    let named =
        [(CPUS, resources.cpus), (GPUS, resources.gpus)].map(|(name, amount)| (name.to_owned(), number(amount)));
    named.into_iter().chain(resources.others.iter().map(|(name, amount)| (name.clone(), number(*amount)))).collect()
}
