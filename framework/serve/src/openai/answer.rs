//! Answers as OpenAI writes them, whole or as the events of a stream.
//!
//! ```text
//! chat stream:  {role} per choice → {content}* → {finish_reason} per choice → usage, if asked → [DONE]
//! text stream:              {text}* → {finish_reason} per choice → usage, if asked → [DONE]
//! ```
//!
//! Which event comes when is `generate`'s; here is only how each is written.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use super::ApiError;
use crate::engine::{Chunk, Finish, FinishReason, ScoredToken, TokenLogprob, Usage};

/// Which of the two dialects an answer is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Chat,
    Text,
}

/// What every answer and event of one request repeats.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) dialect: Dialect,
    /// Unique in the server's life, without its prefix.
    pub(crate) id: u64,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) model: String,
    /// Whether log probabilities were asked for.
    pub(crate) logprobs: bool,
    /// Whether a stream ends with the tokens used; then every other event says `usage: null`, as OpenAI's do.
    pub(crate) include_usage: bool,
}

/// One finished choice.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenLogprob>,
    pub(crate) finish: Finish,
}

impl Answers {
    /// The body of an answer that is not streamed.
    pub(crate) fn whole(&self, answers: &[Answer], usage: Usage) -> Vec<u8> {
        let choices = answers.iter().enumerate().map(|(index, answer)| {
            let logprobs = self.logprobs.then(|| self.logprobs(&answer.tokens, 0));
            let finish_reason = Some(reason(answer.finish.reason));
            let saying = match self.dialect {
                Dialect::Chat => {
                    Saying::Message { message: Message { role: "assistant", content: &answer.text, refusal: None } }
                }
                Dialect::Text => Saying::Text { text: &answer.text },
            };
            Choice { index, saying, logprobs, finish_reason }
        });
        let object = match self.dialect {
            Dialect::Chat => "chat.completion",
            Dialect::Text => "text_completion",
        };
        let capacity = 512 + answers.iter().map(|answer| answer.text.len() + 128 * answer.tokens.len()).sum::<usize>();
        let mut body = Vec::with_capacity(capacity);
        self.write(&mut body, object, choices.collect(), Some(Some(usage.into())));
        body
    }

    /// A chat's first event of a choice, which says who speaks.
    pub(crate) fn role_event(&self, index: usize) -> Bytes {
        let delta = Delta { role: Some("assistant"), content: Some("") };
        self.event(vec![Choice { index, saying: Saying::Delta { delta }, logprobs: None, finish_reason: None }])
    }

    /// More of a choice. `offset`: how many characters of its text came before.
    pub(crate) fn chunk_event(&self, index: usize, chunk: &Chunk, offset: usize) -> Bytes {
        let logprobs = self.logprobs.then(|| self.logprobs(&chunk.tokens, offset));
        self.event(vec![Choice { index, saying: self.saying(&chunk.text), logprobs, finish_reason: None }])
    }

    /// The end of a choice.
    pub(crate) fn finish_event(&self, index: usize, finish: Finish) -> Bytes {
        let saying = match self.dialect {
            Dialect::Chat => Saying::Delta { delta: Delta { role: None, content: None } },
            Dialect::Text => Saying::Text { text: "" },
        };
        let finish_reason = Some(reason(finish.reason));
        self.event(vec![Choice { index, saying, logprobs: None, finish_reason }])
    }

    /// What all choices took, after the last.
    pub(crate) fn usage_event(&self, usage: Usage) -> Bytes {
        self.framed(Vec::new(), Some(Some(usage.into())))
    }

