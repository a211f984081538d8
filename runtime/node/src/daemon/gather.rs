//! Questions that every process and node has a part of the answer to: they are asked at once, and what has come after
//! [`GATHER_MAX`] is the answer. Whoever has not answered by then stands in it as silent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_logic::scheduler::RequestKey;
use mobula_logic::waits::Waits;
use mobula_net::Line;
use mobula_types::state::{ClusterStatus, Listed, NodeStatus, OutcomeCounters};
use mobula_types::{NodeId, ProcessId, Time};
use mobula_wire::cluster::{AskId, ClusterTalk};
use mobula_wire::local::{FromNode, RequestId};

use crate::attached::WAIT;

use super::roster::Kind;
use super::state::State;
use super::tool::{answer, json, json_lines, name};

/// Whoever has not answered by then is silent: it hangs, and a list must not. A process that runs answers in a
/// millisecond, on a host with four times as much to do as it has CPUs in some tens.
const GATHER_MAX: Duration = Duration::from_millis(400);

/// The same for the processes of a node that another one has asked: its answer must come before whoever asked gives up.
const OWN_MAX: Duration = Duration::from_millis(250);

/// What `mobula memory` lists.
pub(crate) const OBJECT: &str = "object";

/// The state of a process or node that did not answer.
const SILENT: &str = "silent";

/// Questions at once; the next is refused.
const GATHERS_MAX: usize = 64;

/// Items of one answer between nodes: each takes some hundred bytes of a frame.
const ITEMS_PER_FRAME: usize = 1_000;

/// Members of a ring that are named.
const RING_SHOWN_MAX: usize = 16;

/// Items that are gathered; more are left out. An answer to the command line takes fewer.
const ITEMS_MAX: usize = 1 << 16;

/// What is gathered, and for whom.
pub(crate) enum Want {
    /// Records of one kind.
    List { line: Line, request: RequestId, kind: String },
    /// The counters of all, into the head's view.
    Status { line: Line, request: RequestId, status: Box<ClusterStatus> },
    /// Why one thing waits.
    Why { line: Line, request: RequestId, id: String },
    /// All of this node, or the one thing with that id, for another one.
    Node { node: NodeId, ask: AskId, only: Option<String>, objects: bool },
}

/// The questions that are out.
#[derive(Default)]
pub(crate) struct Gathers {
    last: u64,
    open: BTreeMap<u64, Gather>,
}

struct Gather {
    want: Want,
    /// Processes of this node and other nodes that have not answered.
    waits: BTreeSet<ProcessId>,
    items: Vec<Listed>,
    counters: OutcomeCounters,
    within: Duration,
    until: Time,
}

impl Gathers {
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.open.values().map(|gather| gather.until).min()
    }
}

impl State {
    /// Asks everybody.
    pub(crate) fn gather(&mut self, want: Want) {
        if self.gathers.open.len() >= GATHERS_MAX {
            return self.finish(want, Vec::new(), &OutcomeCounters::default());
        }
        self.gathers.last += 1;
        let id = self.gathers.last;
        let mut waits = BTreeSet::new();
        let only = match &want {
            Want::Why { id, .. } => Some(id.clone()),
            Want::Node { only, .. } => only.clone(),
            _ => None,
        };
        let objects = match &want {
            Want::List { kind, .. } => kind == OBJECT,
            Want::Node { objects, .. } => *objects,
            _ => false,
        };
        // Counters and objects are known without asking; for all else the processes say what they hold.
        if !matches!(want, Want::Status { .. }) && !objects {
            for (number, _) in self.roster.all().filter(|(_, resident)| resident.is_attached) {
                let process = ProcessId::new(self.node, number);
                self.routes.tell(process, &FromNode::List { request: id, only: only.clone() });
                waits.insert(process);
            }
        }
        if !matches!(want, Want::Node { .. }) {
            for node in self.others() {
                self.tell_node(node, &ClusterTalk::ListAsk { ask: id, only: only.clone(), objects });
                waits.insert(node.into());
            }
        }
        let items = if objects { self.listed_objects() } else { self.own_items() };
        let counters = self.own_counters();
        let within = if matches!(want, Want::Node { .. }) { OWN_MAX } else { GATHER_MAX };
        let until = self.clock.now() + within;
        self.gathers.open.insert(id, Gather { want, waits, items, counters, within, until });
        self.settle_gather(id, false);
    }

