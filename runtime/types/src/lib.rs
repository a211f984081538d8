//! mobula-types.
