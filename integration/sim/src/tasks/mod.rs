//! Tasks on workers that die or are cut off, with lost, repeated and reordered messages.
//!
//! Plays the owner of the tasks, the workers and all that is between them. A worker that is *cut off* is taken for dead
//! while it goes on: what it says comes when another attempt stands for the task. An *audit* stands for the runtime's
//! sessions, which notice in the end that something was lost.

mod witness;

use std::time::Duration;

use mobula_logic::task::{self, End, Input, Output, Task, TaskSpec};
use mobula_logic::{Mutant, Violation};
use mobula_types::{Attempt, Deadline, Outcome, StateMachine, Time};

use crate::agenda::Agenda;
use crate::coverage::Coverage;
use crate::failure::{Failure, Steps, ensure};
use crate::rng::Rng;
use crate::world;
use witness::Witness;

/// Runs the tasks of `seed` to their end, with `mutant` planted in each.
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
    entries: Vec<Entry>,
    workers: Vec<Worker>,
    /// How often something goes wrong, in percent of the chances.
    fury: u64,
    is_quiet: bool,
    coverage: Coverage,
    steps: Steps,
}

type TaskIndex = usize;
type WorkerIndex = usize;

struct Entry {
    machine: Task,
    witness: Witness,
    /// Where the newest attempt was sent, and when.
    place: Option<(Place, Time)>,
    wakes_at: Option<Time>,
}

/// One life of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    worker: WorkerIndex,
    incarnation: u32,
}

#[derive(Default)]
struct Worker {
    incarnation: u32,
    /// It is taken for dead, and its words come late.
    cut_off_until: Option<Time>,
    running: Vec<(TaskIndex, Attempt)>,
}

#[derive(Debug)]
enum Event {
    /// A message to a task's owner arrives.
    Tell(TaskIndex, Input),
    /// An attempt arrives where it was sent.
    Arrive(TaskIndex, Attempt, Place),
    /// An attempt ends where it runs.
    Finish(TaskIndex, Attempt, Place),
    /// A worker is told to stop an attempt.
    Stop(TaskIndex, Attempt, Place),
    Crash(WorkerIndex),
    CutOff(WorkerIndex),
    Wake(TaskIndex),
    Audit,
    Quiet,
}

impl world::World for World {
    const NAME: &'static str = "tasks";

    fn new(seed: u64, mutant: Option<Mutant>, records: bool) -> Self {
        let mut rng = Rng::new(seed);
        let fury = *rng.pick(&[0, 10, 30, 60]);
        let workers = (0..1 + rng.below(4)).map(|_| Worker::default()).collect();
        Self {
            mutant,
            rng,
            agenda: Agenda::default(),
            entries: Vec::new(),
            workers,
            fury,
            is_quiet: false,
            coverage: Coverage::default(),
            steps: Steps::new(records),
        }
    }

    fn play(&mut self) -> Result<(), Violation> {
        for index in 0..5 + self.rng.below(15) as usize {
            self.submit(index);
        }
        for worker in 0..self.workers.len() {
            self.agenda.after(Duration::from_millis(200), Event::Crash(worker));
            self.agenda.after(Duration::from_millis(300), Event::CutOff(worker));
        }
        self.agenda.after(AUDIT_EVERY, Event::Audit);
        self.agenda.after(FAULTS_LAST, Event::Quiet);
        let mut events = 0;
        while let Some(event) = self.agenda.step() {
            events += 1;
            ensure(events < EVENTS_MAX, "TASK-1", || "it never comes to rest".into())?;
            let now = self.agenda.now();
            self.steps.note(now, || format!("{event:?}"));
            self.happen(event)?;
        }
        for (index, entry) in self.entries.iter().enumerate() {
            let outcome = entry.witness.outcome();
            ensure(outcome.is_some(), "TASK-1", || format!("task {index} has no outcome: {:?}", entry.witness))?;
        }
        Ok(())
    }

    fn end(self) -> (Time, Coverage, Steps) {
        (self.agenda.now(), self.coverage, self.steps)
    }
}

