//! mobula-macros.