    fn saying<'a>(&self, text: &'a str) -> Saying<'a> {
        match self.dialect {
            Dialect::Chat => Saying::Delta { delta: Delta { role: None, content: Some(text) } },
            Dialect::Text => Saying::Text { text },
        }
    }

    fn event(&self, choices: Vec<Choice<'_>>) -> Bytes {
        self.framed(choices, self.include_usage.then_some(None))
    }

    fn framed(&self, choices: Vec<Choice<'_>>, usage: Option<Option<UsageBody>>) -> Bytes {
        let object = match self.dialect {
            Dialect::Chat => "chat.completion.chunk",
            Dialect::Text => "text_completion",
        };
        let mut event = Vec::with_capacity(256);
        event.extend_from_slice(b"data: ");
        self.write(&mut event, object, choices, usage);
        event.extend_from_slice(b"\n\n");
        event.into()
    }

    fn write(
        &self,
        out: &mut Vec<u8>,
        object: &'static str,
        choices: Vec<Choice<'_>>,
        usage: Option<Option<UsageBody>>,
    ) {
        let prefix = match self.dialect {
            Dialect::Chat => "chatcmpl",
            Dialect::Text => "cmpl",
        };
        let id = format!("{prefix}-{:016x}", self.id);
        let envelope = Envelope { id, object, created: self.created, model: &self.model, choices, usage };
        serde_json::to_writer(out, &envelope).expect("a vector takes all, and no key is other than a string");
    }

    fn logprobs<'a>(&self, tokens: &'a [TokenLogprob], offset: usize) -> Logprobs<'a> {
        match self.dialect {
            Dialect::Chat => Logprobs::Chat(ChatLogprobs::of(tokens)),
            Dialect::Text => Logprobs::Text(TextLogprobs::of(tokens, offset)),
        }
    }
}

/// The last event of a stream that ended well.
pub(crate) const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// The last event of a stream that did not.
pub(crate) fn error_event(error: &ApiError) -> Bytes {
    [b"data: ".as_slice(), &error.body(), b"\n\n"].concat().into()
}

fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageBody>>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    #[serde(flatten)]
    saying: Saying<'a>,
    logprobs: Option<Logprobs<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Saying<'a> {
    Message { message: Message<'a> },
    Delta { delta: Delta<'a> },
    Text { text: &'a str },
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    refusal: Option<&'a str>,
}

#[derive(Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

#[derive(Serialize)]
struct UsageBody {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
}

impl From<Usage> for UsageBody {
    fn from(Usage { prompt_tokens, completion_tokens }: Usage) -> Self {
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens.saturating_add(completion_tokens) }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Logprobs<'a> {
    Chat(ChatLogprobs<'a>),
    Text(TextLogprobs<'a>),
}

#[derive(Serialize)]
struct ChatLogprobs<'a> {
    content: Vec<ChatToken<'a>>,
    refusal: Option<&'a str>,
}

#[derive(Serialize)]
struct ChatToken<'a> {
    #[serde(flatten)]
    token: Scored<'a>,
    top_logprobs: Vec<Scored<'a>>,
}

#[derive(Serialize)]
struct Scored<'a> {
    token: Cow<'a, str>,
    logprob: f32,
    bytes: &'a [u8],
}

impl<'a> ChatLogprobs<'a> {
    fn of(tokens: &'a [TokenLogprob]) -> Self {
        let scored = |token: &'a ScoredToken| Scored {
            token: String::from_utf8_lossy(&token.bytes),
            logprob: finite(token.logprob),
            bytes: &token.bytes,
        };
        let token = |at: &'a TokenLogprob| ChatToken {
            token: scored(&at.token),
            top_logprobs: at.top.iter().map(scored).collect(),
        };
        Self { content: tokens.iter().map(token).collect(), refusal: None }
    }
}

#[derive(Serialize)]
struct TextLogprobs<'a> {
    tokens: Vec<Cow<'a, str>>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<BTreeMap<Cow<'a, str>, f32>>,
    text_offset: Vec<usize>,
}

impl<'a> TextLogprobs<'a> {
    fn of(tokens: &'a [TokenLogprob], mut offset: usize) -> Self {
        let mut offsets = Vec::with_capacity(tokens.len());
        for at in tokens {
            offsets.push(offset);
            offset += chars(&at.token);
        }
        Self {
            tokens: tokens.iter().map(|at| spelled(&at.token)).collect(),
            token_logprobs: tokens.iter().map(|at| finite(at.token.logprob)).collect(),
            top_logprobs: tokens
                .iter()
                .map(|at| at.top.iter().map(|token| (spelled(token), finite(token.logprob))).collect())
                .collect(),
            text_offset: offsets,
        }
    }
}

