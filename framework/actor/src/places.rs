//! Places in placement groups for actors of this process, where no cluster gives them out.
//!
//! On a cluster an actor's home has found its place before it comes here, and nobody is asked.

use std::any::Any;

use futures_util::future::BoxFuture;
use mobula_types::resources::Request;
use mobula_types::{ActorId, ErrorChain, ExitReason, Within};

/// What an actor takes of its bundle, for as long as this is kept.
pub type Place = Box<dyn Any + Send>;

/// Gives actors their places in placement groups.
pub trait Places: Send + Sync {
    /// A place for `actor`, as soon as there is room; or why there never will be. When its group is no more, the actor is
    /// sent [`Control::End`](crate::Control::End).
    fn place(&self, actor: ActorId, within: Within, request: Request) -> BoxFuture<'static, Result<Place, String>>;
}

/// An actor's place: wanted until it begins, and kept over its restarts.
pub(crate) enum Lodging {
    Wanted(BoxFuture<'static, Result<Place, String>>),
    /// Dropped with the actor.
    Kept {
        _place: Place,
    },
}

/// As an actor on a cluster ends that finds none.
pub(crate) fn no_place(missing: String) -> ExitReason {
    ExitReason::Failed(ErrorChain::message(format!("no place: {missing}")))
}
