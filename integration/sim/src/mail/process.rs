//! One process: what it sends, what comes to it, and the actors that live there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use mobula_logic::credit::{OnTheWay, Owed, Window};
use mobula_logic::intake::{self, Announced, Exchange, Intake, Line, Road};
use mobula_logic::outbox::{self, DeadCause, Outbox, Reception, Taking, check_reception};
use mobula_logic::{Mutant, Violation};
use mobula_types::{ActorId, ProcessId, StateMachine, Time};

use super::road::{Again, Said, Word};
use super::{ActorIndex, At, Effect, Event, Kind, MailId, Told, World};
use crate::failure::ensure;

/// What does not fit into a message.
const INLINE_BYTES_MAX: u64 = 64;

/// As in the runtime, but small, so that all of it is full now and then.
const INTAKE: intake::Bounds = intake::Bounds {
    payload_bytes_max: 2_000,
    answer_bytes_max: 2_000,
    ahead_bytes_max: 512,
    asked_bytes_max: 1_024,
    peer_bytes_max: 2_000,
    open_bytes_max: 4_000,
    held_max: 8,
    far_part_bytes: 256,
    near_part_bytes: 64,
};

/// Room for a payload is made within so many milliseconds.
const ROOM_MS: u64 = 5;
/// Nodes take so long at most to move a payload.
const HAUL_MS: u64 = 20;

/// As in the runtime.
const AGE_MAX: Duration = outbox::AGE_MAX;
const OUTBOX: outbox::Bounds = outbox::Bounds { messages_max: 12, age_max: AGE_MAX };
const AGAIN: Duration = Duration::from_millis(100);

pub(super) struct Process {
    pub(super) id: ProcessId,
    pub(super) node: usize,
    pub(super) is_alive: bool,
    pub(super) is_driver: bool,
    /// Over which message it died.
    pub(super) over: Option<MailId>,
    /// Of whose deaths it has heard.
    pub(super) dead: BTreeSet<At>,
    mutant: Option<Mutant>,
    outboxes: BTreeMap<Pair, Pending>,
    last_outbox: u64,
    targets: BTreeMap<ActorIndex, Target>,
    exchanges: BTreeMap<u64, Waiting>,
    last_exchange: u64,
    shelf: BTreeMap<u64, (At, Bytes)>,
    last_transfer: u64,
    intake: Intake<(At, Word)>,
    /// What has come of payloads for which there is room, or will be.
    rooms: BTreeMap<(ProcessId, u64), Vec<u8>>,
    receptions: BTreeMap<ActorIndex, Reception<(ProcessId, u64)>>,
    owed: BTreeMap<(At, ActorIndex), Owed>,
    cells: BTreeMap<ActorIndex, Cell>,
}

type Pair = (u64, ActorIndex);

struct Pending {
    number: u64,
    machine: Outbox,
    kept: BTreeMap<u64, MailId>,
    round: u64,
    to_send: VecDeque<u64>,
    wakes_at: Option<Time>,
}

#[derive(Default)]
struct Target {
    at: Option<At>,
    held: VecDeque<Held>,
    on_the_way: OnTheWay,
}

struct Held {
    mail: MailId,
    waiting: Option<What>,
    again: Option<Again>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Ask,
    Kept { pair: Pair, number: u64, seq: u64, round: u64 },
}

#[derive(Debug)]
struct Waiting {
    to: At,
    mail: MailId,
    what: What,
}

struct Cell {
    life: u32,
    mailbox: VecDeque<Got>,
    is_busy: Option<Got>,
}

/// A message in a mailbox.
#[derive(Clone, Copy, Debug)]
struct Got {
    from: At,
    exchange: u64,
    mail: MailId,
    again: Option<Again>,
}

impl Process {
    pub(super) fn new(id: ProcessId, node: usize, mutant: Option<Mutant>) -> Self {
        Self {
            id,
            node,
            is_alive: true,
            is_driver: false,
            over: None,
            dead: BTreeSet::new(),
            mutant,
            outboxes: BTreeMap::new(),
            last_outbox: 0,
            targets: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            last_exchange: 0,
            shelf: BTreeMap::new(),
            last_transfer: 0,
            intake: mutant.into_iter().fold(Intake::bounded(id, INTAKE), Intake::with_mutant),
            rooms: BTreeMap::new(),
            receptions: BTreeMap::new(),
            owed: BTreeMap::new(),
            cells: BTreeMap::new(),
        }
    }

    /// An actor begins a life here: what an earlier one has taken is nothing to it.
    pub(super) fn host(&mut self, actor: ActorIndex, life: u32) {
        self.receptions.remove(&actor);
        self.cells.insert(actor, Cell { life, mailbox: VecDeque::new(), is_busy: None });
    }

