//! The runtime's decisions as state machines: inputs and time go in, outputs come out, nothing else happens.
//!
//! There is no clock, socket, file or unseeded randomness here. A driver gives a machine real time and performs what it
//! says; `integration/sim` gives it invented time and every misfortune. What each machine promises is written as
//! numbered invariants, and one function checks them in debug builds, in the simulator and in the tests.
//!
//! | module | decides |
//! |---|---|
//! | [`attachment`] | whether a driver on another host, or its node, is still there |
//! | [`calendar`] | what o'clock a moment is, for records and people |
//! | [`credit`] | how much mail may be on its way to an actor elsewhere (G14) |
//! | [`dispatch`] | which place runs which task of a process (G2) |
//! | [`haul`] | which range of a payload is moved next between the memories of two hosts |
//! | [`home`] | where an actor lives, and where it is started again when its process has died (G5) |
//! | [`directory`] | who has a name, when it may be granted again (G7); jobs, their values, join tokens |
//! | [`groups`] | where the bundles of a placement group are reserved, all or none (design.md §7) |
//! | [`head`] | membership and directory behind one door, whose words leave after their records are synced (G12) |
//! | [`intake`] | which large payload is pulled next, and what waits behind it (G3) |
//! | [`lease`] | until when a node's named actors may act, and when it fences itself (G7, G13) |
//! | [`ledger`] | whether an amount of resources is free |
//! | [`outbox`] | which messages are sent again until they are acknowledged (G4, G8) |
//! | [`ownership`] | who holds an object, where its bytes are, how they are made again (G9, G10) |
//! | [`membership`] | who belongs to the cluster, who lives, who has died (G11) |
//! | [`pressure`] | what leaves a node's shared memory when that runs short, and what comes back (G15, G16) |
//! | [`record`] | what the head must not forget |
//! | [`restarts`] | when and how often something that failed is started again (G5) |
//! | [`scheduler`] | which process of which node is given to a task or actor (design.md §7) |
//! | [`session`] | what of two processes' talk is sent again when a connection breaks, and who is silent |
//! | [`supervision`] | which children of a supervisor are stopped and started when one ends (G5) |
//! | [`task`] | how often a task runs, and how it ends (G1, G2) |
//! | [`waits`] | which waits are a ring, so that nothing in it goes on |
#![forbid(unsafe_code)]

pub mod attachment;
pub mod calendar;
pub mod credit;
pub mod directory;
pub mod dispatch;
pub mod groups;
pub mod haul;
pub mod head;
pub mod home;
pub mod intake;
pub mod invariant;
pub mod lease;
pub mod ledger;
pub mod membership;
pub mod mutant;
pub mod outbox;
pub mod ownership;
pub mod pressure;
pub mod record;
pub mod restarts;
pub mod scheduler;
pub mod session;
pub mod supervision;
pub mod task;
pub mod waits;

pub use calendar::Calendar;
pub use directory::Directory;
pub use dispatch::Dispatch;
pub use groups::Groups;
pub use haul::Hauls;
pub use head::Head;
pub use home::Home;
pub use intake::Intake;
pub use invariant::Violation;
pub use lease::Lease;
pub use membership::Membership;
pub use mutant::Mutant;
pub use ownership::Ownership;
pub use pressure::Pressure;
pub use restarts::{Restarts, Verdict};
pub use scheduler::Scheduler;
pub use session::Session;
pub use supervision::Supervision;
pub use task::Task;
