//! What this process holds of objects, and what it says of that to its node, which owns what it makes (design.md §6).
//!
//! | what | from | until |
//! |---|---|---|
//! | an object is held | its first reference here | its last one is dropped |
//! | its bytes are kept | it was sealed or pulled here | the node does not count on them any more |
//! | a message that was sent holds what it names | the node has been told of it | its receiver holds it |
//!
//! The node hears each word once and in its order, as this process says them. Words that nobody waits for are said together.

use std::collections::HashMap;
use std::panic::Location;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use mobula_actor::arbiters;
use mobula_actor::deliver::{Fetched, Payload};
use mobula_actor::object::{GetError, Pins};
use mobula_net::SendError;
use mobula_store::Filling;
use mobula_types::{CallError, Death, DeathCause, Loss, ObjectId, ProcessId, Unknown};
use mobula_wire::frame::CONTROL_BYTES_MAX;
use mobula_wire::local::ToNode;
use mobula_wire::objects::{Kept, ObjectAnswer, ObjectWord, SITES_MAX};
use mobula_wire::{ExchangeId, INLINE_BYTES_MAX, Parcel, Talk};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Duration, sleep};

use super::exchanges::Waiting;
use super::kept::KeptBytes;
use super::lineage::Made;
use super::process::Process;

/// Words in one frame take at most about so much: one of them may hold a value of [`INLINE_BYTES_MAX`].
const SAID_BYTES_MAX: usize = CONTROL_BYTES_MAX / 2;

/// The node is not told while it has so much to read from this process that nothing more is taken; it is tried again after
/// this.
const AGAIN_AFTER: Duration = Duration::from_millis(1);

/// The objects of this process, and others' that it holds.
#[derive(Default)]
pub(crate) struct Objects {
    pub(super) books: Mutex<Books>,
    words: Mutex<Words>,
}

/// Somebody who waits for the bytes of an object.
type Waiter = oneshot::Sender<Result<Fetched, GetError>>;

#[derive(Default)]
pub(super) struct Books {
    /// The numbers of places where objects were made.
    sites: HashMap<&'static Location<'static>, u32>,
    /// References, by object.
    holds: HashMap<ObjectId, usize>,
    /// Who waits for the bytes of an object.
    wanted: HashMap<ObjectId, Vec<Waiter>>,
    pub(super) kept: KeptBytes,
    /// Room that the node fills with the bytes of objects.
    pub(super) filling: HashMap<ObjectId, Filling>,
    /// How objects were made that are on other nodes.
    pub(super) lineage: HashMap<ObjectId, Made>,
    /// Messages that named objects.
    messages: u64,
}

impl Books {
    /// Whether it is the first reference here.
    fn hold(&mut self, object: ObjectId) -> bool {
        let count = self.holds.entry(object).or_default();
        *count += 1;
        *count == 1
    }

    /// Whether it was the last. The node forgets with it that anybody here waits for the object: so does this process, or
    /// whoever wants it later would be taken for one more of those.
    fn release(&mut self, object: ObjectId) -> bool {
        let Some(count) = self.holds.get_mut(&object) else { return false };
        *count -= 1;
        let is_last = *count == 0;
        if is_last {
            self.holds.remove(&object);
            self.wanted.remove(&object);
        }
        is_last
    }

    /// Whether it is the first that waits for the object.
    fn want(&mut self, object: ObjectId, waiting: Waiter) -> bool {
        let all = self.wanted.entry(object).or_default();
        all.push(waiting);
        all.len() == 1
    }
}

#[derive(Default)]
struct Words {
    waiting: Vec<ObjectWord>,
    /// Somebody is to say them.
    is_noted: bool,
}

