//! `mobula serve`: OpenAI's API before a model, until a signal.
//!
//! What can be refused is refused before the model is loaded. Standard output gets one line, with the URL and a `curl` to
//! paste, once requests are answered; whoever started us may wait for it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mobula_serve::{BindError, Config, RunningServer, Server};
use serde_json::json;

use crate::exit::{self, Usage};
use crate::model::{self, Loaded, Model};

/// Serve a model over HTTP, as OpenAI's API.
///
/// Answers /v1/chat/completions, /v1/completions, /v1/models, /health and /metrics. The model's tensor-parallel shards
/// are supervised actors: when one fails, its requests get an error, the shards restart, and the next request works.
/// Ctrl-C lets requests end, for a few seconds, and stops.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    load: model::Options,

    /// Listen on this port; 0 takes a free one
    #[arg(long, default_value_t = 8000)]
    port: u16,

    /// Listen on this name or address; any but this machine's own loopback needs a key
    #[arg(long, default_value = "127.0.0.1")]
    host: String,

    /// Answer only requests that bear this key. The variable is better: other users see a program's options
    #[arg(long, value_name = "KEY", env = "MOBULA_API_KEY", hide_env_values = true)]
    api_key: Option<String>,

    /// Let a shard panic, as in `shard:1@token=5`: for tests of failure, only in debug builds
    #[cfg(debug_assertions)]
    #[arg(long, hide = true)]
    fault: Option<mobula_llm::Fault>,
}

const EXAMPLES: &str = "\
Examples:
  mobula serve smollm2                              a small model, fetched first if need be
  mobula serve smollm2 --tensor-parallel-size 2     the same, computed by two shards
  mobula serve ./my-model.gguf --port 0             a file, on a port that is free
  MOBULA_API_KEY=secret mobula serve smollm2 --host 0.0.0.0
";

/// What will be verbs after `serve`, and so is no model today.
const RESERVED: [&str; 3] = ["deploy", "status", "delete"];

/// How long requests may take to end after a signal. With what follows it stays below the 10 s that service managers
/// and `docker stop` commonly wait before they kill.
const REQUESTS_GRACE: Duration = Duration::from_secs(5);
/// How long all of a stop may take, whatever hangs.
const STOP_MAX: Duration = Duration::from_secs(9);

/// Serves until SIGINT or SIGTERM.
pub(crate) fn run(args: &Args) -> Result<()> {
    let model = named(&args.load.model)?;
    let config = Config {
        host: args.host.clone(),
        port: args.port,
        api_keys: args.api_key.iter().cloned().collect(),
        ..Config::default()
    };
    Server::check(&config).map_err(refused)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let mut signals = exit::Signals::listen()?;
        let Started { server, session } = signals.unless(start(args, model, config)).await?;
        signals.next().await;
        anstream::eprintln!("stopping; a second Ctrl-C stops at once");
        let stop = async {
            server.stop(REQUESTS_GRACE).await;
            session.stop().await;
        };
        let stop = tokio::time::timeout(STOP_MAX, stop);
        signals.unless(async { stop.await.context("stop in time: a request or a shard hangs") }).await
    })
}

struct Started {
    server: RunningServer,
    session: mobula::Session,
}

async fn start(args: &Args, model: Model, config: Config) -> Result<Started> {
    #[cfg(debug_assertions)]
    let fault = args.fault;
    #[cfg(not(debug_assertions))]
    let fault = None;
    let Loaded { name, engine, no_template, session } =
        model::load(model, args.load.tensor_parallel_size, fault).await?;
    let has_key = !config.api_keys.is_empty();
    let server = Server::bind(config, Arc::new(engine)).await.map_err(refused)?;
    anstream::println!("{}", announcement(&server.url(), &name, has_key, no_template.is_none()));
    Ok(Started { server, session })
}

fn named(word: &str) -> Result<Model> {
    if RESERVED.contains(&word) {
        let message = format!(
            "`serve {word}` is kept for serving applications, which comes with a later version; for a model file of this \
             name say ./{word}"
        );
        return Err(Usage(message).into());
    }
    Model::parse(word)
}

/// What cannot be listened on, in words of the command line.
fn refused(error: BindError) -> anyhow::Error {
    match error {
        BindError::KeyNeeded { host } => Usage(format!(
            "--host {host} can be reached from other machines: set MOBULA_API_KEY (or --api-key) to a secret, or listen on \
             127.0.0.1"
        ))
        .into(),
        BindError::BadKey { .. } => {
            Usage("the API key is empty or has characters other than visible ASCII".to_owned()).into()
        }
        BindError::PortInUse { addr } => anyhow::anyhow!(
            "port {} is in use on {}: stop the program that has it, or choose another with --port (0 takes a free one)",
            addr.port(),
            addr.ip()
        ),
        other => other.into(),
    }
}

/// One line: where the model answers, and a question to paste into a shell.
fn announcement(url: &str, name: &str, has_key: bool, has_template: bool) -> String {
    let (path, body) = if has_template {
        (
            "/v1/chat/completions",
            json!({"model": name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}),
        )
    } else {
        ("/v1/completions", json!({"model": name, "prompt": "Once upon a time", "max_tokens": 64}))
    };
    let key = if has_key { " -H \"authorization: Bearer $MOBULA_API_KEY\"" } else { "" };
    // What is between single quotes is the shell's as it stands; a quote itself ends and begins again.
    let body = body.to_string().replace('\'', r"'\''");
    let name = name.escape_debug();
    format!("serving {name} at {url} ; try: curl {url}{path} -H 'content-type: application/json'{key} -d '{body}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_announcement_is_one_line_whatever_the_model_is_called() {
        let line = announcement("http://127.0.0.1:8000", "it's\nmine", true, true);
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.contains("Bearer $MOBULA_API_KEY") && line.contains(r#""model":"it'\''s\nmine""#), "{line}");
    }

    #[test]
    fn a_model_without_a_template_is_tried_with_a_plain_completion() {
        let line = announcement("http://127.0.0.1:8000", "base", false, false);
        assert!(line.contains("http://127.0.0.1:8000/v1/completions") && !line.contains("Bearer"), "{line}");
    }

    #[test]
    fn words_after_serve_are_reserved() {
        for word in RESERVED {
            let error = named(word).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().contains(&format!("./{word}")), "{error}");
        }
    }
}
