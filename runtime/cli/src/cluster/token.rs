//! `mobula token`: with what others may join.

use anyhow::{Context, Result};
use mobula_types::state::TokenStatus;
use mobula_wire::local::ToolQuestion;

use super::ask::{self, Which};

/// Make, list and take back the tokens with which others join.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,

    #[command(flatten)]
    which: Which,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Make a token: good once, and for 15 minutes unless said otherwise
    Create {
        /// For how long it is good, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..=86_400))]
        ttl_s: u64,

        /// As what its user may come
        #[arg(long, default_value = "node", value_parser = ["node", "driver", "admin", "viewer"])]
        role: String,

        /// As one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// List the tokens that are good, without their secrets
    List {
        /// As JSON, one object a line
        #[arg(long)]
        json: bool,
    },
    /// Take a token back
    Revoke {
        /// Its id: what stands before its first point
        id: String,
    },
}

/// Does it.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.verb {
        Verb::Create { ttl_s, role, json } => {
            let question = ToolQuestion::TokenCreate { ttl_s: *ttl_s, role: role.clone() };
            let answer = ask::once(&args.which, question)?;
            if *json {
                anstream::println!("{answer}");
                return Ok(());
            }
            let made: serde_json::Value = serde_json::from_str(&answer).context("read the node's answer")?;
            anstream::println!("{}", made["token"].as_str().context("read the token")?);
        }
        Verb::List { json } => {
            let answer = ask::once(&args.which, ToolQuestion::TokenList)?;
            if *json {
                if !answer.is_empty() {
                    anstream::println!("{answer}");
                }
                return Ok(());
            }
            let tokens: Vec<TokenStatus> = ask::records(&answer)?;
            let row = |token: &TokenStatus| {
                let used = if token.is_used { "used" } else { "good" };
                vec![token.id.clone(), token.role.clone(), used.to_owned(), token.failures.to_string()]
            };
            ask::table(&["id", "role", "state", "failures"], &tokens.iter().map(row).collect::<Vec<_>>());
        }
        Verb::Revoke { id } => {
            let id = id.split('.').next().unwrap_or(id).to_owned();
            ask::once(&args.which, ToolQuestion::TokenRevoke { id })?;
        }
    }
    Ok(())
}
