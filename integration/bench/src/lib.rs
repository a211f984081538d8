//! mobula-bench.
