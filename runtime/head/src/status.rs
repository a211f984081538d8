//! What `status` and `list` print of what the head knows; the counters of outcomes are the nodes'.

use std::collections::BTreeMap;

use mobula_logic::membership::{Known, Standing};
use mobula_types::resources::{Amount, CPUS, GPUS, Resources};
use mobula_types::state::{ClusterStatus, Listed, NodeStatus, TokenStatus};
use mobula_types::{JobId, NodeId, Time};

use crate::Head;

impl Head {
    /// The cluster's state; `head` is the head's own node. Counters are left empty.
    pub fn status(&self, now: Time, head: NodeId) -> ClusterStatus {
        ClusterStatus {
            cluster_id: self.cluster.id.to_string(),
            protocol: mobula_wire::PROTOCOL,
            epoch: self.id().epoch.0,
            head: head.to_string(),
            uptime_s: now.since(self.started).as_secs_f64(),
            nodes: self.machine.membership().nodes().map(node_status).collect(),
            ..ClusterStatus::default()
        }
    }

    /// Every node, the dead ones of the last hour too.
    pub fn list_nodes(&self) -> Vec<Listed> {
        let line = |node: Known<'_>| Listed {
            id: node.node.to_string(),
            kind: "node".to_owned(),
            name: node.addr.to_owned(),
            node_id: Some(node.node.to_string()),
            state: state_of(node.standing).to_owned(),
            incarnation: Some(node.incarnation.0),
            cause: match node.standing {
                Standing::Dead(death) => Some(death.cause.to_string()),
                _ => None,
            },
            ..Listed::default()
        };
        self.machine.membership().nodes().map(line).collect()
    }

    /// Every job, those that ended lately too.
    pub fn list_jobs(&self, now: Time) -> Vec<Listed> {
        let unix_ms = self.calendar.unix_ms(now);
        let line = |record: &mobula_logic::record::JobRecord| {
            let ended = record.ended.as_ref();
            let since = ended.map_or(record.started_unix_ms, |(at, _)| *at);
            Listed {
                id: record.job.to_string(),
                kind: "job".to_owned(),
                name: record.spec.name.clone(),
                job_id: Some(record.job.to_string()),
                node_id: Some(record.spec.driver.node().to_string()),
                state: if ended.is_some() { "ended" } else { "running" }.to_owned(),
                since_s: unix_ms.saturating_sub(since) as f64 / 1_000.0,
                cause: ended.map(|(_, cause)| cause.to_string()),
                ..Listed::default()
            }
        };
        let directory = self.machine.directory();
        let of_detached = |(job, count): (JobId, usize)| Listed {
            id: job.to_string(),
            kind: "job".to_owned(),
            name: format!("{count} detached"),
            job_id: Some(job.to_string()),
            state: "running".to_owned(),
            ..Listed::default()
        };
        directory.jobs().map(line).chain(directory.detached_jobs().map(of_detached)).collect()
    }

    /// Jobs that ended lately: what a node still runs of them it ends.
    pub fn ended_jobs(&self) -> impl Iterator<Item = JobId> + '_ {
        self.machine.directory().jobs().filter(|record| record.ended.is_some()).map(|record| record.job)
    }

    /// The tokens that are good, without their secrets.
    pub fn list_tokens(&self) -> Vec<TokenStatus> {
        let line = |record: &mobula_logic::record::TokenRecord| TokenStatus {
            id: record.id.to_string(),
            role: record.role.to_string(),
            expires_unix_ms: record.expires_unix_ms,
            is_used: record.used_by.is_some(),
            failures: record.failures,
        };
        self.machine.directory().tokens().map(line).collect()
    }
}

fn node_status(node: Known<'_>) -> NodeStatus {
    NodeStatus {
        node_id: node.node.to_string(),
        addr: node.addr.to_owned(),
        state: state_of(node.standing).to_owned(),
        incarnation: node.incarnation.0,
        resources_total: amounts(&node.load.total),
        resources_free: amounts(&node.load.free),
        pid: node.pid,
        rss_bytes: node.rss_bytes,
        store_bytes_total: node.store.total_bytes,
        store_bytes_used: node.store.used_bytes,
        objects: node.store.objects,
        spilled_bytes: node.store.spilled_bytes,
        is_disk_full: node.store.is_disk_full,
    }
}

/// The words are promised (issue 3): `alive`, `draining` or `dead`. A node that an earlier head knew and that has not come
/// back is taken for alive for as long as the machines take it for that.
fn state_of(standing: Standing<'_>) -> &'static str {
    match standing {
        Standing::Coming | Standing::Alive => "alive",
        Standing::Draining => "draining",
        Standing::Dead(_) => "dead",
    }
}

fn amounts(resources: &Resources) -> BTreeMap<String, f64> {
    let wholes = |amount: Amount| amount.steps() as f64 / Amount::STEPS as f64;
    let named = [(CPUS, resources.cpus), (GPUS, resources.gpus)].map(|(name, amount)| (name.to_owned(), amount));
    let others = resources.others.iter().map(|(name, amount)| (name.clone(), *amount));
    named.into_iter().chain(others).map(|(name, amount)| (name, wholes(amount))).collect()
}
