//! mobula-bench.
#![forbid(unsafe_code)]