    /// MAIL-6: nothing is kept when all is over.
    pub(super) fn judge(&self) -> Result<(), Violation> {
        let Self { id, shelf, exchanges, intake, outboxes, rooms, .. } = self;
        ensure(rooms.is_empty(), "INTAKE-7", || format!("{id} keeps room for {:?}", rooms.keys()))?;
        ensure(shelf.is_empty(), "INTAKE-7", || format!("{id} keeps payloads {:?}", shelf.keys()))?;
        ensure(intake.is_empty(), "INTAKE-6", || format!("{id} holds {} messages", intake.held()))?;
        ensure(exchanges.is_empty(), "MAIL-6", || format!("{id} waits for {exchanges:?}"))?;
        ensure(outboxes.is_empty(), "MAIL-6", || format!("{id} has {} outboxes", outboxes.len()))?;
        for (actor, target) in &self.targets {
            ensure(target.held.is_empty(), "MAIL-6", || format!("{id} holds mail for {actor}"))?;
            let is_credited = target.on_the_way.has_room(window(), u64::MAX);
            ensure(is_credited, "CREDIT-2", || format!("{id} lacks credit for {actor}: {:?}", target.on_the_way))?;
        }
        let is_idle = self.receptions.values().all(Reception::is_idle);
        ensure(is_idle, "MAIL-6", || format!("{id} owes acknowledgements"))
    }
}

/// What each process may have on its way to an actor.
fn window() -> Window {
    Window::of_mailbox(8, 3_000)
}

/// What a payload consists of: no two are alike, and no two parts of one.
fn payload(mail: MailId, bytes: u64) -> Bytes {
    (0..bytes).map(|at| (mail as u64 * 31 + at * 7 + at / 64) as u8).collect::<Vec<u8>>().into()
}

impl World {
    /// A process sends something.
    pub(super) fn act(&mut self, at: At) -> Result<(), Violation> {
        if self.is_quiet || !self.processes[at].is_alive {
            return Ok(());
        }
        let delay = self.rng.span(600);
        self.agenda.after(delay, Event::Act(at));
        if self.rng.chance(10) {
            self.forge(at);
        }
        // A few at once, so that what is full is seen.
        let count = if self.rng.chance(5) { 20 } else { 1 };
        let actor = self.rng.below(self.actors.len() as u64) as ActorIndex;
        let sender = 1 + self.rng.below(2);
        let kind = *self.rng.pick(&[Kind::Tell, Kind::Ask, Kind::Kept, Kind::Kept]);
        for _ in 0..count {
            let effect = match self.rng.below(200) {
                0..4 => Effect::Panics,
                4 => Effect::Kills(u8::MAX),
                7..9 => Effect::BreaksOff,
                5..7 => Effect::Kills(1 + self.rng.below(2) as u8),
                _ => Effect::Nothing,
            };
            let is_large = self.rng.chance(25);
            let bytes = 1 + self.rng.below(if is_large { INTAKE.payload_bytes_max } else { INLINE_BYTES_MAX });
            match kind {
                Kind::Kept => self.submit(at, (sender, actor), effect, bytes)?,
                _ => {
                    let mail = self.witness.send((at, sender), actor, kind, effect, bytes);
                    let waiting = (kind == Kind::Ask).then_some(What::Ask);
                    self.accept(at, actor, Held { mail, waiting, again: None })?;
                }
            }
        }
        Ok(())
    }

    /// Parts that nobody asked for, and words about payloads of others, change nothing.
    fn forge(&mut self, from: At) {
        let to = self.rng.below(self.processes.len() as u64) as At;
        if to == from {
            return;
        }
        self.coverage.saw("a forged part");
        let (transfer, offset) = (self.rng.below(8), 64 * self.rng.below(8));
        let bytes = vec![0; 1 + self.rng.below(300) as usize].into();
        self.say(from, to, Word::Part { transfer: 1_000_000 + transfer, offset, bytes });
        self.say(from, to, Word::Taken { transfer: 1_000_000 + transfer });
        self.say(from, to, Word::Pull { transfer: 1_000_000 + transfer, offset, bytes: 1 });
    }

