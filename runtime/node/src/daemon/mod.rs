//! The node of a host: routes between its processes and other nodes, grants places, starts and buries workers.
//!
//! ```text
//! drivers, workers ──socket──► door ──parcels──► routes ──► sockets, mesh
//! command line      (readers)    └──all else──► state ──► machines ──► routes, workers, head
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`config`], [`hardware`] | how a node is started, what its host has |
//! | `node` | a [`Node`] from start to end |
//! | `door` | the socket of this host |
//! | `gate`, `far` | who comes from other hosts: nodes, drivers, command lines |
//! | `routes` | the way of a parcel, without the state |
//! | `state` and what it names | the one task that owns the node's state |
//! | `roster` | who is attached, and the jobs |
//! | `objects` | what this node's processes make: who holds it, where its bytes are |
//! | `pressure`, `spill` | what leaves that memory for files when it runs short, and comes back |
//! | `pulls`, `copies` | what of them is got from other nodes, and what these read here |
//! | `segments`, `ahead` | shared memory for the processes of this host, and when it is made |
//! | `hauls` | large payloads from that memory to another host's, and from there |
//! | `seat` | the head's part, on one node |
//! | [`workers`] | processes: starts, deaths, output, programs |

mod address;
mod ahead;
mod arrivals;
mod burial;
pub mod config;
mod copies;
mod detached;
mod door;
mod far;
mod fetch;
mod gate;
mod gather;
mod grouped;
pub mod hardware;
mod hauls;
mod identity;
mod input;
mod leaving;
mod luggage;
mod membership;
mod named;
mod node;
mod objects;
mod peers;
mod placing;
mod pressure;
mod pulls;
mod renewal;
mod roster;
mod routes;
mod seat;
mod segments;
mod spill;
mod state;
mod submit;
mod talk;
mod tool;
pub mod workers;

pub use config::{NodeConfig, Part, StartError};
pub use hauls::Counts as HaulCounts;
pub use mobula_head::store::FILE as HEAD_FILE;
pub use node::{Node, SOCKET};
pub(crate) use state::until;
pub use workers::MEMORY_THRESHOLD;
