//! Drivers and workers: what they submit, spawn, run and host, and how they talk to one another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mobula_logic::Violation;
use mobula_logic::dispatch::{self, Dispatch};
use mobula_logic::home::{self, Decides, Home};
use mobula_logic::scheduler::{RequestKey, StartId};
use mobula_logic::task::{End, TaskSpec};
use mobula_types::resources::{Amount, Request};
use mobula_types::{
    Attempt, Culprit, Deadline, Death, DeathCause, ExitReason, Incarnation, Intensity, JobId, LabelRule, LabelSelector,
    NodeId, PlacementSpec, PlacementStrategy, ProcessId, RestartPolicy, StateMachine, TaskId, Time,
};

use super::event::{ActorKey, Body, Event, HostIndex, Parcel, Word};
use super::{Phase, World};
use crate::rng::Rng;

/// A process that lives.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) job: JobId,
    /// The start that a worker is; none for a driver.
    pub(super) start: Option<StartId>,
    pub(super) dispatch: Dispatch,
    wakes_at: Option<Time>,
    pub(super) shapes: Vec<PlacementSpec>,
    /// What is asked of the node, and for whom.
    pub(super) requests: BTreeMap<u64, Purpose>,
    /// Requests taken back whose grants may still come, and for whom they were.
    taken_back: BTreeMap<u64, Purpose>,
    next_request: u64,
    next_task: u64,
    /// The tasks of the dispatch's keys.
    keys: BTreeMap<TaskId, usize>,
    pub(super) actors: Vec<Actor>,
    /// Nodes where something was lost.
    avoid: Vec<NodeId>,
    hosted: BTreeMap<ActorKey, Incarnation>,
    running: BTreeSet<(TaskId, Attempt)>,
    /// Tasks that were sent here and have not begun.
    queued: BTreeMap<(TaskId, Attempt), usize>,
    is_waiting: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The dispatch's request.
    Tasks(u64),
    Actor(usize),
}

/// An actor of which this process is the home.
#[derive(Debug)]
pub(super) struct Actor {
    pub(super) home: Home,
    wakes_at: Option<Time>,
    spec: PlacementSpec,
    /// Mail that waits for a place.
    held: VecDeque<u64>,
    told: u64,
    is_stopped: bool,
}

impl World {
    pub(super) fn start_driver(&mut self, host: HostIndex) {
        let Some(process) = self.hosts[host].node.and_then(|node| self.attach(node)) else { return };
        self.saw("driver starts");
        self.add_process(process, JobId(process.as_u64()), None);
        self.agenda.after(Duration::from_millis(1), Event::Act { process });
    }

    pub(super) fn add_process(&mut self, process: ProcessId, job: JobId, start: Option<StartId>) {
        let mut dispatch = self.plant(Dispatch::default(), Dispatch::with_mutant);
        dispatch.keep_apart(HALF, HALF_ALONE);
        if self.is_picky {
            self.saw("places retire");
            dispatch.retire_after(0, 2);
            dispatch.retire_after(HALF, 3);
        }
        let life = Process {
            job,
            start,
            dispatch,
            wakes_at: None,
            shapes: shapes(),
            requests: BTreeMap::new(),
            taken_back: BTreeMap::new(),
            next_request: 0,
            next_task: 0,
            keys: BTreeMap::new(),
            actors: Vec::new(),
            avoid: Vec::new(),
            hosted: BTreeMap::new(),
            running: BTreeSet::new(),
            queued: BTreeMap::new(),
            is_waiting: false,
        };
        self.processes.insert(process, life);
    }

    pub(super) fn start_of(&self, process: ProcessId) -> StartId {
        self.processes.get(&process).and_then(|process| process.start).unwrap_or(StartId(0))
    }

    /// Something arrives inside a host: words between two processes arrive in the order in which they were sent.
    pub(super) fn word(&mut self, from: ProcessId, to: ProcessId, word: Word) {
        let is_slow = self.goes_wrong(5);
        let delay = match is_slow {
            true => self.rng.span(100),
            false => Duration::from_micros(10 + self.rng.below(200)),
        };
        let last = self.fifo.entry((from, to)).or_default();
        let at = (self.agenda.now() + delay).max(*last);
        *last = at;
        self.agenda.at(at, Event::Word { from, to, word });
    }

    fn tell_node(&mut self, process: ProcessId, word: Word) {
        self.word(process, ProcessId::from(process.node()), word);
    }

