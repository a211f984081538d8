//! Messages that are sent again until they are acknowledged (G4): drives [`mobula_logic::outbox`], one for each pair of a
//! sender in this process and an actor elsewhere.
//!
//! To the roads such a message is a call with an answer, and the answer is what acknowledges it. What is said of a message
//! that was sent again meanwhile is not heard, unless it says that it was handled.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mobula_actor::clock;
use mobula_actor::deliver::{EncodedReply, Outgoing, Payload};
use mobula_actor::object::Pins;
use mobula_logic::outbox::{AGE_MAX, DeadCause, Input, Outbox, Output, Refused};
use mobula_types::{
    ActorId, CallError, Culprit, Death, ErrorChain, ExitReason, NotStarted, ProcessId, StateMachine, Unknown,
};
use mobula_wire::CallFrame;
use parking_lot::Mutex;

use super::process::Process;

/// Bytes of one pair that are not acknowledged: what 64 of the largest messages inside a call take, and a larger one alone.
const BYTES_MAX: usize = 64 << 20;

/// What could not be sent for a reason of the moment is sent again after this time.
const AGAIN: Duration = Duration::from_millis(100);

/// Between two looks at the age of messages, of which each may wait for minutes.
const AGE_LOOK: Duration = Duration::from_secs(1);

/// A sender in this process, and an actor elsewhere.
type Pair = (u64, ActorId);

/// The outboxes of a process.
#[derive(Default)]
pub(crate) struct Outboxes {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    pairs: HashMap<Pair, Pending>,
    /// Numbers of outboxes: a pair whose messages are all acknowledged is forgotten, and its next outbox is another.
    last: u64,
    /// A task looks after the age of what is not acknowledged.
    is_aging: bool,
}

/// What is not acknowledged of one pair.
struct Pending {
    /// By which the receiver knows it.
    number: u64,
    machine: Outbox,
    kept: BTreeMap<u64, Kept>,
    bytes: usize,
    /// How often all was sent again.
    round: Arc<AtomicU64>,
    /// What is to be sent, in order, and whether somebody does.
    to_send: VecDeque<(u64, u8)>,
    is_sending: bool,
    /// The last death that the actor was to blame for.
    death: Option<Box<Death>>,
}

struct Kept {
    frame: CallFrame,
    pins: Pins,
    message: &'static str,
}

/// A message that nobody will handle.
struct Dead {
    message: &'static str,
    reason: ExitReason,
}

/// When a message was sent: one that still waits for credit when all is sent again must not overtake those before it, since
/// to the receiver what is not above the last is a repeat (OUT-4).
pub(crate) struct Round {
    number: u64,
    now: Arc<AtomicU64>,
}

impl Round {
    fn of(now: &Arc<AtomicU64>) -> Self {
        Self { number: now.load(Ordering::Acquire), now: now.clone() }
    }

    /// Whether all has been sent again since.
    pub(crate) fn is_over(&self) -> bool {
        self.now.load(Ordering::Acquire) != self.number
    }
}

/// Which message an answer is of, and when that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    /// Of its outbox.
    number: u64,
    seq: u64,
    round: u64,
}

/// What an answer says of a message.
#[derive(Debug, PartialEq)]
enum Said {
    Handled,
    /// It will never be: this is why.
    Dead(ExitReason),
    /// Its process has ended.
    Lost(Box<Death>),
    /// It was not handled for a reason of the moment.
    Later,
    /// The actor has ended for good.
    Gone(ExitReason),
}

impl Said {
    fn of(answer: Result<Payload, CallError>) -> Self {
        match answer {
            Ok(_) => Self::Handled,
            // G8: a panic consumes its message.
            Err(CallError::Panicked(panic)) => Self::Dead(ExitReason::Panicked(panic)),
            Err(CallError::NotStarted(cause)) => match cause {
                // It lives on elsewhere, and is asked for there.
                NotStarted::ActorEnded { reason: ExitReason::Moved, .. } => Self::Later,
                NotStarted::ActorEnded { reason, .. } => Self::Gone(reason),
                NotStarted::NoSession => Self::Gone(ExitReason::Shutdown),
                NotStarted::ProcessDied { death } => Self::Lost(death),
                NotStarted::MailboxFull { .. } | NotStarted::QueueFull { .. } | NotStarted::NoPlace { .. } => {
                    Self::Later
                }
                other => Self::Dead(ExitReason::Failed(ErrorChain::message(other))),
            },
            Err(CallError::MayHaveRun(Unknown::ProcessDied { death })) => Self::Lost(death),
            // It ran; only what it gave could not travel.
            Err(CallError::MayHaveRun(Unknown::Codec { .. } | Unknown::TooLarge { .. })) => Self::Handled,
            Err(_) => Self::Later,
        }
    }
}

