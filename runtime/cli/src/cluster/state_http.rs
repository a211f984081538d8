//! The cluster's state over HTTP, for programs that watch: `/health` and `/api/v0/status`, on the head's loopback.
//!
//! One request a connection, nothing but GET, no body, no cookies. A page of a browser must not read what is on loopback:
//! the names in `Host` and `Origin` must be this host's own (a foreign name may lead to 127.0.0.1, too).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mobula_wire::local::ToolQuestion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::ask::Node;

/// Requests at once: whoever watches asks now and then. One more is hung up on.
const CONNECTIONS_MAX: usize = 16;

/// What a request's head may take (promises.md: 10 s), and its bytes: ours need 100.
const HEAD_MAX: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 8 << 10;

/// A reader that takes longer for an answer of some KiB has stalled.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// Opens the port.
pub(crate) async fn open(port: u16) -> Result<TcpListener> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let opened = TcpListener::bind(addr).await;
    opened.with_context(|| format!("cannot serve the state at {addr}: give another --dashboard-port, or 0 for none"))
}

/// Answers requests with what the node at `socket` says.
pub(crate) async fn serve(listener: TcpListener, socket: PathBuf) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Mostly too many open files: they become fewer.
                tracing::warn!(%error, "a request over HTTP was not taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let socket = socket.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(stream, &socket).await {
                tracing::debug!(%error, "a request over HTTP was not answered");
            }
            drop(place);
        });
    }
}

async fn answer(mut stream: TcpStream, socket: &Path) -> Result<()> {
    let head = timeout(HEAD_MAX, read_head(&mut stream)).await.context("wait for the request")??;
    let (status, kind, body) = match asked(&head) {
        Ok(Asked::Health) => ("200 OK", "text/plain", "ok\n".to_owned()),
        Ok(Asked::Status) => match status(socket).await {
            Ok(status) => ("200 OK", "application/json", status + "\n"),
            Err(error) => ("503 Service Unavailable", "text/plain", format!("{error:#}\n")),
        },
        Err(refused) => (refused, "text/plain", format!("{refused}\n")),
    };
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}; charset=utf-8\r\ncontent-length: {}\r\n\
         x-content-type-options: nosniff\r\ncache-control: no-store\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    timeout(WRITE_MAX, stream.write_all(text.as_bytes())).await.context("write the answer")??;
    Ok(stream.shutdown().await?)
}

async fn status(socket: &Path) -> Result<String> {
    Node::at(socket).await?.ask(ToolQuestion::Status).await
}

/// Reads up to the empty line, or as much as a head may have.
async fn read_head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    let mut part = [0; 1 << 10];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        match stream.read(&mut part).await? {
            0 => break,
            read => head.extend_from_slice(&part[..read]),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[derive(Debug, PartialEq)]
enum Asked {
    Health,
    Status,
}

/// What a request's head asks for, or with what it is refused.
fn asked(head: &str) -> Result<Asked, &'static str> {
    let (head, _) = head.split_once("\r\n\r\n").ok_or("400 Bad Request")?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !words.next().is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err("400 Bad Request");
    }
    let mut host = None;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("400 Bad Request")?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("host") && host.replace(value).is_some() {
            return Err("400 Bad Request");
        }
        let is_foreign = name.eq_ignore_ascii_case("origin") && !value.strip_prefix("http://").is_some_and(is_own);
        if is_foreign {
            return Err("403 Forbidden");
        }
    }
    if !host.is_some_and(is_own) {
        return Err("403 Forbidden");
    }
    if method != "GET" {
        return Err("405 Method Not Allowed");
    }
    match path {
        "/health" => Ok(Asked::Health),
        "/api/v0/status" => Ok(Asked::Status),
        _ => Err("404 Not Found"),
    }
}

/// Whether a name, with or without a port, is this host's own.
fn is_own(name: &str) -> bool {
    let bare = match name.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
        _ => name,
    };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|own| bare.eq_ignore_ascii_case(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str, expect: Result<Asked, &'static str>) {
        assert_eq!(asked(&head.replace('\n', "\r\n")), expect, "{head}");
    }

    #[test]
    fn only_what_is_documented_is_answered() {
        check("GET /health HTTP/1.1\nHost: localhost:8265\n\n", Ok(Asked::Health));
        check("GET /api/v0/status HTTP/1.1\nhost: 127.0.0.1\nAccept: */*\n\n", Ok(Asked::Status));
        check("GET /api/v0/status HTTP/1.1\nHost: [::1]:8265\nOrigin: http://localhost:8265\n\n", Ok(Asked::Status));
        check("GET / HTTP/1.1\nHost: localhost\n\n", Err("404 Not Found"));
        check("POST /health HTTP/1.1\nHost: localhost\n\n", Err("405 Method Not Allowed"));
    }

    #[test]
    fn foreign_names_and_pages_are_refused() {
        check("GET /health HTTP/1.1\nHost: evil.example\n\n", Err("403 Forbidden"));
        check("GET /health HTTP/1.1\n\n", Err("403 Forbidden"));
        check("GET /health HTTP/1.1\nHost: localhost\nOrigin: http://evil.example\n\n", Err("403 Forbidden"));
        check("GET /health HTTP/1.1\nHost: localhost\nOrigin: null\n\n", Err("403 Forbidden"));
        check("GET /health HTTP/1.1\nHost: localhost\nHost: evil.example\n\n", Err("400 Bad Request"));
    }

    #[test]
    fn bytes_that_are_no_request_are_refused() {
        check("", Err("400 Bad Request"));
        check("GET /health HTTP/1.1\nHost: localhost\n", Err("400 Bad Request"));
        check("GET /health\nHost: localhost\n\n", Err("400 Bad Request"));
        check("GET /health HTTP/1.1\nno header\n\n", Err("400 Bad Request"));
    }

    #[tokio::test]
    async fn health_is_answered_over_a_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, PathBuf::from("/nobody/node.sock")));
        let ask = async |path: &str| {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let health = ask("/health").await;
        assert!(health.starts_with("HTTP/1.1 200 OK\r\n") && health.ends_with("\r\n\r\nok\n"), "{health}");
        let status = ask("/api/v0/status").await;
        assert!(status.starts_with("HTTP/1.1 503 ") && status.contains("no node listens"), "{status}");
        server.abort();
    }
}
