//! mobula-collective.
