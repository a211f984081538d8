//! This node's side of belonging to a cluster: it says that it lives, hears what has changed, and registers again when
//! its head was lost.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use mobula_logic::lease::{self, BEAT, Lease};
use mobula_logic::membership::{Seen, View};
use mobula_logic::scheduler;
use mobula_net::{Cause, Mesh, NetError};
use mobula_store::arena::Usage;
use mobula_types::{
    Beat, BeatAnswer, Death, DeathCause, HeadId, Held, JobId, Member, MemberId, NameKey, NodeId, NodeLoad, ProcessId,
    Registration, StateMachine, StoreUse, Time, ViewChange,
};
use mobula_wire::cluster::{Admission, Greeting, ToHead};
use mobula_wire::local::FromNode;

use super::input::Input;
use super::state::State;

/// Between two tries to reach a head that is gone: soon, because it may be back at once, and not too often.
const AGAIN_MIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(1);

/// One try.
const ENTER_MAX: Duration = Duration::from_secs(3);

/// A beat is sent at least this much apart when the task was late: beats that were missed are not made up for.
const RSS_EVERY: u64 = 5;

/// Who has not heard of the head for so long, two of the transport's heartbeats and a half, does not beat: the head would
/// take a node that cannot hear it for one that lives, until the node gives the connection up after 2 s. With what the head
/// waits for a beat and the time between its looks, it knows of such a cut within 5 s (G11).
const UNHEARD_MAX: Duration = Duration::from_millis(250);

/// What a node knows of its cluster.
pub(crate) struct Membership {
    pub(crate) member: MemberId,
    /// Random at each start of this process.
    pub(crate) start: u64,
    /// Where the others reach it.
    pub(crate) addr: SocketAddr,
    /// Where the head is; none on the head itself.
    pub(crate) head_addr: Option<SocketAddr>,
    /// The head's node.
    pub(crate) head_node: NodeId,
    pub(crate) lease: Lease,
    pub(crate) view: View,
    /// Names that actors of this node hold, and the processes in which they act.
    pub(crate) held: BTreeMap<NameKey, (Held, ProcessId)>,
    beat: u64,
    next_beat: Time,
    /// The load that the head knows, and with which beat it was told.
    told: Option<NodeLoad>,
    telling: Option<(u64, NodeLoad)>,
    rss_bytes: u64,
    /// A task tries to reach the head.
    is_registering: bool,
}

/// What came of registering again.
#[derive(Debug)]
pub(crate) enum Registered {
    /// The head knows this node again.
    Admitted {
        admission: Box<Admission>,
        head: ProcessId,
        sent: Time,
        /// As which node it had come.
        came_as: Option<NodeId>,
    },
    /// The head has declared it dead: it must stop all and come as a new one.
    Fenced,
    /// It will not be admitted.
    Refused { why: String },
}

impl Membership {
    pub(crate) fn new(
        member: MemberId,
        start: u64,
        addr: SocketAddr,
        head_addr: Option<SocketAddr>,
        fence_after: Duration,
    ) -> Self {
        Self {
            member,
            start,
            addr,
            head_addr,
            head_node: NodeId(0),
            lease: Lease::default().fencing_after(fence_after),
            view: View::default(),
            held: BTreeMap::new(),
            beat: 0,
            next_beat: Time::ZERO,
            told: None,
            telling: None,
            rss_bytes: rss_bytes(),
            is_registering: false,
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        [Some(self.next_beat), self.lease.next_timeout()].into_iter().flatten().min()
    }

    pub(crate) fn registration(&self, node: Option<NodeId>, load: NodeLoad, processes: Vec<ProcessId>) -> Registration {
        Registration {
            member: self.member,
            start: self.start,
            node,
            addr: self.addr.to_string(),
            load,
            pid: std::process::id(),
            held: self.held.values().map(|(held, _)| held.clone()).collect(),
            processes,
        }
    }
}

impl State {
    /// The head has admitted this node for the first time in this life.
    pub(crate) fn begin(&mut self, admission: Admission, sent: Time) {
        self.cluster.next_beat = self.clock.now() + BEAT;
        self.admitted(admission, sent, true);
    }

    fn admitted(&mut self, admission: Admission, sent: Time, is_new: bool) {
        let Admission { head, head_node, node, term, view, ended_jobs, detached_jobs, .. } = admission;
        let now = self.clock.now();
        (self.cluster.head_node, self.head) = (head_node, head);
        self.cluster.lease.handle(now, lease::Input::Registered { head, term, sent, is_new });
        (self.cluster.told, self.cluster.telling) = (None, None);
        tracing::info!(%node, %head_node, epoch = head.epoch.0, "registered");
        self.apply(view);
        let here: Vec<JobId> = self.roster.jobs().map(|(job, _)| job).collect();
        let has_ended = |job: &JobId| ended_jobs.contains(job) || job.hosts_detached() && !detached_jobs.contains(job);
        for job in here.into_iter().filter(has_ended) {
            self.end_job(job, &DeathCause::JobStopped);
        }
        self.tell_groups();
        self.ask_again();
        self.tell_detached();
    }

