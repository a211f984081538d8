//! Calls and control messages to actors that live elsewhere.
//!
//! ```text
//!             first mail            its home says where
//!  (unknown) ────────────► Asking ───────────────────────► At(process) ── its process died ──► Asking, or as its home says
//!                            │ its home says that it has ended, or has ended itself
//!                            ▼
//!                          Ended
//!
//! At(process) ── its home says that it is to move ──► Settling(process) ── all that was sent there has arrived ──► Asking
//! ```
//!
//! Mail is held while it is not known where its actor is, and while the actor's process has not said that earlier mail
//! has left the mailbox ([`mobula_logic::credit`]). Watches are remembered here: whoever watches an actor is told of the death of its
//! process by its own.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use mobula_actor::deliver::{EncodedReply, Outgoing, refuse};
use mobula_actor::{Control, Down};
use mobula_logic::credit::{OnTheWay, Window};
use mobula_types::{ActorId, CallError, Death, ExitReason, Incarnation, NotStarted, ProcessId};
use mobula_wire::{ExchangeId, Parcel, Talk};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::exchanges::Waiting;
use super::large::ours;
use super::outboxes::Round;
use super::process::Process;

/// Mail that may be held for one actor by senders that do not wait.
const HELD_MAX: usize = 65_536;
/// A home that names a place which is gone is asked again after this time; nodes hear of deaths within milliseconds.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// So often the head is asked again, for a second and more, before it is believed.
const DOUBTS_MAX: u32 = 50;
/// Those that watch an actor whose process has ended are told so once, when its home has said whether it comes back; if it
/// has not after this time, it waits to be started again.
const FATE_MAX: Duration = Duration::from_millis(500);
/// Actors whose place is remembered; beyond that, those with nothing under way are asked for again when they are used.
const TARGETS_MAX: usize = 65_536;

/// Where the actors are that live elsewhere, and what is on its way to them.
#[derive(Default)]
pub(crate) struct Targets {
    table: Mutex<HashMap<ActorId, Target>>,
}

impl Targets {
    /// Whether something that was sent has not left, for want of a place or of credit.
    pub(crate) fn hold_mail(&self) -> bool {
        self.table.lock().values().any(|target| !target.held.is_empty())
    }
}

#[derive(Default)]
struct Target {
    place: Place,
    /// The latest life of it that is known here.
    life: Incarnation,
    /// How often in a row its home has said that it is where nothing is, as far as is known here.
    doubts: u32,
    held: VecDeque<Held>,
    window: Window,
    on_the_way: OnTheWay,
    /// Whether its home has been asked whether it lives.
    is_asked: bool,
    /// It has ended where it was, as its process says; its home tells the watchers.
    refused: Option<ExitReason>,
    /// Its process has ended, and its home has not said what follows.
    death: Option<Ended>,
    watchers: Vec<ActorId>,
    links: Vec<ActorId>,
    /// Watchers that were told of its end from here, and may be told again by its own process.
    told: Vec<ActorId>,
}

#[derive(Clone, Debug, Default)]
enum Place {
    #[default]
    Unknown,
    /// Its home has been asked, or is this process.
    Asking,
    At(ProcessId),
    /// It is to move: what was sent there arrives, and the rest waits.
    Settling(ProcessId),
    Ended(ExitReason),
}

enum Held {
    Mail(Mail),
    Control(Control),
    /// Somebody waits until it has a place, or has ended.
    Place(oneshot::Sender<Result<(), ExitReason>>),
}

struct Mail {
    call: Outgoing,
    reply: Option<EncodedReply>,
    entered: Option<oneshot::Sender<Result<(), NotStarted>>>,
    /// Of a message that is sent again until it is acknowledged: when that was.
    round: Option<Round>,
}

impl Mail {
    fn bytes(&self) -> u64 {
        self.call.frame.payload.len() as u64
    }