    /// The next words of a process to another are late.
    fn hold_up(&mut self, from: ProcessId, to: ProcessId) {
        let hop = if from.node() == to.node() { to } else { ProcessId::from(from.node()) };
        let until = self.agenda.now() + self.rng.span(500);
        let last = self.fifo.entry((from, hop)).or_default();
        *last = until.max(*last);
    }

    fn send_parcel(&mut self, from: ProcessId, to: ProcessId, body: Body) {
        let word = Word::Parcel(Parcel { from, to, body });
        match from.node() == to.node() {
            true => self.word(from, to, word),
            false => self.tell_node(from, word),
        }
    }

    pub(super) fn hear_word(&mut self, from: ProcessId, to: ProcessId, word: Word) -> Result<(), Violation> {
        if to.number() == 0 {
            return self.hear_attached(to.node(), from, word);
        }
        if !self.processes.contains_key(&to) {
            if let (Word::Parcel(_), Some(death)) = (word, self.deaths.get(&to).cloned()) {
                // The socket refuses, and the node says why.
                self.saw("word for a dead process");
                self.word(ProcessId::from(from.node()), from, Word::Died(death));
            }
            return Ok(());
        }
        match word {
            Word::Granted { number, lease, process } => {
                let Some(life) = self.processes.get_mut(&to) else { return Ok(()) };
                match life.requests.remove(&number) {
                    Some(Purpose::Tasks(request)) => {
                        self.tell_dispatch(to, dispatch::Input::Granted { request, lease, process })
                    }
                    Some(Purpose::Actor(actor)) => self.tell_home((to, actor), home::Input::Granted { lease, process }),
                    None => match life.taken_back.remove(&number) {
                        Some(Purpose::Tasks(_)) => {
                            self.saw("grant crosses its taking back");
                            self.tell_node(to, Word::Return { lease });
                            Ok(())
                        }
                        Some(Purpose::Actor(actor)) => {
                            self.saw("a place comes for an actor that is over");
                            self.tell_home((to, actor), home::Input::Granted { lease, process })
                        }
                        None => Err(Violation {
                            invariant: "SCHED-4",
                            seen: format!("request {number} of {to} is answered twice, with {lease}"),
                        }),
                    },
                }
            }
            Word::NoPlace { number, for_ever } => {
                let Some(life) = self.processes.get_mut(&to) else { return Ok(()) };
                match life.requests.remove(&number) {
                    Some(Purpose::Tasks(request)) => {
                        self.tell_dispatch(to, dispatch::Input::NoPlace { request, for_ever })
                    }
                    Some(Purpose::Actor(actor)) => {
                        let death = Box::new(Death::of(to, DeathCause::NotStarted { message: "no place".into() }));
                        let reason = ExitReason::ProcessDied(death);
                        self.tell_home((to, actor), home::Input::NoPlace { reason })
                    }
                    None => Ok(()),
                }
            }
            Word::Recalled { lease } => {
                let Some(life) = self.processes.get(&to) else { return Ok(()) };
                let has_it = |actor: &Actor| actor.home.host().is_some_and(|(held, _)| held == lease);
                match life.actors.iter().position(has_it) {
                    Some(actor) => self.tell_home((to, actor), home::Input::Recalled { lease }),
                    None => self.tell_dispatch(to, dispatch::Input::Recalled { lease }),
                }
            }
            Word::Died(death) => self.hear_death(to, death),
            Word::Parcel(parcel) => self.open(to, parcel),
            _ => Ok(()),
        }
    }

    fn hear_death(&mut self, process: ProcessId, death: Death) -> Result<(), Violation> {
        let Some(life) = self.processes.get_mut(&process) else { return Ok(()) };
        // Children end with their parent.
        life.hosted.retain(|(home, _), _| !home::concerns(&death, *home));
        if death.process.number() == 0 && !life.avoid.contains(&death.process.node()) {
            life.avoid.push(death.process.node());
        }
        let culprits = death.culprits.iter().filter_map(|culprit| match culprit {
            Culprit::Task(task) => Some(*task),
            Culprit::Actor(_) | Culprit::Message(..) => None,
        });
        let culprits = (death.process.number() != 0).then(|| culprits.collect());
        for actor in 0..life.actors.len() {
            let culprit = death.culprits.iter().any(
                |culprit| matches!(culprit, Culprit::Actor(id) if id.process == process && id.slot as usize == actor),
            );
            let input = home::Input::ProcessDied { death: Box::new(death.clone()), culprit };
            self.tell_home((process, actor), input)?;
        }
        self.tell_dispatch(process, dispatch::Input::ProcessDied { process: death.process, culprits })
    }