impl Process {
    /// The reference to one of our objects, made at `site`, leaves this process.
    pub(crate) fn export_object(self: &Arc<Self>, object: ObjectId, site: &'static Location<'static>) {
        let mut books = self.objects.books.lock();
        books.hold(object);
        let site = match books.sites.get(site) {
            Some(number) => *number,
            None if books.sites.len() < SITES_MAX => {
                let number = books.sites.len() as u32 + 1;
                books.sites.insert(site, number);
                self.note_of_object(ObjectWord::Site { number, place: site.to_string() });
                number
            }
            None => 0,
        };
        self.note_of_object(ObjectWord::New { object, site });
    }

    /// One of our objects has its value.
    pub(crate) fn seal_object(self: &Arc<Self>, object: ObjectId, value: Result<Fetched, GetError>) {
        let (kept, pins) = match value {
            Ok(Fetched { bytes, pins }) => (self.keep_object(object, bytes, pins.ids()), pins),
            Err(error) => (Kept::Failed(Box::new(error)), Pins::default()),
        };
        self.note_of_object(ObjectWord::Sealed { object, kept, inner: pins.ids() });
        // From here on the node holds for the bytes what they name.
        drop(pins);
    }

    /// Keeps bytes for the node; small ones it keeps itself.
    pub(super) fn keep_object(&self, object: ObjectId, bytes: Bytes, inner: Vec<ObjectId>) -> Kept {
        if bytes.len() <= INLINE_BYTES_MAX {
            return Kept::Inline(bytes);
        }
        let place = self.store.as_ref().and_then(|store| store.place_of(&bytes).map(|at| (at, store.is_own(&bytes))));
        let length = bytes.len() as u64;
        self.objects.books.lock().kept.keep(object, place.map(|(at, _)| at), bytes, inner);
        match place {
            Some((at, is_own)) => Kept::Lent { at, bytes: length, is_own },
            None => Kept::Apart { bytes: length },
        }
    }

    /// One more reference to an object is here.
    pub(crate) fn hold_object(self: &Arc<Self>, object: ObjectId) {
        let mut books = self.objects.books.lock();
        if books.hold(object) {
            self.note_of_object(ObjectWord::Hold { object });
        }
    }

    /// One less.
    pub(crate) fn release_object(self: &Arc<Self>, object: ObjectId) {
        let mut books = self.objects.books.lock();
        if books.release(object) {
            self.note_of_object(ObjectWord::Release { object });
        }
    }

    /// A message has come: what it names is held for it, until [`received_pins`](Self::received_pins) are dropped.
    pub(crate) fn refs_came(self: &Arc<Self>, from: ProcessId, number: Option<u64>, refs: &[ObjectId]) {
        refs.iter().for_each(|object| self.hold_object(*object));
        if let Some(number) = number {
            self.note_of_object(ObjectWord::Taken { from, number });
        }
    }

    /// What a message named that [has come](Self::refs_came).
    pub(crate) fn received_pins(&self, refs: &[ObjectId]) -> Pins {
        match self.system() {
            Some(system) if !refs.is_empty() => Pins::received(&system, refs),
            _ => Pins::default(),
        }
    }

    /// Sends a parcel whose payload names what `pins` hold: from here on the node holds it for the receiver.
    ///
    /// # Errors
    ///
    /// Why it was not taken; nothing is held for it then.
    pub(crate) fn post(self: &Arc<Self>, parcel: Parcel, pins: Pins) -> Result<(), mobula_types::NotStarted> {
        let parcel = self.naming(parcel, &pins);
        let number = match &parcel.talk {
            Talk::Counted { number, .. } => Some(*number),
            _ => None,
        };
        let sent = self.post_large(parcel);
        if let (Err(_), Some(number)) = (&sent, number) {
            self.note_of_object(ObjectWord::Dropped { number });
        }
        sent
    }

