//! Supervisors under supervisors, whose children crash, hang while they stop and fail to start.
//!
//! Plays the driver: every `Start` becomes an actor that is constructed after a while, every `Stop` one that ends after
//! a while, and a supervisor is an actor that ends when its machine says so. Actors have no state and no mail here.

mod plan;
mod witness;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use mobula_logic::supervision::{self, ChildKey, Input, Output, Supervision};
use mobula_logic::{Mutant, Violation};
use mobula_types::{ActorId, ErrorChain, ExitReason, Panic, ProcessId, StateMachine, Time};

use crate::agenda::Agenda;
use crate::coverage::Coverage;
use crate::failure::{Failure, Steps, ensure};
use crate::rng::Rng;
use crate::world;
use plan::Plan;
use witness::Witness;

/// Runs the tree of `seed` to its end, with `mutant` planted in every supervisor.
///
/// # Errors
/// The first promise that did not hold.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Coverage, Failure> {
    world::run::<World>(seed, mutant)
}

struct World {
    mutant: Option<Mutant>,
    rng: Rng,
    agenda: Agenda<Event>,
    /// Everybody who ever lived.
    lives: Vec<Life>,
    /// What supervisors are still to be told at this moment.
    mail: VecDeque<(LifeId, Input)>,
    /// A crash comes within this time of a start.
    lifetime_ms_max: u64,
    is_quiet: bool,
    root_has_ended: bool,
    coverage: Coverage,
    steps: Steps,
}

type LifeId = usize;

/// One incarnation of one actor.
struct Life {
    /// Its supervisor, and its number there.
    parent: Option<(LifeId, ChildKey)>,
    state: State,
    supervisor: Option<Supervisor>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Running,
    Stopping,
    Gone,
}

struct Supervisor {
    machine: Supervision,
    witness: Witness,
    seats: BTreeMap<ChildKey, Seat>,
    next_key: ChildKey,
    /// Why it ends when its children have, and whether that is a start that failed.
    leaves: Option<(ExitReason, bool)>,
    wakes_at: Option<Time>,
}

struct Seat {
    plan: Rc<Plan>,
    life: Option<LifeId>,
    has_started: bool,
}

#[derive(Debug)]
enum Event {
    Constructed(LifeId),
    Crash(LifeId),
    Died(LifeId, ExitReason),
    Wake(LifeId),
    Meddle,
    Quiet,
}

impl world::World for World {
    const NAME: &'static str = "tree";

    fn new(seed: u64, mutant: Option<Mutant>, records: bool) -> Self {
        let mut rng = Rng::new(seed);
        let lifetime_ms_max = *rng.pick(&[300, 1_000, 5_000, 20_000]);
        Self {
            mutant,
            rng,
            agenda: Agenda::default(),
            lives: Vec::new(),
            mail: VecDeque::new(),
            lifetime_ms_max,
            is_quiet: false,
            root_has_ended: false,
            coverage: Coverage::default(),
            steps: Steps::new(records),
        }
    }

    fn play(&mut self) -> Result<(), Violation> {
        let root = Plan::root(&mut self.rng);
        self.be_born(None, &root);
        self.agenda.after(FAULTS_LAST, Event::Quiet);
        self.agenda.after(Duration::from_millis(500), Event::Meddle);
        self.come_to_rest()?;
        if !self.root_has_ended {
            for life in self.lives.iter().filter(|life| life.state != State::Gone) {
                let is_up = life.supervisor.as_ref().is_none_or(|supervisor| supervisor.witness.is_at_rest());
                ensure(life.state == State::Running && is_up, "SUP-7", || "the tree has not come up again".into())?;
            }
            self.coverage.saw("tree is whole again");
            self.leave(0, ExitReason::Shutdown, false);
            self.come_to_rest()?;
        }
        let left = self.lives.iter().filter(|life| life.state != State::Gone).count();
        ensure(self.root_has_ended && left == 0, "SUP-6", || format!("{left} actors outlive their supervisor"))
    }