    fn submit(&mut self, at: At, pair: Pair, effect: Effect, bytes: u64) -> Result<(), Violation> {
        let now = self.agenda.now();
        if self.actors[pair.1].is_gone {
            return Ok(());
        }
        let process = &mut self.processes[at];
        if !process.outboxes.contains_key(&pair) {
            process.last_outbox += 1;
            let mut machine = process.mutant.into_iter().fold(Outbox::bounded(OUTBOX), Outbox::with_mutant);
            machine.handle(now, outbox::Input::Up);
            let pending = Pending {
                number: process.last_outbox,
                machine,
                kept: BTreeMap::new(),
                round: 0,
                to_send: VecDeque::new(),
                wakes_at: None,
            };
            process.outboxes.insert(pair, pending);
        }
        let pending = process.outboxes.get_mut(&pair).expect("it was put there");
        match pending.machine.submit(now) {
            Ok(seq) => {
                let mail = self.witness.send((at, pair.0), pair.1, Kind::Kept, effect, bytes);
                pending.kept.insert(seq, mail);
            }
            Err(_) => {
                self.coverage.saw("an outbox is full");
                let is_full = pending.kept.len() >= OUTBOX.messages_max;
                ensure(is_full, "OUT-5", || format!("{} messages are too many", pending.kept.len()))?;
            }
        }
        self.perform_outbox(at, pair)
    }

    pub(super) fn tell_outbox(&mut self, at: At, pair: Pair, input: outbox::Input) -> Result<(), Violation> {
        let now = self.agenda.now();
        let process = &mut self.processes[at];
        let Some(pending) = process.outboxes.get_mut(&pair).filter(|_| process.is_alive) else { return Ok(()) };
        pending.machine.handle(now, input);
        self.perform_outbox(at, pair)
    }

    fn perform_outbox(&mut self, at: At, pair: Pair) -> Result<(), Violation> {
        let Some(pending) = self.processes[at].outboxes.get_mut(&pair) else { return Ok(()) };
        while let Some(output) = pending.machine.poll_output() {
            match output {
                outbox::Output::Send { seq, .. } => pending.to_send.push_back(seq),
                outbox::Output::Confirmed { seq } => drop(pending.kept.remove(&seq)),
                outbox::Output::Dead { seq, cause } => {
                    let mail = pending.kept.remove(&seq);
                    let (told, what) = match cause {
                        DeadCause::Poison => (Told::Poison, "a dead letter: the third crash"),
                        DeadCause::TooOld => (Told::TooOld, "a dead letter: too old"),
                        DeadCause::ActorGone => (Told::Gone, "a dead letter: the actor is gone"),
                    };
                    self.coverage.saw(what);
                    if let Some(mail) = mail {
                        self.witness.tell(mail, told)?;
                    }
                }
            }
        }
        outbox::check(&pending.machine)?;
        let due = pending.machine.next_timeout().filter(|due| pending.wakes_at.is_none_or(|at| at < *due));
        if let Some(due) = due {
            pending.wakes_at = Some(due);
            self.agenda.at(due, Event::Tick { at, pair });
        }
        let sends: Vec<u64> = pending.to_send.drain(..).collect();
        let (number, round) = (pending.number, pending.round);
        for seq in sends {
            let Some(pending) = self.processes[at].outboxes.get(&pair) else { return Ok(()) };
            let Some(mail) = pending.kept.get(&seq).copied().filter(|_| pending.round == round) else { continue };
            let waiting = Some(What::Kept { pair, number, seq, round });
            let again = Some(Again { number, seq, after: pending.machine.before(seq) });
            self.accept(at, pair.1, Held { mail, waiting, again })?;
        }
        if self.processes[at].outboxes.get(&pair).is_some_and(|pending| pending.kept.is_empty()) {
            self.processes[at].outboxes.remove(&pair);
        }
        Ok(())
    }

    /// Takes mail for an actor, and sends it when there is a place and credit.
    fn accept(&mut self, at: At, actor: ActorIndex, held: Held) -> Result<(), Violation> {
        self.processes[at].targets.entry(actor).or_default().held.push_back(held);
        self.flush(at, actor)
    }

    pub(super) fn flush(&mut self, at: At, actor: ActorIndex) -> Result<(), Violation> {
        if !self.processes[at].is_alive {
            return Ok(());
        }
        loop {
            let place = self.actors[actor].place;
            let is_gone = self.actors[actor].is_gone;
            let process = &mut self.processes[at];
            let dead = &process.dead;
            let Some(target) = process.targets.get_mut(&actor) else { return Ok(()) };
            if target.at.is_none() {
                target.at = place.filter(|place| !dead.contains(place));
                target.on_the_way = OnTheWay::default();
            }
            let Some(first) = target.held.front() else { return Ok(()) };
            let is_over = matches!(first.waiting, Some(What::Kept { pair, number, round, .. })
                if process.outboxes.get(&pair).is_none_or(|it| (it.number, it.round) != (number, round)));
            if is_over {
                self.coverage.saw("held mail of an earlier round");
                target.held.pop_front();
                continue;
            }
            let bytes = self.witness.mail(first.mail).bytes;
            match target.at {
                Some(to) if !dead.contains(&to) => {
                    if !target.on_the_way.has_room(window(), bytes) {
                        self.coverage.saw("mail waits for credit");
                        return Ok(());
                    }
                    target.on_the_way.sent(bytes);
                    let held = target.held.pop_front().expect("it was looked at");
                    self.send(at, to, held, bytes);
                }
                None if is_gone => {
                    let held = target.held.pop_front().expect("it was looked at");
                    self.answered(at, held.mail, held.waiting, Said::NoActor)?;
                }
                _ => return Ok(()),
            }
        }
    }

