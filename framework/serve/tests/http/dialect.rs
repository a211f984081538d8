//! What a well-behaved client gets: every route, whole and streamed.

use mobula_serve::{FinishReason, Limits, Prompt};
use serde_json::{Value, json};

use crate::support::{Manual, Raw, echo, events, post, serve, until_metric};

#[tokio::test]
async fn a_chat_is_answered() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits::default()).await;
    let mut client = Raw::connect(&server).await;
    let body = json!({
        "model": "manual", "max_tokens": 5, "temperature": 0.5, "seed": 9, "stop": "x", "logprobs": true, "top_logprobs": 2,
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
    });
    client.post("/v1/chat/completions", body.to_string()).await;

    let call = engine.call().await;
    assert_eq!(call.request.prompt, Prompt::Rendered("system: be brief\nuser: hi\n".into()));
    assert_eq!((call.request.max_tokens, call.request.logprobs), (Some(5), Some(2)));
    assert_eq!((call.request.sampling.temperature, call.request.sampling.seed), (0.5, Some(9)));
    assert_eq!(call.request.stop, ["x"]);
    call.say("he");
    call.say("y");
    call.finish(FinishReason::Length, 7, 3);

    let response = client.response().await;
    let answer = response.json();
    assert_eq!(response.status, 200);
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "manual");
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"], json!({"role": "assistant", "content": "hey", "refusal": null}));
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["logprobs"]["content"].as_array().unwrap().len(), 3);
    assert_eq!(choice["logprobs"]["content"][2]["token"], "y");
    assert_eq!(answer["usage"], json!({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}));

    // The connection serves the next request as well.
    client.get("/v1/models/manual").await;
    assert_eq!(client.response().await.json()["id"], "manual");
    until_metric(&server, "mobula_prompt_tokens_total", 7.0).await;
    until_metric(&server, "mobula_completion_tokens_total", 3.0).await;
    until_metric(&server, "mobula_engine_kv_blocks_used", 3.0).await;
    until_metric(&server, "mobula_time_to_first_token_seconds_count", 1.0).await;
    let route = r#"mobula_http_requests_total{route="/v1/chat/completions",status="200"}"#;
    until_metric(&server, route, 1.0).await;
}

