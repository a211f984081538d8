//! A head and its nodes: who belongs to the cluster, who has died, and who may act under a name (G7, G11, G12, G13).
//!
//! The head is a real [`Head`] over a store that syncs late, fails, and loses what it had not synced when the head's
//! process crashes; each node has a real [`Lease`](mobula_logic::lease::Lease) and
//! [`View`](mobula_logic::membership::View). Between them are connections that break with all that was on its way, are
//! cut one way or both, and carry words of a head that is gone already; hosts stop for a while, and their clocks run at
//! rates of their own. Nodes claim names, act under them, and move them; drivers store values and use tokens.
//!
//! In some seeds the head keeps little of everything, and strangers register who are not heard of again: there each bound
//! is met.

mod head;
mod node;
mod witness;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mobula_logic::head::{Bounds, Head, Output};
use mobula_logic::record::{Change, Record, RecordKey};
use mobula_logic::{Mutant, Violation, directory, membership};
use mobula_types::{ActorId, Beat, HeadId, NodeId, Registration, Time};

use crate::agenda::Agenda;
use crate::coverage::Coverage;
use crate::failure::{Failure, Steps, ensure};
use crate::rng::Rng;
use crate::world;
use node::Node;
use witness::Witness;

/// Runs the cluster of `seed` to its end, with `mutant` planted in every machine.
///
/// # Errors
/// The first promise that did not hold.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Coverage, Failure> {
    world::run::<World>(seed, mutant)
}

type HostIndex = usize;

#[derive(Clone, Debug)]
enum Event {
    /// A node's word arrives at the head.
    Up {
        host: HostIndex,
        connection: u64,
        word: Up,
    },
    /// The head's word arrives at a node.
    Down {
        host: HostIndex,
        connection: u64,
        head: HeadId,
        word: Output,
    },
    /// What a cut holds back may get through again.
    Unblock {
        host: HostIndex,
        way: usize,
    },
    HeadStarts,
    HeadTick,
    /// A batch of the head's is synced, or cannot be.
    Synced {
        batch: u64,
        fails: bool,
    },
    /// The head's transport has not heard a node for so long, and has probed it.
    Silent {
        host: HostIndex,
    },
    NodeStarts {
        host: HostIndex,
    },
    NodeTick {
        host: HostIndex,
    },
    NodeBeats {
        host: HostIndex,
    },
    /// A node does something under the names it has.
    Acts {
        host: HostIndex,
    },
    /// A node's programs want something.
    Wants {
        host: HostIndex,
    },
    /// A node of another host registers, and is not heard of again.
    Stranger,
    Fault,
    Quiet,
    Judge,
}

/// From a node to its head.
#[derive(Clone, Debug)]
enum Up {
    Register { ask: u64, registration: Registration },
    Beat { node: NodeId, beat: Beat },
    Leaving { node: NodeId },
    Drained { node: NodeId },
    Directory(directory::Input),
}

/// The head's process.
struct HeadLife {
    machine: Head,
    wakes_at: Option<Time>,
    /// What is being written.
    writing: Option<(u64, Vec<Change>)>,
}

struct Host {
    /// How fast its clock runs, in thousandths.
    rate: u64,
    paused_until: Option<Time>,
    node: Option<Node>,
    /// How often it has got another address.
    moves: u32,
    /// Which connection it has with its head.
    connection: u64,
    /// When its last word arrives, up and down.
    last: [Time; 2],
    /// Cut from and to its head.
    cut: [bool; 2],
    /// What waits in front of a cut, in order.
    blocked: [VecDeque<Event>; 2],
    /// When the head last heard of it, and for how long the head had been stopped until then.
    heard: (Time, Duration),
}

struct World {
    mutant: Option<Mutant>,
    rng: Rng,
    agenda: Agenda<Event>,
    coverage: Coverage,
    steps: Steps,
    fury: u64,
    is_quiet: bool,
    /// The head keeps little of everything.
    is_narrow: bool,
    events: u64,
    hosts: Vec<Host>,
    head: Option<HeadLife>,
    head_rate: u64,
    head_paused_until: Option<Time>,
    /// For how long the head has been stopped in all; stops that it does not notice are not counted.
    head_stopped: Duration,
    epoch: u64,
    store: BTreeMap<RecordKey, Record>,
    /// Who asked what.
    asks: BTreeMap<u64, HostIndex>,
    next_ask: u64,
    host_of: BTreeMap<NodeId, HostIndex>,
    witness: Witness,
    /// Keys that tokens are used for.
    tokens: BTreeSet<u8>,
    /// The detached actor that was spawned last.
    detached: Option<ActorId>,
    /// Nodes that somebody wants to leave.
    drains: Vec<(HostIndex, mobula_logic::membership::Input)>,
}

