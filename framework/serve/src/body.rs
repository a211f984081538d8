//! Reading a request's body within its bounds: its size, the pause between two pieces, and what the bodies of all
//! requests take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_rt::time::timeout;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_LENGTH, HeaderMap};
use actix_web::web::Payload;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use crate::limits::Limits;
use crate::openai::ApiError;

/// A body, and its share of the memory for bodies until it is dropped.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    _share: Share,
}

/// Reads all of a body.
///
/// # Cancel safety
/// A dropped future gives its share back.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut payload: Payload,
    limits: &Limits,
    in_flight: &Arc<AtomicUsize>,
) -> Result<Body, ApiError> {
    check_length(headers, limits.chat_body_bytes_max)?;
    let mut share = Share { in_flight: in_flight.clone(), bytes: 0 };
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    loop {
        let piece = match timeout(limits.body_idle_timeout, payload.next()).await {
            Ok(Some(Ok(piece))) => piece,
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                return Err(ApiError::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}")));
            }
            Err(_) => {
                let message = format!("no more of the body came for {} s", limits.body_idle_timeout.as_secs_f32());
                return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message));
            }
        };
        if share.bytes + piece.len() > limits.chat_body_bytes_max {
            let has = format!("has more than {} bytes", limits.chat_body_bytes_max);
            return Err(too_large(has, limits.chat_body_bytes_max));
        }
        share.grow(piece.len(), limits)?;
        // One piece, as most bodies are, is not copied.
        if share.bytes == piece.len() {
            first = piece;
            continue;
        }
        all.extend_from_slice(&std::mem::take(&mut first));
        all.extend_from_slice(&piece);
    }
    let bytes = if all.is_empty() { first } else { all.freeze() };
    Ok(Body { bytes, _share: share })
}

/// Refuses a body by the length it announces, before any of it is read.
pub(crate) fn check_length(headers: &HeaderMap, max: usize) -> Result<(), ApiError> {
    let Some(announced) = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()) else { return Ok(()) };
    match announced.parse::<u64>() {
        Ok(bytes) if bytes <= max as u64 => Ok(()),
        _ => Err(too_large(format!("has {announced} bytes"), max)),
    }
}

fn too_large(has: String, max: usize) -> ApiError {
    let message = format!("the body {has}; this route takes at most {max}");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("body_too_large")
}

#[derive(Debug)]
struct Share {
    in_flight: Arc<AtomicUsize>,
    bytes: usize,
}

impl Share {
    fn grow(&mut self, bytes: usize, limits: &Limits) -> Result<(), ApiError> {
        self.bytes += bytes;
        if self.in_flight.fetch_add(bytes, Ordering::Relaxed) + bytes <= limits.body_bytes_in_flight_max {
            return Ok(());
        }
        let max = limits.body_bytes_in_flight_max;
        let message = format!("the bodies being read take {max} bytes together, the most this server holds");
        Err(ApiError::overloaded(message, limits.retry_after))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
