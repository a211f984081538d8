//! The wait of async work for the resources it asks for.

use std::sync::Arc;

use mobula_types::NotStarted;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::compute::{Job, Permit, Pool};
use crate::logic::Request;

impl Pool {
    /// What `request` asks for, as soon as it is its turn.
    pub(crate) async fn permit(self: &Arc<Self>, request: Request) -> Result<Permit, NotStarted> {
        if request.is_nothing() {
            return Ok(Permit::none());
        }
        let (sender, permit) = oneshot::channel();
        self.push(Arc::new(Turn(Mutex::new(Some(sender)))), request);
        permit.await.unwrap_or(Err(NotStarted::NoSession))
    }
}

/// A place in the line whose job is to hand the permit over.
struct Turn(Mutex<Option<oneshot::Sender<Result<Permit, NotStarted>>>>);

impl Job for Turn {
    fn run(self: Arc<Self>, permit: Permit) {
        let sender = self.0.lock().take();
        if let Some(sender) = sender {
            // A permit nobody waits for any more comes back and is free.
            drop(sender.send(Ok(permit)));
        }
    }

    fn is_elsewhere(&self) -> bool {
        true
    }

    fn is_over(&self) -> bool {
        self.0.lock().as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn refuse(self: Arc<Self>, cause: NotStarted) {
        let sender = self.0.lock().take();
        if let Some(sender) = sender {
            drop(sender.send(Err(cause)));
        }
    }

    fn abandon(&self) {}

    fn name(&self) -> &str {
        "permit"
    }
}