    /// A parcel arrives at its process.
    fn open(&mut self, process: ProcessId, parcel: Parcel) -> Result<(), Violation> {
        let from = parcel.from;
        let turns_away = self.goes_wrong(10);
        let Some(life) = self.processes.get_mut(&process) else { return Ok(()) };
        match parcel.body {
            Body::Run { key, task, attempt } => {
                if turns_away {
                    self.saw("task is turned away");
                    self.send_parcel(process, from, Body::TurnedAway { key, task, attempt });
                    return Ok(());
                }
                if self.drained.contains(&process.node()) {
                    self.saw("task is handed back");
                    self.send_parcel(process, from, Body::Withdrawn { key, task, attempt });
                    return Ok(());
                }
                if self.rng.chance(20) {
                    life.queued.insert((task, attempt), key);
                    let delay = self.rng.span(300);
                    self.agenda.after(delay, Event::RunBegins { process, task, attempt });
                    return Ok(());
                }
                self.begin_run(process, task, attempt)
            }
            Body::AskBack { key, task, attempt } => {
                if life.queued.remove(&(task, attempt)).is_some() {
                    self.saw("task is handed back before it began");
                    self.send_parcel(process, from, Body::HandedBack { key, task, attempt });
                }
                Ok(())
            }
            Body::Cancel { task, attempt } => {
                if life.running.remove(&(task, attempt)) || life.queued.remove(&(task, attempt)).is_some() {
                    self.saw("run is stopped");
                }
                Ok(())
            }
            Body::Done { key, task, attempt, end, .. } => {
                if life.dispatch.task(key) != Some(task) {
                    self.saw("result after the end");
                    return Ok(());
                }
                self.witness.leaves(task, attempt);
                self.tell_dispatch(process, dispatch::Input::Finished { key, attempt, end })
            }
            Body::TurnedAway { key, task, attempt } if life.dispatch.task(key) == Some(task) => {
                self.witness.leaves(task, attempt);
                self.tell_dispatch(process, dispatch::Input::TurnedAway { key, attempt })
            }
            Body::Withdrawn { key, task, attempt } if life.dispatch.task(key) == Some(task) => {
                self.witness.leaves(task, attempt);
                self.tell_dispatch(process, dispatch::Input::Withdrawn { key, attempt })
            }
            Body::HandedBack { key, task, attempt } if life.dispatch.task(key) == Some(task) => {
                self.witness.leaves(task, attempt);
                self.tell_dispatch(process, dispatch::Input::HandedBack { key, attempt })
            }
            Body::Spawn { actor, incarnation } => {
                self.witness.spawned(actor, incarnation)?;
                let fails = self.goes_wrong(3);
                if fails {
                    self.saw("constructor fails");
                    let reason = ExitReason::Normal;
                    self.send_parcel(process, from, Body::Ended { actor, incarnation, reason });
                    return Ok(());
                }
                life_hosts(&mut self.processes, process, actor, incarnation);
                if self.goes_wrong(10) {
                    self.hold_up(process, from);
                    if self.rng.chance(10) {
                        self.drain(process.node())?;
                    }
                }
                self.send_parcel(process, from, Body::Started { actor, incarnation });
                if self.goes_wrong(10) {
                    let delay = self.rng.span(3_000);
                    self.agenda.after(delay, Event::ActorEnds { process, actor, incarnation });
                }
                Ok(())
            }
            Body::Tell { actor, incarnation, number } => {
                if life.hosted.get(&actor) == Some(&incarnation) {
                    self.saw("actor hears");
                    return self.witness.told(actor, incarnation, number);
                }
                self.saw("mail for a life that is over");
                Ok(())
            }
            Body::Stop { actor } => {
                if let Some(incarnation) = life.hosted.remove(&actor) {
                    let reason = ExitReason::Shutdown;
                    self.send_parcel(process, from, Body::Ended { actor, incarnation, reason });
                }
                Ok(())
            }
            Body::Leave { actor } => {
                if let Some(incarnation) = life.hosted.remove(&actor) {
                    self.saw("actor leaves its place");
                    let reason = ExitReason::Moved;
                    self.send_parcel(process, from, Body::Ended { actor, incarnation, reason });
                }
                Ok(())
            }
            Body::Started { actor, incarnation } => self.tell_home(actor, home::Input::Started { incarnation }),
            Body::Ended { actor, incarnation, reason } => {
                let now_lives = life.actors.get(actor.1).and_then(|actor| actor.home.place());
                if now_lives.is_none_or(|(_, now_lives)| now_lives != incarnation) {
                    self.saw("word of an earlier life");
                }
                self.tell_home(actor, home::Input::Ended { incarnation, reason })
            }
            Body::TurnedAway { .. } | Body::Withdrawn { .. } | Body::HandedBack { .. } => Ok(()),
        }
    }