impl world::World for World {
    const NAME: &'static str = "names";

    fn new(seed: u64, mutant: Option<Mutant>, records: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x6e61_6d65);
        let fury = *rng.pick(&[20, 50, 100]);
        let host = |rng: &mut Rng| Host {
            rate: 960 + rng.below(81),
            paused_until: None,
            node: None,
            moves: 0,
            connection: 0,
            last: [Time::ZERO; 2],
            cut: [false; 2],
            blocked: Default::default(),
            heard: (Time::ZERO, Duration::ZERO),
        };
        let hosts = (0..3 + rng.below(2)).map(|_| host(&mut rng)).collect();
        let head_rate = 960 + rng.below(81);
        Self {
            mutant,
            rng,
            agenda: Agenda::default(),
            coverage: Coverage::default(),
            steps: Steps::new(records),
            fury,
            is_quiet: false,
            is_narrow: seed % 8 == 3,
            events: 0,
            hosts,
            head: None,
            head_rate,
            head_paused_until: None,
            head_stopped: Duration::ZERO,
            epoch: 0,
            store: BTreeMap::new(),
            asks: BTreeMap::new(),
            next_ask: 0,
            host_of: BTreeMap::new(),
            witness: Witness::default(),
            tokens: BTreeSet::new(),
            detached: None,
            drains: Vec::new(),
        }
    }

    fn play(&mut self) -> Result<(), Violation> {
        self.agenda.after(Duration::ZERO, Event::HeadStarts);
        for host in 0..self.hosts.len() {
            self.agenda.after(Duration::from_millis(1 + host as u64), Event::NodeStarts { host });
            self.agenda.after(Duration::from_millis(300), Event::Silent { host });
        }
        self.agenda.after(Duration::from_secs(1), Event::Fault);
        if self.is_narrow {
            self.agenda.after(Duration::from_secs(2), Event::Stranger);
        }
        self.agenda.after(FAULTS_LAST, Event::Quiet);
        self.agenda.after(FAULTS_LAST + QUIET, Event::Judge);
        while let Some(event) = self.agenda.step() {
            let now = self.agenda.now();
            if let Some(resumes) = self.resumes(&event).filter(|resumes| *resumes > now) {
                self.agenda.at(resumes, event);
                continue;
            }
            self.events += 1;
            ensure(self.events < EVENTS_MAX, "HEAD-4", || "it never comes to rest".into())?;
            self.steps.note(now, || format!("{event:?}"));
            if matches!(event, Event::Judge) {
                break;
            }
            self.happen(event)?;
            while let Some((_, input)) = self.drains.pop() {
                self.tell_head(input.into())?;
            }
        }
        self.judge()
    }

    fn end(self) -> (Time, Coverage, Steps) {
        (self.agenda.now(), self.coverage, self.steps)
    }
}