    fn end(self) -> (Time, Coverage, Steps) {
        (self.agenda.now(), self.coverage, self.steps)
    }
}

impl World {
    /// Goes on until nothing is going to happen.
    fn come_to_rest(&mut self) -> Result<(), Violation> {
        let mut events = 0;
        self.deliver()?;
        while let Some(event) = self.agenda.step() {
            events += 1;
            ensure(events < EVENTS_MAX, "SUP-7", || "it never comes to rest".into())?;
            let now = self.agenda.now();
            self.steps.note(now, || format!("{event:?}"));
            self.happen(event);
            self.deliver()?;
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Constructed(id) => self.construct(id),
            Event::Crash(id) if self.lives[id].state == State::Running && !self.is_quiet => {
                let reason = self.draw_reason();
                self.leave(id, reason, false);
            }
            Event::Crash(_) => {}
            Event::Died(id, reason) => self.depart(id, reason, false),
            Event::Wake(id) => self.mail.push_back((id, Input::Tick)),
            Event::Meddle => self.meddle(),
            Event::Quiet => self.is_quiet = true,
        }
    }

    fn draw_reason(&mut self) -> ExitReason {
        let (what, reason) = match self.rng.below(8) {
            0 => ("normal end", ExitReason::Normal),
            1 => ("stopped from outside", ExitReason::Shutdown),
            2 | 3 => ("kill", ExitReason::Killed),
            4 | 5 => ("error", ExitReason::Failed(ErrorChain::message("drawn"))),
            _ => ("panic", ExitReason::Panicked(Panic { message: "drawn".into(), location: None, backtrace: None })),
        };
        self.coverage.saw(what);
        reason
    }

    /// Somebody is told to start.
    fn be_born(&mut self, parent: Option<(LifeId, ChildKey)>, plan: &Rc<Plan>) {
        let id = self.lives.len();
        let supervisor = plan.group.as_ref().map(|group| {
            let machine = Supervision::new(group.strategy, group.intensity, group.backoff);
            let machine = self.mutant.into_iter().fold(machine, Supervision::with_mutant);
            Supervisor {
                machine,
                witness: Witness::new(group),
                seats: BTreeMap::new(),
                next_key: 0,
                leaves: None,
                wakes_at: None,
            }
        });
        self.lives.push(Life { parent, state: State::Starting, supervisor });
        for child in plan.group.iter().flat_map(|group| &group.children) {
            self.add_child(id, child);
        }
        let is_slow = !self.is_quiet && self.rng.chance(10);
        let delay = self.rng.span(if is_slow { 1_000 } else { 20 });
        self.agenda.after(delay, Event::Constructed(id));
    }

    fn add_child(&mut self, id: LifeId, plan: &Rc<Plan>) {
        let Some(supervisor) = &mut self.lives[id].supervisor else { return };
        let child = supervisor.next_key;
        supervisor.next_key += 1;
        supervisor.seats.insert(child, Seat { plan: Rc::clone(plan), life: None, has_started: false });
        self.mail.push_back((id, Input::Add { child, restart: plan.restart }));
    }

    fn construct(&mut self, id: LifeId) {
        let parent = self.lives[id].parent;
        match self.lives[id].state {
            State::Starting if !self.is_quiet && parent.is_some() && self.rng.chance(8) => {
                self.leave(id, ExitReason::Failed(ErrorChain::message("cannot start")), true);
            }
            State::Starting => {
                self.lives[id].state = State::Running;
                self.tell_started(id);
                if self.rng.chance(if parent.is_some() { 80 } else { 5 }) {
                    let delay = self.rng.span(self.lifetime_ms_max);
                    self.agenda.after(delay, Event::Crash(id));
                }
            }
            // It was told to stop meanwhile: its constructor may end first, either way.
            State::Stopping if self.lives[id].supervisor.is_none() => match self.rng.below(3) {
                0 => self.tell_started(id),
                1 => self.depart(id, ExitReason::Shutdown, true),
                _ => {}
            },
            State::Stopping | State::Running | State::Gone => {}
        }
    }

