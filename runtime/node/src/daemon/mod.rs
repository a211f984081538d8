//! The node of a host: routes between its processes and other nodes, grants places, starts and buries workers.

pub mod workers;
