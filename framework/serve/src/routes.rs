//! The routes, and what every request passes before it reaches one: its connection's clock, the names and keys of
//! `trust`, the bound on bodies that no route reads, and the counters.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Service, ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::{App, Error, HttpRequest, HttpResponse, Resource, ResponseError, web};
use bytes::Bytes;

use crate::body;
use crate::connection::{Hold, Phase};
use crate::engine::Prompt;
use crate::front::Front;
use crate::generate::{self, Choices};
use crate::metrics::{self, Route};
use crate::openai::ApiError;
use crate::openai::answer::Dialect;
use crate::openai::chat::ChatRequest;
use crate::openai::completions::CompletionRequest;
use crate::openai::models::{Model, ModelList};
use crate::openai::params::{Params, unknown_model};

/// The application of one worker.
pub(crate) fn app(
    front: Arc<Front>,
) -> App<
    impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<Held>, Error = Error, InitError = ()>,
> {
    let shared = front.clone();
    App::new()
        .app_data(web::Data::from(front))
        .service(only("/v1/chat/completions", "POST", web::post().to(chat)))
        .service(only("/v1/completions", "POST", web::post().to(completions)))
        .service(only("/v1/models", "GET", web::get().to(models)))
        .service(only("/v1/models/{id:.*}", "GET", web::get().to(model)))
        .service(only("/health", "GET", web::get().to(health)))
        .service(only("/metrics", "GET", web::get().to(scrape)))
        .default_service(web::to(unknown_route))
        .wrap_fn(move |request, routes| {
            let front = shared.clone();
            let route = Route::of(request.path());
            let phase = phase_of(request.request());
            let hold = Hold::new(phase.clone(), if has_body(&request) { Phase::Reading } else { SERVING });
            let routed = match check(&request, route, &front) {
                Ok(()) => Ok(routes.call(request)),
                Err(error) => Err((request, error)),
            };
            async move {
                let mut response = match routed {
                    Ok(response) => response.await?,
                    Err((request, error)) => request.into_response(error.error_response()),
                };
                front.metrics.count_request(route, response.status().as_u16());
                // A body that nobody read: what follows it cannot be told from it.
                if let Phase::Reading = phase.get() {
                    phase.set(Phase::Refused { left: front.limits.chat_body_bytes_max });
                    response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
                }
                Ok(response.map_body(|_, body| Held { body, _hold: hold }))
            }
        })
}

const SERVING: Phase = Phase::Serving { behind: 0 };

fn phase_of(request: &HttpRequest) -> Rc<Cell<Phase>> {
    let phase = request.conn_data::<Rc<Cell<Phase>>>();
    phase.expect("the server puts it beside every connection").clone()
}

fn has_body(request: &ServiceRequest) -> bool {
    let headers = request.headers();
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// What is checked on every route and method.
fn check(request: &ServiceRequest, route: Route, front: &Front) -> Result<(), ApiError> {
    front.trust.check_names(request.headers(), request.uri().authority().map(|authority| authority.as_str()))?;
    // A balancer asks for health without a key, and learns nothing else.
    if route != Route::Health {
        front.trust.check_key(request.headers())?;
    }
    match route {
        Route::Chat | Route::Completions => Ok(()),
        _ => body::check_length(request.headers(), front.limits.control_body_bytes_max),
    }
}

async fn chat(request: HttpRequest, payload: web::Payload, front: web::Data<Front>) -> Result<HttpResponse, ApiError> {
    generate(request, payload, front, Dialect::Chat).await
}

async fn completions(
    request: HttpRequest,
    payload: web::Payload,
    front: web::Data<Front>,
) -> Result<HttpResponse, ApiError> {
    generate(request, payload, front, Dialect::Text).await
}

async fn generate(
    request: HttpRequest,
    payload: web::Payload,
    front: web::Data<Front>,
    dialect: Dialect,
) -> Result<HttpResponse, ApiError> {
    front.check_stopping()?;
    let body = body::read(request.headers(), payload, &front.limits, &front.body_bytes).await?;
    phase_of(&request).set(SERVING);
    let (prompts, params, logprobs) = read(&body.bytes, &front, dialect)?;
    drop(body);

    let mut ticket = front.admit()?;
    let choices = Choices::start(&*front.engine, params.requests(&prompts, logprobs), params.n)
        .inspect_err(|_| ticket.failed())?;
    let include_usage = params.stream.is_some_and(|stream| stream.include_usage);
    let answers = front.answers(dialect, logprobs.is_some(), include_usage);
    let response = match params.stream {
        Some(_) => generate::streamed(choices, answers, ticket).await,
        None => generate::whole(choices, answers, ticket).await,
    };
    response.map_err(|error| {
        tracing::warn!(%error, "a request failed");
        error.into()
    })
}

/// The prompts that a request's body asks to be continued, and how.
fn read(body: &[u8], front: &Front, dialect: Dialect) -> Result<(Vec<Prompt>, Params, Option<u8>), ApiError> {
    let (engine, limits) = (&front.engine, &front.limits);
    match dialect {
        Dialect::Chat => {
            let ChatRequest { messages, params, logprobs } = ChatRequest::read(body, engine.model(), limits)?;
            Ok((vec![engine.render_chat(&messages)?], params, logprobs))
        }
        Dialect::Text => {
            let CompletionRequest { prompts, params, logprobs } =
                CompletionRequest::read(body, engine.model(), limits)?;
            Ok((prompts, params, logprobs))
        }
    }
}

async fn models(front: web::Data<Front>) -> HttpResponse {
    HttpResponse::Ok().json(ModelList::from(front.engine.model()))
}

async fn model(id: web::Path<String>, front: web::Data<Front>) -> Result<HttpResponse, ApiError> {
    let model = front.engine.model();
    if *id != model.id {
        return Err(unknown_model(&format!("{:.64?}", id.as_str()), model));
    }
    Ok(HttpResponse::Ok().json(Model::from(model)))
}

async fn health(front: web::Data<Front>) -> HttpResponse {
    let is_stopping = front.is_stopping.load(Ordering::Relaxed);
    let (status, body) = match is_stopping {
        false => (StatusCode::OK, r#"{"status":"ok"}"#),
        true => (StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"stopping"}"#),
    };
    HttpResponse::build(status).content_type("application/json").body(body)
}

async fn scrape(front: web::Data<Front>) -> Result<HttpResponse, ApiError> {
    let text = metrics::encode(&front.metrics, &front.engine)
        .map_err(|_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written"))?;
    Ok(HttpResponse::Ok().content_type("application/openmetrics-text; version=1.0.0; charset=utf-8").body(text))
}

async fn unknown_route(request: HttpRequest) -> HttpResponse {
    let message = format!(
        "there is no {:.64?} here; there are /v1/chat/completions, /v1/completions, /v1/models, /health and /metrics",
        request.path()
    );
    ApiError::new(StatusCode::NOT_FOUND, message).code("unknown_route").error_response()
}

/// A path that has one method.
fn only(path: &'static str, method: &'static str, route: actix_web::Route) -> Resource {
    let refuse = move |request: HttpRequest| async move {
        let message = format!("{path} takes {method}, not {:.16}", request.method().as_str());
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).code("method_not_allowed").allow(method).error_response()
    };
    web::resource(path).route(route).default_service(web::to(refuse))
}

/// A response's body, which holds its connection's phase until it is sent or given up.
pub(crate) struct Held {
    body: BoxBody,
    _hold: Hold,
}

impl MessageBody for Held {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}
