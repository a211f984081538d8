//! Mail between processes that crash, are cut off, and lose their connections: small and large, once or until it is
//! acknowledged.
//!
//! Plays what a process does around the machines of mail: it keeps large payloads until they are fetched
//! ([`Intake`](mobula_logic::Intake)), sends again what is not acknowledged ([`Outbox`](mobula_logic::outbox::Outbox)) and
//! drops what comes again ([`Reception`](mobula_logic::outbox::Reception)), and holds mail back for which there is no credit
//! ([`credit`](mobula_logic::credit)). Drivers of other hosts are attached to a node, and both ends look whether the other is
//! still there ([`Attachment`]).
//!
//! The roads are those that a session makes of its connections, which have a world of their own
//! ([`cluster`](crate::cluster)): a lost connection makes words late, three lanes overtake each other, and when one side
//! was declared dead everything on its way is lost from some word on. What the machines must bear beyond that, words said
//! twice and parts that nobody asked for, happens too.

mod process;
mod road;
mod witness;

use std::collections::BTreeMap;
use std::time::Duration;

use mobula_logic::attachment::{self, Attachment};
use mobula_logic::{Mutant, Violation};
use mobula_types::{NodeId, ProcessId, StateMachine, Time};

use crate::agenda::Agenda;
use crate::coverage::Coverage;
use crate::failure::{Failure, Steps, ensure};
use crate::rng::Rng;
use crate::world;
use process::Process;
use road::{Lane, Road, Word};
use witness::{Kind, Told, Witness};

/// Runs the mail of `seed` until all is over, with `mutant` planted in every machine.
///
/// # Errors
/// The first promise that did not hold.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Coverage, Failure> {
    world::run::<World>(seed, mutant)
}

/// For so long processes send and die.
const ACTIVE: Duration = Duration::from_secs(40);
/// After the last fault a driver may be waited for, then a deadline, and then all is over.
const QUIET: Duration = Duration::from_secs(40);
/// A node of which nothing is heard for so long is declared dead (G11).
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// More events than any run has had: a livelock.
const EVENTS_MAX: u64 = 200_000;

type At = usize;
type ActorIndex = usize;
type MailId = usize;

struct World {
    mutant: Option<Mutant>,
    rng: Rng,
    agenda: Agenda<Event>,
    coverage: Coverage,
    steps: Steps,
    is_quiet: bool,
    events: u64,
    nodes: Vec<Node>,
    processes: Vec<Process>,
    attachments: BTreeMap<At, Attached>,
    actors: Vec<Actor>,
    roads: BTreeMap<(At, At, Lane), Road>,
    witness: Witness,
}

struct Node {
    /// It was declared dead: what lives there is not known to live.
    is_dead: bool,
    cut_until: Option<Time>,
    last_number: u32,
}

/// A driver of another host, and its node.
#[derive(Debug)]
struct Attached {
    /// How the driver sees its node, and the node the driver.
    ends: [Attachment; 2],
    /// Whether each has noticed that the connection is lost.
    noticed: [bool; 2],
    wakes_at: [Option<Time>; 2],
    lost_since: Option<Time>,
    down_until: Option<Time>,
}

#[derive(Default)]
struct Actor {
    place: Option<At>,
    life: u32,
    /// It has ended for good.
    is_gone: bool,
}

/// What a message does to whom it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Nothing,
    Panics,
    /// Ends its actor's life, which begins anew in its place; once.
    BreaksOff,
    /// Ends the process, so many times.
    Kills(u8),
}

#[derive(Debug)]
enum Event {
    Act(At),
    Pump {
        from: At,
        to: At,
        lane: Lane,
    },
    Finish {
        at: At,
        actor: ActorIndex,
        life: u32,
        mail: MailId,
    },
    Tick {
        at: At,
        pair: (u64, ActorIndex),
    },
    /// What could not be sent for a reason of the moment is sent again.
    Again {
        at: At,
        pair: (u64, ActorIndex),
    },
    GiveUp {
        at: At,
        exchange: u64,
    },
    /// Room for a payload has been made.
    Room {
        at: At,
        from: ProcessId,
        transfer: u64,
    },
    /// The nodes are done with a payload.
    Hauled {
        at: At,
        from: ProcessId,
        transfer: u64,
    },
    Place(ActorIndex),
    /// A process hears that a whole node is dead.
    HearsOfNode {
        at: At,
        node: usize,
    },
    Fault,
    Silent {
        node: usize,
    },
    Heal {
        node: usize,
    },
    /// One end of an attachment notices something.
    Sees {
        driver: At,
        end: usize,
        what: attachment::Input,
    },
    Resumed {
        driver: At,
    },
    Quiet,
    Judge,
}