    pub(crate) fn tick_membership(&mut self, now: Time) {
        self.cluster.lease.handle(now, lease::Input::Tick);
        if self.cluster.next_beat <= now {
            self.cluster.next_beat = now + BEAT;
            self.beat();
        }
        self.perform_lease();
    }

    /// Whether something has come from the head just now.
    fn hears_head(&self) -> bool {
        let silent = self.routes.mesh().and_then(|mesh| mesh.silent(self.cluster.head_node.into()));
        silent.is_none_or(|silent| silent < UNHEARD_MAX)
    }

    fn beat(&mut self) {
        if !self.hears_head() {
            return;
        }
        self.cluster.beat += 1;
        let number = self.cluster.beat;
        let load = self.scheduler.load();
        let is_news = self.cluster.told.as_ref() != Some(&load);
        if is_news {
            self.cluster.telling = Some((number, load.clone()));
        }
        if number.is_multiple_of(RSS_EVERY) {
            self.cluster.rss_bytes = rss_bytes();
        }
        let (view, rss_bytes) = (self.cluster.view.version(), self.cluster.rss_bytes);
        self.cluster.lease.handle(self.clock.now(), lease::Input::Sent { number });
        let Usage { budget, leased, .. } = self.arena.usage();
        let store = StoreUse {
            used_bytes: leased,
            total_bytes: budget,
            objects: self.objects.count(),
            spilled_bytes: self.pressing.spilled_bytes(),
            is_disk_full: self.pressing.is_disk_full(),
        };
        self.tell_head(ToHead::Beat(Beat { number, view, load: is_news.then_some(load), rss_bytes, store }));
    }

    /// The head has been told what is free here by another word than a beat, and believes that. It may be as it was at the
    /// last beat when the next is due, which is news all the same.
    pub(crate) fn load_was_told(&mut self) {
        (self.cluster.told, self.cluster.telling) = (None, None);
    }

    /// The head has answered a beat.
    pub(crate) fn beat_answered(&mut self, head: HeadId, answer: BeatAnswer) {
        let BeatAnswer { number, term, change } = answer;
        self.cluster.lease.handle(self.clock.now(), lease::Input::Answered { head, number, term });
        if self.cluster.telling.as_ref().is_some_and(|(told, _)| *told <= number) {
            self.cluster.told = self.cluster.telling.take().map(|(_, load)| load);
        }
        self.apply(change);
        self.perform_lease();
    }

    /// Whether a head is the one this node belongs to, or a later one.
    pub(crate) fn hears(&mut self, head: HeadId) -> bool {
        match self.cluster.lease.hear(head) {
            Ok(()) => true,
            Err(stale) => {
                tracing::warn!(?stale, "an earlier head speaks: nobody listens");
                false
            }
        }
    }

    fn apply(&mut self, change: ViewChange) {
        for seen in self.cluster.view.apply(change) {
            match seen {
                Seen::Came(member) | Seen::Changed(member) => self.member_seen(member),
                Seen::Died(death) => self.node_died(death),
            }
        }
    }

    fn member_seen(&mut self, member: Member) {
        if member.node == self.node {
            return;
        }
        self.routes.member(member.node, member.member);
        match (member.addr.parse(), self.routes.mesh()) {
            (Ok(addr), Some(mesh)) => mesh.know(member.node.into(), addr, member.member),
            _ => tracing::warn!(node = %member.node, addr = member.addr, "its address cannot be read"),
        }
        let (node, load) = (member.node, member.load);
        self.scheduler.handle(self.clock.now(), scheduler::Input::Seen { node, load });
    }

    /// A node has died, as the head says.
    pub(crate) fn node_died(&mut self, death: Death) {
        let node = death.process.node();
        if node == self.node {
            return self.fence();
        }
        self.cluster.view.bury(node);
        if self.routes.death(node.into()).is_some() {
            return;
        }
        tracing::info!(%node, cause = %death.cause, "a node has died");
        self.routes.bury(&death);
        self.hauls.gone(node.into());
        if let Some(mesh) = self.routes.mesh() {
            mesh.end(node.into());
        }
        self.scheduler.handle(self.clock.now(), scheduler::Input::NodeDied { node });
        self.told_jobs.retain(|(told, _)| *told != node);
        self.gathers_without(node.into());
        self.objects_node_died(node);
        let said = FromNode::Died(death);
        for (number, _) in self.roster.all().filter(|(_, resident)| resident.is_attached) {
            self.routes.tell(ProcessId::new(self.node, number), &said);
        }
    }

    /// The head cannot be reached any more, or does not know this node: it is gone to again until it answers.
    pub(crate) fn head_lost(&mut self) {
        let Some(head_addr) = self.cluster.head_addr else { return };
        if self.cluster.is_registering {
            return;
        }
        let Some(mesh) = self.routes.mesh().cloned() else { return };
        self.cluster.is_registering = true;
        let node = (self.node != NodeId(0)).then_some(self.node);
        let registration = self.cluster.registration(node, self.scheduler.load(), self.roster.ids(self.node));
        let (clock, inputs) = (self.clock, self.inputs.clone());
        tokio::spawn(async move {
            let registered = register(&mesh, head_addr, registration, clock, None).await;
            inputs.send(Input::Registered(registered)).await.ok();
        });
    }

