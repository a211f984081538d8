//! The words every part of Mobula shares: ids, time, outcomes, exits and supervision specs.
//!
//! Nothing here does anything: no I/O, no clock, no thread. A type stands here when two crates must agree on it; its
//! fields are part of what nodes say to one another.
//!
//! | module | holds |
//! |---|---|
//! | [`ids`] | typed ids: node and process, job, actor, task and attempt, object, incarnation, epoch, lease |
//! | [`time`] | [`Time`], [`Deadline`]: monotonic, given from outside |
//! | [`member`] | a cluster, its members and their roles, as certificates name them |
//! | [`machine`] | [`StateMachine`], the one shape of every decision |
//! | [`resources`] | amounts of CPUs, GPUs and what has a name of its own |
//! | [`program`] | what a program needs of a host, and what a host can run |
//! | [`labels`] | what the labels of a node must say |
//! | [`group`] | what a placement group reserves |
//! | [`placement`] | what something asks of its place, and what a node tells of itself |
//! | [`death`] | why a process or node ended |
//! | [`loss`] | why a value is gone |
//! | [`state`] | the records that `status` and `list` print |
//! | [`error`] | [`Error`]: any error as text, for programs that pass errors on |
//! | [`view`] | what head and nodes tell one another of the cluster |
//! | [`names`] | names of actors, and what fences their earlier holders off |
//! | [`outcome`] | [`Outcome`], [`CallError`] and the causes a caller is told |
//! | [`exit`] | [`ExitReason`]: why an actor ended, root cause first |
//! | [`supervision`] | restart policies and strategies |
#![forbid(unsafe_code)]

pub mod death;
pub mod error;
pub mod exit;
pub mod group;
pub mod ids;
pub mod labels;
pub mod loss;
pub mod machine;
pub mod member;
pub mod names;
pub mod outcome;
pub mod placement;
pub mod program;
pub mod resources;
pub mod state;
pub mod supervision;
pub mod time;
pub mod view;

pub use death::{Culprit, Death, DeathCause};
pub use error::Error;
pub use exit::{ExitReason, Panic};
pub use group::{Bundle, BundleLoad, BundleStrategy, GroupEnd, GroupId, GroupSpec, Within};
pub use ids::{ActorId, Attempt, Epoch, Incarnation, JobId, LeaseId, MessageId, NodeId, ObjectId, ProcessId, TaskId};
pub use labels::{LabelRule, LabelSelector};
pub use loss::{Digest, Loss};
pub use machine::StateMachine;
pub use member::{ClusterId, MemberId, Role};
pub use names::{ActorName, Fencing, Held, Interface, NameKey, NameOwner, Namespace};
pub use outcome::{CallError, ErrorChain, NoError, NotCancellable, NotStarted, Outcome, Unknown};
pub use placement::{NodeLoad, PlacementSpec, PlacementStrategy};
pub use supervision::{Backoff, Intensity, Restart, RestartPolicy, Strategy};
pub use time::{Deadline, Time};
pub use view::{Beat, BeatAnswer, HeadId, Member, Registration, StoreUse, ViewChange};