impl World {
    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        let Some(event) = self.passes(event) else { return Ok(()) };
        match event {
            Event::Unblock { host, way } => self.unblock(host, way),
            Event::Up { host, connection, word } => self.head_hears(host, connection, word),
            Event::Down { host, connection, head, word } => self.node_hears(host, connection, head, word),
            Event::HeadStarts => self.start_head(),
            Event::HeadTick => self.head_tick(),
            Event::Synced { batch, fails } => self.synced(batch, fails),
            Event::Silent { host } => self.silent(host),
            Event::NodeStarts { host } => {
                self.start_node(host);
                Ok(())
            }
            Event::NodeTick { host } => self.node_tick(host),
            Event::NodeBeats { host } => self.node_beats(host),
            Event::Acts { host } => self.node_acts(host),
            Event::Wants { host } => {
                self.node_wants(host);
                Ok(())
            }
            Event::Stranger => self.stranger_registers(),
            Event::Fault => {
                self.strike();
                Ok(())
            }
            Event::Quiet => {
                self.is_quiet = true;
                self.hosts.iter_mut().for_each(|host| host.cut = [false; 2]);
                Ok(())
            }
            Event::Judge => Ok(()),
        }
    }

    /// A word gets through unless there is a cut, or others wait in front of one.
    fn passes(&mut self, event: Event) -> Option<Event> {
        let (host, way) = match &event {
            Event::Down { host, .. } => (*host, DOWN),
            Event::Up { host, .. } => (*host, UP),
            _ => return Some(event),
        };
        let is_free = !self.hosts[host].cut[way] && self.hosts[host].blocked[way].is_empty();
        if is_free {
            return Some(event);
        }
        self.saw("word runs into a cut");
        let blocked = &mut self.hosts[host].blocked[way];
        blocked.push_back(event);
        if blocked.len() == 1 {
            self.agenda.after(Duration::from_millis(200), Event::Unblock { host, way });
        }
        None
    }

    fn unblock(&mut self, host: HostIndex, way: usize) -> Result<(), Violation> {
        if self.hosts[host].cut[way] {
            self.agenda.after(Duration::from_millis(200), Event::Unblock { host, way });
            return Ok(());
        }
        while let Some(event) = self.hosts[host].blocked[way].pop_front() {
            if let Some(resumes) = self.resumes(&event).filter(|resumes| *resumes > self.agenda.now()) {
                self.hosts[host].blocked[way].push_front(event);
                self.agenda.at(resumes, Event::Unblock { host, way });
                return Ok(());
            }
            match event {
                Event::Up { host, connection, word } => self.head_hears(host, connection, word)?,
                Event::Down { host, connection, head, word } => self.node_hears(host, connection, head, word)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn resumes(&self, event: &Event) -> Option<Time> {
        match event {
            Event::Up { .. } | Event::HeadTick | Event::Synced { .. } | Event::Silent { .. } | Event::Stranger => {
                self.head_paused_until
            }
            Event::Down { host, .. }
            | Event::NodeTick { host }
            | Event::NodeBeats { host }
            | Event::Acts { host }
            | Event::Wants { host } => self.hosts[*host].paused_until,
            _ => None,
        }
    }

    /// What the head keeps, and one like it that keeps little: what the hosts need in the end, and less of what they only
    /// want.
    fn bounds(&self) -> Bounds {
        if !self.is_narrow {
            return Bounds::default();
        }
        let hosts = self.hosts.len();
        let membership = membership::Bounds {
            nodes_max: hosts,
            dead_max: 2,
            asks_max: 1,
            dead_kept: Duration::from_secs(5),
            // Two members, and one.
            admission_bytes_max: 700,
            change_bytes_max: 400,
        };
        let directory = directory::Bounds {
            names_max: 2,
            name_bytes_max: 16,
            interface_bytes_max: 16,
            frame_bytes_max: 8,
            detached_bytes_max: 6,
            claims_waiting_max: 1,
            locates_waiting_max: 1,
            jobs_max: hosts - 1,
            jobs_ended_max: 2,
            setup_bytes_max: 16,
            tokens_max: 3,
            expired_kept: Duration::from_secs(2),
            key_bytes_max: 8,
            value_bytes_max: 8,
            // Two values, with what each takes beside its bytes.
            values_of_job_bytes_max: 290,
            values_bytes_max: 600,
        };
        Bounds { pending_max: 4, membership, directory }
    }

    /// One misfortune, and when the next comes.
    fn strike(&mut self) {
        if self.is_quiet {
            return;
        }
        let delay = Duration::from_millis(100) + self.rng.span(200_000 / (self.fury + 50));
        self.agenda.after(delay, Event::Fault);
        let host = self.rng.below(self.hosts.len() as u64) as usize;
        match self.rng.below(12) {
            0..=2 => {
                self.saw("connection breaks");
                self.hosts[host].connection += 1;
            }
            3 | 4 => {
                self.saw("head is killed");
                self.kill_head();
                let delay = self.rng.span(3_000);
                self.agenda.after(delay, Event::HeadStarts);
            }
            5 | 6 => {
                self.saw("node is killed");
                self.hosts[host].node = None;
                self.hosts[host].connection += 1;
                self.witness.node_ends(host);
                let delay = self.rng.span(15_000);
                self.agenda.after(delay, Event::NodeStarts { host });
            }
            7 | 8 => {
                let way = self.rng.below(3);
                self.saw(match way {
                    0 => "cut from the head",
                    1 => "cut to the head",
                    _ => "cut both ways",
                });
                self.hosts[host].cut = [way != 0, way != 1];
            }
            9 => {
                if self.hosts[host].paused_until.is_none_or(|until| until <= self.agenda.now()) {
                    let ms = *self.rng.pick(&[500, 2_000, 4_000, 8_000, 12_000]);
                    self.saw("node is stopped for a while");
                    let until = self.pause_until(ms);
                    self.hosts[host].paused_until = Some(until);
                    self.agenda.at(until, Event::NodeTick { host });
                }
            }
            10 => {
                if self.head_paused_until.is_none_or(|until| until <= self.agenda.now()) {
                    let ms = *self.rng.pick(&[500, 2_000, 6_000]);
                    self.saw("head is stopped for a while");
                    let until = self.pause_until(ms);
                    self.head_paused_until = Some(until);
                    if ms > 1_000 {
                        self.head_stopped += until.since(self.agenda.now());
                    }
                    // It looks at its clock before it reads what has come meanwhile.
                    self.agenda.at(until, Event::HeadTick);
                }
            }
            _ => self.hosts.iter_mut().for_each(|host| host.cut = [false; 2]),
        }
    }

    /// No event has this moment of its own: what waited for it comes first.
    fn pause_until(&mut self, ms: u64) -> Time {
        let until = self.agenda.now() + Duration::from_millis(ms) + Duration::from_nanos(1 + self.rng.below(998));
        until.min(Time::ZERO + FAULTS_LAST)
    }

    /// In the end every node belongs, may act, and knows the others; nobody waits for an answer.
    fn judge(&mut self) -> Result<(), Violation> {
        let hosts = self.hosts.len();
        let Some(head) = &self.head else {
            return Err(Violation { invariant: "HEAD-4", seen: "there is no head".into() });
        };
        let alive = head.machine.membership();
        for (index, host) in self.hosts.iter().enumerate() {
            let Some(node) = &host.node else {
                return Err(Violation { invariant: "MEM-4", seen: format!("host {index} has no node") });
            };
            let lives = node.id.is_some_and(|id| alive.lives(id));
            ensure(lives, "MEM-4", || format!("host {index} does not belong: {node:?}"))?;
            let now = local(self.agenda.now(), host.rate);
            ensure(node.lease.may_act(now), "LEASE-1", || format!("host {index} has no lease: {node:?}"))?;
            let members = node.view.members().count();
            ensure(members == hosts, "MEM-6", || format!("host {index} knows {members} members: {node:?}"))?;
            ensure(node.claims.is_empty(), "DIR-1", || format!("host {index} waits for {:?}", node.claims))?;
        }
        if self.events >= 2_000 {
            self.saw("2000 events and more");
        }
        Ok(())
    }

    fn saw(&mut self, what: &'static str) {
        self.coverage.saw(what);
    }

    fn goes_wrong(&mut self, percent: u64) -> bool {
        !self.is_quiet && self.rng.below(100 * 100) < percent * self.fury
    }

    fn host_local(&self, host: HostIndex) -> Time {
        local(self.agenda.now(), self.hosts[host].rate)
    }

    fn head_local(&self) -> Time {
        local(self.agenda.now(), self.head_rate)
    }

    /// When a word arrives: after the one before it, and late when packets are lost.
    fn arrives(&mut self, host: HostIndex, way: usize) -> Time {
        let delay = match self.goes_wrong(5) {
            true => {
                self.saw("packet is lost and sent again");
                Duration::from_millis(50) + self.rng.span(600)
            }
            false => Duration::from_micros(100 + self.rng.below(3_000)),
        };
        let last = &mut self.hosts[host].last[way];
        *last = (*last).max(self.agenda.now() + delay);
        *last
    }
}

fn local(real: Time, rate: u64) -> Time {
    Time::from_nanos(real.as_nanos() / 1_000 * rate)
}

fn real(local: Time, rate: u64) -> Time {
    Time::from_nanos(local.as_nanos().div_ceil(rate).saturating_mul(1_000))
}

/// Notes that a machine wants to be woken at `due`; the time when an event for that is needed.
fn earlier(wakes_at: &mut Option<Time>, due: Option<Time>) -> Option<Time> {
    let due = due.filter(|due| wakes_at.is_none_or(|at| *due < at))?;
    *wakes_at = Some(due);
    Some(due)
}

/// The two ways between a node and its head.
const DOWN: usize = 0;
const UP: usize = 1;

/// Faults go on for so long: several leases.
const FAULTS_LAST: Duration = Duration::from_secs(40);
/// A lease, what follows it, and a claim that waits for that.
const QUIET: Duration = Duration::from_secs(25);
/// More events than any run has had: a livelock.
const EVENTS_MAX: u64 = 400_000;
