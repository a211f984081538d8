//! A client that goes away frees its sequences at once, whatever its request was doing.

use mobula_serve::Limits;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::{Manual, Raw, serve, until_metric, within};

const CANCELLED: &str = r#"mobula_request_outcomes_total{outcome="cancelled"}"#;

fn ask(stream: bool, n: u32) -> String {
    json!({"model": "manual", "messages": [{"role": "user", "content": "hi"}], "stream": stream, "n": n}).to_string()
}

#[tokio::test]
async fn a_waiting_plain_request_is_dropped_with_its_connection() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits::default()).await;
    let mut client = Raw::connect(&server).await;
    client.post("/v1/chat/completions", ask(false, 3)).await;
    let calls = [engine.call().await, engine.call().await, engine.call().await];
    calls[1].say("somebody is still there");
    drop(client);
    for call in &calls {
        within(call.answer.closed()).await;
    }
    until_metric(&server, CANCELLED, 1.0).await;
    until_metric(&server, "mobula_requests_in_flight", 0.0).await;
}

#[tokio::test]
async fn a_stream_is_dropped_with_its_connection_before_and_after_its_first_token() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits::default()).await;
    for (says_first, count) in [(false, 1.0), (true, 2.0)] {
        let mut client = Raw::connect(&server).await;
        client.post("/v1/chat/completions", ask(true, 1)).await;
        let call = engine.call().await;
        if says_first {
            call.say("one");
            client.head().await;
        }
        drop(client);
        // No token is needed to notice it.
        within(call.answer.closed()).await;
        until_metric(&server, CANCELLED, count).await;
    }
}

#[tokio::test]
async fn a_client_that_closes_its_side_has_gone() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits::default()).await;
    let mut client = Raw::connect(&server).await;
    client.post("/v1/chat/completions", ask(false, 1)).await;
    let call = engine.call().await;
    client.io.shutdown().await.unwrap();
    within(call.answer.closed()).await;
}