impl Process {
    /// Takes a message that is sent until it is acknowledged.
    pub(crate) fn send_until_acknowledged(
        self: &Arc<Self>,
        call: Outgoing,
        message: &'static str,
    ) -> Result<(), NotStarted> {
        let Outgoing { frame, pins } = call;
        let (actor, bytes) = (frame.header.target, frame.payload.len());
        if let Some(reason) = self.end_of(actor) {
            return Err(NotStarted::ActorEnded { actor, reason });
        }
        if self.link.is_cut() {
            return Err(NotStarted::NoSession);
        }
        let pair = (frame.header.sender, actor);
        let begins_aging = {
            let mut table = self.outboxes.table.lock();
            if !table.pairs.contains_key(&pair) {
                table.last += 1;
                let pending = Pending::new(table.last);
                table.pairs.insert(pair, pending);
            }
            let Some(pending) = table.pairs.get_mut(&pair) else { return Err(NotStarted::NoSession) };
            if pending.bytes > 0 && pending.bytes + bytes > BYTES_MAX {
                return Err(NotStarted::MailboxFull { waiting: pending.kept.len() });
            }
            let seq = pending.machine.submit(clock::now()).map_err(|refused| match refused {
                Refused::Full { waiting } => NotStarted::MailboxFull { waiting },
                Refused::Gone => NotStarted::ActorEnded { actor, reason: ExitReason::Gone },
            })?;
            pending.kept.insert(seq, Kept { frame, pins, message });
            pending.bytes += bytes;
            let dead = pending.perform();
            debug_assert!(dead.is_empty(), "what was just taken is not dead");
            !std::mem::replace(&mut table.is_aging, true)
        };
        if begins_aging {
            mobula_actor::arbiters::runtime().spawn(self.clone().age());
        }
        self.send_pending(pair);
        Ok(())
    }

    /// Sends what is to be sent of a pair, one after the other, so that order holds.
    fn send_pending(self: &Arc<Self>, pair: Pair) {
        let mut is_mine = false;
        loop {
            let (outgoing, number, seq, round) = {
                let mut table = self.outboxes.table.lock();
                let Some(pending) = table.pairs.get_mut(&pair) else { return };
                if pending.is_sending && !is_mine {
                    return;
                }
                let next = pending.to_send.pop_front();
                pending.is_sending = next.is_some();
                is_mine = true;
                let Some((seq, crashes)) = next else { return };
                let Some(kept) = pending.kept.get(&seq) else { continue };
                let mut frame = kept.frame.clone();
                (frame.header.sender, frame.header.seq, frame.header.crash_count) = (pending.number, seq, crashes);
                frame.header.after = pending.machine.before(seq);
                (Outgoing { frame, pins: kept.pins.clone() }, pending.number, seq, Round::of(&pending.round))
            };
            let (process, message) = (self.clone(), Sent { number, seq, round: round.number });
            let answer = move |answer| process.pending_answered(pair, message, Said::of(answer));
            // Whoever waits for the answer is told when it is not taken.
            self.post_in_round(outgoing, EncodedReply { answer: Box::new(answer), call: None }, round).ok();
        }
    }