impl world::World for World {
    const NAME: &'static str = "mail";

    fn new(seed: u64, mutant: Option<Mutant>, records: bool) -> Self {
        Self {
            mutant,
            rng: Rng::new(seed ^ 0x6d61_696c),
            agenda: Agenda::default(),
            coverage: Coverage::default(),
            steps: Steps::new(records),
            is_quiet: false,
            events: 0,
            nodes: Vec::new(),
            processes: Vec::new(),
            attachments: BTreeMap::new(),
            actors: Vec::new(),
            roads: BTreeMap::new(),
            witness: Witness::default(),
        }
    }

    fn play(&mut self) -> Result<(), Violation> {
        self.begin();
        while let Some(event) = self.agenda.step() {
            self.events += 1;
            ensure(self.events < EVENTS_MAX, "MAIL-4", || "it never comes to rest".into())?;
            let now = self.agenda.now();
            self.steps.note(now, || format!("{event:?}"));
            self.happen(event)?;
        }
        Ok(())
    }

    fn end(self) -> (Time, Coverage, Steps) {
        (self.agenda.now(), self.coverage, self.steps)
    }
}

impl World {
    fn begin(&mut self) {
        for node in 0..2 + self.rng.below(2) as usize {
            self.nodes.push(Node { is_dead: false, cut_until: None, last_number: 0 });
            for _ in 0..1 + self.rng.below(2) {
                self.start_process(node);
            }
        }
        for _ in 0..1 + self.rng.below(2) {
            self.start_driver();
        }
        for actor in 0..2 + self.rng.below(3) as usize {
            self.actors.push(Actor::default());
            self.agenda.after(Duration::ZERO, Event::Place(actor));
        }
        self.agenda.after(Duration::from_millis(500), Event::Fault);
        self.agenda.after(ACTIVE, Event::Quiet);
        // What may grow too old does so by then.
        self.agenda.after(ACTIVE + QUIET + process::HANGS, Event::Judge);
    }

    fn start_process(&mut self, node: usize) -> At {
        self.nodes[node].last_number += 1;
        let id = ProcessId::new(node_id(node), self.nodes[node].last_number);
        self.processes.push(Process::new(id, node, self.mutant));
        let at = self.processes.len() - 1;
        let delay = self.rng.span(50);
        self.agenda.after(delay, Event::Act(at));
        at
    }

    fn start_driver(&mut self) {
        let alive: Vec<usize> = (0..self.nodes.len()).filter(|node| !self.nodes[*node].is_dead).collect();
        let node = *self.rng.pick(&alive);
        let driver = self.start_process(node);
        self.processes[driver].is_driver = true;
        let now = self.agenda.now();
        let end = || {
            let attachment = Attachment::new(now, attachment::RESUME_MAX);
            self.mutant.into_iter().fold(attachment, Attachment::with_mutant)
        };
        let ends = [end(), end()];
        let comes = self.is_quiet || !self.rng.chance(10);
        let attached = Attached { ends, noticed: [false; 2], wakes_at: [None; 2], lost_since: None, down_until: None };
        self.attachments.insert(driver, attached);
        if !comes {
            // It was let in and died before it had made its connection.
            self.coverage.saw("a driver never comes");
            self.processes[driver].is_alive = false;
            self.agenda.after(attachment::BEGIN_MAX, Event::Sees { driver, end: 1, what: attachment::Input::Tick });
            return;
        }
        for end in 0..2 {
            let delay = self.rng.span(100);
            self.agenda.after(delay, Event::Sees { driver, end, what: attachment::Input::Connected });
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Act(at) => self.act(at),
            Event::Pump { from, to, lane } => self.pump(from, to, lane),
            Event::Finish { at, actor, life, mail } => self.finish(at, actor, life, mail),
            Event::Tick { at, pair } => self.tell_outbox(at, pair, mobula_logic::outbox::Input::Tick),
            Event::Again { at, pair } => self.tell_outbox(at, pair, mobula_logic::outbox::Input::Up),
            Event::GiveUp { at, exchange } => self.give_up(at, exchange),
            Event::Room { at, from, transfer } => self.room(at, from, transfer),
            Event::Hauled { at, from, transfer } => self.hauled(at, from, transfer),
            Event::Place(actor) => self.place(actor),
            Event::HearsOfNode { at, node } => self.hears_of_node(at, node),
            Event::Fault => self.strike(),
            Event::Silent { node } => self.silent(node),
            Event::Heal { node } => self.heal(node),
            Event::Sees { driver, end, what } => self.sees(driver, end, what),
            Event::Resumed { driver } => self.resumed(driver),
            Event::Quiet => {
                self.is_quiet = true;
                Ok(())
            }
            Event::Judge => self.judge(),
        }
    }