    fn refuse(self, cause: &NotStarted) {
        refuse(self.reply, cause.clone());
        if let Some(entered) = self.entered {
            entered.send(Err(cause.clone())).ok();
        }
    }
}

/// The end of an actor's process.
#[derive(Debug)]
struct Ended {
    /// In which of the actor's lives.
    life: Incarnation,
    reason: ExitReason,
    /// Those that watch the actor know: they did not wait for its home's word any longer.
    is_told: bool,
}

impl Target {
    fn has_credit(&self, bytes: u64) -> bool {
        self.on_the_way.has_room(self.window, bytes)
    }

    /// What its watchers are to be told of the end of its process, after which it comes back.
    fn downs(&mut self, actor: ActorId) -> Vec<(ActorId, Down)> {
        let Some(death) = self.death.as_mut().filter(|death| !death.is_told) else { return Vec::new() };
        death.is_told = true;
        let down = Down { actor, incarnation: death.life, reason: death.reason.clone(), ended: false };
        self.watchers.iter().map(|by| (*by, down.clone())).collect()
    }

    fn is_idle(&self) -> bool {
        let is_known = matches!(self.place, Place::At(_) | Place::Ended(_));
        is_known
            && self.held.is_empty()
            && self.on_the_way.calls() == 0
            && self.watchers.is_empty()
            && self.links.is_empty()
    }
}

impl Process {
    /// Sends a call if there is credit for it now.
    pub(crate) fn try_call(self: &Arc<Self>, call: Outgoing, reply: Option<EncodedReply>) -> Result<(), NotStarted> {
        self.accept(Mail { call, reply, entered: None, round: None }, true)
    }

    /// Sends a call as soon as there is credit for it.
    pub(crate) fn post_call(self: &Arc<Self>, call: Outgoing, reply: Option<EncodedReply>) -> Result<(), NotStarted> {
        self.accept(Mail { call, reply, entered: None, round: None }, false)
    }

    /// The same, unless all of its sender's mail has been sent again by then.
    pub(crate) fn post_in_round(
        self: &Arc<Self>,
        call: Outgoing,
        reply: EncodedReply,
        round: Round,
    ) -> Result<(), NotStarted> {
        self.accept(Mail { call, reply: Some(reply), entered: None, round: Some(round) }, false)
    }

    /// Sends a call as soon as there is credit for it, and says when it has its place in the mailbox.
    pub(crate) fn call_and_wait(
        self: &Arc<Self>,
        call: Outgoing,
        reply: Option<EncodedReply>,
    ) -> Result<oneshot::Receiver<Result<(), NotStarted>>, NotStarted> {
        let (entered, receiver) = oneshot::channel();
        self.accept(Mail { call, reply, entered: Some(entered), round: None }, false)?;
        Ok(receiver)
    }

    fn accept(self: &Arc<Self>, mail: Mail, now_or_never: bool) -> Result<(), NotStarted> {
        let actor = mail.call.frame.header.target;
        let mut table = self.targets.table.lock();
        let target = table.entry(actor).or_default();
        self.look_for(actor, target);
        let cause = match &target.place {
            _ if target.refused.is_some() => {
                target.refused.clone().map(|reason| NotStarted::ActorEnded { actor, reason })
            }
            Place::Ended(reason) => Some(NotStarted::ActorEnded { actor, reason: reason.clone() }),
            _ if target.held.len() >= HELD_MAX => Some(NotStarted::MailboxFull { waiting: target.held.len() }),
            Place::At(_) if now_or_never && !(target.held.is_empty() && target.has_credit(mail.bytes())) => {
                Some(NotStarted::MailboxFull { waiting: target.held.len() + target.on_the_way.calls() as usize })
            }
            _ => None,
        };
        if let Some(cause) = cause {
            drop(table);
            mail.refuse(&cause);
            return Err(cause);
        }
        target.held.push_back(Held::Mail(mail));
        self.flush(actor, target);
        if table.len() > TARGETS_MAX {
            table.retain(|_, target| !target.is_idle());
        }
        Ok(())
    }