    /// A parcel as it leaves, whose payload names what `pins` hold.
    pub(crate) fn naming(self: &Arc<Self>, parcel: Parcel, pins: &Pins) -> Parcel {
        if pins.is_empty() {
            return parcel;
        }
        let Parcel { to, from, talk, payload } = parcel;
        let number = {
            let mut books = self.objects.books.lock();
            books.messages += 1;
            self.note_of_object(ObjectWord::Sends { number: books.messages, to, objects: pins.ids() });
            books.messages
        };
        // What it names is the node's before anybody hears of it, should this process end now.
        self.say_of_objects();
        Parcel { to, from, talk: Talk::Counted { number, talk: Box::new(talk) }, payload }
    }

    /// The bytes of an object that is held, as soon as there are any.
    pub(crate) fn fetch_object(self: &Arc<Self>, object: ObjectId) -> oneshot::Receiver<Result<Fetched, GetError>> {
        let (sender, value) = oneshot::channel();
        if self.link.is_cut() {
            sender.send(Err(self.node_lost(object))).ok();
            return value;
        }
        {
            let mut books = self.objects.books.lock();
            if books.want(object, sender) {
                // With those of others who want something at this moment.
                self.note_of_object(ObjectWord::Wanted { object });
            }
        }
        value
    }

    fn node_lost(&self, object: ObjectId) -> GetError {
        let cause = self.ending().unwrap_or(DeathCause::Disconnected);
        let death = Box::new(Death::of(self.me.node().into(), cause));
        CallError::ObjectLost { object, cause: Box::new(Loss::MakerDied { death }) }
    }

    /// The node is gone: nobody gets any bytes any more.
    pub(crate) fn objects_over(&self) {
        let wanted = std::mem::take(&mut self.objects.books.lock().wanted);
        for (object, waiting) in wanted {
            waiting.into_iter().for_each(|sender| drop(sender.send(Err(self.node_lost(object)))));
        }
    }

    /// The node says something of an object.
    pub(crate) fn object_answered(self: &Arc<Self>, answer: ObjectAnswer) {
        match answer {
            ObjectAnswer::Ready { object, number, kept, keeper, inner } => {
                self.refs_came(self.me.node().into(), Some(number), &inner);
                self.object_ready(object, number, kept, keeper, &inner);
            }
            ObjectAnswer::Lost { object, loss } => {
                self.object_came(object, Err(CallError::ObjectLost { object, cause: Box::new(loss) }));
            }
            ObjectAnswer::Pull { object, source } => {
                let process = self.clone();
                arbiters::runtime().spawn(async move { process.pull_object(object, source).await });
            }
            ObjectAnswer::Room { object, bytes } => self.make_room(object, bytes),
            ObjectAnswer::Filled { object, is_whole, digest, inner } => {
                self.room_filled(object, is_whole.then_some((digest, inner)));
            }
            ObjectAnswer::Run { object, run } => self.run_again(object, run),
            ObjectAnswer::Forgotten { object } => {
                let forgotten = self.objects.books.lock().lineage.remove(&object);
                drop(forgotten);
            }
            ObjectAnswer::Freed { object, at } => {
                let freed = self.objects.books.lock().kept.free(object, at);
                // Without the books: it may let go of what it was read from.
                drop(freed);
            }
            ObjectAnswer::LetGo { object } => {
                if let Some(system) = self.system() {
                    system.let_go_of_object(object);
                }
                self.sweep_at_once();
            }
        }
    }

    fn object_ready(
        self: &Arc<Self>,
        object: ObjectId,
        number: u64,
        kept: Kept,
        keeper: ProcessId,
        inner: &[ObjectId],
    ) {
        let pins = self.received_pins(inner);
        let kept = match kept {
            Kept::Inline(bytes) => return self.object_came(object, Ok(Fetched { bytes, pins })),
            Kept::Failed(error) => return self.object_came(object, Err(*error)),
            kept => kept,
        };
        // The node counts this process among the readers until this is dropped.
        let hold = Reading { hold: HeldObject::new(self, object), number };
        let here = |at| self.objects.books.lock().kept.at(object, at).map(|(bytes, _)| bytes.clone());
        let (here, view) = match kept {
            Kept::Lent { at, bytes, .. } => match here(Some(at)) {
                Some(here) => (Some(here), None),
                None => (None, self.mapped(at, bytes)),
            },
            _ => (here(None), None),
        };
        match (here, view) {
            (Some(bytes), _) => self.object_came(object, Ok(Fetched { bytes, pins })),
            (None, Some(view)) => {
                let bytes = Bytes::from_owner(Read { view, _hold: hold });
                self.object_came(object, Ok(Fetched { bytes, pins }));
            }
            (None, None) => {
                let process = self.clone();
                arbiters::runtime().spawn(async move {
                    let fetched = process.fetch_from(keeper, object).await;
                    process.object_came(object, fetched);
                    drop(hold);
                });
            }
        }
    }