    /// An actor that is nowhere begins somewhere, or has ended for good.
    fn place(&mut self, actor: ActorIndex) -> Result<(), Violation> {
        if self.actors[actor].place.is_some() || self.actors[actor].is_gone {
            return Ok(());
        }
        if self.actors[actor].life > 0 && !self.is_quiet && self.rng.chance(3) {
            self.coverage.saw("an actor is not started again");
            self.actors[actor].is_gone = true;
        } else {
            let may = |at: &At| {
                let process = &self.processes[*at];
                let node = &self.nodes[process.node];
                process.is_alive && !process.is_driver && !node.is_dead && node.cut_until.is_none()
            };
            let places: Vec<At> = (0..self.processes.len()).filter(may).collect();
            if places.is_empty() {
                self.agenda.after(Duration::from_millis(200), Event::Place(actor));
                return Ok(());
            }
            let at = *self.rng.pick(&places);
            let entry = &mut self.actors[actor];
            entry.life += 1;
            entry.place = Some(at);
            let life = entry.life;
            self.processes[at].host(actor, life);
            if life > 1 {
                self.coverage.saw("an actor is started again");
            }
        }
        for at in 0..self.processes.len() {
            self.flush(at, actor)?;
        }
        Ok(())
    }

    fn strike(&mut self) -> Result<(), Violation> {
        if self.is_quiet {
            return Ok(());
        }
        let delay = Duration::from_millis(200) + self.rng.span(4_000);
        self.agenda.after(delay, Event::Fault);
        let now = self.agenda.now();
        let drivers: Vec<At> = self.attachments.keys().copied().filter(|at| self.processes[*at].is_alive).collect();
        match self.rng.below(10) {
            0..3 => {
                let at = self.rng.below(self.processes.len() as u64) as At;
                if self.processes[at].is_alive && !self.processes[at].is_driver {
                    self.coverage.saw("a process dies");
                    self.crash(at, None)?;
                }
            }
            3..5 => {
                // The first node is the head's, which nobody is cut off from for long.
                let node = self.rng.below(self.nodes.len() as u64) as usize;
                if !self.nodes[node].is_dead && self.nodes[node].cut_until.is_none() {
                    let is_long = node > 0 && self.rng.chance(20);
                    let lasts = if is_long { 5_000 + self.rng.below(20_000) } else { 1 + self.rng.below(4_000) };
                    self.coverage.saw(if is_long { "a node is cut off for long" } else { "a node is cut off" });
                    self.nodes[node].cut_until = Some(now + Duration::from_millis(lasts));
                    if is_long {
                        self.agenda.after(SILENCE_MAX, Event::Silent { node });
                    }
                    self.agenda.after(Duration::from_millis(lasts), Event::Heal { node });
                }
            }
            5..8 if !drivers.is_empty() => {
                let driver = *self.rng.pick(&drivers);
                self.lose_connection(driver);
            }
            8 if !drivers.is_empty() && self.rng.chance(30) => {
                let driver = *self.rng.pick(&drivers);
                self.coverage.saw("a driver is killed");
                self.crash(driver, None)?;
            }
            9 if self.attachments.len() < 4 => self.start_driver(),
            _ => {}
        }
        Ok(())
    }

