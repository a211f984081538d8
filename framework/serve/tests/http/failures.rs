//! What a client gets when the engine fails, is full or stops.

use std::time::Duration;

use mobula_serve::{EngineError, FinishReason, Limits};
use serde_json::{Value, json};

use crate::support::{Manual, Raw, events, post, serve, until_metric, within};

const CHAT: &str = "/v1/chat/completions";

fn ask(stream: bool) -> String {
    json!({"model": "manual", "messages": [{"role": "user", "content": "hi"}], "stream": stream}).to_string()
}

fn shard_failed() -> EngineError {
    EngineError::ShardFailed { message: "shard 1 panicked: injected".into() }
}

#[tokio::test]
async fn a_failed_shard_is_503_and_the_next_request_works() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits::default()).await;
    let mut client = Raw::connect(&server).await;
    client.post(CHAT, ask(false)).await;
    let call = engine.call().await;
    call.say("half an ans");
    call.fail(shard_failed());
    let response = client.response().await;
    assert_eq!(response.status, 503);
    assert!(response.has_header("retry-after: 1"));
    let error = &response.json()["error"];
    assert_eq!((&error["type"], &error["message"]), (&json!("shard_failed"), &json!("shard 1 panicked: injected")));

    client.post(CHAT, ask(false)).await;
    let call = engine.call().await;
    call.say("whole");
    call.finish(FinishReason::Stop, 1, 1);
    assert_eq!(client.response().await.json()["choices"][0]["message"]["content"], "whole");
    until_metric(&server, r#"mobula_request_outcomes_total{outcome="failed"}"#, 1.0).await;
    until_metric(&server, r#"mobula_request_outcomes_total{outcome="finished"}"#, 1.0).await;
}

#[tokio::test]
async fn a_stream_whose_shard_fails_has_one_error_event_and_no_done() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits::default()).await;
    let mut client = Raw::connect(&server).await;
    client.post(CHAT, ask(true)).await;
    let call = engine.call().await;
    call.say("half");
    call.fail(shard_failed());
    let events = events(&client.response().await.body);
    assert_eq!(events.len(), 3, "{events:?}");
    let error: Value = serde_json::from_str(&events[2]).unwrap();
    assert_eq!(error["error"]["type"], "shard_failed");
    until_metric(&server, r#"mobula_request_outcomes_total{outcome="failed"}"#, 1.0).await;
}

#[tokio::test]
async fn an_error_before_the_first_token_of_a_stream_has_its_own_status() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits::default()).await;
    let mut client = Raw::connect(&server).await;
    client.post(CHAT, ask(true)).await;
    engine.call().await.fail(EngineError::PromptTooLong { tokens: 2_000, max: 1_024 });
    let response = client.response().await;
    assert_eq!((response.status, &response.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
}

#[tokio::test]
async fn one_choice_that_fails_cancels_the_others() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits::default()).await;
    let mut client = Raw::connect(&server).await;
    client.post("/v1/completions", json!({"model": "manual", "prompt": "a", "n": 2}).to_string()).await;
    let (kept, failed) = (engine.call().await, engine.call().await);
    failed.fail(EngineError::DeadlineExceeded { after: Duration::from_secs(5) });
    assert_eq!(client.response().await.status, 504);
    within(kept.answer.closed()).await;
}

#[tokio::test]
async fn an_engine_that_breaks_off_without_a_word_is_an_error() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits::default()).await;
    let mut client = Raw::connect(&server).await;
    client.post(CHAT, ask(false)).await;
    drop(engine.call().await);
    let response = client.response().await;
    assert_eq!((response.status, &response.json()["error"]["code"]), (500, &json!("internal")));
}

#[tokio::test]
async fn a_full_engine_is_429_with_retry_after() {
    let refusal = EngineError::Overloaded { retry_after: Duration::from_secs(7) };
    let server = serve(Manual::refusing(refusal), Limits::default()).await;
    for stream in [false, true] {
        let response = post(&server, CHAT, ask(stream)).await;
        assert_eq!(response.status, 429);
        assert!(response.has_header("retry-after: 7"), "{}", response.head);
        assert_eq!(response.json()["error"]["type"], "rate_limit_error");
    }
}

#[tokio::test]
async fn a_full_queue_is_429_and_a_place_is_free_again_after_an_answer() {
    let engine = Manual::new();
    let limits = Limits { requests_in_flight_max: 2, retry_after: Duration::from_secs(3), ..Limits::default() };
    let server = serve(engine.clone(), limits).await;
    let mut clients = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..2 {
        let mut client = Raw::connect(&server).await;
        client.post(CHAT, ask(false)).await;
        clients.push(client);
        calls.push(engine.call().await);
    }
    let response = post(&server, CHAT, ask(false)).await;
    assert_eq!(response.status, 429);
    assert!(response.has_header("retry-after: 3"));
    until_metric(&server, "mobula_requests_in_flight", 2.0).await;

    calls.pop().unwrap().finish(FinishReason::Stop, 1, 0);
    assert_eq!(clients.pop().unwrap().response().await.status, 200);
    let mut client = Raw::connect(&server).await;
    client.post(CHAT, ask(false)).await;
    engine.call().await.finish(FinishReason::Stop, 1, 0);
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test]
async fn a_stopping_server_finishes_what_runs_and_refuses_the_rest() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits::default()).await;
    let (mut running, mut late) = (Raw::connect(&server).await, Raw::connect(&server).await);
    running.post(CHAT, ask(false)).await;
    let call = engine.call().await;
    let addr = server.addr();
    let stop = tokio::spawn(server.stop(Duration::from_secs(20)));

    // The stop begins when its task is first polled.
    let refused = loop {
        late.get("/health").await;
        let response = late.response().await;
        if response.status == 503 {
            break response;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(refused.json(), json!({"status": "stopping"}));
    late.post(CHAT, ask(false)).await;
    let response = late.response().await;
    assert_eq!((response.status, &response.json()["error"]["code"]), (503, &json!("stopping")));
    assert!(response.has_header("retry-after: 1"));

    call.say("done");
    call.finish(FinishReason::Stop, 1, 1);
    assert_eq!(running.response().await.json()["choices"][0]["message"]["content"], "done");
    within(stop).await.unwrap();
    assert!(tokio::net::TcpStream::connect(addr).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn a_stop_does_not_wait_longer_than_its_grace() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits::default()).await;
    let mut client = Raw::connect(&server).await;
    client.post(CHAT, ask(false)).await;
    let call = engine.call().await;
    within(server.stop(Duration::from_millis(50))).await;
    within(call.answer.closed()).await;
}

#[tokio::test]
async fn a_dropped_server_frees_its_port_and_its_sequences() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits::default()).await;
    let mut client = Raw::connect(&server).await;
    client.post(CHAT, ask(true)).await;
    let call = engine.call().await;
    call.say("a");
    drop(server);
    within(call.answer.closed()).await;
}