    fn tell_started(&mut self, id: LifeId) {
        let Some((parent, child)) = self.lives[id].parent else { return };
        self.mail.push_back((parent, Input::Started { child }));
        if let Some(seat) = self.lives[parent].supervisor.as_mut().and_then(|parent| parent.seats.get_mut(&child)) {
            seat.has_started = true;
        }
    }

    /// Somebody ends by itself; a supervisor sees its children off first.
    fn leave(&mut self, id: LifeId, reason: ExitReason, start_failed: bool) {
        match &mut self.lives[id].supervisor {
            Some(supervisor) => {
                supervisor.leaves.get_or_insert((reason, start_failed));
                self.lives[id].state = State::Stopping;
                self.mail.push_back((id, Input::Stop));
            }
            None => self.depart(id, reason, start_failed),
        }
    }

    /// Somebody is gone.
    fn depart(&mut self, id: LifeId, reason: ExitReason, start_failed: bool) {
        let life = &mut self.lives[id];
        if life.state == State::Gone {
            return;
        }
        let is_first = std::mem::replace(&mut life.state, State::Gone) == State::Starting;
        let Some((parent, child)) = life.parent else {
            self.root_has_ended = true;
            return;
        };
        if let Some(seat) = self.lives[parent].supervisor.as_mut().and_then(|parent| parent.seats.get_mut(&child)) {
            seat.life = None;
        }
        let fails = start_failed || is_first && self.rng.chance(50);
        let input = if fails { Input::StartFailed { child, reason } } else { Input::Exited { child, reason } };
        self.mail.push_back((parent, input));
    }

    /// Somebody from outside removes and adds children, or adds one under a number that is taken.
    fn meddle(&mut self) {
        if self.is_quiet {
            return;
        }
        let delay = self.rng.span(2_000);
        self.agenda.after(delay, Event::Meddle);
        let is_supervisor = |id: &LifeId| self.lives[*id].state != State::Gone && self.lives[*id].supervisor.is_some();
        let supervisors: Vec<LifeId> = (0..self.lives.len()).filter(is_supervisor).collect();
        if supervisors.is_empty() {
            return;
        }
        let id = *self.rng.pick(&supervisors);
        let Some(supervisor) = &self.lives[id].supervisor else { return };
        let keys: Vec<ChildKey> = supervisor.seats.keys().copied().collect();
        if supervisor.witness.is_restarting() {
            self.coverage.saw("meddled with during a restart");
        }
        if keys.is_empty() || keys.len() < 6 && self.rng.chance(50) {
            self.coverage.saw("child joins later");
            let plan = Plan::draw(&mut self.rng, 3);
            self.add_child(id, &plan);
            return;
        }
        let child = *self.rng.pick(&keys);
        if self.rng.chance(80) {
            self.coverage.saw("child is removed");
            self.mail.push_back((id, Input::Remove { child }));
        } else {
            self.coverage.saw("number is taken");
            self.mail.push_back((id, Input::Add { child, restart: mobula_types::Restart::Permanent }));
        }
    }

