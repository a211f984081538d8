//! mobula-logic.
