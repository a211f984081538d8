//! What an engine is asked and what comes back, in types that travel between processes.

use std::fmt;

use mobula::ReplyStream;
use serde::{Deserialize, Serialize};

use crate::generation;
use crate::sampler::Sampling;
use crate::tokenizer::Token;

/// What to continue, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// What to continue.
    pub prompt: Prompt,
    /// How tokens are chosen; greedy by default.
    pub sampling: Sampling,
    /// Tokens of the answer at most; `None` goes on to the end of the context.
    pub tokens_max: Option<usize>,
    /// Texts that end the answer and are no part of it.
    pub stop: Vec<String>,
    /// How many alternatives to tell for every token; `None` tells no probabilities at all.
    pub top_logprobs: Option<usize>,
}

impl Request {
    /// A greedy continuation of `prompt`, until the model ends it.
    pub fn new(prompt: Prompt) -> Self {
        Self { prompt, sampling: Sampling::default(), tokens_max: None, stop: Vec::new(), top_logprobs: None }
    }
}

/// What to continue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prompt {
    /// Plain text, in which control tokens are letters like others.
    Text(String),
    /// Tokens, as the tokenizer made them.
    Tokens(Vec<Token>),
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Piece {
    /// More of it.
    More {
        /// What a reader sees now; empty while a character or a stop string is unfinished.
        text: String,
        /// The token's probability and its alternatives', where they were asked for.
        score: Option<TokenScore>,
    },
    /// The end. Nothing follows.
    End(End),
}

/// A token's probability and its alternatives'.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenScore {
    /// The token itself.
    pub chosen: Scored,
    /// The likeliest ones, best first.
    pub top: Vec<Scored>,
}

/// A token and the logarithm of its probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// Its number.
    pub token: Token,
    /// What it stands for; a part of a character may be a token.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Whether the model or a stop string ended it; else its limit did.
    pub stopped: bool,
    /// What it took.
    pub usage: Usage,
}

/// Tokens of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the one that ended the answer included.
    pub answer_tokens: usize,
}

/// A whole answer. Displays as its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What the model wrote.
    pub text: String,
    /// How it ended.
    pub end: End,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why there is no answer, or no more of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RequestError {
    /// A parameter that means nothing.
    #[error("{message}")]
    Invalid {
        /// Its name in OpenAI's API.
        param: String,
        /// Names the value and what would be right.
        message: String,
    },
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {tokens} tokens, but the context is {context} tokens with the answer's")]
    PromptTooLong {
        /// Tokens of the prompt; at least so many when its bytes alone are too many.
        tokens: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// As many requests wait as may: try again later.
    #[error("{waiting} requests are waiting already")]
    QueueFull {
        /// How many wait.
        waiting: usize,
    },
    /// A shard died while the answer was computed; the group starts again.
    #[error("{message}")]
    ShardFailed {
        /// The shard and its cause.
        message: String,
    },
    /// The reader fell too far behind the answer.
    #[error("the reader fell {pieces} pieces behind the answer")]
    SlowReader {
        /// Pieces that waited for it.
        pieces: usize,
    },
    /// The engine has ended or cannot be reached.
    #[error("the engine gave no answer: {0}")]
    Unreachable(String),
}

impl From<generation::Error> for RequestError {
    fn from(error: generation::Error) -> Self {
        use crate::sampler::Error as Sampler;
        let param = match &error {
            generation::Error::Sampler(Sampler::Parameter { param, .. }) => param,
            generation::Error::Sampler(_) => "model",
            generation::Error::Stop(_) => "stop",
            generation::Error::TopLogprobs(_) => "top_logprobs",
        };
        Self::Invalid { param: param.to_owned(), message: error.to_string() }
    }
}

/// An answer as it grows: pieces until [`Piece::End`], or an error as the last item. Dropping it ends the sequence.
pub type Pieces = ReplyStream<Result<Piece, RequestError>>;
