//! mobula-actor.
