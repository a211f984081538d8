//! mobula-examples.