    fn object_came(&self, object: ObjectId, value: Result<Fetched, GetError>) {
        let waiting = self.objects.books.lock().wanted.remove(&object).unwrap_or_default();
        for sender in waiting {
            let value = value.as_ref().map(Fetched::again).map_err(Clone::clone);
            sender.send(value).ok();
        }
    }

    /// Asks a process for the bytes of an object, or a node who has them. One that is dead already is not asked: the news of
    /// its death, which would end the wait, has come and does not come again.
    pub(super) fn ask_for(self: &Arc<Self>, whom: ProcessId, exchange: ExchangeId, object: ObjectId) {
        if self.link.is_cut() || self.is_dead(whom) {
            self.exchanges.give_up(exchange);
        } else {
            self.say(whom, Talk::Fetch { exchange, object });
        }
    }

    /// Asks a process for the bytes of an object that it keeps.
    pub(super) async fn fetch_from(self: &Arc<Self>, keeper: ProcessId, object: ObjectId) -> Result<Fetched, GetError> {
        let (sender, value) = oneshot::channel();
        let exchange = self.exchanges.open(keeper, Waiting::Fetch { object, sender });
        let _awaited = self.exchanges.awaited(exchange);
        self.ask_for(keeper, exchange, object);
        value.await.unwrap_or(Err(CallError::MayHaveRun(Unknown::NoReply)))
    }

    /// Another process asks for the bytes of an object: one of ours, or one that our node knows.
    pub(crate) fn serve_fetch(self: &Arc<Self>, from: ProcessId, exchange: ExchangeId, object: ObjectId) {
        let answer = |value: Result<Fetched, GetError>| {
            self.answer(from, exchange, value.map(|Fetched { bytes, pins }| Payload::Value(bytes, pins)));
        };
        let kept = self.objects.books.lock().kept.any(object).cloned();
        if let Some((bytes, inner)) = kept {
            // The node holds what they name as long as it counts on them.
            return answer(Ok(Fetched { bytes, pins: Pins::named(&inner) }));
        }
        let encoded = self.system().and_then(|system| system.encoded_object(object));
        let process = self.clone();
        arbiters::runtime().spawn(async move {
            let value = match encoded {
                Some(encoded) => encoded.await,
                None => {
                    let _hold = HeldObject::new(&process, object);
                    process.fetch_object(object).await.unwrap_or(Err(CallError::MayHaveRun(Unknown::NoReply)))
                }
            };
            process.answer(from, exchange, value.map(|Fetched { bytes, pins }| Payload::Value(bytes, pins)));
        });
    }

    /// Says something to the node, with what else is to be said.
    pub(super) fn note_of_object(self: &Arc<Self>, word: ObjectWord) {
        let is_first = {
            let mut words = self.objects.words.lock();
            words.waiting.push(word);
            !std::mem::replace(&mut words.is_noted, true)
        };
        if is_first {
            let process = self.clone();
            arbiters::runtime().spawn(async move {
                process.objects.words.lock().is_noted = false;
                process.say_of_objects();
            });
        }
    }

