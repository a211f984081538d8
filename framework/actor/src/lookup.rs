//! Finding actors by their names.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use mobula_types::{ActorName, NotStarted};

use crate::system::System;
use crate::{Actor, ActorRef, Address, current, registry};

/// A look-up about to be made. Await it for the reference.
#[must_use = "nobody is looked for until it is awaited"]
pub struct Lookup<A: Actor> {
    name: ActorName,
    actor: PhantomData<fn() -> A>,
}

impl<A: Actor> Lookup<A> {
    /// Prepares to look for an actor in the namespace of the job that runs now.
    pub fn of(name: impl Into<String>) -> Self {
        Self { name: ActorName::own(name), actor: PhantomData }
    }

    /// Looks in another namespace.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.name.namespace = Some(namespace.into());
        self
    }
}

impl<A: Actor> IntoFuture for Lookup<A> {
    type Output = Result<ActorRef<A>, LookupError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let system = current::system();
        Box::pin(async move {
            let system = system.ok_or(LookupError::NoSession)?;
            let found = find::<A>(&system, &self.name).await?;
            found.ok_or_else(|| LookupError::NoSuchName { name: self.name.to_string() })
        })
    }
}

/// Who has a name now, bound to its type.
pub(crate) async fn find<A: Actor>(system: &Arc<System>, name: &ActorName) -> Result<Option<ActorRef<A>>, LookupError> {
    let other_type = |difference: String| {
        let (name, expected) = (name.to_string(), std::any::type_name::<A>());
        LookupError::OtherType { name, expected, difference }
    };
    let id = match (system.named(name), system.deliver()) {
        (Some(id), _) => id,
        (None, None) => return Ok(None),
        (None, Some(deliver)) => match deliver.named(name).await {
            None => return Ok(None),
            Some(owner) => match registry::differs::<A>(&owner.interface) {
                None => owner.actor,
                Some(difference) => return Err(other_type(difference)),
            },
        },
    };
    match Address::resolve(id, system) {
        Ok(address) => Ok(Some(ActorRef::new(address))),
        Err(_) => Err(other_type("it is of another type".to_owned())),
    }
}

/// Why a name leads to no actor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// There is no session.
    #[error("{}", NotStarted::NoSession)]
    NoSession,
    /// Nobody has the name, or not any more.
    #[error("no actor is named `{name}`")]
    NoSuchName {
        /// The name.
        name: String,
    },
    /// An actor of another type has the name, or one of a program that knows its type otherwise.
    #[error("the actor named `{name}` is no {expected} of this program: {difference}")]
    OtherType {
        /// The name.
        name: String,
        /// The type that was asked for.
        expected: &'static str,
        /// What it is, or in which messages the two programs differ.
        difference: String,
    },
}