    fn send(&mut self, from: At, to: At, held: Held, bytes: u64) {
        let Held { mail, waiting, again } = held;
        self.witness.mail_mut(mail).sent_to = Some(to);
        let process = &mut self.processes[from];
        process.last_exchange += 1;
        let exchange = process.last_exchange;
        if let Some(what) = waiting {
            process.exchanges.insert(exchange, Waiting { to, mail, what });
            if matches!(what, What::Ask) {
                let deadline = if self.rng.chance(15) { self.rng.span(2_000) } else { DEADLINE };
                self.agenda.after(deadline, Event::GiveUp { at: from, exchange });
            }
        }
        if again.is_some() && self.witness.begun(mail) > 0 {
            self.coverage.saw("a message is sent again");
        }
        let large = (bytes > INLINE_BYTES_MAX).then(|| self.keep(from, to, payload(mail, bytes)));
        self.say(from, to, Word::Mail { exchange, mail, again, large });
    }

    fn keep(&mut self, from: At, to: At, payload: Bytes) -> Announced {
        let process = &mut self.processes[from];
        process.last_transfer += 1;
        let (transfer, bytes) = (process.last_transfer, payload.len() as u64);
        process.shelf.insert(transfer, (to, payload));
        self.coverage.saw("a payload is kept");
        Announced { transfer, bytes, is_lent: true }
    }

    /// A call is given up at its deadline, or because nobody wants it.
    pub(super) fn give_up(&mut self, at: At, exchange: u64) -> Result<(), Violation> {
        if !self.processes[at].is_alive {
            return Ok(());
        }
        let Some(Waiting { to, mail, .. }) = self.processes[at].exchanges.remove(&exchange) else { return Ok(()) };
        self.coverage.saw("a call is given up");
        self.witness.tell(mail, Told::Cancelled)?;
        self.say(at, to, Word::Cancel { exchange });
        let from = self.processes[to].id;
        self.drive_intake(at, intake::Input::Unwanted { from, exchange: Exchange::Ours(exchange) })
    }

    /// Something has come.
    pub(super) fn hear(&mut self, from: At, to: At, word: Word) -> Result<(), Violation> {
        let id = self.processes[from].id;
        match word {
            Word::Mail { exchange, large, .. } => {
                let actor = self.actor_of(&word);
                let line = Some(Line::Actor(actor));
                let exchange = Some(Exchange::Theirs(exchange));
                let message = (from, word);
                let input = intake::Input::Came { from: id, line, exchange, message, large, always_fits: false };
                self.drive_intake(to, input)
            }
            Word::Answer { exchange, large: Some(Announced { transfer, .. }), .. }
                if !self.processes[to].exchanges.contains_key(&exchange) =>
            {
                self.coverage.saw("a large answer to nobody");
                self.say(to, from, Word::Taken { transfer });
                Ok(())
            }
            Word::Answer { exchange, large: large @ Some(_), .. } => {
                let exchange = Some(Exchange::Ours(exchange));
                let message = (from, word);
                let input = intake::Input::Came { from: id, line: None, exchange, message, large, always_fits: false };
                self.drive_intake(to, input)
            }
            Word::Answer { .. } => self.take(to, from, word),
            Word::Credit { actor, calls, bytes } => {
                if let Some(target) = self.processes[to].targets.get_mut(&actor).filter(|it| it.at == Some(from)) {
                    target.on_the_way.credited(calls, bytes);
                }
                self.flush(to, actor)
            }
            Word::Cancel { exchange } => {
                self.drive_intake(to, intake::Input::Unwanted { from: id, exchange: Exchange::Theirs(exchange) })?;
                for actor in 0..self.actors.len() {
                    let Some(cell) = self.processes[to].cells.get_mut(&actor) else { continue };
                    let is_it = |got: &Got| got.from == from && got.exchange == exchange;
                    if let Some(at) = cell.mailbox.iter().position(is_it) {
                        self.coverage.saw("a queued call is removed");
                        let got = cell.mailbox.remove(at).expect("it was found there");
                        self.credit(to, from, actor, got.mail);
                    }
                }
                Ok(())
            }
            Word::Pull { transfer, offset, bytes } => {
                let kept = self.processes[to].shelf.get(&transfer).filter(|(by, _)| *by == from);
                let part = kept.and_then(|(_, payload)| {
                    let begin = usize::try_from(offset).ok().filter(|begin| *begin < payload.len())?;
                    Some(payload.slice(begin..payload.len().min(begin + bytes as usize)))
                });
                if let Some(bytes) = part {
                    self.say(to, from, Word::Part { transfer, offset, bytes });
                }
                Ok(())
            }
            Word::Taken { transfer } => {
                let shelf = &mut self.processes[to].shelf;
                if shelf.get(&transfer).is_some_and(|(by, _)| *by == from) {
                    shelf.remove(&transfer);
                }
                Ok(())
            }
            Word::Part { transfer, offset, bytes } => {
                self.coverage.saw("a part comes");
                self.drive_intake(to, intake::Input::Part { from: id, transfer, offset, bytes })
            }
            Word::Died => Ok(()),
        }
    }

