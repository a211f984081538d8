//! Connections between processes: QUIC with mutual TLS between nodes, Unix sockets inside a host.
#![forbid(unsafe_code)]
