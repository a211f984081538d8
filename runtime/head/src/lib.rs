//! The control store: what a cluster must not forget, durable before it is acknowledged.
#![forbid(unsafe_code)]