    fn actor_of(&self, word: &Word) -> ActorId {
        let slot = match word {
            Word::Mail { mail, .. } => self.witness.mail(*mail).actor as u32,
            _ => u32::MAX,
        };
        ActorId { process: self.processes[0].id, slot, generation: 0 }
    }

    fn drive_intake(&mut self, at: At, input: intake::Input<(At, Word)>) -> Result<(), Violation> {
        let now = self.agenda.now();
        self.processes[at].intake.handle(now, input);
        intake::check(&self.processes[at].intake)?;
        while let Some(output) = self.processes[at].intake.poll_output() {
            match output {
                intake::Output::Pull { from, transfer, offset, bytes } => {
                    let to = self.at(from);
                    self.say(at, to, Word::Pull { transfer, offset, bytes });
                }
                intake::Output::Taken { from, transfer } => {
                    let to = self.at(from);
                    self.say(at, to, Word::Taken { transfer });
                }
                intake::Output::Open { from, transfer, .. } => {
                    self.processes[at].rooms.insert((from, transfer), Vec::new());
                    let delay = self.rng.span(ROOM_MS);
                    self.agenda.after(delay, Event::Room { at, from, transfer });
                }
                intake::Output::Haul { from, transfer } => {
                    let delay = self.rng.span(HAUL_MS);
                    self.agenda.after(delay, Event::Hauled { at, from, transfer });
                }
                intake::Output::Keep { from, transfer, offset, bytes } => {
                    let room = self.processes[at].rooms.entry((from, transfer)).or_default();
                    let is_behind = room.len() as u64 == offset;
                    ensure(is_behind, "INTAKE-4", || format!("a part is for byte {offset} of {}", room.len()))?;
                    room.extend_from_slice(&bytes);
                }
                intake::Output::Deliver { from: sender, message: (from, word), payload: transfer, waited } => {
                    let came = transfer.and_then(|transfer| self.processes[at].rooms.remove(&(sender, transfer)));
                    if let (Word::Mail { mail, .. } | Word::Answer { mail, .. }, Some(came)) = (&word, &came) {
                        let is_whole = *came == payload(*mail, came.len() as u64);
                        ensure(is_whole, "INTAKE-4", || format!("the payload of message {mail} is not its own"))?;
                    }
                    if came.is_some() {
                        self.coverage.saw("a payload is whole");
                    } else if !waited.is_zero() {
                        self.coverage.saw("a message waits behind a payload");
                    }
                    self.take(at, from, word)?;
                }
                intake::Output::Dropped { from: sender, message: (from, word), payload: transfer } => {
                    if let Some(transfer) = transfer {
                        self.processes[at].rooms.remove(&(sender, transfer));
                    }
                    self.coverage.saw("what is held is dropped");
                    self.dropped(at, from, word)?;
                }
            }
        }
        Ok(())
    }

    /// There is room for a payload, if anybody still wants it.
    pub(super) fn room(&mut self, at: At, from: ProcessId, transfer: u64) -> Result<(), Violation> {
        if !self.processes[at].is_alive {
            return Ok(());
        }
        let is_wanted = self.processes[at].rooms.contains_key(&(from, transfer));
        self.coverage.saw(if is_wanted { "there is room for a payload" } else { "room for what nobody wants" });
        let road = if self.rng.chance(50) { Road::Nodes } else { Road::Parts };
        self.drive_intake(at, intake::Input::Ready { from, transfer, road })
    }