    /// A process of this node has said what it holds.
    pub(crate) fn listed(
        &mut self,
        process: ProcessId,
        request: RequestId,
        mut items: Vec<Listed>,
        requests: &[(u32, RequestId)],
    ) {
        let now = self.clock.now();
        for (at, number) in requests {
            let Some(item) = items.get_mut(*at as usize) else { continue };
            let reason = self.scheduler.why(now, RequestKey { holder: process, number: *number });
            // Answered since the process said that it waits.
            let reason = reason.unwrap_or_else(|| "a place for it was found just now".to_owned());
            item.why = Some(match item.why.take() {
                Some(before) => format!("{before}: {reason}"),
                None => reason,
            });
        }
        let job = self.roster.get(process).map(|resident| resident.job.to_string());
        for item in &mut items {
            item.node_id.get_or_insert_with(|| self.node.to_string());
            item.job_id = item.job_id.take().or_else(|| job.clone());
        }
        self.heard(request, process, items, None, false);
    }

    /// Another node has said what it holds.
    pub(crate) fn node_listed(
        &mut self,
        node: NodeId,
        ask: AskId,
        items: Vec<Listed>,
        counters: OutcomeCounters,
        has_more: bool,
    ) {
        self.heard(ask, node.into(), items, Some(counters), has_more);
    }

    fn heard(
        &mut self,
        id: u64,
        who: ProcessId,
        items: Vec<Listed>,
        counters: Option<OutcomeCounters>,
        has_more: bool,
    ) {
        let Some(gather) = self.gathers.open.get_mut(&id).filter(|gather| gather.waits.contains(&who)) else { return };
        let room = ITEMS_MAX.saturating_sub(gather.items.len());
        gather.items.extend(items.into_iter().take(room));
        if let Some(counters) = counters {
            gather.counters.add(&counters);
        }
        if !has_more {
            gather.waits.remove(&who);
        }
        self.settle_gather(id, false);
    }

    /// Somebody will not answer any more.
    pub(crate) fn gathers_without(&mut self, who: ProcessId) {
        let ids: Vec<u64> = self.gathers.open.keys().copied().collect();
        for id in ids {
            if let Some(gather) = self.gathers.open.get_mut(&id) {
                gather.waits.retain(|process| *process != who);
            }
            self.settle_gather(id, false);
        }
    }

    pub(crate) fn tick_gathers(&mut self, now: Time) {
        let due = self.gathers.open.iter().filter(|(_, gather)| gather.until <= now);
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.settle_gather(id, true);
        }
    }

    fn settle_gather(&mut self, id: u64, is_late: bool) {
        let is_done = self.gathers.open.get(&id).is_some_and(|gather| is_late || gather.waits.is_empty());
        if is_done && let Some(Gather { want, mut items, counters, waits, within, .. }) = self.gathers.open.remove(&id)
        {
            waits.iter().for_each(|who| mark_silent(&mut items, *who, within));
            self.finish(want, items, &counters);
        }
    }

    fn finish(&mut self, want: Want, mut items: Vec<Listed>, counters: &OutcomeCounters) {
        if matches!(want, Want::List { .. } | Want::Why { .. }) {
            say_waits(&mut items);
        }
        match want {
            Want::List { line, request, kind } => {
                // Who lists actors is to see whose are missing; workers are known without being asked.
                let is_missed = |item: &Listed| item.state == SILENT && (kind != "worker" || item.kind == "node");
                items.retain(|item| item.kind == kind || is_missed(item));
                answer(&line, request, Ok(json_lines(&items)));
            }
            Want::Status { line, request, mut status } => {
                status.counters.add(counters);
                answer(&line, request, Ok(json(&status)));
            }
            Want::Why { line, request, id } => {
                let found = items.iter().find(|item| item.id == id).map(json).ok_or_else(|| {
                    let silent: Vec<&str> =
                        items.iter().filter(|item| item.state == SILENT).map(|item| item.id.as_str()).collect();
                    let but = match silent.is_empty() {
                        true => String::new(),
                        false => format!(", as far as is known: {} did not answer", silent.join(", ")),
                    };
                    format!(
                        "nothing that runs or waits has the id {id}{but}: see `mobula list tasks` and `mobula list actors`"
                    )
                });
                answer(&line, request, found);
            }
            Want::Node { node, ask, .. } => {
                let mut frames: Vec<Vec<Listed>> = items.chunks(ITEMS_PER_FRAME).map(<[Listed]>::to_vec).collect();
                let last = frames.pop().unwrap_or_default();
                for items in frames {
                    let counters = OutcomeCounters::default();
                    self.tell_node(node, &ClusterTalk::Listing { ask, items, has_more: true, counters });
                }
                let counters = counters.clone();
                self.tell_node(node, &ClusterTalk::Listing { ask, items: last, has_more: false, counters });
            }
        }
    }

    /// This node's workers and drivers.
    fn own_items(&self) -> Vec<Listed> {
        let now = self.clock.now();
        let line = |(number, resident): (u32, &super::roster::Resident)| {
            let process = ProcessId::new(self.node, number);
            let job_name = self.roster.job(resident.job).map(|job| job.setup.name.clone()).unwrap_or_default();
            Listed {
                id: name(process),
                kind: match resident.kind {
                    Kind::Driver => "driver",
                    Kind::Worker { .. } => "worker",
                }
                .to_owned(),
                name: job_name,
                job_id: Some(resident.job.to_string()),
                node_id: Some(self.node.to_string()),
                state: if resident.is_attached { "running" } else { "starting" }.to_owned(),
                since_s: now.since(resident.since).as_secs_f64(),
                ..Listed::default()
            }
        };
        self.roster.all().map(line).chain(self.waiting_detached()).collect()
    }

    fn own_counters(&self) -> OutcomeCounters {
        let mut sum = self.past_counters.clone();
        self.roster.all().for_each(|(_, resident)| sum.add(&resident.counters));
        sum.add(&OutcomeCounters { losses: self.routes.losses.listed(), ..OutcomeCounters::default() });
        if let Some(mesh) = self.routes.mesh() {
            let met = mesh.refusals().list().filter(|(_, count)| *count > 0);
            sum.refusals = met.map(|(word, count)| (word.to_owned(), count)).collect();
        }
        sum
    }
}