    /// The connection between a driver and its node is lost, and made again after a while.
    fn lose_connection(&mut self, driver: At) {
        let now = self.agenda.now();
        let is_long = self.rng.chance(25);
        // About the bound the two ends may be of different minds.
        let lasts = match (is_long, self.rng.chance(50)) {
            (true, true) => 30_000 + self.rng.below(2_000),
            (true, false) => 25_000 + self.rng.below(12_000),
            (false, _) => self.rng.below(5_000),
        };
        let lasts = Duration::from_millis(lasts);
        let Some(attached) = self.attachments.get_mut(&driver) else { return };
        if attached.down_until.is_some() || attached.ends.iter().any(Attachment::is_over) {
            return;
        }
        self.coverage.saw("a driver's connection is lost");
        attached.lost_since = Some(now);
        attached.down_until = Some(now + lasts);
        for end in 0..2 {
            let delay = self.rng.span(2_000);
            if delay < lasts {
                self.agenda.after(delay, Event::Sees { driver, end, what: attachment::Input::Lost });
            }
        }
        self.agenda.after(lasts, Event::Resumed { driver });
    }

    fn resumed(&mut self, driver: At) -> Result<(), Violation> {
        if !self.processes[driver].is_alive {
            return Ok(());
        }
        let Some(attached) = self.attachments.get_mut(&driver) else { return Ok(()) };
        (attached.down_until, attached.lost_since) = (None, None);
        if attached.ends[1].is_over() {
            // Its node has given it up and says so.
            return self.sees(driver, 0, attachment::Input::Ended);
        }
        self.coverage.saw("a driver resumes");
        for end in 0..2 {
            // An end that has not noticed the loss sees one connection take the place of another.
            if std::mem::take(&mut self.attachments.get_mut(&driver).expect("it is attached").noticed[end]) {
                self.sees(driver, end, attachment::Input::Connected)?;
            }
        }
        Ok(())
    }

    /// One end of an attachment is told something: `end` is 0 for the driver's own, 1 for its node's.
    fn sees(&mut self, driver: At, end: usize, what: attachment::Input) -> Result<(), Violation> {
        if end == 0 && !self.processes[driver].is_alive {
            return Ok(());
        }
        let now = self.agenda.now();
        let Some(attached) = self.attachments.get_mut(&driver) else { return Ok(()) };
        match what {
            attachment::Input::Lost if attached.down_until.is_none() => return Ok(()),
            attachment::Input::Lost => attached.noticed[end] = true,
            attachment::Input::Tick => attached.wakes_at[end] = None,
            _ => {}
        }
        let since = attached.lost_since;
        let machine = &mut attached.ends[end];
        machine.handle(now, what);
        let mut over = None;
        while let Some(output) = machine.poll_output() {
            match output {
                attachment::Output::Begun => self.coverage.saw("a driver is attached"),
                attachment::Output::Over(how) => over = Some(how),
            }
        }
        attachment::check(machine)?;
        let due = machine.next_timeout();
        if let Some(at) = due.filter(|_| attached.wakes_at[end] != due) {
            attached.wakes_at[end] = due;
            self.agenda.at(at, Event::Sees { driver, end, what: attachment::Input::Tick });
        }
        ensure(due.is_none_or(|due| due > now), "ATT-3", || format!("end {end} of {driver} waits on: {attached:?}"))?;
        // As one sees it from outside: given up only after the bound, and then for sure.
        let lost = since.map_or(Duration::ZERO, |since| now - since);
        let Some(how) = over else { return Ok(()) };
        if let attachment::End::Silent { lost: said } = how {
            let is_silent = lost >= attachment::RESUME_MAX && said <= lost || !self.processes[driver].is_alive;
            ensure(is_silent, "ATT-2", || format!("end {end} of {driver} is over after {lost:?}: {how:?}"))?;
        }
        self.coverage.saw(match how {
            attachment::End::Silent { .. } => "an attachment is over: silent",
            attachment::End::Killed => "an attachment is over: killed",
            attachment::End::Left => "an attachment is over: ended",
        });
        if end == 1 { self.bury(driver) } else { self.leave(driver) }
    }

