//! A served model answers: plain, streamed, by the pasted `curl`, on one and on two shards.

use std::process::Command;

use serde_json::{Value, json};

use crate::http;
use crate::program::{MODEL, Server};

const TOKENS: u64 = 12;

fn chat(stream: bool) -> Value {
    json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": "the thing"}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": stream,
    })
}

/// The text of a streamed chat that ended as it should.
fn streamed(events: &[&str]) -> String {
    let (done, chunks) = events.split_last().expect("events");
    assert_eq!(*done, "[DONE]");
    let chunks = chunks.iter().map(|chunk| serde_json::from_str::<Value>(chunk).unwrap());
    let text = |chunk: Value| chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned();
    chunks.map(text).collect()
}

#[test]
fn two_shards_answer_plain_and_streamed_alike() {
    let server = Server::start(&["--tensor-parallel-size", "2"]);
    let errors = server.errors();
    assert!(errors.contains("into 2 shards") && errors.contains("shard-0 is ") && errors.contains("shard-1 is "));

    let models = server.get("/v1/models", &[]);
    assert_eq!((models.status, models.json()["data"][0]["id"].as_str()), (200, Some(MODEL)));
    assert_eq!(server.get("/health", &[]).status, 200);

    let completion = json!({"model": MODEL, "prompt": "in the", "max_tokens": TOKENS, "temperature": 0});
    let completed = server.post("/v1/completions", &completion);
    assert_eq!(completed.status, 200, "{completed:?}");
    let tokens = completed.json()["usage"]["completion_tokens"].as_u64().unwrap();
    assert!((1..=TOKENS).contains(&tokens), "{completed:?}");

    let plain = server.post("/v1/chat/completions", &chat(false));
    assert_eq!(plain.status, 200, "{plain:?}");
    let plain = plain.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let stream = server.post("/v1/chat/completions", &chat(true));
    assert_eq!(stream.status, 200, "{stream:?}");
    assert_eq!(streamed(&stream.events()), plain);
}

#[test]
fn one_shard_answers_what_the_pasted_curl_asks() {
    let server = Server::start(&[]);
    let (_, curl) = server.announcement.split_once("try: ").expect("something to try");
    // A shell takes the line apart; in place of curl it prints the words that curl would get, one on a line.
    let script = format!("curl() {{ printf '%s\\n' \"$@\"; }}; {curl}");
    let words = String::from_utf8(Command::new("sh").args(["-c", &script]).output().unwrap().stdout).unwrap();
    let words: Vec<&str> = words.lines().collect();
    let [url, "-H", header, "-d", body] = words[..] else { panic!("{words:?}") };
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    assert_eq!((address, header), (&*server.address, "content-type: application/json"));
    let answer = http::ask(address, "POST", &format!("/{path}"), &[], body);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.json()["choices"][0]["message"]["content"].is_string());
}

#[test]
fn a_key_is_asked_for_and_stays_unseen() {
    let server = Server::start_with(&[], |command| {
        command.env("MOBULA_API_KEY", "sk-hidden");
    });
    assert!(server.announcement.contains("Bearer $MOBULA_API_KEY"), "{}", server.announcement);
    assert!(!server.announcement.contains("sk-hidden") && !server.errors().contains("sk-hidden"));
    assert_eq!(server.get("/v1/models", &[]).status, 401);
    assert_eq!(server.get("/v1/models", &["Authorization: Bearer sk-wrong"]).status, 401);
    assert_eq!(server.get("/v1/models", &["Authorization: Bearer sk-hidden"]).status, 200);
}