    /// Tells supervisors what there is to tell, and does what they ask for, until all is said.
    fn deliver(&mut self) -> Result<(), Violation> {
        while let Some((id, input)) = self.mail.pop_front() {
            if self.lives[id].state == State::Gone {
                continue;
            }
            let now = self.agenda.now();
            self.steps.note(now, || format!("  actor {id} is told {input:?}"));
            let Some(supervisor) = &mut self.lives[id].supervisor else { continue };
            supervisor.witness.see_input(now, &input, &mut self.coverage);
            supervisor.machine.handle(now, input);
            let mut outputs = Vec::new();
            while let Some(output) = supervisor.machine.poll_output() {
                self.steps.note(now, || format!("  actor {id} asks {output:?}"));
                supervisor.witness.see_output(now, &output)?;
                outputs.push(output);
            }
            supervisor.witness.see_silence(now)?;
            supervision::check(&supervisor.machine)?;
            let timeout = supervisor.machine.next_timeout();
            if let Some(at) = timeout.filter(|_| timeout != supervisor.wakes_at) {
                self.agenda.at(at, Event::Wake(id));
            }
            supervisor.wakes_at = timeout;
            for output in outputs {
                self.perform(id, output);
            }
        }
        Ok(())
    }

    fn perform(&mut self, id: LifeId, output: Output) {
        match output {
            Output::Start { child } => {
                let life = self.lives.len();
                let Some(supervisor) = &mut self.lives[id].supervisor else { return };
                let Some(seat) = supervisor.seats.get_mut(&child) else { return };
                seat.life = Some(life);
                let plan = Rc::clone(&seat.plan);
                self.be_born(Some((id, child)), &plan);
            }
            Output::Stop { child } => {
                let seat = self.lives[id].supervisor.as_ref().and_then(|supervisor| supervisor.seats.get(&child));
                if let Some(life) = seat.and_then(|seat| seat.life) {
                    self.stop(life);
                }
            }
            Output::Ended { child, .. } => {
                let Some(supervisor) = &mut self.lives[id].supervisor else { return };
                let seat = supervisor.seats.remove(&child);
                let never_started = seat.is_some_and(|seat| !seat.has_started);
                // Its constructor may not want to live without this child.
                if never_started && self.lives[id].state == State::Starting && self.rng.chance(50) {
                    self.coverage.saw("constructor gives up for a child");
                    self.leave(id, ExitReason::Failed(ErrorChain::message("a child cannot start")), true);
                }
            }
            Output::Escalate { child, cause } => {
                self.coverage.saw(if id == 0 { "root escalates" } else { "escalates to its supervisor" });
                let child = ActorId { process: ProcessId::default(), slot: child, generation: 0 };
                self.depart(id, ExitReason::Escalated { child, cause: Box::new(cause) }, false);
            }
            Output::Stopped => {
                let leaves = self.lives[id].supervisor.as_mut().and_then(|supervisor| supervisor.leaves.take());
                let (reason, start_failed) = leaves.unwrap_or((ExitReason::Shutdown, false));
                self.depart(id, reason, start_failed);
            }
        }
    }

    /// Somebody is told to stop, and does so after a while, or has ended already and it will be heard.
    fn stop(&mut self, id: LifeId) {
        match self.lives[id].state {
            State::Starting => self.coverage.saw("told to stop while it starts"),
            State::Running => {}
            State::Stopping => {
                // A supervisor that ends by itself meanwhile.
                self.coverage.saw("told to stop while it ends");
                return;
            }
            State::Gone => return,
        }
        self.lives[id].state = State::Stopping;
        if self.lives[id].supervisor.is_some() {
            self.leave(id, ExitReason::Shutdown, false);
            return;
        }
        let is_slow = !self.is_quiet && self.rng.chance(20);
        let delay = self.rng.span(if is_slow { 3_000 } else { 10 });
        if is_slow {
            self.coverage.saw("slow to stop");
        }
        let panics = !self.is_quiet && self.rng.chance(10);
        let reason = if panics {
            self.coverage.saw("panics while it stops");
            ExitReason::Panicked(Panic { message: "while stopping".into(), location: None, backtrace: None })
        } else {
            ExitReason::Shutdown
        };
        self.agenda.after(delay, Event::Died(id, reason));
    }
}

/// Faults go on for so long.
const FAULTS_LAST: Duration = Duration::from_secs(20);
/// More events than any tree has had: a livelock.
const EVENTS_MAX: usize = 200_000;