    /// A driver has lost its node, and with it everything.
    fn leave(&mut self, driver: At) -> Result<(), Violation> {
        self.processes[driver].is_alive = false;
        self.bury(driver)
    }

    /// A node of which nothing is heard is declared dead.
    fn silent(&mut self, node: usize) -> Result<(), Violation> {
        self.coverage.saw("a node is declared dead");
        self.nodes[node].is_dead = true;
        let its: Vec<At> = (0..self.processes.len()).filter(|at| self.processes[*at].node == node).collect();
        for at in 0..self.processes.len() {
            if self.processes[at].is_alive && self.processes[at].node != node {
                let delay = self.rng.span(100);
                self.agenda.after(delay, Event::HearsOfNode { at, node });
            }
        }
        its.into_iter().for_each(|dead| self.displace(dead));
        Ok(())
    }

    /// A cut node is heard again; one that was declared dead ends all that is on it.
    fn heal(&mut self, node: usize) -> Result<(), Violation> {
        self.nodes[node].cut_until = None;
        if !self.nodes[node].is_dead {
            return Ok(());
        }
        self.coverage.saw("a node is told that it was declared dead");
        for at in 0..self.processes.len() {
            if self.processes[at].node == node && self.processes[at].is_alive {
                self.processes[at].is_alive = false;
            }
        }
        Ok(())
    }

    /// A process ends, over a message perhaps.
    fn crash(&mut self, at: At, over: Option<MailId>) -> Result<(), Violation> {
        let process = &mut self.processes[at];
        process.is_alive = false;
        process.over = over;
        if self.processes[at].is_driver {
            let delay = Duration::from_millis(300) + self.rng.span(700);
            let is_heard = self.attachments.get(&at).is_some_and(|attached| attached.down_until.is_none());
            let what = if is_heard { attachment::Input::Refused } else { attachment::Input::Lost };
            self.agenda.after(delay, Event::Sees { driver: at, end: 1, what });
            return Ok(());
        }
        let node = self.processes[at].node;
        self.start_process(node);
        self.bury(at)
    }

    /// The living are told of a death behind the last words of the dead, of which the last may be lost.
    fn bury(&mut self, dead: At) -> Result<(), Violation> {
        self.displace(dead);
        for to in 0..self.processes.len() {
            if to == dead || !self.processes[to].is_alive {
                continue;
            }
            for lane in [Lane::Calls, Lane::Bulk] {
                let Some(road) = self.roads.get_mut(&(dead, to, lane)) else { continue };
                let kept = self.rng.below(road.words.len() as u64 + 1) as usize;
                if kept < road.words.len() {
                    self.coverage.saw("last words are lost");
                }
                road.words.truncate(kept);
            }
            self.put(dead, to, Word::Died);
        }
        Ok(())
    }

    /// Actors that lived in a process are to be started elsewhere.
    fn displace(&mut self, dead: At) {
        for actor in 0..self.actors.len() {
            if self.actors[actor].place == Some(dead) {
                self.actors[actor].place = None;
                let delay = Duration::from_millis(50) + self.rng.span(500);
                self.agenda.after(delay, Event::Place(actor));
            }
        }
    }

    fn is_zombie(&self, at: At) -> bool {
        self.nodes[self.processes[at].node].is_dead
    }

    fn judge(&mut self) -> Result<(), Violation> {
        self.coverage.saw("all is over");
        let lives = |at: At| self.processes[at].is_alive && !self.nodes[self.processes[at].node].is_dead;
        for at in (0..self.processes.len()).filter(|at| lives(*at)) {
            self.processes[at].judge()?;
        }
        let told = |actor: ActorIndex| self.actors[actor].is_gone;
        self.witness.judge(lives, told)?;
        let places = self.actors.iter().all(|actor| actor.is_gone || actor.place.is_some());
        ensure(places, "MAIL-5", || "an actor did not come back".into())
    }
}

fn node_id(node: usize) -> NodeId {
    NodeId(1 + node as u64)
}