    /// What was sent here some time ago has its turn, if it was not taken away meanwhile.
    pub(super) fn run_begins(&mut self, process: ProcessId, task: TaskId, attempt: Attempt) -> Result<(), Violation> {
        let Some(life) = self.processes.get_mut(&process) else { return Ok(()) };
        let Some(key) = life.queued.remove(&(task, attempt)) else { return Ok(()) };
        if self.drained.contains(&process.node()) {
            self.saw("task is handed back");
            self.send_parcel(process, task.process, Body::Withdrawn { key, task, attempt });
            return Ok(());
        }
        self.begin_run(process, task, attempt)
    }

    fn begin_run(&mut self, process: ProcessId, task: TaskId, attempt: Attempt) -> Result<(), Violation> {
        let Some(life) = self.processes.get_mut(&process) else { return Ok(()) };
        life.running.insert((task, attempt));
        let is_slow = self.rng.chance(10);
        if is_slow && self.lends && self.rng.chance(30) && !self.processes[&process].is_waiting {
            self.saw("worker waits");
            self.tell_node(process, Word::Waiting { halves: 2 });
            self.processes.entry(process).and_modify(|life| life.is_waiting = true);
        }
        self.witness.begins(task, attempt, process)?;
        let delay = self.rng.span(if is_slow { 1_500 } else { 60 });
        self.agenda.after(delay, Event::RunEnds { process, task, attempt });
        self.nest(process)
    }

    pub(super) fn run_ends(&mut self, process: ProcessId, task: TaskId, attempt: Attempt) {
        let Some(life) = self.processes.get_mut(&process) else { return };
        if std::mem::take(&mut life.is_waiting) {
            self.tell_node(process, Word::Waiting { halves: 0 });
        }
        let Some(life) = self.processes.get_mut(&process) else { return };
        if !life.running.remove(&(task, attempt)) {
            return;
        }
        let end = match self.rng.below(12) {
            0 => End::Panicked,
            1 => End::ApplicationError,
            _ => End::Ok,
        };
        self.witness.ends(task, attempt, end);
        // The submitter finds its key by the task's name.
        let submitter = task.process;
        let key = self.processes.get(&submitter).and_then(|life| life.keys.get(&task)).copied();
        let is_large = self.rng.chance(5);
        let body = Body::Done { key: key.unwrap_or(0), task, attempt, end, is_large };
        self.send_parcel(process, submitter, body.clone());
        if self.goes_wrong(5) {
            self.saw("result comes twice");
            self.send_parcel(process, submitter, body);
        }
    }

    pub(super) fn actor_ends(&mut self, process: ProcessId, actor: ActorKey, incarnation: Incarnation) {
        let Some(life) = self.processes.get_mut(&process) else { return };
        if life.hosted.get(&actor) == Some(&incarnation) {
            life.hosted.remove(&actor);
            self.saw("actor ends by itself");
            let reason = ExitReason::Normal;
            self.send_parcel(process, actor.0, Body::Ended { actor, incarnation, reason });
        }
    }

    pub(super) fn tell_dispatch(&mut self, process: ProcessId, input: dispatch::Input) -> Result<(), Violation> {
        let now = self.local(process.node());
        let Some(life) = self.processes.get_mut(&process) else { return Ok(()) };
        life.dispatch.handle(now, input);
        self.drain_dispatch(process)
    }

