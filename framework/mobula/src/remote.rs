//! Remote functions: what `#[remote]` writes, for those who write it by hand.
//!
//! ```
//! use mobula::NoError;
//! use mobula::remote::{Arg, Body, RemoteFn, TaskOptions, submit};
//!
//! struct Double;
//!
//! impl RemoteFn for Double {
//!     type Args = (u64,);
//!     type Reply = u64;
//!     type Error = NoError;
//!     const NAME: &'static str = concat!(module_path!(), "::double");
//!     const OPTIONS: TaskOptions = TaskOptions::new().num_cpus(0.5);
//!     const BODY: Body<Self> = Body::Sync(|(n,)| Ok(2 * n));
//! }
//!
//! #[mobula::main]
//! async fn main() -> mobula::Result<()> {
//!     let _session = mobula::init().await?;
//!     let doubled = submit::<Double>(&Double::OPTIONS, Arg::Value((21,)));
//!     assert_eq!(*mobula::get(doubled).await?, 42);
//!     Ok(())
//! }
//! ```
//!
//! A function leaves its process only if a [`FunctionEntry`] for it stands in the table, which the macro sees to.

pub use mobula_actor::{Arg, Arguments, Join};
pub use mobula_node::{Body, FunctionEntry, RemoteFn, RemoteStream, Returned, TaskOptions, submit, submit_stream};
