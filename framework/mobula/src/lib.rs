//! mobula.
