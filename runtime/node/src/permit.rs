//! The wait of async work for the resources it asks for.

use std::sync::Arc;

use mobula_types::{NotStarted, Unknown, Within};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::bundles::Bundles;
use crate::compute::{Job, Permit, Pool};
use crate::logic::Request;

/// Ends what has a permit, when that is taken from it.
pub(crate) type End = Box<dyn Fn(Unknown) + Send + Sync>;

impl Pool {
    /// What `request` asks for, as soon as it is its turn.
    ///
    /// `is_sent` says whether another process sent what asks.
    pub(crate) async fn permit(
        self: &Arc<Self>,
        request: Request,
        priority: i32,
        is_sent: bool,
    ) -> Result<Permit, NotStarted> {
        if request.is_nothing() {
            return Ok(Permit::none());
        }
        let (sender, permit) = oneshot::channel();
        self.push(Arc::new(Turn { is_sent, end: None, sender: Mutex::new(Some(sender)) }), request, priority);
        permit.await.unwrap_or(Err(NotStarted::NoSession))
    }
}

impl Bundles {
    /// The same of a bundle, which may be no more while it is used: then `end` is called.
    pub(crate) async fn permit(
        self: &Arc<Self>,
        request: Request,
        within: Within,
        end: End,
    ) -> Result<Permit, NotStarted> {
        let (sender, permit) = oneshot::channel();
        let turn = Turn { is_sent: false, end: Some(end), sender: Mutex::new(Some(sender)) };
        self.push(Arc::new(turn), request, within);
        permit.await.unwrap_or(Err(NotStarted::NoSession))
    }
}

/// A place in the line whose job is to hand the permit over.
struct Turn {
    is_sent: bool,
    end: Option<End>,
    sender: Mutex<Option<oneshot::Sender<Result<Permit, NotStarted>>>>,
}

impl Job for Turn {
    fn run(self: Arc<Self>, permit: Permit) {
        let sender = self.sender.lock().take();
        if let Some(sender) = sender {
            // A permit nobody waits for any more comes back and is free.
            drop(sender.send(Ok(permit)));
        }
    }

    fn is_elsewhere(&self) -> bool {
        true
    }

    fn is_over(&self) -> bool {
        self.sender.lock().as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn is_sent(&self) -> bool {
        self.is_sent
    }

    fn refuse(self: Arc<Self>, cause: NotStarted) {
        let sender = self.sender.lock().take();
        if let Some(sender) = sender {
            drop(sender.send(Err(cause)));
        }
    }

    fn abandon(&self, why: Unknown) {
        if let Some(end) = &self.end {
            end(why);
        }
    }

    fn name(&self) -> &str {
        "permit"
    }
}
