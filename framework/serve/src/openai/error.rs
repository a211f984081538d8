//! [`ApiError`]: everything that can go wrong, as OpenAI writes it: `{"error":{"message","type","param","code"}}`.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;

use crate::engine::EngineError;

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// OpenAI's `type`: the class a client switches on.
    kind: &'static str,
    code: Option<&'static str>,
    /// The field at fault, as a path: `messages[3].content`.
    param: Option<Cow<'static, str>>,
    message: String,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
}

impl ApiError {
    /// An error about the request as a whole.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
        let (code, param, retry_after, allow) = (None, None, None, None);
        Self { status, kind, code, param, message: message.into(), retry_after, allow }
    }

    /// A field that is not as it should be.
    pub(crate) fn field(param: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// 404: a field names something that is not here.
    pub(crate) fn not_found(param: &'static str, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(StatusCode::NOT_FOUND, message) }
    }

    pub(crate) fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    pub(crate) fn allow(self, methods: &'static str) -> Self {
        Self { allow: Some(methods), ..self }
    }

    /// 429: one of our own queues is full.
    pub(crate) fn overloaded(message: impl Into<String>, retry_after: Duration) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, message).code("overloaded");
        Self { kind: "rate_limit_error", retry_after: Some(retry_after), ..error }
    }

    /// 503: no new requests.
    pub(crate) fn stopping(message: impl Into<String>, retry_after: Duration) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("stopping");
        Self { kind: "unavailable", retry_after: Some(retry_after), ..error }
    }

    /// The body, for an answer or for an event of a stream.
    pub(crate) fn body(&self) -> Vec<u8> {
        let Self { kind, code, param, message, .. } = self;
        serde_json::to_vec(&Body { error: Detail { message, kind, param: param.as_deref(), code: *code } })
            .expect("four strings can be written")
    }
}

#[derive(Serialize)]
struct Body<'a> {
    error: Detail<'a>,
}

#[derive(Serialize)]
struct Detail<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::BadRequest { param, .. } => Self::field(param, message),
            EngineError::PromptTooLong { .. } => {
                Self::new(StatusCode::BAD_REQUEST, message).code("context_length_exceeded")
            }
            EngineError::Overloaded { retry_after } => Self::overloaded(message, retry_after),
            EngineError::ShardFailed { .. } => {
                let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("shard_failed");
                Self { kind: "shard_failed", retry_after: Some(RESTART), ..error }
            }
            EngineError::Stopping { .. } => Self::stopping(message, RESTART),
            EngineError::DeadlineExceeded { .. } => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, message).code("deadline_exceeded")
            }
            EngineError::SlowConsumer { .. } => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).code("slow_consumer")
            }
            EngineError::Internal { .. } => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).code("internal"),
        }
    }
}

/// What Retry-After says while shards restart: supervision begins within a second.
const RESTART: Duration = Duration::from_secs(1);

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.content_type("application/json");
        if let Some(after) = self.retry_after {
            // Whole seconds, and never 0, which would ask for a retry at once.
            response.insert_header((RETRY_AFTER, after.as_secs().max(1)));
        }
        if let Some(methods) = self.allow {
            response.insert_header((ALLOW, methods));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        response.body(self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_written_as_openai_writes_it() {
        let error = ApiError::field("n", "n is 0; expected a whole number from 1 to 128");
        let expected = r#"{"error":{"message":"n is 0; expected a whole number from 1 to 128","type":"invalid_request_error","param":"n","code":null}}"#;
        assert_eq!(String::from_utf8(error.body()).unwrap(), expected);
    }

    #[test]
    fn each_error_of_the_engine_has_its_status_and_type() {
        let after = Duration::from_millis(1);
        let message = || "why".to_owned();
        let table = [
            (EngineError::BadRequest { param: "prompt", message: message() }, 400, "invalid_request_error"),
            (EngineError::PromptTooLong { tokens: 9, max: 8 }, 400, "invalid_request_error"),
            (EngineError::Overloaded { retry_after: after }, 429, "rate_limit_error"),
            (EngineError::ShardFailed { message: message() }, 503, "shard_failed"),
            (EngineError::Stopping { reason: message() }, 503, "unavailable"),
            (EngineError::DeadlineExceeded { after }, 504, "server_error"),
            (EngineError::SlowConsumer { queued_bytes: 1 }, 500, "server_error"),
            (EngineError::Internal { message: message() }, 500, "server_error"),
        ];
        for (error, status, kind) in table {
            let api = ApiError::from(error.clone());
            assert_eq!((api.status.as_u16(), api.kind), (status, kind), "{error:?}");
            let asks_to_retry = api.error_response().headers().contains_key(RETRY_AFTER);
            assert_eq!(asks_to_retry, matches!(status, 429 | 503), "{error:?}");
        }
    }
}