    /// Sends a control message, which always fits.
    pub(crate) fn control_away(self: &Arc<Self>, actor: ActorId, control: Control) {
        let mut table = self.targets.table.lock();
        let target = table.entry(actor).or_default();
        self.look_for(actor, target);
        match &control {
            Control::Watch { by } if !target.watchers.contains(by) => target.watchers.push(*by),
            Control::Unwatch { by } => target.watchers.retain(|watcher| watcher != by),
            Control::Link { peer } if !target.links.contains(peer) => target.links.push(*peer),
            _ => {}
        }
        if let Place::Ended(_) = target.place {
            drop(table);
            if let Some(system) = self.system() {
                system.control_local(actor, control);
            }
            return;
        }
        target.held.push_back(Held::Control(control));
        self.flush(actor, target);
    }

    /// An actor is about to be known to its home, which is not asked before.
    pub(crate) fn expect_actor(&self, actor: ActorId) {
        self.targets.table.lock().entry(actor).or_default().place = Place::Asking;
    }

    /// Asks the home of an actor that was expected, and waits until it has a place.
    pub(crate) fn wait_for_place(self: &Arc<Self>, actor: ActorId) -> oneshot::Receiver<Result<(), ExitReason>> {
        let (sender, receiver) = oneshot::channel();
        let mut table = self.targets.table.lock();
        let target = table.entry(actor).or_default();
        target.held.push_back(Held::Place(sender));
        self.locate(actor);
        receiver
    }

    /// Looks for an actor of which nothing is known, or no more: its home knows, which may be this process.
    fn look_for(self: &Arc<Self>, actor: ActorId, target: &mut Target) {
        if !matches!(target.place, Place::Unknown) {
            return;
        }
        target.place = Place::Asking;
        if actor.process != self.me {
            return self.locate(actor);
        }
        match self.home_place(actor) {
            Some((Some(process), window)) => {
                target.window = window;
                target.place = Place::At(process);
            }
            // Its home tells when it has a place.
            Some((None, _)) => {}
            None => target.place = Place::Ended(ExitReason::Gone),
        }
    }

    /// Asks an actor's home where it is; the home of one that was spawned here is here.
    fn locate(self: &Arc<Self>, actor: ActorId) {
        if actor.process != self.me {
            self.say(actor.process, Talk::Locate { actor });
        }
    }

    /// Sends what is held, as far as there is credit. Called with the table locked, so that order holds.
    fn flush(self: &Arc<Self>, actor: ActorId, target: &mut Target) {
        let Place::At(process) = target.place else { return };
        if self.is_dead(process) {
            // Its death is just being acted on: what never left waits for the next place.
            return;
        }
        while let Some(first) = target.held.front() {
            if let Held::Mail(mail) = first {
                if mail.round.as_ref().is_some_and(Round::is_over) {
                    target.held.pop_front();
                    continue;
                }
                if !target.has_credit(mail.bytes()) {
                    break;
                }
            }
            match target.held.pop_front() {
                Some(Held::Mail(mail)) => {
                    target.on_the_way.sent(mail.bytes());
                    self.send_call(process, mail);
                }
                Some(Held::Control(control)) => self.send_control(process, actor, &control),
                Some(Held::Place(waits)) => drop(waits.send(Ok(()))),
                None => break,
            }
        }
    }

