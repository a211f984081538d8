//! A driver or worker that is attached to a node: the same actors and functions, with the rest of the cluster behind
//! [`Deliver`](mobula_actor::Deliver).
//!
//! ```text
//! a program's calls ─► calls, homes, tasks ─► roads ─► processes of this host, directly
//!                                                └──► the node ─► processes elsewhere
//! parcels of others ─► post ─► mailboxes, functions, objects of this process
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `process` | one attached process from its first word to its end |
//! | `far` | its way to a node on another host |
//! | `renewal` | its certificate for that way |
//! | `link` | what it asks of its node |
//! | `listing` | what is here and why it waits, for lists |
//! | `roads` | the ways of parcels to other processes |
//! | `exchanges` | what was asked of other processes and is not answered yet |
//! | `calls` | calls of actors that live elsewhere, with credit |
//! | `outboxes` | messages that are sent again until they are acknowledged |
//! | `objects` | what is held here, said to the node that owns it |
//! | `kept` | bytes on which the node counts |
//! | `pulls` | bytes of objects that come from other nodes |
//! | `lineage` | values of tasks that stay on other nodes, and are made again |
//! | `large` | payloads that do not fit into a message, both ways |
//! | `rooms` | where payloads that come in parts are put together |
//! | `sharing` | payloads in the memory of the host |
//! | `homes` | the homes of actors that were spawned here and live elsewhere |
//! | `detached` | spawning actors whose home is the head |
//! | `tasks` | functions that run elsewhere |
//! | `post` | what other processes ask of this one |
//! | `driver`, `worker` | the two kinds of attached processes |

mod calls;
mod deliver;
mod detached;
mod driver;
mod exchanges;
mod far;
mod groups;
mod homes;
mod kept;
mod large;
mod lineage;
mod link;
mod listing;
mod objects;
mod outboxes;
mod post;
mod process;
mod pulls;
mod renewal;
mod roads;
mod rooms;
mod sharing;
mod tasks;
mod worker;

pub(crate) use link::ask_node;
pub(crate) use listing::WAIT;
pub(crate) use process::Process;

pub use driver::{AttachError, Driver, DriverConfig, NodeAddress};
pub use far::{FarError, FarNode, FarSubmission, FarTool};
pub use worker::run_if_worker;
