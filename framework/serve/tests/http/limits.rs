//! Each limit on time and size bites, and tells why where there is somebody to tell.

use std::time::{Duration, Instant};

use mobula_serve::{FinishReason, Limits};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::{Manual, PATIENCE, Raw, echo, post, serve, until_metric, within};

const SHORT: Duration = Duration::from_millis(200);
const CHAT: &str = "/v1/chat/completions";

fn hello() -> String {
    json!({"model": "echo", "messages": [{"role": "user", "content": "hello"}]}).to_string()
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let server = echo(Limits { head_timeout: SHORT, ..Limits::default() }).await;
    let mut client = Raw::connect(&server).await;
    client.send("GET /health HTTP/1.1\r\nHost: local").await;
    assert_eq!(client.response().await.status, 408);
    assert!(client.is_closed_within(PATIENCE).await);
}

#[tokio::test]
async fn a_later_head_that_trickles_is_cut_off_too() {
    let server = echo(Limits { head_timeout: SHORT, ..Limits::default() }).await;
    let mut client = Raw::connect(&server).await;
    client.get("/health").await;
    assert_eq!(client.response().await.status, 200);
    let since = Instant::now();
    // A byte now and then does not help.
    while since.elapsed() < PATIENCE && client.io.write_all(b"X").await.is_ok() {
        tokio::time::sleep(SHORT / 8).await;
        if client.is_closed_within(Duration::from_millis(1)).await {
            break;
        }
    }
    assert!(since.elapsed() >= SHORT && since.elapsed() < PATIENCE, "{:?}", since.elapsed());
    until_metric(&server, r#"mobula_http_connections_closed_total{cause="head_timeout"}"#, 1.0).await;
}

#[tokio::test]
async fn a_connection_that_is_used_outlives_the_heads_limit() {
    // Longer than a busy machine keeps this test from its next request.
    let limit = 5 * SHORT;
    let server = echo(Limits { head_timeout: limit, ..Limits::default() }).await;
    let mut client = Raw::connect(&server).await;
    let since = Instant::now();
    while since.elapsed() < 2 * limit {
        client.post(CHAT, hello()).await;
        assert_eq!(client.response().await.status, 200);
        tokio::time::sleep(SHORT / 8).await;
    }
}

#[tokio::test]
async fn an_answer_may_take_longer_than_any_limit_on_clients() {
    let engine = Manual::new();
    let limits = Limits {
        head_timeout: SHORT,
        body_idle_timeout: SHORT,
        write_stall_timeout: SHORT,
        keep_alive_timeout: SHORT,
        ..Limits::default()
    };
    let server = serve(engine.clone(), limits).await;
    for stream in [false, true] {
        let mut client = Raw::connect(&server).await;
        let body = json!({"model": "manual", "messages": [{"role": "user", "content": "a"}], "stream": stream});
        client.post(CHAT, body.to_string()).await;
        let call = engine.call().await;
        call.say("a");
        tokio::time::sleep(3 * SHORT).await;
        call.say("b");
        call.finish(FinishReason::Stop, 1, 2);
        assert_eq!(client.response().await.status, 200);
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = echo(Limits { keep_alive_timeout: SHORT, ..Limits::default() }).await;
    let mut client = Raw::connect(&server).await;
    client.get("/health").await;
    assert_eq!(client.response().await.status, 200);
    assert!(client.is_closed_within(PATIENCE).await);
}

#[tokio::test]
async fn a_body_that_stops_coming_is_cut_off() {
    let server = echo(Limits { body_idle_timeout: SHORT, ..Limits::default() }).await;
    let mut client = Raw::connect(&server).await;
    client.send("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"mod").await;
    let response = client.response().await;
    assert_eq!(response.status, 408);
    assert!(response.json()["error"]["message"].as_str().unwrap().contains("no more of the body came for 0.2 s"));
    assert!(client.is_closed_within(PATIENCE).await);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_its_sequence_freed() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits { write_stall_timeout: SHORT, ..Limits::default() }).await;
    let mut client = Raw::connect(&server).await;
    let body = json!({"model": "manual", "messages": [{"role": "user", "content": "a"}], "stream": true});
    client.post(CHAT, body.to_string()).await;
    let call = engine.call().await;
    // More than the kernel's buffers on both sides hold; the queue of 8 MiB may be overrun on the way.
    let text = "x".repeat(256 << 10);
    let flood = async {
        while !call.answer.is_closed() {
            let chunk = mobula_serve::Chunk { text: text.clone(), tokens: Vec::new() };
            if call.answer.send(Ok(mobula_serve::Event::Chunk(chunk))).is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        call.answer.closed().await;
    };
    within(flood).await;
    until_metric(&server, r#"mobula_http_connections_closed_total{cause="write_stalled"}"#, 1.0).await;
    until_metric(&server, r#"mobula_request_outcomes_total{outcome="cancelled"}"#, 1.0).await;
}

#[tokio::test]
async fn ten_gigabytes_by_content_length_are_refused_at_once() {
    let server = echo(Limits::default()).await;
    for path in [CHAT, "/v1/models", "/nowhere"] {
        let mut client = Raw::connect(&server).await;
        let since = Instant::now();
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n{{");
        client.send(head).await;
        let response = client.response().await;
        assert_eq!(response.status, 413, "{path}");
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
        let error = &response.json()["error"];
        assert!(
            error["message"].as_str().unwrap().contains("has 10000000000 bytes; this route takes at most"),
            "{error}"
        );
        assert!(client.is_closed_within(PATIENCE).await);
    }
}

#[tokio::test]
async fn endless_chunks_are_refused_before_16_mib_and_not_read_for_ever() {
    let server = echo(Limits::default()).await;
    // A route that reads 8 MiB and then throws away as many, one that reads none, and one behind a check that fails.
    let table = [
        (CHAT, "localhost", 413, 12 << 20),
        ("/nowhere", "localhost", 404, 6 << 20),
        (CHAT, "evil.example", 421, 6 << 20),
    ];
    for (path, host, status, before) in table {
        let mut client = Raw::connect(&server).await;
        let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(head).await;
        let piece = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
        let mut sent = 0;
        while sent < before {
            client.send(&piece).await;
            sent += piece.len();
        }
        assert_eq!(client.response().await.status, status, "{path}");
        // It goes on sending, and is cut off: 16 MiB were taken, and the kernel's buffers may hold a few more.
        let go_on = async {
            while client.io.write_all(&piece).await.is_ok() {
                sent += piece.len();
                assert!(sent < 64 << 20, "it is read for ever");
            }
        };
        within(go_on).await;
    }
}

#[tokio::test]
async fn a_body_within_the_limit_is_read_in_pieces() {
    let server = echo(Limits::default()).await;
    let body = format!("{}{}", hello(), " ".repeat(3 << 20));
    assert_eq!(post(&server, CHAT, &body).await.status, 200);
    let mut client = Raw::connect(&server).await;
    client.send("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for byte in hello().bytes() {
        client.send([b"1\r\n".as_slice(), &[byte], b"\r\n"].concat()).await;
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.response().await.json()["choices"][0]["message"]["content"], "hello");
}

#[tokio::test]
async fn the_bodies_of_all_requests_are_bounded_together_and_given_back() {
    let server = echo(Limits { body_bytes_in_flight_max: 64 << 10, ..Limits::default() }).await;
    let mut half = Raw::connect(&server).await;
    half.send("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n").await;
    half.send([b' '; 50_000]).await;
    let big = format!("{}{}", hello(), " ".repeat(30_000));
    // The half body is there when the next one finds no room.
    let refused = loop {
        let response = post(&server, CHAT, &big).await;
        if response.status != 200 {
            break response;
        }
    };
    assert_eq!(refused.status, 429);
    assert_eq!(post(&server, CHAT, hello()).await.status, 200, "a small one still fits");
    drop(half);
    let since = Instant::now();
    while post(&server, CHAT, &big).await.status != 200 {
        assert!(since.elapsed() < PATIENCE, "the share of a client that went away is given back");
    }
}

#[tokio::test]
async fn a_flood_behind_a_running_request_closes_the_connection() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits::default()).await;
    let mut client = Raw::connect(&server).await;
    client.post(CHAT, json!({"model": "manual", "messages": [{"role": "user", "content": "a"}]}).to_string()).await;
    let call = engine.call().await;
    client.try_send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(10_000)).await;
    within(call.answer.closed()).await;
    until_metric(&server, r#"mobula_http_connections_closed_total{cause="pipelined"}"#, 1.0).await;
}

#[tokio::test]
async fn a_few_requests_may_be_piped_behind_each_other() {
    let server = echo(Limits::default()).await;
    let mut client = Raw::connect(&server).await;
    client.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(8)).await;
    for _ in 0..8 {
        assert_eq!(client.response().await.status, 200);
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_to_be_accepted() {
    let server = echo(Limits { connections_max: 2, ..Limits::default() }).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = Raw::connect(&server).await;
        client.get("/health").await;
        assert_eq!(client.response().await.status, 200);
        open.push(client);
    }
    let mut waiting = Raw::connect(&server).await;
    waiting.get("/health").await;
    assert!(tokio::time::timeout(SHORT, waiting.io.readable()).await.is_err(), "it is not served yet");
    open.clear();
    assert_eq!(waiting.response().await.status, 200);
}
