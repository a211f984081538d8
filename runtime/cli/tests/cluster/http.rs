//! The head's state over HTTP: who may read it, and what everybody else is told.

use mobula_types::state::ClusterStatus;

use crate::node::Node;

#[test]
fn state_is_read_on_loopback_by_its_names_only() {
    let head = Node::head();
    let host = format!("localhost:{}", head.http);
    let get = |path: &str, headers: &str| head.http(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n"));
    let body = |answer: &str| answer.split_once("\r\n\r\n").unwrap().1.to_owned();

    let health = get("/health", "");
    assert!(health.starts_with("HTTP/1.1 200 ") && body(&health) == r#"{"status":"ok"}"#, "{health}");
    let status = get("/api/v0/status", &format!("origin: http://{host}\r\n"));
    assert!(status.starts_with("HTTP/1.1 200 ") && status.contains("content-type: application/json"), "{status}");
    let over_http: ClusterStatus = serde_json::from_str(&body(&status)).unwrap();
    let printed: ClusterStatus = serde_json::from_str(&head.told(&["status", "--json"])).unwrap();
    assert_eq!((over_http.cluster_id, over_http.nodes.len()), (printed.cluster_id, 1));

    // The parser refuses it before anybody sees it, so there is no body to read.
    let nameless = head.http("GET /health HTTP/1.1\r\n\r\n");
    assert!(nameless.starts_with("HTTP/1.1 400 "), "{nameless}");

    let with = |line: &str, headers: &str| format!("{line} HTTP/1.1\r\n{headers}\r\n\r\n");
    let own = format!("host: {host}");
    for (request, code, says) in [
        (with("GET /", &own), 404, "unknown_route"),
        (with("GET /health/", &own), 404, "unknown_route"),
        (with("POST /health", &own), 405, "method_not_allowed"),
        (with("DELETE /api/v0/status", &own), 405, "takes GET"),
        (with("OPTIONS /health", &own), 405, "method_not_allowed"),
        (with("GET /health", "host: evil.example"), 421, "wrong_host"),
        (with("POST /none", "host: evil.example"), 421, "wrong_host"),
        (with("GET http://evil.example/health", &own), 400, "bad_request"),
        (with("GET /health", &format!("{own}\r\norigin: http://evil.example")), 403, "wrong_origin"),
        (with("OPTIONS /none", &format!("{own}\r\norigin: null")), 403, "wrong_origin"),
        (with("GET /health", &format!("{own}\r\ncontent-length: 3")) + "abc", 413, "no_body"),
    ] {
        let answer = head.http(&request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{request}{answer}");
        assert!(body(&answer).contains(says), "{request}{answer}");
        let head = answer.to_ascii_lowercase();
        assert!(head.contains("x-content-type-options: nosniff"), "{answer}");
        assert!(head.contains("default-src 'none'"), "{answer}");
        assert!(!head.contains("access-control"), "{answer}");
        assert!(serde_json::from_str::<serde_json::Value>(&body(&answer)).is_ok(), "{answer}");
    }
}

#[test]
fn a_port_that_is_taken_is_an_error_only_when_it_was_asked_for() {
    let head = Node::head();
    let port = head.http.to_string();
    let said = head.ask(&["start", "--head", "--block", "--port", "1", "--dashboard-port", &port]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains(&format!("--dashboard-port {port}")), "{said:?}");
}