/// How many characters begin in a token.
pub(crate) fn chars(token: &ScoredToken) -> usize {
    token.bytes.iter().filter(|byte| **byte & 0b1100_0000 != 0b1000_0000).count()
}

/// A token that is a part of a character is spelled `bytes:\xe2\x80`, as OpenAI does on this route.
fn spelled(token: &ScoredToken) -> Cow<'_, str> {
    match std::str::from_utf8(&token.bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let hex: String = token.bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            Cow::Owned(format!("bytes:{hex}"))
        }
    }
}

/// JSON has no infinity; OpenAI writes −9999 for a token that cannot be.
fn finite(logprob: f32) -> f32 {
    const IMPOSSIBLE: f32 = -9_999.0;
    if logprob.is_finite() { logprob } else { IMPOSSIBLE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(dialect: Dialect, logprobs: bool, include_usage: bool) -> Answers {
        Answers { dialect, id: 7, created: 5, model: "m".into(), logprobs, include_usage }
    }

    fn token(bytes: &[u8], logprob: f32) -> ScoredToken {
        ScoredToken { id: 1, bytes: bytes.to_vec(), logprob }
    }

    fn chunk() -> Chunk {
        let first = token("é".as_bytes(), -0.5);
        let half = token(b"\xe2\x80", f32::NEG_INFINITY);
        let tokens = vec![
            TokenLogprob { token: first.clone(), top: vec![first] },
            TokenLogprob { token: half, top: Vec::new() },
        ];
        Chunk { text: "é".into(), tokens }
    }

    const STOPPED: Finish =
        Finish { reason: FinishReason::Stop, usage: Usage { prompt_tokens: 3, completion_tokens: 2 } };

    fn text(event: Bytes) -> String {
        String::from_utf8(event.to_vec()).unwrap()
    }

    #[test]
    fn whole_answers() {
        let answer = || Answer { text: "hi".into(), tokens: chunk().tokens, finish: STOPPED };
        let chat = answers(Dialect::Chat, false, false).whole(&[answer()], STOPPED.usage);
        assert_eq!(
            String::from_utf8(chat).unwrap(),
            r#"{"id":"chatcmpl-0000000000000007","object":"chat.completion","created":5,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#
        );
        let plain = answers(Dialect::Text, true, false).whole(&[answer()], STOPPED.usage);
        assert_eq!(
            String::from_utf8(plain).unwrap(),
            r#"{"id":"cmpl-0000000000000007","object":"text_completion","created":5,"model":"m","choices":[{"index":0,"text":"hi","logprobs":{"tokens":["é","bytes:\\xe2\\x80"],"token_logprobs":[-0.5,-9999.0],"top_logprobs":[{"é":-0.5},{}],"text_offset":[0,1]},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#
        );
    }

    #[test]
    fn events_of_a_stream() {
        let chat = answers(Dialect::Chat, true, true);
        let head = r#"data: {"id":"chatcmpl-0000000000000007","object":"chat.completion.chunk","created":5,"model":"m","choices":["#;
        let table = [
            (
                chat.role_event(1),
                r#"{"index":1,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}"#,
            ),
            (
                chat.chunk_event(1, &chunk(), 0),
                r#"{"index":1,"delta":{"content":"é"},"logprobs":{"content":[{"token":"é","logprob":-0.5,"bytes":[195,169],"top_logprobs":[{"token":"é","logprob":-0.5,"bytes":[195,169]}]},{"token":"�","logprob":-9999.0,"bytes":[226,128],"top_logprobs":[]}],"refusal":null},"finish_reason":null}],"usage":null}"#,
            ),
            (
                chat.finish_event(0, STOPPED),
                r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}"#,
            ),
            (
                chat.usage_event(STOPPED.usage),
                r#"],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#,
            ),
        ];
        for (event, rest) in table {
            assert_eq!(text(event), format!("{head}{rest}\n\n"));
        }
        let plain = answers(Dialect::Text, false, false);
        let event = text(plain.chunk_event(0, &chunk(), 0));
        assert!(
            event.ends_with("\"choices\":[{\"index\":0,\"text\":\"é\",\"logprobs\":null,\"finish_reason\":null}]}\n\n"),
            "{event}"
        );
    }
}
