//! A shard that panics: its requests end with an error that says so, and the next request works.

#[cfg(debug_assertions)]
use serde_json::{Value, json};

#[cfg(debug_assertions)]
use crate::program::{MODEL, Server};

#[cfg(debug_assertions)]
fn completion(prompt: &str, stream: bool) -> Value {
    json!({"model": MODEL, "prompt": prompt, "max_tokens": 40, "temperature": 0, "stream": stream})
}

#[cfg(debug_assertions)]
fn with_fault(fault: &str) -> Server {
    Server::start(&["--tensor-parallel-size", "2", "--fault", fault])
}

/// The same request, asked again, is answered by the shards' next life.
#[cfg(debug_assertions)]
fn check_next_works(server: &Server, prompt: &str) {
    let next = server.post("/v1/completions", &completion(prompt, false));
    assert_eq!(next.status, 200, "{next:?}");
    assert!(next.json()["usage"]["completion_tokens"].as_u64().unwrap() > 0);
    let streamed = server.post("/v1/completions", &completion(prompt, true));
    assert_eq!(streamed.events().last(), Some(&"[DONE]"), "{streamed:?}");
}

#[cfg(debug_assertions)]
#[test]
fn a_plain_request_gets_503_and_the_next_one_works() {
    let server = with_fault("shard:1@token=5");
    let failed = server.post("/v1/completions", &completion("the thing", false));
    assert_eq!(failed.status, 503, "{failed:?}");
    let error = &failed.json()["error"];
    assert_eq!(error["type"], "shard_failed");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("shard-1") && message.contains("the fault that was asked for"), "{message}");
    check_next_works(&server, "the thing");
}

#[cfg(debug_assertions)]
#[test]
fn a_stream_ends_with_one_error_event_and_the_next_one_works() {
    let server = with_fault("shard:1@token=20");
    let failed = server.post("/v1/completions", &completion("the", true));
    assert_eq!(failed.status, 200, "the head was sent with the first token: {failed:?}");
    let events = failed.events();
    let errors = events.iter().filter(|event| event.contains("shard_failed")).count();
    assert_eq!((errors, events.iter().filter(|event| **event == "[DONE]").count()), (1, 0), "{failed:?}");
    let (last, tokens) = events.split_last().unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["error"]["type"], "shard_failed");
    assert!(!tokens.is_empty(), "the tokens before the fault were sent");
    check_next_works(&server, "the");
}

/// What breaks a server on purpose is in no release.
#[cfg(not(debug_assertions))]
#[test]
fn a_release_knows_no_faults() {
    let folder = crate::program::Folder::new();
    folder.refuses(&["serve", "tiny.gguf", "--fault", "shard:1@token=5"], 2, "unexpected argument '--fault'");
}
