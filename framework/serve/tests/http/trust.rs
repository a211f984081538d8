//! Names, origins, keys and what may be bound.

use std::sync::Arc;

use mobula_serve::{BindError, Config, EchoEngine, Limits, RunningServer, Server};
use serde_json::json;

use crate::support::{Raw, echo};

async fn bind(config: Config) -> Result<RunningServer, BindError> {
    Server::bind(Config { workers: 1, ..config }, Arc::new(EchoEngine::new("echo"))).await
}

async fn status(server: &RunningServer, request: &str) -> u16 {
    let mut client = Raw::connect(server).await;
    client.send(format!("{request}\r\n\r\n")).await;
    client.response().await.status
}

#[tokio::test]
async fn names_are_checked_on_every_route_and_method() {
    let server = echo(Limits::default()).await;
    let lines =
        ["GET /health", "GET /metrics", "GET /v1/models", "POST /v1/chat/completions", "OPTIONS /v1/models", "GET /x"];
    for line in lines {
        let with = async |headers: &str| status(&server, &format!("{line} HTTP/1.1\r\n{headers}")).await;
        assert_eq!(with("Host: evil.example").await, 421, "{line}");
        assert_eq!(with("Host: localhost\r\nOrigin: http://evil.example").await, 403, "{line}");
        assert_eq!(with("X: y").await, 400, "{line} without Host");
        assert!(![403, 421].contains(&with("Host: localhost:1\r\nOrigin: http://localhost:1").await), "{line}");
    }
    assert_eq!(status(&server, "GET http://evil.example/health HTTP/1.1\r\nHost: localhost").await, 400);
}

#[tokio::test]
async fn no_answer_lets_another_page_read_it() {
    let server = echo(Limits::default()).await;
    let mut client = Raw::connect(&server).await;
    client.send("GET /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n\r\n").await;
    let head = client.response().await.head;
    assert!(!head.contains("access-control") && !head.contains("set-cookie"), "{head}");
}

#[tokio::test]
async fn a_key_is_needed_on_all_routes_but_health() {
    let server = bind(Config { port: 0, api_keys: vec!["right".into()], ..Config::default() }).await.unwrap();
    for (route, open) in [("/health", true), ("/metrics", false), ("/v1/models", false), ("/nowhere", false)] {
        let with =
            async |headers: &str| status(&server, &format!("GET {route} HTTP/1.1\r\nHost: localhost{headers}")).await;
        let right = with("\r\nAuthorization: Bearer right").await;
        assert!([200, 404].contains(&right), "{route}: {right}");
        assert_eq!(with("").await == 401, !open, "{route}");
        assert_eq!(with("\r\nAuthorization: Bearer wrong").await == 401, !open, "{route}");
    }
    let mut client = Raw::connect(&server).await;
    client.post("/v1/chat/completions", "{}").await;
    let response = client.response().await;
    assert_eq!((response.status, &response.json()["error"]["code"]), (401, &json!("invalid_api_key")));
    assert!(response.has_header("www-authenticate: bearer"));
}

#[tokio::test]
async fn a_server_open_to_others_needs_a_key() {
    for host in ["0.0.0.0", "::", "192.0.2.1"] {
        let refused = bind(Config { host: host.into(), port: 0, ..Config::default() }).await.unwrap_err();
        let expected = format!("{host} can be reached from other machines; give an API key, or listen on 127.0.0.1");
        assert_eq!(refused.to_string(), expected);
    }
    let keys = vec!["secret".into()];
    assert!(bind(Config { host: "0.0.0.0".into(), port: 0, api_keys: keys, ..Config::default() }).await.is_ok());
    for key in ["", "two words", "ключ"] {
        let refused = bind(Config { port: 0, api_keys: vec![key.into()], ..Config::default() }).await.unwrap_err();
        assert!(matches!(refused, BindError::BadKey { index: 0 }), "{refused}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_do() {
    let server = echo(Limits::default()).await;
    let port = server.addr().port();
    let refused = bind(Config { port, ..Config::default() }).await.unwrap_err();
    let expected = format!(
        "port {port} is in use on 127.0.0.1; stop the program that has it, or choose another port (0 takes a free one)"
    );
    assert_eq!(refused.to_string(), expected);
}

#[tokio::test]
async fn a_name_of_loopback_can_be_bound() {
    let server = bind(Config { host: "localhost".into(), port: 0, ..Config::default() }).await.unwrap();
    assert!(server.addr().ip().is_loopback());
    assert_eq!(server.url(), format!("http://{}", server.addr()));
    assert_eq!(status(&server, "GET /health HTTP/1.1\r\nHost: localhost").await, 200);
}
