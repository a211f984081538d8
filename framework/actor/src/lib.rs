//! The actor model of Mobula, without a network.
//!
//! An actor is state that handles one message after another on one thread, started and kept alive by a supervisor.
//! Programs name the crate `mobula`, which re-exports what they need of this one.
//!
//! | to read about | open |
//! |---|---|
//! | the traits a user implements | [`actor`](Actor) |
//! | what a program holds of an actor | [`Address`], [`ActorRef`], [`Recipient`] |
//! | a call and its reply | [`Call`], [`Asking`] |
//! | starting, finding and supervising | [`Spawn`], [`Lookup`], [`Supervisor`] |
//! | the loop that owns the state | `cell`, hosted by actix in `shell` |
//! | how mail leaves the process | [`Deliver`], [`registry`] |
#![forbid(unsafe_code)]

mod actor;
mod address;
pub mod arbiters;
mod arg;
mod call;
mod cell;
pub mod clock;
mod context;
mod control;
mod counters;
pub mod current;
pub mod deliver;
mod envelope;
mod held;
mod lanes;
mod lookup;
mod mailbox;
pub mod object;
mod panics;
pub mod patrol;
mod places;
mod progress;
pub mod registry;
mod shell;
mod slot;
mod spawn;
pub mod stream;
mod supervisor;
mod system;
mod view;
mod waits;
pub mod wakes;

pub use actor::{Actor, Handler, Message, Mode, Proxy};
pub use address::{ActorRef, Address, Recipient};
pub use arbiters::Placement;
pub use arg::{Arg, Arguments, Arriving, Departing, IntoArg, Join, Later, Slots, arrive};
pub use call::{ASK_TIMEOUT, Asking, AtLeastOnce, Call, SendError};
pub use context::{Context, Timer};
pub use control::{ChildEvent, ChildState, Control, Down};
pub use counters::{Count, Counters};
pub use deliver::Deliver;
pub use lanes::MailboxBounds;
pub use lookup::{Lookup, LookupError};
pub use mailbox::{ActorState, ActorStatus};
pub use mobula_wire::plain::{Plain, Viewable};
pub use object::{GetError, ObjectRef, Value, Writer};
pub use panics::{caught_on_this_thread, describe as describe_panic};
pub use places::{Place, Places};
pub use progress::{Hang, MessageHook, Protected, TurnHook, on_turn};
pub use slot::CallState;
pub use spawn::{GetOrSpawn, Scoped, ScopedSpawn, Spawn, SpawnError, SpawnFrame, SpawnOptions};
pub use stream::ReplyStream;
pub use supervisor::{AddError, ChildSpec, Supervisor, SupervisorProxy, SupervisorSpec};
pub use system::{DeadLetter, System, SystemConfig};
pub use view::View;
pub use waits::{Awaits, Party};
