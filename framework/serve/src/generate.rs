//! From checked requests to an answer: the choices of one request run together, and are sent whole or as a stream.
//!
//! Nothing is sent before the first event of the engine: until then an error has a status of its own. After it, a stream
//! that fails sends one error event and no `[DONE]`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::HttpResponse;
use actix_web::http::header::CACHE_CONTROL;
use bytes::Bytes;
use futures_util::{Stream, stream};

use crate::engine::{Engine, EngineError, Event, Finish, FinishReason, GenerateRequest, Usage};
use crate::front::Ticket;
use crate::openai::ApiError;
use crate::openai::answer::{Answer, Answers, DONE, Dialect, chars, error_event};
use crate::stream::TokenStream;

/// The choices of one request.
pub(crate) struct Choices {
    /// `None` once a choice has ended.
    streams: Vec<Option<TokenStream>>,
    /// Where the next poll begins, so that no choice starves.
    next: usize,
    /// How many choices each prompt has: they share its tokens in the usage.
    per_prompt: usize,
}

impl Choices {
    /// Queues all sequences. When one is refused, those before it are dropped and so cancelled.
    pub(crate) fn start(
        engine: &dyn Engine,
        requests: Vec<GenerateRequest>,
        per_prompt: usize,
    ) -> Result<Self, EngineError> {
        let streams = requests.into_iter().map(|request| engine.generate(request).map(Some));
        Ok(Self { streams: streams.collect::<Result<_, _>>()?, next: 0, per_prompt })
    }

    /// The next event of any choice, with its index; `None` when all have ended.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    async fn next(&mut self) -> Option<(usize, Result<Event, EngineError>)> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, Result<Event, EngineError>)>> {
        let count = self.streams.len();
        let mut is_waiting = false;
        for index in (0..count).map(|step| (self.next + step) % count) {
            let Some(stream) = &mut self.streams[index] else { continue };
            let Poll::Ready(event) = Pin::new(stream).poll_next(cx) else {
                is_waiting = true;
                continue;
            };
            let broke_off = || EngineError::Internal { message: "the engine ended without saying why".to_owned() };
            let event = event.unwrap_or_else(|| Err(broke_off()));
            if !matches!(event, Ok(Event::Chunk(_))) {
                self.streams[index] = None;
            }
            self.next = (index + 1) % count;
            return Poll::Ready(Some((index, event)));
        }
        if is_waiting { Poll::Pending } else { Poll::Ready(None) }
    }

    /// Adds a finished choice to what the request took.
    fn add(&self, usage: &mut Usage, index: usize, finished: Usage) {
        usage.completion_tokens = usage.completion_tokens.saturating_add(finished.completion_tokens);
        if index.is_multiple_of(self.per_prompt) {
            usage.prompt_tokens = usage.prompt_tokens.saturating_add(finished.prompt_tokens);
        }
    }
}

/// Waits for all choices and answers with one body.
///
/// # Cancel safety
/// Dropping the future cancels the sequences.
pub(crate) async fn whole(
    mut choices: Choices,
    answers: Answers,
    mut ticket: Ticket,
) -> Result<HttpResponse, EngineError> {
    const UNFINISHED: Finish =
        Finish { reason: FinishReason::Stop, usage: Usage { prompt_tokens: 0, completion_tokens: 0 } };
    let unfinished = || Answer { text: String::new(), tokens: Vec::new(), finish: UNFINISHED };
    let mut parts: Vec<Answer> = (0..choices.streams.len()).map(|_| unfinished()).collect();
    let mut usage = Usage::default();
    while let Some((index, event)) = choices.next().await {
        match event.inspect_err(|_| ticket.failed())? {
            Event::Chunk(mut chunk) => {
                ticket.first_token();
                let part = &mut parts[index];
                // The first chunk of a short answer is often the whole of it.
                if part.text.is_empty() {
                    part.text = chunk.text;
                } else {
                    part.text.push_str(&chunk.text);
                }
                part.tokens.append(&mut chunk.tokens);
            }
            Event::Finish(finish) => {
                choices.add(&mut usage, index, finish.usage);
                parts[index].finish = finish;
            }
        }
    }
    ticket.finished(usage);
    Ok(HttpResponse::Ok().content_type("application/json").body(answers.whole(&parts, usage)))
}

/// Answers with a stream of server-sent events, once the first event of the engine is there.
///
/// # Cancel safety
/// Dropping the future, or the response's body, cancels the sequences.
pub(crate) async fn streamed(
    mut choices: Choices,
    answers: Answers,
    mut ticket: Ticket,
) -> Result<HttpResponse, EngineError> {
    let first = match choices.next().await {
        Some((_, Err(error))) => {
            ticket.failed();
            return Err(error);
        }
        first => first,
    };
    let count = choices.streams.len();
    let mut events = Events {
        choices,
        answers,
        ticket,
        offsets: vec![0; count],
        usage: Usage::default(),
        ready: VecDeque::new(),
        has_ended: false,
    };
    if events.answers.dialect == Dialect::Chat {
        events.ready.extend((0..count).map(|index| events.answers.role_event(index)));
    }
    events.push(first);
    let body = stream::unfold(events, |mut events| async move {
        let event = events.next().await?;
        Some((Ok::<_, Infallible>(event), events))
    });
    Ok(HttpResponse::Ok().content_type("text/event-stream").insert_header((CACHE_CONTROL, "no-cache")).streaming(body))
}

/// A stream of server-sent events on its way.
struct Events {
    choices: Choices,
    answers: Answers,
    ticket: Ticket,
    /// Characters sent of each choice.
    offsets: Vec<usize>,
    usage: Usage,
    /// Written and not yet sent: at most an event per choice, or the last three.
    ready: VecDeque<Bytes>,
    has_ended: bool,
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.has_ended {
                return None;
            }
            let event = self.choices.next().await;
            self.push(event);
        }
    }

    fn push(&mut self, event: Option<(usize, Result<Event, EngineError>)>) {
        match event {
            // Text that is held back has no event, unless its tokens are asked for.
            Some((_, Ok(Event::Chunk(chunk)))) if chunk.text.is_empty() && chunk.tokens.is_empty() => {}
            Some((index, Ok(Event::Chunk(chunk)))) => {
                self.ticket.first_token();
                let offset = &mut self.offsets[index];
                self.ready.push_back(self.answers.chunk_event(index, &chunk, *offset));
                *offset += chunk.tokens.iter().map(|at| chars(&at.token)).sum::<usize>();
            }
            Some((index, Ok(Event::Finish(finish)))) => {
                self.choices.add(&mut self.usage, index, finish.usage);
                self.ready.push_back(self.answers.finish_event(index, finish));
            }
            Some((_, Err(error))) => {
                tracing::warn!(%error, "an answer broke off");
                self.ready.push_back(error_event(&ApiError::from(error)));
                self.ticket.failed();
                self.choices.streams.clear();
                self.has_ended = true;
            }
            None => {
                if self.answers.include_usage {
                    self.ready.push_back(self.answers.usage_event(self.usage));
                }
                self.ready.push_back(DONE);
                self.ticket.finished(self.usage);
                self.has_ended = true;
            }
        }
    }
}