    fn send_call(self: &Arc<Self>, to: ProcessId, mail: Mail) {
        let Mail { call: Outgoing { frame, pins }, reply, entered, .. } = mail;
        let caller = reply.as_ref().and_then(|reply| reply.call.clone());
        let (wants_reply, wants_entered) = (reply.is_some(), entered.is_some());
        let exchange = if wants_reply || wants_entered {
            self.exchanges.open(to, Waiting::Call { reply, entered })
        } else {
            self.exchanges.number()
        };
        let talk = Talk::Call { exchange, wants_reply, wants_entered, header: frame.header, refs: frame.refs };
        let parcel = Parcel { to, from: self.me, talk, payload: frame.payload };
        if let Err(cause) = self.post(parcel, pins) {
            if let Some(Waiting::Call { reply, entered }) = self.exchanges.close(exchange, to) {
                refuse(reply, cause.clone());
                if let Some(entered) = entered {
                    entered.send(Err(cause)).ok();
                }
            }
            return;
        }
        if let Some(caller) = caller {
            let waker = Waker::from(Arc::new(GivenUp { process: self.clone(), to, exchange }));
            if let Poll::Ready(()) = caller.poll_cancelled(&mut Context::from_waker(&waker)) {
                waker.wake();
            }
        }
    }

    pub(crate) fn send_control(self: &Arc<Self>, to: ProcessId, actor: ActorId, control: &Control) {
        match mobula_wire::encode(control) {
            Ok(payload) => {
                self.send(Parcel { to, from: self.me, talk: Talk::Control { to: actor }, payload: payload.into() });
            }
            Err(error) => tracing::warn!(%actor, %error, "a control message cannot be encoded"),
        }
    }

    /// So many calls have left the mailbox.
    pub(crate) fn credited(self: &Arc<Self>, actor: ActorId, from: ProcessId, calls: u32, bytes: u64) {
        let mut table = self.targets.table.lock();
        let Some(target) = table.get_mut(&actor) else { return };
        if matches!(target.place, Place::At(process) if process == from) {
            target.on_the_way.credited(calls, bytes);
            self.flush(actor, target);
        }
    }

    /// The actor is to move: nothing more is sent to where it is, and its home is asked anew when all that was sent has its
    /// place in the mailbox, so that nothing is lost and order holds.
    pub(crate) fn actor_moves(self: &Arc<Self>, actor: ActorId) {
        let process = {
            let mut table = self.targets.table.lock();
            table.get_mut(&actor).and_then(|target| match target.place {
                Place::At(process) => {
                    target.place = Place::Settling(process);
                    Some(process)
                }
                _ => None,
            })
        };
        match process {
            Some(process) => self.say(process, Talk::Settle { actor }),
            // Nothing was sent there.
            None => self.ask_home(actor),
        }
    }

    /// All that this process has sent to where the actor was has its place in the mailbox there.
    pub(crate) fn settled(self: &Arc<Self>, actor: ActorId, from: ProcessId) {
        {
            let mut table = self.targets.table.lock();
            let Some(target) = table.get_mut(&actor) else { return };
            if !matches!(target.place, Place::Settling(process) if process == from) {
                return;
            }
            target.place = Place::Asking;
            target.on_the_way = OnTheWay::default();
        }
        self.ask_home(actor);
    }

    fn ask_home(self: &Arc<Self>, actor: ActorId) {
        match actor.process == self.me {
            true => self.home_settled(actor, self.me),
            false => self.locate(actor),
        }
    }

    /// The process where the actor was says that it has ended there: nothing said after that may seem to begin.
    pub(crate) fn refused(&self, actor: ActorId, from: ProcessId, reason: &ExitReason) {
        let mut table = self.targets.table.lock();
        if let Some(target) = table.get_mut(&actor).filter(|target| matches!(target.place, Place::At(at) if at == from))
        {
            target.refused = Some(reason.clone());
        }
    }