    fn drain_dispatch(&mut self, process: ProcessId) -> Result<(), Violation> {
        if self.mutant.is_some() {
            self.processes.get(&process).map_or(Ok(()), |life| dispatch::check(&life.dispatch))?;
        }
        let now = self.agenda.now();
        while let Some(life) = self.processes.get_mut(&process) {
            let Some(output) = life.dispatch.poll_output() else { break };
            self.steps.note(now, || format!("  {process}'s dispatch asks {output:?}"));
            match output {
                dispatch::Output::AskLease { request, shape } => {
                    let spec = life.shapes[shape].clone();
                    self.ask_place(process, Purpose::Tasks(request), spec);
                }
                dispatch::Output::TakeBack { request } => self.take_back(process, Purpose::Tasks(request)),
                dispatch::Output::ReturnLease { lease } => self.tell_node(process, Word::Return { lease }),
                dispatch::Output::Send { key, attempt, lease, process: to } => {
                    let Some(task) = life.dispatch.task(key) else { continue };
                    self.witness.sent_run(task, attempt, lease)?;
                    self.send_parcel(process, to, Body::Run { key, task, attempt });
                }
                dispatch::Output::CancelAttempt { key, attempt, process: to } => {
                    let task = life.keys.iter().find(|(_, known)| **known == key).map(|(task, _)| *task);
                    if let Some(task) = task {
                        self.send_parcel(process, to, Body::Cancel { task, attempt });
                    }
                }
                dispatch::Output::AskBack { key, attempt, process: to } => {
                    let Some(task) = life.dispatch.task(key) else { continue };
                    self.saw("task is asked back");
                    self.send_parcel(process, to, Body::AskBack { key, task, attempt });
                }
                dispatch::Output::Resolve { key, outcome, attempt } => {
                    let task = life.keys.iter().find(|(_, known)| **known == key).map(|(task, _)| *task);
                    let Some(task) = task else {
                        return Err(Violation { invariant: "TASK-1", seen: format!("key {key} ends twice") });
                    };
                    life.keys.remove(&task);
                    self.saw(outcome_name(outcome));
                    let now = self.local(process.node());
                    self.witness.resolved(now, task, outcome, attempt)?;
                }
            }
        }
        let Some(life) = self.processes.get(&process) else { return Ok(()) };
        let due = life.dispatch.next_timeout().map(|at| self.real(process.node(), at));
        let Some(life) = self.processes.get_mut(&process) else { return Ok(()) };
        if let Some(at) = super::earlier(&mut life.wakes_at, due) {
            self.agenda.at(at, Event::ProcessTick { process });
        }
        Ok(())
    }

    pub(super) fn process_tick(&mut self, process: ProcessId) -> Result<(), Violation> {
        let now = self.agenda.now();
        let Some(life) = self.processes.get_mut(&process) else { return Ok(()) };
        if life.wakes_at.take_if(|at| *at <= now).is_none() {
            return Ok(());
        }
        self.tell_dispatch(process, dispatch::Input::Tick)
    }

    fn ask_place(&mut self, process: ProcessId, purpose: Purpose, spec: PlacementSpec) {
        let Some(life) = self.processes.get_mut(&process) else { return };
        life.next_request += 1;
        let number = life.next_request;
        life.requests.insert(number, purpose);
        let avoid = life.avoid.clone();
        let is_for_actor = matches!(purpose, Purpose::Actor(_));
        self.witness.asked(RequestKey { holder: process, number }, &spec, is_for_actor);
        self.tell_node(process, Word::Lease { number, spec, avoid, lives_on: is_for_actor });
    }

    fn take_back(&mut self, process: ProcessId, purpose: Purpose) {
        let Some(life) = self.processes.get_mut(&process) else { return };
        let number = life.requests.iter().find(|(_, known)| **known == purpose).map(|(number, _)| *number);
        let Some(number) = number else { return };
        life.requests.remove(&number);
        life.taken_back.insert(number, purpose);
        self.saw("request is taken back");
        self.tell_node(process, Word::TakeBack { number });
    }

    pub(super) fn tell_home(&mut self, actor: ActorKey, input: home::Input) -> Result<(), Violation> {
        let (process, index) = actor;
        let now = self.local(process.node());
        let Some(entry) = self.processes.get_mut(&process).and_then(|life| life.actors.get_mut(index)) else {
            return Ok(());
        };
        if let home::Input::ProcessDied { death, .. } = &input
            && entry.home.place().is_some_and(|(at, _)| home::concerns(death, at))
        {
            self.saw("actor's process dies");
        }
        let entry = &mut self.processes.get_mut(&process).expect("it was just there").actors[index];
        let hears = match &input {
            home::Input::Ended { incarnation, .. } => {
                self.witness.left(actor, Some(*incarnation));
                Some(*incarnation)
            }
            home::Input::ProcessDied { death, .. }
                if entry.home.host().is_some_and(|(_, at)| home::concerns(death, at)) =>
            {
                self.witness.left(actor, None);
                None
            }
            _ => None,
        };
        entry.home.handle(now, input);
        self.drain_home(actor, hears)
    }

