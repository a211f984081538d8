//! Serves an engine without a model, so that the front can be tried, or measured, alone.
//!
//! `cargo run --release -p mobula-serve --example echo [PORT [HELLO_PORT]]`; with a second port also a bare actix-web
//! hello with as many threads, to measure against in the same run.

use std::error::Error;
use std::future::ready;
use std::sync::Arc;

use actix_web::{App, HttpServer, web};
use mobula_serve::{Config, EchoEngine, Server};

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut ports = std::env::args().skip(1).map(|port| port.parse::<u16>());
    let port = ports.next().transpose()?.unwrap_or(8_000);
    let config = Config { port, ..Config::default() };
    let workers = config.workers;
    let server = Server::bind(config, Arc::new(EchoEngine::new("echo"))).await?;
    println!("{}/v1  try:", server.url());
    println!(
        "curl {}/v1/chat/completions -d '{{\"model\":\"echo\",\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'",
        server.url()
    );
    if let Some(port) = ports.next().transpose()? {
        // The same body as a plain chat's answer, from nothing.
        let answer = "x".repeat(ANSWER_BYTES);
        let hello = move || {
            let answer = answer.clone();
            App::new()
                .route("/", web::get().to(async || "hello"))
                .route("/", web::post().to(move |_: web::Bytes| ready(answer.clone())))
        };
        return Ok(HttpServer::new(hello).workers(workers).bind(("127.0.0.1", port))?.run().await?);
    }
    std::future::pending::<()>().await;
    Ok(())
}

/// What the answer to `hello` in the curl above takes.
const ANSWER_BYTES: usize = 291;
