//! The head's state over HTTP: `/health` and `/api/v0/status`, to read, on loopback.
//!
//! A page in a browser reaches loopback too, so every request is first asked by which name and from which page it comes,
//! on any route and method. One request a connection and no body: then a connection's only clock is the one on its head.
//! There is no way to change anything here, no key, no cookie and no CORS header. What is answered is asked of the node
//! over its socket, as the command line does.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use actix_web::dev::{ServerHandle, Service, ServiceRequest};
use actix_web::http::header::{ALLOW, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING};
use actix_web::http::{KeepAlive, StatusCode};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, Resource, web};
use anyhow::{Context, Result};
use mobula_serve::check_names;
use mobula_wire::local::ToolQuestion;
use serde_json::json;

use super::ask::Node;

/// A client has this long to say what it wants.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// The node has this long to answer; it gathers for 2 s at most.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A client that was refused has this long to read why.
const LINGER: Duration = Duration::from_secs(2);

/// Connections at once; more wait in the socket's backlog. Each asks the node one question at a time.
const CONNECTIONS_MAX: usize = 32;

/// What every answer tells a browser: to guess nothing, keep nothing, run nothing and show it in no frame.
const HEADERS: [(&str, &str); 6] = [
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
];

const HEALTH: &str = "/health";
const STATUS: &str = "/api/v0/status";

/// A port that is listened on.
pub(crate) struct Port {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Port {
    /// Takes the port on loopback; 0 takes a free one.
    pub(crate) fn take(port: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        Ok(Self { listener, addr })
    }

    /// Where it is.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Answers at `port` with what the node at `socket` says, until the handle is told to stop.
pub(crate) fn serve(socket: &Path, port: Port) -> Result<ServerHandle> {
    let Port { listener, addr } = port;
    let socket = socket.to_owned();
    let app = move || {
        App::new()
            .app_data(web::Data::new(socket.clone()))
            .service(only(HEALTH, web::get().to(health)))
            .service(only(STATUS, web::get().to(status)))
            .default_service(web::to(unknown))
            .wrap_fn(move |request, routes| {
                let routed = match refused(&request, addr) {
                    None => Ok(routes.call(request)),
                    Some(refusal) => Err(request.into_response(refusal)),
                };
                async move {
                    let mut response = match routed {
                        Ok(response) => response.await?,
                        Err(refused) => refused,
                    };
                    for (name, value) in HEADERS {
                        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
                    }
                    Ok(response)
                }
            })
    };
    let server = HttpServer::new(app)
        .workers(1)
        .max_connections(CONNECTIONS_MAX)
        .keep_alive(KeepAlive::Disabled)
        .client_request_timeout(HEAD_WITHIN)
        .client_disconnect_timeout(LINGER)
        .shutdown_timeout(1)
        .disable_signals()
        .listen(listener)
        .with_context(|| format!("serve HTTP at {addr}"))?
        .run();
    let handle = server.handle();
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the HTTP server ended");
        }
    });
    Ok(handle)
}

/// Why a request goes no further, if it does not.
fn refused(request: &ServiceRequest, bound: SocketAddr) -> Option<HttpResponse> {
    let target = request.uri().authority().map(|authority| authority.as_str());
    if let Err(wrong) = check_names(bound, request.headers(), target) {
        return Some(refusal(wrong.status, wrong.code.unwrap_or("bad_request"), &wrong.message));
    }
    let length = request.headers().get(CONTENT_LENGTH);
    let has_body = length.is_some_and(|length| length != "0") || request.headers().contains_key(TRANSFER_ENCODING);
    has_body.then(|| refusal(StatusCode::PAYLOAD_TOO_LARGE, "no_body", "no request here has a body"))
}

/// 200 as long as the head answers.
async fn health(socket: web::Data<PathBuf>) -> HttpResponse {
    match ask(&socket, ToolQuestion::List { kind: "nodes".to_owned() }).await {
        Ok(_) => HttpResponse::Ok().json(json!({"status": "ok"})),
        Err(error) => unavailable(&error),
    }
}

async fn status(socket: web::Data<PathBuf>) -> HttpResponse {
    match ask(&socket, ToolQuestion::Status).await {
        Ok(status) => HttpResponse::Ok().content_type("application/json").body(status),
        Err(error) => unavailable(&error),
    }
}

async fn ask(socket: &Path, question: ToolQuestion) -> Result<String> {
    let asked = async { Node::at(socket).await?.ask(question).await };
    tokio::time::timeout(ANSWER_WITHIN, asked)
        .await
        .with_context(|| format!("the head did not answer within {} s", ANSWER_WITHIN.as_secs()))?
}

async fn unknown(request: HttpRequest) -> HttpResponse {
    let message = format!("there is no {:.64?} here; there are {HEALTH} and {STATUS}", request.path());
    refusal(StatusCode::NOT_FOUND, "unknown_route", &message)
}

/// A path that can be read.
fn only(path: &'static str, route: actix_web::Route) -> Resource {
    let refuse = move |request: HttpRequest| async move {
        let message = format!("{path} takes GET, not {:.16}", request.method().as_str());
        let mut refusal = refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &message);
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        refusal
    };
    web::resource(path).route(route).default_service(web::to(refuse))
}

fn unavailable(error: &anyhow::Error) -> HttpResponse {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &format!("{error:#}"))
}

fn refusal(status: StatusCode, code: &str, message: &str) -> HttpResponse {
    HttpResponse::build(status).json(json!({"error": {"code": code, "message": message}}))
}