    /// It is known where the actor is; watches go there anew when it has moved.
    pub(crate) fn located(self: &Arc<Self>, actor: ActorId, process: ProcessId, life: Incarnation, window: Window) {
        let mut table = self.targets.table.lock();
        let target = table.entry(actor).or_default();
        target.life = life.max(target.life);
        target.is_asked = false;
        target.window = window;
        if !matches!(target.place, Place::Unknown | Place::Asking) {
            return;
        }
        let is_dead = actor.process != self.me && self.is_dead(process);
        target.doubts = if is_dead { target.doubts + 1 } else { 0 };
        if is_dead && actor.process == ProcessId::HEAD && target.doubts > DOUBTS_MAX {
            // The head hears of every death; a neighbour that was lost while there was no head is there again.
            self.exhume(process);
            target.doubts = 0;
        } else if is_dead {
            // Its home has not heard of that death yet: it is asked until it has, or has ended itself.
            target.place = Place::Asking;
            drop(table);
            let process = self.clone();
            mobula_actor::arbiters::runtime().spawn(async move {
                tokio::time::sleep(ASK_AGAIN).await;
                process.locate(actor);
            });
            return;
        }
        target.place = Place::At(process);
        target.refused = None;
        let downs = target.downs(actor);
        target.death = None;
        for by in &target.watchers {
            self.send_control(process, actor, &Control::Watch { by: *by });
        }
        for peer in &target.links {
            self.send_control(process, actor, &Control::Link { peer: *peer });
        }
        self.flush(actor, target);
        drop(table);
        self.tell_watchers(downs);
    }

    /// A life of an actor has ended, as that actor itself has said: its own cell starts the next.
    pub(crate) fn note_down(&self, down: &Down) {
        if let Some(target) = self.targets.table.lock().get_mut(&down.actor) {
            let life = if down.ended { down.incarnation } else { down.incarnation.next() };
            target.life = life.max(target.life);
        }
    }

    /// The actor has ended for good: what is held for it goes back, and those that watch are told.
    pub(crate) fn actor_ended(
        self: &Arc<Self>,
        actor: ActorId,
        incarnation: Incarnation,
        reason: &ExitReason,
        tell: bool,
    ) {
        let (held, watchers, links, life, death) = {
            let mut table = self.targets.table.lock();
            let target = table.entry(actor).or_default();
            if matches!(target.place, Place::Ended(_)) {
                return;
            }
            target.place = Place::Ended(reason.clone());
            target.on_the_way = OnTheWay::default();
            let (watchers, links) = (std::mem::take(&mut target.watchers), std::mem::take(&mut target.links));
            if tell {
                target.told.clone_from(&watchers);
            }
            (std::mem::take(&mut target.held), watchers, links, target.life, target.death.take())
        };
        let Some(system) = self.system() else { return };
        let cause = NotStarted::ActorEnded { actor, reason: reason.clone() };
        for held in held {
            match held {
                Held::Mail(mail) => {
                    if mail.reply.is_none() && mail.entered.is_none() {
                        system.dead_letter(actor, "a message to another process", reason);
                    }
                    mail.refuse(&cause);
                }
                Held::Control(control) => system.control_local(actor, control),
                Held::Place(waits) => drop(waits.send(Err(reason.clone()))),
            }
        }
        if tell {
            let incarnation = incarnation.max(life);
            let reason = match (reason, death) {
                // Asked late, its home does not know any more why.
                (ExitReason::Gone, Some(death)) => death.reason,
                _ => reason.clone(),
            };
            let down = Down { actor, incarnation, reason, ended: true };
            watchers.iter().for_each(|by| system.control(*by, Control::Down(down.clone())));
            links.iter().for_each(|peer| system.control(*peer, Control::LinkDown(down.clone())));
        }
    }