    fn pending_answered(self: &Arc<Self>, pair: Pair, Sent { number, seq, round }: Sent, said: Said) {
        let now = clock::now();
        let mut dead = Vec::new();
        let mut is_later = false;
        {
            let mut table = self.outboxes.table.lock();
            // What an earlier outbox of the pair is told late says nothing of this one's messages, which count anew.
            let Some(pending) = table.pairs.get_mut(&pair).filter(|pending| pending.number == number) else { return };
            let is_heard = round == pending.round.load(Ordering::Acquire);
            match said {
                Said::Handled => pending.machine.handle(now, Input::Acknowledged { seq }),
                Said::Dead(reason) => {
                    let message = pending.kept.get(&seq).map(|kept| kept.message);
                    dead.extend(message.map(|message| Dead { message, reason }));
                    pending.machine.handle(now, Input::Acknowledged { seq });
                }
                _ if !is_heard => return,
                Said::Lost(death) => {
                    let handling = handling(&death, pair.1, (self.me, pending.number));
                    if handling.is_some() {
                        pending.death = Some(death);
                    }
                    pending.start_again(Input::Lost { handling });
                    pending.machine.handle(now, Input::Up);
                }
                Said::Later => {
                    pending.start_again(Input::Lost { handling: None });
                    is_later = true;
                }
                Said::Gone(reason) => {
                    pending.start_again(Input::Gone);
                    dead.extend(pending.perform().into_iter().map(|letter| Dead { reason: reason.clone(), ..letter }));
                }
            }
            dead.extend(pending.perform());
            if pending.kept.is_empty() {
                table.pairs.remove(&pair);
            }
        }
        self.bury_letters(pair.1, dead);
        if is_later {
            let process = self.clone();
            mobula_actor::arbiters::runtime().spawn(async move {
                tokio::time::sleep(AGAIN).await;
                process.tell_pending(pair, Input::Up);
            });
        }
        self.send_pending(pair);
    }

    fn tell_pending(self: &Arc<Self>, pair: Pair, input: Input) {
        let dead = {
            let mut table = self.outboxes.table.lock();
            let Some(pending) = table.pairs.get_mut(&pair) else { return };
            pending.machine.handle(clock::now(), input);
            let dead = pending.perform();
            if pending.kept.is_empty() {
                table.pairs.remove(&pair);
            }
            dead
        };
        self.bury_letters(pair.1, dead);
        self.send_pending(pair);
    }

    /// Looks after the age of what is not acknowledged, while there is something.
    async fn age(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(AGE_LOOK) => {}
                _ = self.ended() => return,
            }
            let pairs: Vec<Pair> = {
                let mut table = self.outboxes.table.lock();
                if table.pairs.is_empty() {
                    table.is_aging = false;
                    return;
                }
                let now = clock::now();
                let is_due = |pending: &Pending| pending.machine.next_timeout().is_some_and(|due| due <= now);
                table.pairs.iter().filter(|(_, pending)| is_due(pending)).map(|(pair, _)| *pair).collect()
            };
            pairs.into_iter().for_each(|pair| self.tell_pending(pair, Input::Tick));
        }
    }

    fn bury_letters(&self, actor: ActorId, dead: Vec<Dead>) {
        let Some(system) = self.system() else { return };
        dead.iter().for_each(|letter| system.dead_letter(actor, letter.message, &letter.reason));
    }
}

impl Pending {
    fn new(number: u64) -> Self {
        let mut machine = Outbox::default();
        // Where the actor is, and when it can be reached, is found out by each message.
        machine.handle(clock::now(), Input::Up);
        Self {
            number,
            machine,
            kept: BTreeMap::new(),
            bytes: 0,
            round: Arc::default(),
            to_send: VecDeque::new(),
            is_sending: false,
            death: None,
        }
    }

    /// All that is not acknowledged is sent again, as soon as the actor is said to be up.
    fn start_again(&mut self, input: Input) {
        self.round.fetch_add(1, Ordering::AcqRel);
        self.to_send.clear();
        self.machine.handle(clock::now(), input);
    }