    fn drain_home(&mut self, actor: ActorKey, hears: Option<Incarnation>) -> Result<(), Violation> {
        let (process, index) = actor;
        let real = self.agenda.now();
        loop {
            let Some(entry) = self.processes.get_mut(&process).and_then(|life| life.actors.get_mut(index)) else {
                return Ok(());
            };
            let Some(output) = entry.home.poll_output() else { break };
            self.steps.note(real, || format!("  the home of {actor:?} asks {output:?}"));
            match output {
                home::Output::AskPlace => {
                    let spec = entry.spec.clone();
                    self.ask_place(process, Purpose::Actor(index), spec);
                    if self.goes_wrong(3) {
                        let delay = self.rng.span(60);
                        self.agenda.after(delay, Event::StopActor { actor });
                    }
                }
                home::Output::TakeBackPlace => self.take_back(process, Purpose::Actor(index)),
                home::Output::ReturnLease { lease } => self.tell_node(process, Word::Return { lease }),
                home::Output::Spawn { process: to, incarnation, .. } => {
                    let held = std::mem::take(&mut entry.held);
                    self.witness.home_spawns(actor, incarnation)?;
                    self.saw(if incarnation > Incarnation(1) { "actor starts again" } else { "actor starts" });
                    self.send_parcel(process, to, Body::Spawn { actor, incarnation });
                    for number in held {
                        self.send_parcel(process, to, Body::Tell { actor, incarnation, number });
                    }
                }
                home::Output::Leave { process: to } => {
                    self.witness.is_to_leave(actor);
                    self.send_parcel(process, to, Body::Leave { actor });
                    let delay = self.rng.span(5);
                    if self.goes_wrong(30) {
                        self.agenda.after(delay, Event::StopActor { actor });
                    } else if self.goes_wrong(30) {
                        let cause = DeathCause::Signal { signal: 9 };
                        self.agenda.after(delay, Event::Dies { process: to, cause });
                    }
                }
                home::Output::Hold { asks_supervisor, .. } => {
                    if self.goes_wrong(10) {
                        let delay = self.rng.span(100);
                        self.agenda.after(delay, Event::StopActor { actor });
                    }
                    if asks_supervisor {
                        self.saw("supervisor decides");
                        let delay = self.rng.span(200);
                        self.agenda.after(delay, Event::Restart { actor });
                    }
                }
                home::Output::End { gave_up, .. } => {
                    self.saw(if gave_up { "actor is given up" } else { "actor has ended" });
                    self.witness.home_ends(actor, hears)?;
                }
            }
        }
        let Some(life) = self.processes.get(&process) else { return Ok(()) };
        let due = life.actors[index].home.next_timeout().map(|at| self.real(process.node(), at));
        let Some(life) = self.processes.get_mut(&process) else { return Ok(()) };
        if let Some(at) = super::earlier(&mut life.actors[index].wakes_at, due) {
            self.agenda.at(at, Event::ActorTick { actor });
        }
        Ok(())
    }

    pub(super) fn actor_tick(&mut self, actor: ActorKey) -> Result<(), Violation> {
        let now = self.agenda.now();
        let entry = self.processes.get_mut(&actor.0).and_then(|life| life.actors.get_mut(actor.1));
        if entry.is_none_or(|entry| entry.wakes_at.take_if(|at| *at <= now).is_none()) {
            return Ok(());
        }
        self.tell_home(actor, home::Input::Tick)
    }

    /// A driver's program goes on.
    pub(super) fn act(&mut self, process: ProcessId) -> Result<(), Violation> {
        if self.phase != Phase::Faults || !self.processes.contains_key(&process) {
            return Ok(());
        }
        let delay = Duration::from_millis(20) + self.rng.span(150);
        self.agenda.after(delay, Event::Act { process });
        match self.rng.below(10) {
            0..=3 => {
                for _ in 0..1 + self.rng.below(4) {
                    self.submit(process)?;
                }
                Ok(())
            }
            4 => {
                let count = if self.rng.chance(10) { 80 } else { 6 };
                for _ in 0..count {
                    self.submit_shape(process, 1, TaskSpec::default())?;
                }
                Ok(())
            }
            5 => self.spawn(process),
            6 => {
                let Some(key) = self.processes[&process].keys.values().next().copied() else { return Ok(()) };
                let is_forced = self.is_picky;
                self.saw(if is_forced { "task is ended by force" } else { "task is cancelled" });
                let input = if is_forced { dispatch::Input::Force { key } } else { dispatch::Input::Cancel { key } };
                self.tell_dispatch(process, input)
            }
            7 if self.rng.chance(30) => self.stop_actor(process),
            _ => {
                self.tell_actors(process);
                Ok(())
            }
        }
    }