    /// Processes have ended: their actors may come back elsewhere, which their homes decide.
    pub(crate) fn targets_died(self: &Arc<Self>, death: &Death, is_gone: impl Fn(ProcessId) -> bool) {
        let (mut orphans, mut dead) = (Vec::new(), Vec::new());
        let reason = ExitReason::ProcessDied(Box::new(death.clone()));
        {
            let mut table = self.targets.table.lock();
            for (actor, target) in table.iter_mut() {
                let was_there =
                    matches!(target.place, Place::At(process) | Place::Settling(process) if is_gone(process));
                let home_is_gone = is_gone(actor.process) && !matches!(target.place, Place::Ended(_));
                if !was_there && !home_is_gone {
                    continue;
                }
                target.on_the_way = OnTheWay::default();
                if was_there {
                    target.place = Place::Asking;
                    target.death = Some(Ended { life: target.life, reason: reason.clone(), is_told: false });
                    dead.push((*actor, target.life));
                }
                if home_is_gone {
                    orphans.push(*actor);
                } else if was_there {
                    self.locate(*actor);
                }
            }
        }
        let orphaned = ExitReason::SupervisorDied(Box::new(death.clone()));
        for actor in orphans {
            self.actor_ended(actor, Incarnation::default(), &orphaned, true);
        }
        if dead.is_empty() {
            return;
        }
        let process = self.clone();
        mobula_actor::arbiters::runtime().spawn(async move {
            tokio::time::sleep(FATE_MAX).await;
            let downs = {
                let mut table = process.targets.table.lock();
                let downs = |(actor, life)| {
                    let target = table.get_mut(&actor)?;
                    let is_this_one = target.death.as_ref().is_some_and(|death| death.life == life);
                    is_this_one.then(|| target.downs(actor))
                };
                dead.into_iter().filter_map(downs).flatten().collect()
            };
            process.tell_watchers(downs);
        });
    }

    /// Called without the table: a watcher may be elsewhere by now.
    fn tell_watchers(&self, downs: Vec<(ActorId, Down)>) {
        let Some(system) = self.system() else { return };
        downs.into_iter().for_each(|(by, down)| system.control(by, Control::Down(down)));
    }

    /// Why an actor has ended for good, when that is known here.
    pub(crate) fn end_of(&self, actor: ActorId) -> Option<ExitReason> {
        match self.targets.table.lock().get(&actor).map(|target| target.place.clone()) {
            Some(Place::Ended(reason)) => Some(reason),
            _ => None,
        }
    }

    /// The process of an actor itself tells `to` of its end. Its home may be this process, and tells it too: the second
    /// to come is one too many, and is left out here.
    pub(crate) fn has_told(&self, to: ActorId, control: &Control) -> bool {
        let mut table = self.targets.table.lock();
        match control {
            Control::Down(down) if down.ended => {
                let Some(target) = table.get_mut(&down.actor) else { return false };
                target.watchers.retain(|by| *by != to);
                let told = target.told.iter().position(|by| *by == to);
                told.map(|told| target.told.swap_remove(told)).is_some()
            }
            Control::LinkDown(down) => {
                if let Some(target) = table.get_mut(&down.actor) {
                    target.links.retain(|peer| *peer != to);
                }
                false
            }
            _ => false,
        }
    }

    /// Whether the actor lives, as far as is known. Its home is asked meanwhile, so that whoever looks again is told
    /// of its end: nobody tells those that do not watch.
    pub(crate) fn may_live(self: &Arc<Self>, actor: ActorId) -> bool {
        let mut table = self.targets.table.lock();
        let target = table.entry(actor).or_default();
        self.look_for(actor, target);
        match target.place {
            _ if target.refused.is_some() => false,
            Place::Ended(_) => false,
            Place::At(_) if actor.process != self.me && !target.is_asked => {
                target.is_asked = true;
                self.locate(actor);
                true
            }
            _ => true,
        }
    }
}

/// Tells the process that was asked when the caller has given the call up.
struct GivenUp {
    process: Arc<Process>,
    to: ProcessId,
    exchange: ExchangeId,
}

impl Wake for GivenUp {
    fn wake(self: Arc<Self>) {
        let given_up = self.process.exchanges.close(self.exchange, self.to);
        if let Some(given_up) = given_up {
            if let Waiting::Call { reply: Some(reply), .. } = given_up {
                (reply.answer)(Err(CallError::Cancelled));
            }
            self.process.not_wanted(self.to, ours(self.exchange));
            self.process.say(self.to, Talk::Cancel { exchange: self.exchange });
        }
    }
}
