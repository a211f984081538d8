//! HTTP under `wrk`: `mobula serve`'s front with an engine that echoes, beside bare actix-web with equal bodies.

use std::future::ready;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use actix_web::{App, HttpServer, web};
use anyhow::{Context, Result, ensure};
use mobula_serve::{Config, EchoEngine, Server};

use crate::Effort;
use crate::row::{Better, Row};

const PEER: Option<&str> = Some("actix-web");

/// Connections that ask without a pause, as many as Ray's row has.
const CONNECTIONS: &str = "32";

/// A plain chat as `wrk` sends it.
const CHAT: &str = r#"
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"model":"echo","messages":[{"role":"user","content":"hello"}]}'
"#;

pub(crate) fn rows(effort: Effort) -> Result<Vec<Row>> {
    if Command::new("wrk").arg("--version").output().is_err() {
        eprintln!("skipped: HTTP, because wrk is not installed");
        return Ok(Vec::new());
    }
    let mut chat = tempfile::Builder::new().suffix(".lua").tempfile().context("make a file for wrk")?;
    chat.write_all(CHAT.as_bytes()).context("write a file for wrk")?;
    actix_rt::System::new().block_on(async {
        let config = Config { port: 0, ..Config::default() };
        let workers = config.workers;
        let server = Server::bind(config, Arc::new(EchoEngine::new("echo"))).await.context("serve the echo")?;
        let hello = move || {
            App::new()
                .route("/health", web::get().to(async || "ok"))
                .route("/v1/chat/completions", web::post().to(|_: web::Bytes| ready("x".repeat(ANSWER_BYTES))))
        };
        let bare = HttpServer::new(hello).workers(workers).bind(("127.0.0.1", 0)).context("serve a hello")?;
        let bare_url = format!("http://{}", bare.addrs()[0]);
        let bare = bare.run();
        let handle = bare.handle();
        let serving = actix_rt::spawn(bare);
        let mut rows = Vec::new();
        for (name, path, script) in [
            ("HTTP requests, /health", "/health", None),
            ("HTTP requests, a plain chat", "/v1/chat/completions", Some(chat.path().to_owned())),
        ] {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..3 {
                for (url, samples) in [(server.url(), &mut ours), (bare_url.clone(), &mut theirs)] {
                    let (url, script) = (format!("{url}{path}"), script.clone());
                    // wrk blocks its thread; the servers run on others, this one must go on taking their signals.
                    let requests = tokio::task::spawn_blocking(move || wrk(&url, script.as_deref(), effort));
                    samples.push(requests.await.context("run wrk")??);
                }
            }
            rows.push(Row::of(name, "1/s", Better::Higher, None, ours));
            rows.push(Row::of(name, "1/s", Better::Higher, PEER, theirs));
        }
        handle.stop(true).await;
        serving.await.context("stop the hello")?.context("serve the hello")?;
        server.stop(std::time::Duration::from_secs(1)).await;
        Ok(rows)
    })
}

/// Requests per second that were answered well.
fn wrk(url: &str, script: Option<&Path>, effort: Effort) -> Result<f64> {
    let seconds = effort.runs(10).to_string();
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads", "1", "--connections", CONNECTIONS, "--duration", &seconds]);
    if let Some(script) = script {
        wrk.arg("--script").arg(script);
    }
    let output = wrk.arg(url).output().context("start wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk {url} ended with {}: {text}", output.status);
    ensure!(!text.contains("Non-2xx"), "{url} refused requests: {text}");
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    rate.with_context(|| format!("no rate in {text}"))?.trim().parse().context("read wrk's rate")
}

/// What the echo's answer to `hello` takes.
const ANSWER_BYTES: usize = 291;