    /// The nodes have moved a payload, or could not.
    pub(super) fn hauled(&mut self, at: At, from: ProcessId, transfer: u64) -> Result<(), Violation> {
        if !self.processes[at].is_alive {
            return Ok(());
        }
        let lender = &self.processes[self.at(from)];
        let lent = lender.shelf.get(&transfer).filter(|(to, _)| lender.is_alive && *to == at);
        let lent = lent.map(|(_, payload)| payload.to_vec()).filter(|_| self.rng.chance(75));
        let is_whole = lent.is_some();
        if let Some((room, lent)) = self.processes[at].rooms.get_mut(&(from, transfer)).zip(lent) {
            *room = lent;
        }
        self.coverage.saw(if is_whole { "nodes move a payload" } else { "nodes do not move a payload" });
        self.drive_intake(at, intake::Input::Hauled { from, transfer, is_whole })
    }

    fn dropped(&mut self, at: At, from: At, word: Word) -> Result<(), Violation> {
        match word {
            Word::Mail { exchange, mail, .. } => {
                let actor = self.witness.mail(mail).actor;
                if !self.processes[at].dead.contains(&from) {
                    self.coverage.saw("there is no room for a message");
                    self.witness.mail_mut(mail).is_dropped = true;
                }
                self.credit(at, from, actor, mail);
                self.say(at, from, Word::Answer { exchange, mail, said: Said::NotTaken, large: None });
                Ok(())
            }
            Word::Answer { exchange, .. } => self.close(at, exchange, None),
            _ => Ok(()),
        }
    }

    fn at(&self, process: ProcessId) -> At {
        self.processes.iter().position(|known| known.id == process).expect("every process is known")
    }

    /// A message or an answer is acted on.
    fn take(&mut self, at: At, from: At, word: Word) -> Result<(), Violation> {
        let (exchange, mail, again) = match word {
            Word::Mail { exchange, mail, again, .. } => (exchange, mail, again),
            Word::Answer { exchange, said, .. } => return self.close(at, exchange, Some(said)),
            _ => return Ok(()),
        };
        let actor = self.witness.mail(mail).actor;
        if let Some(Again { number, seq, after }) = again {
            let process = &mut self.processes[at];
            let mutant = process.mutant;
            let new = || mutant.into_iter().fold(Reception::default(), Reception::with_mutant);
            let sender = (self.processes[from].id, number);
            let reception = self.processes[at].receptions.entry(actor).or_insert_with(new);
            let taking = reception.take(sender, seq, after, exchange);
            check_reception(reception)?;
            match taking {
                Taking::Handle => {}
                Taking::Later => {
                    self.coverage.saw("a message comes ahead of one that was dropped");
                    self.credit(at, from, actor, mail);
                    self.say(at, from, Word::Answer { exchange, mail, said: Said::NotTaken, large: None });
                    return Ok(());
                }
                Taking::Wait => {
                    self.coverage.saw("a repeat waits with the first");
                    self.credit(at, from, actor, mail);
                    return Ok(());
                }
                Taking::Acknowledge => {
                    self.coverage.saw("a repeat is acknowledged");
                    self.credit(at, from, actor, mail);
                    self.say(at, from, Word::Answer { exchange, mail, said: Said::Handled, large: None });
                    return Ok(());
                }
            }
        }
        let got = Got { from, exchange, mail, again };
        match self.processes[at].cells.get_mut(&actor) {
            Some(cell) => {
                cell.mailbox.push_back(got);
                self.begin_next(at, actor)
            }
            None => {
                self.credit(at, from, actor, mail);
                self.answer(at, actor, got, Said::NoActor)
            }
        }
    }

    fn begin_next(&mut self, at: At, actor: ActorIndex) -> Result<(), Violation> {
        let is_zombie = self.is_zombie(at);
        let Some(cell) = self.processes[at].cells.get_mut(&actor).filter(|cell| cell.is_busy.is_none()) else {
            return Ok(());
        };
        let Some(got) = cell.mailbox.pop_front() else { return Ok(()) };
        cell.is_busy = Some(got);
        let life = cell.life;
        self.witness.begin(got.mail, life, at, is_zombie)?;
        self.coverage.saw("a message begins");
        self.credit(at, got.from, actor, got.mail);
        // Now and then one takes so long that others wait, and hangs until all is over.
        let delay = match self.rng.below(2_000) {
            0 if !self.is_quiet => HANGS,
            1..100 => self.rng.span(3_000),
            _ => self.rng.span(8),
        };
        self.agenda.after(delay, Event::Finish { at, actor, life, mail: got.mail });
        Ok(())
    }

