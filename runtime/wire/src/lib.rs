//! mobula-wire.