    pub(super) fn say_of_objects(self: &Arc<Self>) {
        let mut words = self.objects.words.lock();
        let mut waiting = std::mem::take(&mut words.waiting).into_iter().peekable();
        while waiting.peek().is_some() {
            let (mut said, mut bytes) = (Vec::new(), 0);
            while let Some(word) = waiting.next_if(|word| bytes == 0 || bytes + size(word) <= SAID_BYTES_MAX) {
                bytes += size(&word);
                said.push(word);
            }
            let said = ToNode::Objects(said);
            if let Err(SendError::Full { .. }) = self.link.try_tell(&said) {
                let ToNode::Objects(unsaid) = said else { return };
                words.waiting = unsaid.into_iter().chain(waiting).collect();
                if !std::mem::replace(&mut words.is_noted, true) {
                    let process = self.clone();
                    arbiters::runtime().spawn(async move {
                        sleep(AGAIN_AFTER).await;
                        process.objects.words.lock().is_noted = false;
                        process.say_of_objects();
                    });
                }
                return;
            }
        }
    }
}

/// About what a word takes in a frame.
fn size(word: &ObjectWord) -> usize {
    const ID: usize = 16;
    let (bytes, objects) = match word {
        ObjectWord::Sealed { kept, inner, .. } | ObjectWord::Copied { kept, inner, .. } => match kept {
            Kept::Inline(bytes) => (bytes.len(), inner.len()),
            // An error says at most what a frame holds.
            Kept::Failed(error) => (error.to_string().len(), inner.len()),
            Kept::Lent { .. } | Kept::Apart { .. } | Kept::Spilled { .. } => (0, inner.len()),
        },
        ObjectWord::MadeAgain { inner, .. }
        | ObjectWord::Stored { inner, .. }
        | ObjectWord::MadeAgainAt { inner, .. } => (0, inner.len()),
        ObjectWord::MadeAt { inner, recipe, .. } => {
            (0, inner.len() + recipe.as_ref().map_or(0, |recipe| recipe.arguments.len()))
        }
        ObjectWord::Sends { objects, .. } => (0, objects.len()),
        ObjectWord::Site { place, .. } => (place.len(), 0),
        _ => (0, 0),
    };
    64 + bytes + objects * ID
}

/// One reference of this process's own to an object, while it does something with it.
struct HeldObject {
    process: Weak<Process>,
    object: ObjectId,
}

impl HeldObject {
    fn new(process: &Arc<Process>, object: ObjectId) -> Self {
        process.hold_object(object);
        Self { process: Arc::downgrade(process), object }
    }
}

impl Drop for HeldObject {
    fn drop(&mut self) {
        if let Some(process) = self.process.upgrade() {
            process.release_object(self.object);
        }
    }
}

/// What the node has said can be read is being read, as it counts that.
struct Reading {
    hold: HeldObject,
    number: u64,
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(process) = self.hold.process.upgrade() {
            process.note_of_object(ObjectWord::Unread { object: self.hold.object, number: self.number });
        }
    }
}

/// Bytes of an object in a segment of another process's, which stay there as long as they are read.
struct Read {
    view: mobula_store::View,
    _hold: Reading,
}

impl AsRef<[u8]> for Read {
    fn as_ref(&self) -> &[u8] {
        self.view.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use mobula_types::NodeId;

    use super::*;

    #[test]
    fn who_wants_what_was_let_go_meanwhile_is_the_first_again() {
        let object = ObjectId { owner: ProcessId::new(NodeId(1), 1), seq: 1 };
        let mut books = Books::default();
        let waiter = || oneshot::channel().0;
        assert_eq!((books.hold(object), books.hold(object)), (true, false));
        assert_eq!((books.want(object, waiter()), books.want(object, waiter())), (true, false));
        assert_eq!((books.release(object), books.want(object, waiter())), (false, false), "one is left");
        assert_eq!((books.release(object), books.release(object)), (true, false));
        assert_eq!((books.hold(object), books.want(object, waiter())), (true, true), "the node is told again");
    }
}