    pub(crate) fn registered(&mut self, registered: Registered) {
        self.cluster.is_registering = false;
        match registered {
            Registered::Admitted { admission, head, sent, came_as } => {
                if !self.hears(admission.head) {
                    return self.head_lost();
                }
                if came_as.is_some_and(|node| node != self.node) {
                    // It was fenced while it waited for its head, which takes it for what it was: all of that has stopped,
                    // so it comes as another start of its member, before which the other one ends.
                    self.cluster.start = super::node::random();
                    return self.head_lost();
                }
                let is_new = admission.node != self.node;
                if is_new {
                    self.become_node(admission.node);
                }
                debug_assert_eq!(head.node(), admission.head_node, "the head speaks for its own node");
                self.admitted(*admission, sent, is_new);
            }
            Registered::Fenced => self.fence(),
            Registered::Refused { why } => {
                tracing::error!(why, "the head does not take this node back: it ends");
                self.end_soon();
            }
        }
    }

    /// What this node runs has been given up by the cluster: all of it stops, and the node comes as a new one.
    pub(crate) fn fence(&mut self) {
        if self.cluster.head_addr.is_none() {
            // A head whose own node is declared dead cannot be: it would have had to declare it.
            return;
        }
        tracing::warn!(node = %self.node, "fenced: everything here stops, and the node registers anew");
        let jobs: Vec<JobId> = self.roster.jobs().map(|(job, _)| job).collect();
        let silent_ms = u64::try_from(self.config.fence_after.as_millis()).unwrap_or(u64::MAX);
        let cause = DeathCause::NodeSilent { silent_ms };
        for job in jobs {
            self.end_job(job, &cause);
        }
        self.cluster.held.clear();
        self.stopping.clear();
        self.detached.clear();
        self.clear_fars();
        self.roster.clear();
        self.arena.clear();
        self.hauls.copies.clear();
        self.routes.clear_local("this node was given up by its cluster");
        self.node = NodeId(0);
        self.head_lost();
    }

    fn become_node(&mut self, node: NodeId) {
        self.node = node;
        self.routes.set_node(node);
        self.scheduler = super::state::scheduler_of(node, &self.config);
        self.nothing_is_kept();
        self.objects = super::objects::Objects::new(node);
        self.pulls = super::pulls::Pulls::default();
        self.cluster.view = View::default();
        if let Some(mesh) = self.routes.mesh() {
            mesh.set_process(node.into());
        }
        self.set_hello();
    }

    /// What this node says to others at first.
    pub(crate) fn set_hello(&self) {
        let hello = Greeting::Node { node: self.node, head: self.head };
        if let (Some(mesh), Ok(hello)) = (self.routes.mesh(), mobula_wire::encode(&hello)) {
            mesh.set_hello(hello.into());
        }
    }

    fn perform_lease(&mut self) {
        while let Some(output) = self.cluster.lease.poll_output() {
            match output {
                lease::Output::StopNamed => self.stop_named(),
                lease::Output::Fence { .. } => self.fence(),
            }
        }
    }
}

/// Goes to the head until it answers; with `within` it gives up then.
pub(crate) async fn register(
    mesh: &Mesh,
    head: SocketAddr,
    registration: Registration,
    clock: super::state::Clock,
    within: Option<Duration>,
) -> Registered {
    let came_as = registration.node;
    let hello: Bytes = match mobula_wire::encode(&Greeting::Register(registration)) {
        Ok(hello) => hello.into(),
        Err(error) => return Registered::Refused { why: error.to_string() },
    };
    let begun = clock.now();
    let mut pause = AGAIN_MIN;
    loop {
        let sent = clock.now();
        match mesh.enter(head, hello.clone(), ENTER_MAX).await {
            Ok((head, welcome)) => match mobula_wire::decode(&welcome) {
                Ok(admission) => return Registered::Admitted { admission: Box::new(admission), head, sent, came_as },
                Err(error) => return Registered::Refused { why: format!("its welcome cannot be read: {error}") },
            },
            Err(NetError::Refused(refusal)) if refusal.cause == Cause::DeclaredDead => return Registered::Fenced,
            Err(NetError::Refused(refusal))
                if !matches!(refusal.cause, Cause::NotReady | Cause::Busy | Cause::TooSlow | Cause::Failed) =>
            {
                return Registered::Refused { why: refusal.message };
            }
            Err(error) if within.is_some_and(|within| clock.now().since(begun) >= within) => {
                return Registered::Refused { why: error.to_string() };
            }
            Err(error) => tracing::debug!(%error, "the head is not there"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN_MAX);
    }
}

/// This process's resident memory.
fn rss_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
