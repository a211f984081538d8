//! What a process asks of its node: requests with numbers, and who waits for the answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use mobula_net::Connection;
use mobula_types::ActorId;
use mobula_wire::FrameKind;
use mobula_wire::local::{RequestId, ToNode};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Who has a name, or why nobody can tell.
pub(crate) type NameAnswer = Result<ActorId, String>;
/// A value of the job, or why there is no answer.
pub(crate) type ValueAnswer = Result<Option<Vec<u8>>, String>;

/// Whose a request is.
pub(crate) enum Wanted {
    /// A place for an actor that is spawned from here.
    Home(ActorId),
    /// A place for tasks; the number is the dispatch's own.
    Tasks(u64),
    Claim(oneshot::Sender<NameAnswer>),
    LookUp(oneshot::Sender<Option<ActorId>>),
    Value(oneshot::Sender<ValueAnswer>),
}

/// The connection to the node, and what was asked over it.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    requests: Mutex<Requests>,
    is_cut: AtomicBool,
}

#[derive(Default)]
struct Requests {
    last: RequestId,
    wanted: HashMap<RequestId, Wanted>,
}

impl Link {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection, requests: Mutex::default(), is_cut: AtomicBool::new(false) }
    }

    /// Asks; the answer is for `wanted`. Nothing is asked of a node that is gone, and whoever waits is told so by the end
    /// of its channel.
    pub(crate) fn ask(&self, wanted: Wanted, said: impl FnOnce(RequestId) -> ToNode) -> RequestId {
        let request = {
            let mut requests = self.requests.lock();
            requests.last += 1;
            let request = requests.last;
            if !self.is_cut() {
                requests.wanted.insert(request, wanted);
            }
            request
        };
        self.tell(&said(request));
        request
    }

    /// Takes a request out that is answered, or not wanted any more.
    pub(crate) fn answered(&self, request: RequestId) -> Option<Wanted> {
        self.requests.lock().wanted.remove(&request)
    }

    pub(crate) fn tell(&self, said: &ToNode) {
        match mobula_wire::encode(said) {
            Ok(body) => {
                if let Err(error) = self.connection.send(FrameKind::Local, Bytes::from(body)) {
                    tracing::debug!(%error, "the node was not told");
                }
            }
            Err(error) => tracing::warn!(%error, "a word to the node cannot be encoded"),
        }
    }

    /// The node is gone: nobody gets an answer any more.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        let unanswered = std::mem::take(&mut self.requests.lock().wanted);
        drop(unanswered);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }
}
