//! [`Metrics`]: what `/metrics` tells. Counting is one atomic addition; nothing is locked, and text is made only when it
//! is scraped. prometheus-client writes the format; its own histogram is a mutex, so ours is a row of atomics.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::engine::{Engine, Usage};

/// Where a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Chat,
    Completions,
    Models,
    Health,
    Metrics,
    /// No route of ours: one row for all, so that nobody can fill `/metrics` with paths.
    Other,
}

impl Route {
    const ALL: [Route; 6] =
        [Route::Chat, Route::Completions, Route::Models, Route::Health, Route::Metrics, Route::Other];

    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/v1/chat/completions" => Route::Chat,
            "/v1/completions" => Route::Completions,
            "/health" => Route::Health,
            "/metrics" => Route::Metrics,
            path if path == "/v1/models" || path.starts_with("/v1/models/") => Route::Models,
            _ => Route::Other,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Route::Chat => "/v1/chat/completions",
            Route::Completions => "/v1/completions",
            Route::Models => "/v1/models",
            Route::Health => "/health",
            Route::Metrics => "/metrics",
            Route::Other => "other",
        }
    }
}

/// How a chat or completion request that was taken in ended: each has exactly one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Finished,
    /// Refused after it was taken in, or failed by the engine.
    Failed,
    /// Its client went away.
    Cancelled,
}

/// Why a connection was closed by us while a client may still have wanted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    HeadTimeout,
    WriteStalled,
    Pipelined,
}

/// All counters of one server.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: [[AtomicU64; STATUSES.len()]; Route::ALL.len()],
    outcomes: [AtomicU64; 3],
    closes: [AtomicU64; 3],
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    first_token: Histogram,
    duration: Histogram,
    /// Chat and completion requests taken in and not ended.
    pub(crate) in_flight: AtomicU64,
}

impl Metrics {
    pub(crate) fn count_request(&self, route: Route, status: u16) {
        let status = STATUSES.iter().position(|known| *known == status).unwrap_or(0);
        self.requests[route as usize][status].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_outcome(&self, outcome: Outcome, after: Duration) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
        self.duration.observe(after);
    }

