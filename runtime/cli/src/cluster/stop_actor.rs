//! `mobula stop-actor`: ends a named actor for good.

use anyhow::Result;
use mobula_types::ActorName;
use mobula_wire::local::ToolQuestion;

use super::ask::{self, Which};
use crate::exit::Usage;

/// End a named actor for good, a detached one too.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Its namespace and name, as `mobula list actors` prints them: shop/orders
    name: String,

    #[command(flatten)]
    which: Which,
}

/// Tells the head.
pub(crate) fn run(args: &Args) -> Result<()> {
    let Some((namespace, name)) =
        args.name.split_once('/').filter(|(space, name)| !space.is_empty() && !name.is_empty())
    else {
        return Err(Usage(format!("{}: expected a namespace and a name, as shop/orders", args.name)).into());
    };
    let name = ActorName { namespace: Some(namespace.to_owned()), name: name.to_owned() };
    ask::once(&args.which, ToolQuestion::StopActor { name })?;
    Ok(())
}