    /// A handler comes to its end, or takes its process with it.
    pub(super) fn finish(&mut self, at: At, actor: ActorIndex, life: u32, mail: MailId) -> Result<(), Violation> {
        if !self.processes[at].is_alive {
            return Ok(());
        }
        let begun = self.witness.begun(mail);
        let effect = self.witness.mail(mail).effect;
        if matches!(effect, Effect::Kills(times) if begun <= usize::from(times)) {
            self.coverage.saw("a message ends its process");
            return self.crash(at, Some(mail));
        }
        let Some(cell) = self.processes[at].cells.get_mut(&actor).filter(|cell| cell.life == life) else {
            return Ok(());
        };
        let Some(got) = cell.is_busy.take() else { return Ok(()) };
        if effect == Effect::BreaksOff && begun == 1 {
            self.restart_here(at, actor);
            self.witness.mail_mut(mail).is_broken_off = true;
            self.answer(at, actor, got, Said::BrokenOff)?;
            return self.begin_next(at, actor);
        }
        let has_panicked = effect == Effect::Panics;
        self.witness.finish(mail, has_panicked);
        self.answer(at, actor, got, if has_panicked { Said::Panicked } else { Said::Handled })?;
        self.begin_next(at, actor)
    }

    /// An actor is started again where it is, in the middle of a message: its mail survives that.
    fn restart_here(&mut self, at: At, actor: ActorIndex) {
        self.coverage.saw("a message is broken off");
        self.actors[actor].life += 1;
        let life = self.actors[actor].life;
        if let Some(cell) = self.processes[at].cells.get_mut(&actor) {
            cell.life = life;
        }
    }

    /// Answers a message, to all who have asked.
    fn answer(&mut self, at: At, actor: ActorIndex, got: Got, said: Said) -> Result<(), Violation> {
        let Got { from, exchange, mail, again } = got;
        let mut exchanges = vec![exchange];
        if let Some(Again { number, seq, .. }) = again {
            let sender = (self.processes[from].id, number);
            let is_done = matches!(said, Said::Handled | Said::Panicked);
            if let Some(reception) = self.processes[at].receptions.get_mut(&actor) {
                exchanges.extend(reception.finish(sender, seq, is_done));
                check_reception(reception)?;
            }
        }
        let is_large = again.is_none() && said == Said::Handled && self.rng.chance(20);
        for exchange in exchanges {
            let wanted = self.witness.mail(mail).kind != Kind::Tell;
            if wanted {
                let bytes = INLINE_BYTES_MAX + 1 + self.rng.below(INTAKE.payload_bytes_max - INLINE_BYTES_MAX);
                let is_there = self.processes[at].is_alive && !self.processes[at].dead.contains(&from);
                let large = (is_large && is_there).then(|| self.keep(at, from, payload(mail, bytes)));
                self.say(at, from, Word::Answer { exchange, mail, said, large });
            }
        }
        Ok(())
    }

    /// A message has left its mailbox.
    fn credit(&mut self, at: At, to: At, actor: ActorIndex, mail: MailId) {
        let bytes = self.witness.mail(mail).bytes;
        let owed = self.processes[at].owed.entry((to, actor)).or_default();
        if let Some((calls, bytes)) = owed.taken(window(), bytes) {
            self.coverage.saw("credit comes back");
            self.say(at, to, Word::Credit { actor, calls, bytes });
        }
    }

    /// An answer has come, or will not: its payload is lost.
    fn close(&mut self, at: At, exchange: u64, said: Option<Said>) -> Result<(), Violation> {
        let Some(Waiting { mail, what, .. }) = self.processes[at].exchanges.remove(&exchange) else {
            self.coverage.saw("an answer to nobody");
            return Ok(());
        };
        match said {
            Some(said) => self.answered(at, mail, Some(what), said),
            None => self.witness.tell(mail, Told::MayHaveRun),
        }
    }

    fn answered(&mut self, at: At, mail: MailId, what: Option<What>, said: Said) -> Result<(), Violation> {
        match what {
            None => self.witness.tell(mail, Told::NotStarted),
            Some(What::Ask) => {
                let told = match said {
                    Said::Handled => Told::Handled,
                    Said::Panicked => Told::Panicked,
                    Said::NotTaken | Said::NoActor => Told::NotStarted,
                    Said::BrokenOff => Told::MayHaveRun,
                };
                self.coverage.saw("a call ends");
                self.witness.tell(mail, told)
            }
            Some(What::Kept { pair, number, seq, round }) => {
                let now = self.agenda.now();
                let is_gone = self.actors[pair.1].is_gone;
                let outbox = self.processes[at].outboxes.get_mut(&pair);
                let Some(pending) = outbox.filter(|pending| pending.number == number) else {
                    self.coverage.saw("an answer for an outbox that is over");
                    return Ok(());
                };
                match said {
                    Said::Handled | Said::Panicked => {
                        let is_open = pending.kept.contains_key(&seq);
                        pending.machine.handle(now, outbox::Input::Acknowledged { seq });
                        if is_open {
                            self.coverage.saw("a message is acknowledged");
                            let told = if said == Said::Handled { Told::Handled } else { Told::Panicked };
                            self.witness.tell(mail, told)?;
                        }
                    }
                    _ if pending.round != round => {
                        self.coverage.saw("an answer of an earlier round");
                        return Ok(());
                    }
                    Said::NoActor if is_gone => {
                        pending.start_again(now, outbox::Input::Gone)?;
                        let is_refused = pending.machine.submit(now) == Err(outbox::Refused::Gone);
                        ensure(is_refused, "MAIL-3", || format!("{} is gone and takes mail", pair.1))?;
                    }
                    Said::NotTaken | Said::NoActor | Said::BrokenOff => {
                        self.coverage.saw("a message is to come later");
                        pending.start_again(now, outbox::Input::Lost { handling: None })?;
                        self.agenda.after(AGAIN, Event::Again { at, pair });
                    }
                }
                self.perform_outbox(at, pair)
            }
        }
    }