#[tokio::test]
async fn a_stream_sends_each_token_when_it_is_there() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits::default()).await;
    let mut client = Raw::connect(&server).await;
    let body = json!({
        "model": "manual", "messages": [{"role": "user", "content": "hi"}], "stream": true,
        "stream_options": {"include_usage": true},
    });
    client.post("/v1/chat/completions", body.to_string()).await;
    let call = engine.call().await;
    call.say("one");

    let head = client.head().await;
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: text/event-stream"), "{head}");
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("one") {
        seen.extend(client.chunk().await.expect("the answer has only begun"));
    }
    // The rest is said only now: what was seen was not waiting for it.
    call.say("");
    call.say(" two");
    call.finish(FinishReason::Stop, 2, 2);
    while let Some(chunk) = client.chunk().await {
        seen.extend(chunk);
    }

    let events = events(&seen);
    let (done, events) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let deltas: Vec<_> = events.iter().map(|event| event["choices"][0]["delta"].clone()).collect();
    let expected = [
        json!({"role": "assistant", "content": ""}),
        json!({"content": "one"}),
        json!({"content": " two"}),
        json!({}),
        Value::Null,
    ];
    assert_eq!(deltas, expected);
    assert_eq!(events[3]["choices"][0]["finish_reason"], "stop");
    assert_eq!(events[4]["choices"], json!([]));
    assert_eq!(events[4]["usage"], json!({"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}));
    assert!(events[..4].iter().all(|event| event["usage"].is_null() && event["id"] == events[4]["id"]));
}

#[tokio::test]
async fn choices_run_together_and_keep_their_indices() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits::default()).await;
    let mut client = Raw::connect(&server).await;
    let body = json!({"model": "manual", "prompt": ["a", "b"], "n": 2, "seed": 1, "max_tokens": 4});
    client.post("/v1/completions", body.to_string()).await;
    let mut calls = Vec::new();
    for _ in 0..4 {
        calls.push(engine.call().await);
    }
    let seeds: Vec<_> = calls.iter().map(|call| call.request.sampling.seed.unwrap()).collect();
    assert_eq!(seeds[0], 1);
    assert_ne!(seeds[0], seeds[1]);
    assert_eq!(calls[3].request.prompt, Prompt::Text("b".into()));
    for (index, call) in calls.into_iter().enumerate().rev() {
        call.say(&format!("answer {index}"));
        call.finish(FinishReason::Stop, 10, 1);
    }
    let answer = client.response().await.json();
    let texts: Vec<_> = answer["choices"].as_array().unwrap().iter().map(|choice| choice["text"].clone()).collect();
    assert_eq!(texts, ["answer 0", "answer 1", "answer 2", "answer 3"]);
    // Two prompts of ten tokens, each counted once, though each was continued twice.
    assert_eq!(answer["usage"], json!({"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}));
}

#[tokio::test]
async fn a_streamed_completion_has_text_logprobs_with_offsets() {
    let engine = Manual::new();
    let server = serve(engine.clone(), Limits::default()).await;
    let mut client = Raw::connect(&server).await;
    let body = json!({"model": "manual", "prompt": [1, 2, 3], "stream": true, "logprobs": 1});
    client.post("/v1/completions", body.to_string()).await;
    let call = engine.call().await;
    assert_eq!(call.request.prompt, Prompt::Tokens([1, 2, 3].into()));
    call.say("ab");
    call.say("c");
    call.finish(FinishReason::Stop, 3, 3);
    let events = events(&client.response().await.body);
    let second: Value = serde_json::from_str(&events[1]).unwrap();
    let logprobs =
        json!({"tokens": ["c"], "token_logprobs": [-0.25], "top_logprobs": [{"c": -0.25}], "text_offset": [2]});
    assert_eq!(second["choices"][0]["logprobs"], logprobs);
    assert_eq!(second["object"], "text_completion");
    assert!(!second.as_object().unwrap().contains_key("usage"), "it was not asked for");
}

#[tokio::test]
async fn the_echo_engine_keeps_max_tokens_and_stop() {
    let server = echo(Limits::default()).await;
    let ask = async |rest: Value| {
        let mut body = json!({"model": "echo", "messages": [{"role": "user", "content": "one two three four"}]});
        body.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        let answer = post(&server, "/v1/chat/completions", body.to_string()).await.json();
        let choice = &answer["choices"][0];
        (
            choice["message"]["content"].as_str().unwrap().to_owned(),
            choice["finish_reason"].as_str().unwrap().to_owned(),
        )
    };
    let table = [
        (json!({}), "one two three four", "stop"),
        (json!({"max_tokens": 2}), "one two", "length"),
        (json!({"max_completion_tokens": 4}), "one two three four", "stop"),
        (json!({"stop": "hr"}), "one two t", "stop"),
    ];
    for (rest, text, reason) in table {
        assert_eq!(ask(rest).await, (text.to_owned(), reason.to_owned()));
    }
}

#[tokio::test]
async fn unknown_routes_and_methods_are_json_too() {
    let server = echo(Limits::default()).await;
    let table = [
        ("GET /nowhere", 404, "unknown_route"),
        ("GET /", 404, "unknown_route"),
        ("GET /v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE /v1/models/echo", 405, "method_not_allowed"),
        ("POST /health", 405, "method_not_allowed"),
        ("GET /v1/models/gpt-4", 404, "model_not_found"),
    ];
    for (line, status, code) in table {
        let mut client = Raw::connect(&server).await;
        client.send(format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        let response = client.response().await;
        assert_eq!((response.status, &response.json()["error"]["code"]), (status, &json!(code)), "{line}");
        assert_eq!(response.has_header("allow: post") || response.has_header("allow: get"), status == 405);
        // A refusal does not cost the connection.
        client.get("/health").await;
        assert_eq!(client.response().await.json(), json!({"status": "ok"}));
    }
}
