//! What a process asks of its node: requests with numbers, and who waits for the answers.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mobula_net::{Line, SendError, unix};
use mobula_types::{ActorId, NameOwner};
use mobula_wire::frame::CONTROL_BYTES_MAX;
use mobula_wire::local::{FromNode, Hello, RequestId, ToNode, ToolQuestion};
use mobula_wire::{FrameKind, PROTOCOL};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::losses::{Loss, Losses};

/// Who has a name, or why nobody can tell.
pub(crate) type NameAnswer = Result<NameOwner, String>;
/// A value of the job, or why there is no answer.
pub(crate) type ValueAnswer = Result<Option<Vec<u8>>, String>;

/// Whose a request is.
pub(crate) enum Wanted {
    /// A place for an actor that is spawned from here.
    Home(ActorId),
    /// A place for tasks; the number is the dispatch's own.
    Tasks(u64),
    Claim(oneshot::Sender<NameAnswer>),
    LookUp(oneshot::Sender<Option<NameOwner>>),
    Value(oneshot::Sender<ValueAnswer>),
    Answer(oneshot::Sender<Result<String, String>>),
}

/// The way to the node, and what was asked over it.
pub(crate) struct Link {
    pub(crate) line: Line,
    requests: Mutex<Requests>,
    is_cut: AtomicBool,
    losses: Arc<Losses>,
}

#[derive(Default)]
struct Requests {
    last: RequestId,
    wanted: HashMap<RequestId, Wanted>,
}

impl Link {
    pub(crate) fn new(line: Line, losses: Arc<Losses>) -> Self {
        Self { line, requests: Mutex::default(), is_cut: AtomicBool::new(false), losses }
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
        if let Err(error) = self.try_tell(said) {
            tracing::debug!(%error, "the node was not told");
            self.losses.count(Loss::of_own(&error));
        }
    }

    /// The same, where what has no room may be said later.
    ///
    /// # Errors
    ///
    /// Why the node is not told.
    pub(crate) fn try_tell(&self, said: &ToNode) -> Result<(), SendError> {
        match mobula_wire::encode(said) {
            Ok(body) => self.line.send(FrameKind::Local, Bytes::from(body)),
            Err(error) => {
                tracing::warn!(%error, "a word to the node cannot be encoded");
                self.losses.count(Loss::TooLarge);
                Ok(())
            }
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

/// A node answers a question of its own in this time: it may have to ask its head.
const QUESTION_MAX: Duration = Duration::from_secs(10);

/// Asks the node at `socket` what the command line asks.
pub(crate) async fn ask_node(socket: &Path, question: ToolQuestion) -> Result<String, String> {
    let asked = async {
        let (connection, mut incoming) =
            unix::connect(socket, QUESTION_MAX).await.map_err(|error| error.to_string())?;
        let hello = mobula_wire::encode(&Hello::Tool { protocol: PROTOCOL }).map_err(|error| error.to_string())?;
        let said = ToNode::Tool { request: 1, question };
        let said = mobula_wire::encode(&said).map_err(|error| error.to_string())?;
        connection.send(FrameKind::Greeting, hello.into()).map_err(|error| error.to_string())?;
        connection.send(FrameKind::Local, said.into()).map_err(|error| error.to_string())?;
        loop {
            let frame = incoming.next().await.map_err(|error| error.to_string())?;
            match mobula_wire::decode_limited::<FromNode, CONTROL_BYTES_MAX>(&frame.body) {
                Ok(FromNode::Answer { answer, .. }) => return answer,
                Ok(FromNode::Refused { message }) => return Err(message),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    let late = || Err(format!("the node did not answer within {QUESTION_MAX:?}"));
    tokio::time::timeout(QUESTION_MAX, asked).await.unwrap_or_else(|_| late())
}

#[cfg(test)]
mod tests {
    use mobula_net::unix::Listener;

    use super::*;

    #[tokio::test]
    async fn what_its_own_queue_has_no_room_for_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("node");
        let listener = Listener::bind(&socket).await.unwrap();
        let (connection, _incoming) = unix::connect(&socket, QUESTION_MAX).await.unwrap();
        let _node = listener.accept().await.unwrap();
        let losses = Arc::new(Losses::default());
        let link = Link::new(connection.into(), losses.clone());
        let word = ToNode::KvGet { request: 1, key: "k".repeat(1 << 19) };
        // No queue holds half of them.
        (0..400).for_each(|_| link.tell(&word));
        let counted = losses.listed();
        assert!(counted[Loss::QueueFull.word()] > 200, "{counted:?}");
        assert_eq!(counted.len(), 1, "{counted:?}");
    }
}
