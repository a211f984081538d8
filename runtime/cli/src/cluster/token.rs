//! `mobula token`: with what others may join.

use anyhow::{Context, Result};
use mobula_types::state::{ClusterStatus, TokenStatus};
use mobula_wire::local::ToolQuestion;

use super::ask::{self, Node, Which};
use crate::exit;

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
        /// For how long it is good: a number of seconds, or with s, m or h
        #[arg(long, value_name = "TIME", default_value = "15m", value_parser = ttl_s)]
        ttl: u64,

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
        Verb::Create { ttl, role, json } => {
            let question = ToolQuestion::TokenCreate { ttl_s: *ttl, role: role.clone() };
            let (answer, status) = exit::until_signal(async {
                let mut node = Node::of(&args.which).await?;
                Ok((node.ask(question).await?, node.ask(ToolQuestion::Status).await?))
            })?;
            if *json {
                anstream::println!("{answer}");
                return Ok(());
            }
            let made: serde_json::Value = serde_json::from_str(&answer).context("read the node's answer")?;
            let token = made["token"].as_str().context("read the token")?;
            if let Some(head) = head_addr(&status)? {
                // Beside the answer, so that `$(mobula token create)` is the token.
                match role.as_str() {
                    "node" => {
                        anstream::eprintln!("join from another host: mobula start --address={head} --token={token}");
                    }
                    "driver" => anstream::eprintln!(
                        "run a program of another host: MOBULA_ADDRESS={head} MOBULA_TOKEN=<token> ./program"
                    ),
                    _ => anstream::eprintln!(
                        "ask from another host: MOBULA_ADDRESS={head} MOBULA_TOKEN=<token> mobula status"
                    ),
                }
            }
            anstream::println!("{token}");
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

/// Where the head is.
fn head_addr(status: &str) -> Result<Option<String>> {
    let status: ClusterStatus = serde_json::from_str(status).context("read the node's answer")?;
    Ok(status.nodes.into_iter().find(|node| node.node_id == status.head).map(|head| head.addr))
}

/// A token is good for a day at most: it is meant to be used at once.
const TTL_S_MAX: u64 = 86_400;

fn ttl_s(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3_600),
        _ => (text, 1),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    seconds
        .filter(|seconds| (1..=TTL_S_MAX).contains(seconds))
        .ok_or_else(|| "expected a time of 1s to 24h, as 15m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_what_is_none_is_refused() {
        for (text, seconds) in [("15m", 900), ("900", 900), ("1s", 1), ("24h", 86_400)] {
            assert_eq!(ttl_s(text), Ok(seconds), "{text}");
        }
        for wrong in ["", "m", "0", "-1m", "25h", "1.5h", "15 m", "15d", "99999999999999999999h"] {
            assert!(ttl_s(wrong).unwrap_err().contains("as 15m"), "{wrong}");
        }
    }
}
