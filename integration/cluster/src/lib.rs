//! Real clusters for tests: processes of `mobula` on hosts that are network namespaces of this machine.
//!
//! | file | holds |
//! |---|---|
//! | [`hosts`] | the hosts, the network between them, and its cuts |
//! | [`process`] | one process on a host: its output, signals to it, its end |
//! | [`traces`] | what is seen of processes from outside: sockets, descriptors, memory |
//! | [`cluster`] | nodes on hosts, ready to be used, killed and started again |
//! | [`disk`] | a disk of a node's own, which a test can fill |
//! | [`report`] | what the driver program `mobula-workload` says in the end |
//! | [`oracle`] | what must hold of every such report, and of the hosts afterwards |
//!
//! Nothing here touches the network of the machine itself. Where namespaces cannot be made (they take root) the tests
//! say that they were skipped; where the environment says `CI` that is a failure.

#![forbid(unsafe_code)]

pub mod cluster;
pub mod disk;
pub mod hosts;
pub mod oracle;
pub mod process;
pub mod report;
pub mod traces;