impl World {
    fn submit(&mut self, index: TaskIndex) {
        let deadline_ms = 1 + self.rng.below(20_000);
        let has_deadline = self.rng.chance(40);
        let spec = TaskSpec {
            system_max: if self.rng.chance(60) { 3 } else { self.rng.below(6) as u32 },
            application_max: if self.rng.chance(60) { 0 } else { self.rng.below(4) as u32 },
            at_most_once: self.rng.chance(25),
            deadline: if has_deadline { Deadline::at(ms(deadline_ms)) } else { Deadline::NEVER },
            priority: 0,
            seed: self.rng.number(),
        };
        let machine = self.mutant.into_iter().fold(Task::new(spec), Task::with_mutant);
        self.entries.push(Entry { machine, witness: Witness::new(spec), place: None, wakes_at: None });
        if has_deadline {
            self.agenda.at(ms(deadline_ms), Event::Wake(index));
        }
        let ready = if self.rng.chance(3) { Input::Unrunnable } else { Input::Ready };
        let delay = self.rng.span(5_000);
        self.agenda.after(delay, Event::Tell(index, ready));
        if self.rng.chance(10) {
            let delay = self.rng.span(15_000);
            self.agenda.after(delay, Event::Tell(index, Input::Cancel));
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Tell(index, input) => self.tell(index, input)?,
            Event::Wake(index) => self.tell(index, Input::Tick)?,
            Event::Arrive(index, attempt, place) => self.arrive(index, attempt, place)?,
            Event::Finish(index, attempt, place) => self.finish(index, attempt, place),
            Event::Stop(index, attempt, place) => {
                if self.is_alive(place) && self.rng.chance(50) {
                    self.coverage.saw("a run is stopped");
                    self.workers[place.worker].running.retain(|run| *run != (index, attempt));
                }
            }
            Event::Crash(worker) => self.crash(worker),
            Event::CutOff(worker) => self.cut_off(worker),
            Event::Audit => self.audit(),
            Event::Quiet => self.is_quiet = true,
        }
        Ok(())
    }

    /// The owner hears something: the task decides, and what it asks for is done.
    fn tell(&mut self, index: TaskIndex, input: Input) -> Result<(), Violation> {
        let now = self.agenda.now();
        let Entry { machine, witness, wakes_at, .. } = &mut self.entries[index];
        let (newest, in_flight, had_ended) = (machine.attempt(), witness.in_flight(), witness.outcome().is_some());
        if let Input::Finished { attempt, .. } = input
            && in_flight != Some(attempt)
        {
            self.coverage.saw(match newest == Some(attempt) {
                _ if had_ended => "result after the end",
                true => "result of a lost attempt",
                false => "result of a superseded attempt",
            });
        }
        witness.see_input(now, input);
        machine.handle(now, input);
        let mut outputs = Vec::new();
        while let Some(output) = machine.poll_output() {
            self.steps.note(now, || format!("  task {index} asks {output:?}"));
            witness.see_output(now, output)?;
            outputs.push(output);
        }
        witness.see_silence(now)?;
        task::check(machine)?;
        let timeout = machine.next_timeout();
        if let Some(at) = timeout.filter(|_| timeout != *wakes_at) {
            self.agenda.at(at, Event::Wake(index));
        }
        *wakes_at = timeout;
        outputs.into_iter().for_each(|output| self.perform(index, output));
        Ok(())
    }

    fn perform(&mut self, index: TaskIndex, output: Output) {
        match output {
            Output::Run { attempt } => {
                let worker = self.rng.below(self.workers.len() as u64) as usize;
                let place = Place { worker, incarnation: self.workers[worker].incarnation };
                self.entries[index].place = Some((place, self.agenda.now()));
                if attempt.0 > 1 {
                    self.coverage.saw("runs again");
                }
                let delay = self.rng.span(50);
                self.agenda.after(delay, Event::Arrive(index, attempt, place));
            }
            Output::CancelAttempt { attempt } => {
                if let Some((place, _)) = self.entries[index].place {
                    self.agenda.after(Duration::from_millis(5), Event::Stop(index, attempt, place));
                }
            }
            Output::Resolve { outcome, .. } => self.coverage.saw(match outcome {
                Outcome::Ok => "outcome ok",
                Outcome::Failed => "outcome failed",
                Outcome::NotStarted => "outcome not_started",
                Outcome::MayHaveRun => "outcome may_have_run",
                Outcome::Cancelled => "outcome cancelled",
                Outcome::DeadlineExceeded => "outcome deadline_exceeded",
            }),
        }
    }

    fn goes_wrong(&mut self, percent: u64) -> bool {
        !self.is_quiet && self.rng.below(100 * 100) < percent * self.fury
    }

    fn is_alive(&self, place: Place) -> bool {
        self.workers[place.worker].incarnation == place.incarnation
    }

    fn arrive(&mut self, index: TaskIndex, attempt: Attempt, place: Place) -> Result<(), Violation> {
        if !self.is_alive(place) {
            // Sent to a worker that died meanwhile; its owner hears of that.
            return Ok(());
        }
        if self.goes_wrong(20) {
            self.coverage.saw("turned away");
            self.send(index, Input::TurnedAway { attempt }, place);
            return Ok(());
        }
        self.entries[index].witness.see_begin(attempt)?;
        self.workers[place.worker].running.push((index, attempt));
        self.send(index, Input::Started { attempt }, place);
        let is_slow = self.rng.chance(20);
        let delay = self.rng.span(if is_slow { 6_000 } else { 300 });
        self.agenda.after(delay, Event::Finish(index, attempt, place));
        Ok(())
    }