    /// Does what the machine says; gives what nobody will handle.
    fn perform(&mut self) -> Vec<Dead> {
        let mut dead = Vec::new();
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Send { seq, crashes } => self.to_send.push_back((seq, crashes)),
                Output::Confirmed { seq } => drop(self.forget(seq)),
                Output::Dead { seq, cause } => {
                    let Some(message) = self.forget(seq) else { continue };
                    let reason = match (cause, &self.death) {
                        (DeadCause::Poison, Some(death)) => ExitReason::ProcessDied(death.clone()),
                        (DeadCause::TooOld, _) => {
                            let text = format!("it was not acknowledged within {} s", AGE_MAX.as_secs());
                            ExitReason::Failed(ErrorChain::message(text))
                        }
                        (DeadCause::ActorGone | DeadCause::Poison, _) => ExitReason::Gone,
                    };
                    dead.push(Dead { message, reason });
                }
            }
        }
        dead
    }

    fn forget(&mut self, seq: u64) -> Option<&'static str> {
        let kept = self.kept.remove(&seq)?;
        self.bytes -= kept.frame.payload.len();
        Some(kept.message)
    }
}

/// Which message of a sender an actor was handling when its process ended.
fn handling(death: &Death, actor: ActorId, (from, sender): (ProcessId, u64)) -> Option<u64> {
    death.culprits.iter().find_map(|culprit| match culprit {
        Culprit::Message(to, message) if *to == actor => {
            ((message.from, message.sender) == (from, sender)).then_some(message.seq)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mobula_types::{DeathCause, MessageId, NodeId, Panic};

    use super::*;

    #[test]
    fn only_what_was_handled_is_accused() {
        let process = |number| ProcessId::new(NodeId(1), number);
        let actor = |slot| ActorId { process: process(1), slot, generation: 0 };
        let message = |from, sender, seq| MessageId { from: process(from), sender, seq };
        let culprits = vec![
            Culprit::Actor(actor(0)),
            Culprit::Message(actor(0), message(2, 7, 5)),
            Culprit::Actor(actor(1)),
            Culprit::Message(actor(2), message(2, 7, 6)),
        ];
        let death = Death { culprits, ..Death::of(process(3), DeathCause::Aborted) };
        assert_eq!(handling(&death, actor(0), (process(2), 7)), Some(5));
        assert_eq!(handling(&death, actor(0), (process(2), 8)), None, "another sender's was handled");
        assert_eq!(handling(&death, actor(0), (process(4), 7)), None, "another process's was handled");
        assert_eq!(handling(&death, actor(1), (process(2), 7)), None, "what it handled is not sent again");
    }

    #[test]
    fn answers_say_what_becomes_of_a_message() {
        let actor = ActorId { process: ProcessId::new(NodeId(1), 1), slot: 0, generation: 0 };
        let death = || Box::new(Death::of(ProcessId::new(NodeId(1), 2), DeathCause::Aborted));
        let panic = Panic { message: "no".into(), location: None, backtrace: None };
        let not_started = |cause| Err(CallError::NotStarted(cause));
        let unknown = NotStarted::Unknown { name: "add".into() };
        let is_dead = Said::Dead(ExitReason::Failed(ErrorChain::message(&unknown)));
        for (answer, says) in [
            (Ok(Payload::Value(Bytes::new(), Pins::default())), Said::Handled),
            (Err(CallError::Panicked(panic.clone())), Said::Dead(ExitReason::Panicked(panic))),
            (not_started(NotStarted::ProcessDied { death: death() }), Said::Lost(death())),
            (Err(CallError::MayHaveRun(Unknown::ProcessDied { death: death() })), Said::Lost(death())),
            (not_started(NotStarted::MailboxFull { waiting: 1 }), Said::Later),
            (Err(CallError::Cancelled), Said::Later),
            (Err(CallError::MayHaveRun(Unknown::ActorEnded { actor, reason: ExitReason::Killed })), Said::Later),
            (not_started(NotStarted::ActorEnded { actor, reason: ExitReason::Gone }), Said::Gone(ExitReason::Gone)),
            (not_started(NotStarted::ActorEnded { actor, reason: ExitReason::Moved }), Said::Later),
            (not_started(NotStarted::NoSession), Said::Gone(ExitReason::Shutdown)),
            (not_started(unknown), is_dead),
            (Err(CallError::MayHaveRun(Unknown::Codec { message: "no".into() })), Said::Handled),
            (Err(CallError::MayHaveRun(Unknown::TooLarge { bytes: 2, max: 1 })), Said::Handled),
        ] {
            assert_eq!(Said::of(answer), says);
        }
    }
}