/// Says of what runs whom it awaits, and names the ring if that is one.
fn say_waits(items: &mut Vec<Listed>) {
    let mut waits = Waits::default();
    let mut oldest: BTreeMap<String, f64> = BTreeMap::new();
    items.retain_mut(|item| {
        let is_wait = item.kind == WAIT;
        if is_wait {
            let since_s = oldest.entry(item.id.clone()).or_default();
            *since_s = since_s.max(item.since_s);
            std::mem::take(&mut item.awaits).into_iter().for_each(|on| waits.add(item.id.clone(), on));
        }
        !is_wait
    });
    let rings = waits.rings();
    for item in items {
        item.awaits = waits.of(&item.id).cloned().collect();
        let said = match (rings.get(&item.id), &item.awaits[..]) {
            (_, []) => continue,
            (Some(ring), _) => {
                let shown = ring.iter().take(RING_SHOWN_MAX).map(String::as_str);
                let left_out = if ring.len() > RING_SHOWN_MAX { Some("…") } else { None };
                let ring: Vec<&str> = shown.chain(left_out).chain([item.id.as_str()]).collect();
                format!("it waits for itself: {}", ring.join(" → "))
            }
            (None, awaits) => format!("it awaits {}", awaits.join(", ")),
        };
        let since_s = oldest.get(&item.id).copied().unwrap_or_default();
        item.why = Some(format!("{said}, since {since_s:.1} s"));
    }
}

/// Says of a process or node that it did not answer: what it holds is not in the list.
fn mark_silent(items: &mut Vec<Listed>, who: ProcessId, within: Duration) {
    let why = Some(format!("it did not answer within {} ms: what it holds is not listed", within.as_millis()));
    let (id, kind) = match who.number() {
        0 => (who.node().to_string(), "node"),
        _ => (name(who), "worker"),
    };
    match items.iter_mut().find(|item| item.id == id) {
        Some(item) => (item.state, item.why) = (SILENT.to_owned(), why),
        None => items.push(Listed {
            id,
            kind: kind.to_owned(),
            node_id: Some(who.node().to_string()),
            state: SILENT.to_owned(),
            why,
            ..Listed::default()
        }),
    }
}

/// A node as a line of a list.
pub(crate) fn node_line(node: &NodeStatus) -> Listed {
    Listed {
        id: node.node_id.clone(),
        kind: "node".to_owned(),
        name: node.addr.clone(),
        node_id: Some(node.node_id.clone()),
        state: node.state.clone(),
        incarnation: Some(node.incarnation),
        ..Listed::default()
    }
}