    /// News of a death.
    pub(super) fn hears(&mut self, at: At, dead: At) -> Result<(), Violation> {
        if !self.processes[at].is_alive || self.processes[at].dead.contains(&dead) {
            return Ok(());
        }
        self.mourns(at, dead)?;
        self.is_without(at, self.processes[dead].id)
    }

    /// News of a node's death, and so of all that was there.
    pub(super) fn hears_of_node(&mut self, at: At, node: usize) -> Result<(), Violation> {
        if !self.processes[at].is_alive {
            return Ok(());
        }
        let its: Vec<At> = (0..self.processes.len()).filter(|dead| self.processes[*dead].node == node).collect();
        its.into_iter().try_for_each(|dead| self.mourns(at, dead))?;
        self.is_without(at, ProcessId::from(super::node_id(node)))
    }

    /// Nothing more comes from a process, or from a node: what waited for it goes on.
    fn is_without(&mut self, at: At, process: ProcessId) -> Result<(), Violation> {
        self.drive_intake(at, intake::Input::Gone { process })?;
        (0..self.actors.len()).try_for_each(|actor| self.flush(at, actor))
    }

    fn mourns(&mut self, at: At, dead: At) -> Result<(), Violation> {
        if !self.processes[at].dead.insert(dead) {
            return Ok(());
        }
        let now = self.agenda.now();
        let over = self.processes[dead].over.filter(|_| !self.is_zombie(dead));
        let process = &mut self.processes[at];
        let with_it = process.exchanges.iter().filter(|(_, waiting)| waiting.to == dead);
        let with_it: Vec<u64> = with_it.map(|(exchange, _)| *exchange).collect();
        for exchange in with_it {
            let Some(Waiting { mail, what, .. }) = self.processes[at].exchanges.remove(&exchange) else { continue };
            match what {
                What::Ask => {
                    self.coverage.saw("a call may have run");
                    self.witness.tell(mail, Told::MayHaveRun)?;
                }
                What::Kept { pair, number, round, .. } => {
                    let Some(pending) = self.processes[at].outboxes.get_mut(&pair) else { continue };
                    if (pending.number, pending.round) != (number, round) {
                        continue;
                    }
                    let of_pair =
                        |mail: MailId| pending.kept.iter().find(|(_, kept)| **kept == mail).map(|(seq, _)| *seq);
                    let handling = over.and_then(of_pair);
                    self.coverage.saw(if handling.is_some() { "a death over a message" } else { "another death" });
                    if let Some(mail) = over.filter(|_| handling.is_some()) {
                        self.witness.mail_mut(mail).blamed += 1;
                    }
                    pending.start_again(now, outbox::Input::Lost { handling })?;
                    pending.machine.handle(now, outbox::Input::Up);
                    self.perform_outbox(at, pair)?;
                }
            }
        }
        let process = &mut self.processes[at];
        process.shelf.retain(|_, (to, _)| *to != dead);
        process.owed.retain(|(to, _), _| *to != dead);
        for target in process.targets.values_mut().filter(|target| target.at == Some(dead)) {
            (target.at, target.on_the_way) = (None, OnTheWay::default());
        }
        Ok(())
    }
}

impl Pending {
    /// All that is not acknowledged is sent again, as soon as the actor is said to be up.
    fn start_again(&mut self, now: Time, input: outbox::Input) -> Result<(), Violation> {
        self.round += 1;
        self.to_send.clear();
        self.machine.handle(now, input);
        outbox::check(&self.machine)
    }
}

/// A call has so long (G3).
const DEADLINE: Duration = Duration::from_secs(30);
/// Longer than a message that is sent again may live.
pub(super) const HANGS: Duration = Duration::from_secs(700);