    fn submit(&mut self, process: ProcessId) -> Result<(), Violation> {
        let node = NodeId(1 + self.rng.below(self.head.last));
        let Some(life) = self.processes.get_mut(&process) else { return Ok(()) };
        let mut shape = self.rng.below(SHAPES) as usize;
        if self.rng.chance(8) {
            shape = life.shapes.len();
            let strategy = PlacementStrategy::Node { node };
            life.shapes.push(PlacementSpec { strategy, ..cpus(1.0) });
        }
        let now = self.local(process.node());
        let is_impossible = shape == IMPOSSIBLE;
        let left = Duration::from_millis(200) + self.rng.span(3_000);
        let spec = TaskSpec {
            system_max: if self.rng.chance(60) { 3 } else { self.rng.below(6) as u32 },
            application_max: if self.rng.chance(60) { 0 } else { self.rng.below(3) as u32 },
            at_most_once: self.rng.chance(20),
            deadline: if is_impossible || self.rng.chance(20) { Deadline::at(now + left) } else { Deadline::NEVER },
            priority: 0,
            seed: self.rng.number(),
        };
        self.submit_shape(process, shape, spec)
    }

    pub(super) fn submit_shape(&mut self, process: ProcessId, shape: usize, spec: TaskSpec) -> Result<(), Violation> {
        let now = self.local(process.node());
        let Some(life) = self.processes.get_mut(&process) else { return Ok(()) };
        life.next_task += 1;
        let task = TaskId { process, seq: life.next_task };
        self.witness.submitted(task, spec);
        let key = life.dispatch.submit(now, task, shape, spec);
        life.keys.insert(task, key);
        self.drain_dispatch(process)
    }

    fn spawn(&mut self, process: ProcessId) -> Result<(), Violation> {
        let decides = match self.rng.below(4) {
            0 => Decides::Supervisor,
            1 => Decides::Policy(RestartPolicy::temporary()),
            _ => {
                let restarts_max = self.rng.below(4) as u32;
                let intensity = Intensity { restarts_max, ..Intensity::default() };
                Decides::Policy(RestartPolicy { intensity, ..RestartPolicy::default() })
            }
        };
        let spec = actor_spec(&mut self.rng);
        let home = self.plant(Home::new(decides), Home::with_mutant);
        let Some(life) = self.processes.get_mut(&process) else { return Ok(()) };
        if life.actors.len() >= ACTORS_MAX {
            return Ok(());
        }
        let index = life.actors.len();
        let actor = Actor { home, wakes_at: None, spec, held: VecDeque::new(), told: 0, is_stopped: false };
        life.actors.push(actor);
        self.drain_home((process, index), None)
    }

    fn tell_actors(&mut self, process: ProcessId) {
        let count = self.processes.get(&process).map_or(0, |life| life.actors.len());
        for index in 0..count {
            for _ in 0..1 + self.rng.below(3) {
                let Some(life) = self.processes.get_mut(&process) else { return };
                let actor = &mut life.actors[index];
                if actor.home.has_ended() {
                    continue;
                }
                actor.told += 1;
                let number = actor.told;
                match actor.home.place() {
                    Some((to, incarnation)) => {
                        let actor = (process, index);
                        self.send_parcel(process, to, Body::Tell { actor, incarnation, number });
                    }
                    None => actor.held.push_back(number),
                }
            }
        }
    }

    /// What runs in a worker submits and spawns now and then.
    fn nest(&mut self, process: ProcessId) -> Result<(), Violation> {
        if self.phase != Phase::Faults || !self.rng.chance(3) {
            return Ok(());
        }
        self.saw("worker submits");
        for _ in 0..1 + self.rng.below(2) {
            self.submit(process)?;
        }
        if self.rng.chance(30) { self.spawn(process) } else { Ok(()) }
    }

    fn stop_actor(&mut self, process: ProcessId) -> Result<(), Violation> {
        let count = self.processes.get(&process).map_or(0, |life| life.actors.len());
        if count == 0 {
            return Ok(());
        }
        let index = self.rng.below(count as u64) as usize;
        self.stop((process, index))
    }

    /// Tells an actor to stop, wherever it is.
    pub(super) fn stop(&mut self, actor: ActorKey) -> Result<(), Violation> {
        let (process, index) = actor;
        let Some(entry) = self.processes.get_mut(&process).and_then(|life| life.actors.get_mut(index)) else {
            return Ok(());
        };
        if entry.is_stopped || entry.home.has_ended() {
            return Ok(());
        }
        entry.is_stopped = true;
        let place = entry.home.place();
        self.saw("actor is told to stop");
        self.tell_home(actor, home::Input::Stop { reason: ExitReason::Shutdown })?;
        if let Some((to, _)) = place {
            self.send_parcel(process, to, Body::Stop { actor });
        }
        Ok(())
    }

