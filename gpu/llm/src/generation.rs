//! One answer as it grows: logits in, text out.
//!
//! Puts sampler, detokenizer and stop strings in a row. Knows nothing of batches, steps or requests.

use crate::sampler::{self, Logprobs, Sampler, Sampling};
use crate::stop::{self, Stops};
use crate::tokenizer::{Detokenizer, Token, Tokenizer};

/// What a request says about its answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Options {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// How many alternatives to tell for every token; `None` tells no probabilities at all.
    pub top_logprobs: Option<usize>,
    /// Whether to go on behind the tokens that end an answer, which then count as text of no letters.
    pub ignore_end: bool,
}

/// Options that mean nothing, or logits that are no numbers.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A parameter of the sampler, or damaged weights.
    #[error(transparent)]
    Sampler(#[from] sampler::Error),
    /// The stop strings.
    #[error(transparent)]
    Stop(#[from] stop::Error),
    /// More alternatives than are told.
    #[error("top_logprobs is {0}, expected 0 to {max}", max = sampler::TOP_LOGPROBS_MAX)]
    TopLogprobs(usize),
}

/// Why an answer ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The model ended it.
    Token(Token),
    /// It came to a stop string.
    Stop(String),
}

/// What one more token brings.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// The token that was chosen.
    pub token: Token,
    /// What a reader sees now; empty while a character or a stop string is unfinished.
    pub text: String,
    /// The token's probability and its alternatives', where they were asked for.
    pub logprobs: Option<Logprobs>,
    /// Set with the last token. Nothing may follow.
    pub end: Option<End>,
}

/// An answer that grows.
///
/// ```
/// use mobula_llm::generation::{End, Generation, Options};
/// use mobula_llm::{gguf::Gguf, tiny, tokenizer::Tokenizer};
///
/// let tokenizer = Tokenizer::from_gguf(&Gguf::from_bytes(tiny::model(7))?)?;
/// let mut answer = Generation::new(Options { stop: vec!["t".into()], ..Options::default() })?;
/// let mut logits = vec![0.0; tokenizer.vocabulary_len()];
/// logits[tokenizer.encode("a")[0] as usize] = 9.0;
/// assert_eq!(answer.next(&logits, &tokenizer)?.text, "a");
/// logits[tokenizer.encode("the")[0] as usize] = 10.0;
/// let delta = answer.next(&logits, &tokenizer)?;
/// assert_eq!((delta.text.as_str(), delta.end), ("", Some(End::Stop("t".into()))));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Generation {
    sampler: Sampler,
    detokenizer: Detokenizer,
    stops: Stops,
    top_logprobs: Option<usize>,
    ignore_end: bool,
}

impl Generation {
    /// An answer without a token.
    ///
    /// # Errors
    /// [`Error`] names the option that is out of range.
    pub fn new(options: Options) -> Result<Self, Error> {
        let Options { sampling, stop, top_logprobs, ignore_end } = options;
        if let Some(top) = top_logprobs.filter(|&top| top > sampler::TOP_LOGPROBS_MAX) {
            return Err(Error::TopLogprobs(top));
        }
        let (sampler, stops) = (Sampler::new(sampling)?, Stops::new(stop)?);
        Ok(Generation { sampler, detokenizer: Detokenizer::new(), stops, top_logprobs, ignore_end })
    }

    /// Chooses the next token from `logits` (`[vocabulary]`).
    ///
    /// # Errors
    /// [`sampler::Error::NotANumber`] when the model computed nonsense.
    pub fn next(&mut self, logits: &[f32], tokenizer: &Tokenizer) -> Result<Delta, Error> {
        let token = self.sampler.sample(logits)?;
        let logprobs = self.top_logprobs.map(|top| Logprobs::new(logits, token, top));
        if tokenizer.is_end(token) && !self.ignore_end {
            return Ok(Delta { token, text: self.finish(), logprobs, end: Some(End::Token(token)) });
        }
        // Control tokens are marks of the model's own and no text.
        let bytes = if tokenizer.is_control(token) { &[] } else { tokenizer.bytes_of(token) };
        let text = self.stops.push(&self.detokenizer.push(bytes));
        let end = self.stops.stopped().map(|stop| End::Stop(stop.to_owned()));
        Ok(Delta { token, text, logprobs, end })
    }

    /// What was still held back, when the answer ends for another reason: its limit, or a reader that goes away.
    pub fn finish(&mut self) -> String {
        let rest = self.detokenizer.finish();
        self.stops.push(&rest) + &self.stops.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Gguf;
    use crate::tiny;

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_gguf(&Gguf::from_bytes(tiny::model(1)).unwrap()).unwrap()
    }

    /// Feeds the tokens one by one and gives the text of each step, with how it ended.
    fn told(options: Options, tokens: &[Token]) -> (Vec<String>, Option<End>) {
        let tokenizer = tokenizer();
        let mut answer = Generation::new(options).unwrap();
        let mut texts = Vec::new();
        for &token in tokens {
            let mut logits = vec![0.0; tokenizer.vocabulary_len()];
            logits[token as usize] = 1.0;
            let delta = answer.next(&logits, &tokenizer).unwrap();
            assert_eq!(delta.token, token);
            texts.push(delta.text);
            if delta.end.is_some() {
                return (texts, delta.end);
            }
        }
        texts.push(answer.finish());
        (texts, None)
    }

    #[test]
    fn characters_and_stop_strings_are_whole() {
        let tokens = tokenizer().encode("é the thing\n");
        let (texts, end) = told(Options::default(), &tokens);
        assert_eq!((texts.concat().as_str(), end), ("é the thing\n", None));
        assert_eq!(texts[..2], ["", "é"]);

        let stop = |stop: &str| Options { stop: vec![stop.into()], ..Options::default() };
        let (texts, end) = told(stop("he thi"), &tokens);
        assert_eq!((texts.concat().as_str(), end), ("é t", Some(End::Stop("he thi".into()))));
        let (texts, end) = told(stop("\nX"), &tokens);
        assert_eq!((texts.concat().as_str(), end), ("é the thing\n", None), "what was held back comes at the end");
    }

    #[test]
    fn the_model_ends_its_answer() {
        let tokenizer = tokenizer();
        let end = tokenizer.eos().unwrap();
        let tokens = [tokenizer.encode("a é")[..3].to_vec(), vec![end], tokenizer.encode("b")].concat();
        let (texts, how) = told(Options::default(), &tokens);
        assert_eq!((texts.concat().as_str(), how), ("a \u{fffd}", Some(End::Token(end))));
        let (texts, how) = told(Options { ignore_end: true, ..Options::default() }, &tokens);
        assert_eq!((texts.concat().as_str(), how), ("a \u{fffd}b", None));
    }

    #[test]
    fn probabilities_are_told_where_asked_for() {
        let tokenizer = tokenizer();
        let mut answer = Generation::new(Options { top_logprobs: Some(2), ..Options::default() }).unwrap();
        let logits: Vec<f32> = (0..tokenizer.vocabulary_len()).map(|i| i as f32 / 10.0).collect();
        let delta = answer.next(&logits, &tokenizer).unwrap();
        let logprobs = delta.logprobs.unwrap();
        assert_eq!(logprobs.top.len(), 2);
        assert_eq!(logprobs.top[0], (delta.token, logprobs.chosen));
        let error = Generation::new(Options { top_logprobs: Some(21), ..Options::default() }).unwrap_err();
        assert_eq!(error.to_string(), "top_logprobs is 21, expected 0 to 20");
    }
}
