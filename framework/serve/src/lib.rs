//! mobula-serve.