    /// A process ends by a signal or because it was told to.
    pub(super) fn dies(&mut self, process: ProcessId, cause: DeathCause) -> Result<(), Violation> {
        let Some(life) = self.processes.remove(&process) else { return Ok(()) };
        let mut death = Death::of(process, cause);
        let running: Vec<TaskId> = life.running.iter().map(|(task, _)| *task).collect();
        let hosted: Vec<ActorKey> = life.hosted.keys().copied().collect();
        if death.cause != DeathCause::JobStopped {
            if !running.is_empty() && self.rng.chance(80) {
                death.culprits.push(Culprit::Task(*self.rng.pick(&running)));
            } else if !hosted.is_empty() {
                let (process, index) = *self.rng.pick(&hosted);
                let slot = index as u32;
                death.culprits.push(Culprit::Actor(mobula_types::ActorId { process, slot, generation: 0 }));
            }
        }
        for (actor, incarnation) in life.hosted {
            if self.goes_wrong(30) {
                // It had said so before it died, and the word is still on its way.
                self.saw("last words of a life");
                let body = Body::Ended { actor, incarnation, reason: ExitReason::Normal };
                let word = Word::Parcel(Parcel { from: process, to: actor.0, body });
                let delay = self.rng.span(1_000);
                self.agenda.after(delay, Event::Word { from: process, to: actor.0, word });
            }
        }
        self.witness.process_died(process);
        self.deaths.insert(process, death.clone());
        self.process_died(process, &death, life.start.is_none().then_some(life.job))
    }

    /// The worker that a fault strikes; none when there is none.
    pub(super) fn some_process(&mut self, is_driver: bool) -> Option<ProcessId> {
        let of_kind = |life: &Process| life.start.is_none() == is_driver;
        let found: Vec<ProcessId> =
            self.processes.iter().filter(|(_, life)| of_kind(life)).map(|(process, _)| *process).collect();
        (!found.is_empty()).then(|| *self.rng.pick(&found))
    }
}

fn life_hosts(
    processes: &mut BTreeMap<ProcessId, Process>,
    process: ProcessId,
    actor: ActorKey,
    incarnation: Incarnation,
) {
    if let Some(life) = processes.get_mut(&process) {
        life.hosted.insert(actor, incarnation);
    }
}

fn outcome_name(outcome: mobula_types::Outcome) -> &'static str {
    match outcome {
        mobula_types::Outcome::Ok => "outcome ok",
        mobula_types::Outcome::Failed => "outcome failed",
        mobula_types::Outcome::NotStarted => "outcome not_started",
        mobula_types::Outcome::MayHaveRun => "outcome may_have_run",
        mobula_types::Outcome::Cancelled => "outcome cancelled",
        mobula_types::Outcome::DeadlineExceeded => "outcome deadline_exceeded",
    }
}

pub(super) fn cpus(count: f64) -> PlacementSpec {
    let request = Request { cpus: Amount::new(count).expect("it is a number"), ..Request::default() };
    PlacementSpec { request, ..PlacementSpec::default() }
}

pub(super) fn gpus(count: f64) -> PlacementSpec {
    let request = Request { gpus: Amount::new(count).expect("it is a number"), ..Request::default() };
    PlacementSpec { request, ..PlacementSpec::default() }
}

/// What tasks ask for.
fn shapes() -> Vec<PlacementSpec> {
    let labels: LabelSelector = LabelRule::equal("zone", "b").into();
    let mut memory = cpus(0.5);
    memory.request.add("memory", Amount::whole(3));
    vec![
        cpus(1.0),
        cpus(0.5),
        cpus(2.0),
        PlacementSpec { strategy: PlacementStrategy::Spread, ..cpus(1.0) },
        PlacementSpec { strategy: PlacementStrategy::Pack, ..cpus(1.0) },
        gpus(0.5),
        gpus(1.0),
        PlacementSpec { labels, ..cpus(0.5) },
        PlacementSpec { isolated: true, ..cpus(0.5) },
        memory,
        cpus(64.0),
    ]
}

const SHAPES: u64 = 11;
/// No node ever has so much.
const IMPOSSIBLE: usize = 10;
/// Half a CPU, and the same in a process of its own.
const HALF: usize = 1;
const HALF_ALONE: usize = 8;

/// What an actor asks for: most take nothing, so that they are in nobody's way.
fn actor_spec(rng: &mut Rng) -> PlacementSpec {
    match rng.below(8) {
        0 => PlacementSpec { isolated: true, ..PlacementSpec::default() },
        1 => cpus(0.1),
        2..=4 => PlacementSpec { strategy: PlacementStrategy::Spread, ..PlacementSpec::default() },
        _ => PlacementSpec::default(),
    }
}

/// Actors of one driver.
const ACTORS_MAX: usize = 6;
