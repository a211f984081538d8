//! What a client that means harm, or errs, gets: a 4xx at once that names the field, the value and what would be right.

use std::time::{Duration, Instant};

use mobula_serve::Limits;
use serde_json::json;

use crate::support::{Raw, echo, post};

/// The promise is 100 ms; a build without optimisation, on a machine that builds others, gets more.
const SOON: Duration = Duration::from_millis(if cfg!(debug_assertions) { 5_000 } else { 100 });

/// Route, body, status, `param` of the error, what its message says.
type Case = (&'static str, Vec<u8>, u16, Option<&'static str>, &'static str);

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn chat(rest: &str) -> Vec<u8> {
    format!(r#"{{"model":"echo","messages":[{{"role":"user","content":"hi"}}]{rest}}}"#).into_bytes()
}

#[tokio::test]
async fn every_bad_request_is_refused_at_once_and_by_name() {
    let server = echo(Limits::default()).await;
    let stops = vec![format!("\"{}\"", "s".repeat(1_990_000)); 4].join(",");
    let deep = format!(r#","x":{}{}"#, "[".repeat(100_000), "]".repeat(100_000));
    let long = "p".repeat(7 << 20);
    let table: Vec<Case> = vec![
        (CHAT, chat(r#","temperature":1e999"#), 400, Some("temperature"), "1e999; expected a number from 0 to 2"),
        (CHAT, chat(r#","max_tokens":-1"#), 400, Some("max_tokens"), "-1; expected a whole number from 1 to 8192"),
        (CHAT, chat(r#","n":1000000000"#), 400, Some("n"), "1000000000; expected a whole number from 1 to 128"),
        (CHAT, chat(&format!(r#","stop":[{stops}]"#)), 400, Some("stop[0]"), "1990000 bytes; expected 1 to 256"),
        (CHAT, chat(&deep), 400, None, "nested deeper than 128"),
        (CHAT, "[".repeat(100_000).into_bytes(), 400, None, "nested deeper than 128"),
        (CHAT, b"{\"model\":\"\xff\xfe\"}".to_vec(), 400, None, "not UTF-8: byte 10"),
        (CHAT, b"".to_vec(), 400, None, "empty"),
        (CHAT, b"{".to_vec(), 400, None, "not a JSON object"),
        (CHAT, b"null".to_vec(), 400, None, "not a JSON object"),
        (
            CHAT,
            json!({"model": "gpt-4", "messages": []}).to_string().into(),
            404,
            Some("model"),
            "\"gpt-4\" is not served",
        ),
        (
            CHAT,
            json!({"model": "echo", "messages": [{"role": "user", "content": long}]}).to_string().into(),
            400,
            Some("messages"),
            "longer than 524288 bytes",
        ),
        (
            TEXT,
            json!({"model": "echo", "prompt": long}).to_string().into(),
            400,
            Some("prompt"),
            "longer than 524288 bytes",
        ),
        (
            TEXT,
            json!({"model": "echo", "prompt": "a ".repeat(9_000)}).to_string().into(),
            400,
            None,
            "the prompt has 9000 tokens; the model's context holds 8192",
        ),
        (CHAT, chat(r#","tools":[{"type":"function"}]"#), 400, Some("tools"), "does not support"),
        (CHAT, vec![b' '; (8 << 20) + 1], 413, None, "at most 8388608"),
    ];
    for (path, body, status, param, says) in table {
        // The best of three: other programs of the machine are not what is measured.
        let mut took = Duration::MAX;
        let mut tries = Vec::new();
        for _ in 0..3 {
            let since = Instant::now();
            tries.push(post(&server, path, &body).await);
            took = took.min(since.elapsed());
        }
        let response = tries.pop().expect("there were three");
        let error = response.json()["error"].clone();
        assert_eq!((response.status, error["param"].as_str()), (status, param), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(says) && message.len() < 400, "{message}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(took < SOON, "{took:?} for {message}");
    }
    assert_eq!(post(&server, CHAT, chat("")).await.status, 200, "and the server goes on");
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let server = echo(Limits::default()).await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n";
    let table = [
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".to_owned(), 400),
        (format!("{head}Content-Length: -5\r\n\r\n"), 400),
        (format!("{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\n"), 400),
        (format!("{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
        (format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n"), 400),
        (format!("{head}X: {}\r\n\r\n", "x".repeat(200_000)), 431),
    ];
    for (bytes, status) in table {
        let mut client = Raw::connect(&server).await;
        client.try_send(&bytes).await;
        assert_eq!(client.response().await.status, status, "{:.80}", bytes);
    }
}