    fn finish(&mut self, index: TaskIndex, attempt: Attempt, place: Place) {
        let running = &mut self.workers[place.worker].running;
        let Some(at) = running.iter().position(|run| *run == (index, attempt)) else { return };
        running.remove(at);
        let end = match self.rng.below(10) {
            0 => End::Panicked,
            1 => End::ApplicationError,
            2 if self.rng.chance(50) => End::Final,
            2 => End::ApplicationError,
            _ => End::Ok,
        };
        self.entries[index].witness.see_end(attempt, end);
        self.send(index, Input::Finished { attempt, end }, place);
    }

    /// A worker's message to an owner: late, twice, or never.
    fn send(&mut self, index: TaskIndex, input: Input, place: Place) {
        if self.goes_wrong(20) {
            self.coverage.saw("message is lost");
            return;
        }
        let late = self.workers[place.worker].cut_off_until.map_or(Duration::ZERO, |until| until - self.agenda.now());
        let copies = if self.goes_wrong(20) {
            self.coverage.saw("message comes twice");
            2
        } else {
            1
        };
        for _ in 0..copies {
            let delay = late + self.rng.span(if self.fury > 0 { 400 } else { 5 });
            self.agenda.after(delay, Event::Tell(index, input));
        }
    }

    /// A worker's process dies: of what ran in it one is to blame, the others stood by.
    fn crash(&mut self, worker: WorkerIndex) {
        let delay = self.rng.span(3_000);
        if !self.is_quiet {
            self.agenda.after(delay, Event::Crash(worker));
        }
        if !self.goes_wrong(100) {
            return;
        }
        self.coverage.saw("worker crashes");
        let place = Place { worker, incarnation: self.workers[worker].incarnation };
        let ran = std::mem::take(&mut self.workers[worker].running);
        let to_blame = (!ran.is_empty()).then(|| *self.rng.pick(&ran));
        self.workers[worker] = Worker { incarnation: place.incarnation + 1, ..Worker::default() };
        self.declare_lost(place, to_blame);
    }

    /// A worker is taken for dead while it goes on.
    fn cut_off(&mut self, worker: WorkerIndex) {
        let delay = self.rng.span(6_000);
        if !self.is_quiet {
            self.agenda.after(delay, Event::CutOff(worker));
        }
        if !self.goes_wrong(50) {
            return;
        }
        self.coverage.saw("worker is cut off");
        let heals = self.rng.span(3_000);
        self.workers[worker].cut_off_until = Some(self.agenda.now() + heals);
        let place = Place { worker, incarnation: self.workers[worker].incarnation };
        let to_blame = self.workers[worker].running.first().copied();
        self.declare_lost(place, to_blame);
    }

    /// The owners of what was sent to `place` hear that it is lost.
    fn declare_lost(&mut self, place: Place, to_blame: Option<(TaskIndex, Attempt)>) {
        let detection = self.rng.span(1_000);
        for index in 0..self.entries.len() {
            let entry = &self.entries[index];
            let Some(attempt) = entry.witness.in_flight() else { continue };
            if entry.place.is_none_or(|(sent_to, _)| sent_to != place) {
                continue;
            }
            let culprit = to_blame == Some((index, attempt));
            self.coverage.saw(if culprit { "culprit" } else { "bystander" });
            self.agenda.after(detection, Event::Tell(index, Input::SystemFailed { attempt, culprit }));
        }
    }

    /// What was sent long ago and runs nowhere is lost.
    fn audit(&mut self) {
        let now = self.agenda.now();
        let mut is_anything_open = false;
        for index in 0..self.entries.len() {
            let entry = &self.entries[index];
            is_anything_open |= entry.witness.outcome().is_none();
            let (Some(attempt), Some((place, sent))) = (entry.witness.in_flight(), entry.place) else { continue };
            let runs = self.is_alive(place) && self.workers[place.worker].running.contains(&(index, attempt));
            if entry.witness.outcome().is_none() && !runs && now.since(sent) > AUDIT_EVERY {
                self.coverage.saw("audit finds a loss");
                self.agenda.after(Duration::ZERO, Event::Tell(index, Input::SystemFailed { attempt, culprit: true }));
            }
        }
        if is_anything_open {
            self.agenda.after(AUDIT_EVERY, Event::Audit);
        }
    }
}

fn ms(millis: u64) -> Time {
    Time::ZERO + Duration::from_millis(millis)
}

/// Faults go on for so long.
const FAULTS_LAST: Duration = Duration::from_secs(30);
/// Longer than any message takes.
const AUDIT_EVERY: Duration = Duration::from_secs(5);
/// More events than any run has had: a livelock.
const EVENTS_MAX: usize = 100_000;