    pub(crate) fn count_close(&self, cause: Close) {
        self.closes[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_tokens(&self, usage: Usage) {
        self.prompt_tokens.fetch_add(usage.prompt_tokens.into(), Ordering::Relaxed);
        self.completion_tokens.fetch_add(usage.completion_tokens.into(), Ordering::Relaxed);
    }

    pub(crate) fn observe_first_token(&self, after: Duration) {
        self.first_token.observe(after);
    }
}

/// Writes the text that Prometheus reads.
pub(crate) fn encode(metrics: &Arc<Metrics>, engine: &Arc<dyn Engine>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { metrics: metrics.clone(), engine: engine.clone() }));
    let mut text = String::with_capacity(8 << 10);
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The statuses that we answer with; the first stands for any other.
const STATUSES: [u16; 16] = [0, 200, 400, 401, 403, 404, 405, 408, 413, 421, 429, 431, 500, 501, 503, 504];

struct Scrape {
    metrics: Arc<Metrics>,
    engine: Arc<dyn Engine>,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.metrics.fmt(f)
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let metrics = &*self.metrics;
        let requests = Route::ALL.into_iter().flat_map(|route| {
            let row = &metrics.requests[route as usize];
            let status = |at: usize| if at == 0 { "other".to_owned() } else { STATUSES[at].to_string() };
            row.iter()
                .enumerate()
                .map(move |(at, count)| ([("route", route.label().to_owned()), ("status", status(at))], count))
        });
        counters(&mut encoder, "mobula_http_requests", "Requests answered, by route and status", requests)?;
        let labelled = |label, names: [&'static str; 3], counts: &'_ [AtomicU64; 3]| {
            std::array::from_fn::<_, 3, _>(|at| ([(label, names[at].to_owned())], counts[at].load(Ordering::Relaxed)))
        };
        for (name, help, counts) in [
            (
                "mobula_request_outcomes",
                "Chat and completion requests that ended, by how",
                labelled("outcome", ["finished", "failed", "cancelled"], &metrics.outcomes),
            ),
            (
                "mobula_http_connections_closed",
                "Connections closed for their client's slowness or flood, by cause",
                labelled("cause", ["head_timeout", "write_stalled", "pipelined"], &metrics.closes),
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, count) in counts {
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        for (name, help, count) in [
            ("mobula_prompt_tokens", "Tokens of prompts answered", &metrics.prompt_tokens),
            ("mobula_completion_tokens", "Tokens generated", &metrics.completion_tokens),
        ] {
            let mut counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            counter.encode_counter::<NoLabelSet, _, u64>(&count.load(Ordering::Relaxed), None)?;
        }
        metrics.first_token.encode(
            &mut encoder,
            "mobula_time_to_first_token_seconds",
            "From a request's last byte to its first token",
        )?;
        metrics.duration.encode(
            &mut encoder,
            "mobula_request_duration_seconds",
            "From a request's last byte to its outcome",
        )?;

        let load = self.engine.load();
        for (name, help, value) in [
            (
                "mobula_requests_in_flight",
                "Chat and completion requests being served",
                metrics.in_flight.load(Ordering::Relaxed),
            ),
            ("mobula_engine_queue_length", "Sequences that wait for a place in the batch", load.queued as u64),
            ("mobula_engine_running_sequences", "Sequences in the batch", load.running as u64),
            ("mobula_engine_kv_blocks_used", "Blocks of the KV cache in use", load.kv_blocks_used as u64),
            ("mobula_engine_kv_blocks_total", "Blocks of the KV cache", load.kv_blocks_total as u64),
        ] {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

/// A family of counters without the rows that never counted.
fn counters<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: impl Iterator<Item = ([(&'static str, String); N], &'a AtomicU64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, count) in rows {
        let count = count.load(Ordering::Relaxed);
        if count > 0 {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

/// Upper bounds in seconds, from an echo to the longest answer: each about twice the one before.
const BUCKETS: [f64; 18] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// Durations by bucket; the last is everything longer.
#[derive(Debug, Default)]
struct Histogram {
    counts: [AtomicU64; BUCKETS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(duration.as_micros() as u64, Ordering::Relaxed);
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result {
        let bounds = BUCKETS.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        let mut histogram = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        histogram.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EchoEngine;

    #[test]
    fn what_was_counted_is_told_in_prometheus_text() {
        let metrics = Arc::new(Metrics::default());
        metrics.count_request(Route::of("/v1/models/x"), 200);
        metrics.count_request(Route::of("/nowhere"), 418);
        metrics.count_outcome(Outcome::Cancelled, Duration::from_millis(3));
        metrics.count_outcome(Outcome::Finished, Duration::from_secs(1_000));
        metrics.count_close(Close::WriteStalled);
        metrics.count_tokens(Usage { prompt_tokens: 5, completion_tokens: 7 });
        let engine: Arc<dyn Engine> = Arc::new(EchoEngine::new("m"));
        let text = encode(&metrics, &engine).unwrap();
        for line in [
            "mobula_http_requests_total{route=\"/v1/models\",status=\"200\"} 1",
            "mobula_http_requests_total{route=\"other\",status=\"other\"} 1",
            "mobula_request_outcomes_total{outcome=\"cancelled\"} 1",
            "mobula_request_outcomes_total{outcome=\"finished\"} 1",
            "mobula_request_outcomes_total{outcome=\"failed\"} 0",
            "mobula_http_connections_closed_total{cause=\"write_stalled\"} 1",
            "mobula_prompt_tokens_total 5",
            "mobula_completion_tokens_total 7",
            "mobula_request_duration_seconds_bucket{le=\"0.0025\"} 0",
            "mobula_request_duration_seconds_bucket{le=\"0.005\"} 1",
            "mobula_request_duration_seconds_bucket{le=\"+Inf\"} 2",
            "mobula_request_duration_seconds_sum 1000.003",
            "mobula_engine_queue_length 0",
        ] {
            assert!(text.lines().any(|at| at == line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
