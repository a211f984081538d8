//! [`Error`]: any error as text with its causes, for programs that only pass errors on.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ErrorChain;

/// An error of any kind, as text with its causes; it travels between processes.
///
/// Like other catch-all errors it is not itself a `std::error::Error`, so that `?` can make it from every one that is.
///
/// ```
/// fn parse(text: &str) -> Result<u32, mobula_types::Error> {
///     if text.is_empty() {
///         return Err(mobula_types::Error::msg("expected a number, found nothing"));
///     }
///     Ok(text.parse()?)
/// }
/// assert_eq!(parse("x").unwrap_err().to_string(), "invalid digit found in string");
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    chain: ErrorChain,
}

impl Error {
    /// An error that says `text`.
    pub fn msg(text: impl fmt::Display) -> Self {
        Self { chain: ErrorChain::message(text) }
    }

    /// The same error, said to have happened while doing what `text` says.
    #[must_use]
    pub fn context(mut self, text: impl fmt::Display) -> Self {
        self.chain.messages.insert(0, text.to_string());
        self
    }

    /// Its messages, outermost first.
    pub fn chain(&self) -> &ErrorChain {
        &self.chain
    }
}

impl<E: std::error::Error + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Self { chain: ErrorChain::of(&error) }
    }
}

impl From<Error> for ErrorChain {
    fn from(error: Error) -> Self {
        error.chain
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.chain)
    }
}

/// Causes on lines of their own: what `main` prints when it returns an error.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut messages = self.chain.messages.iter();
        f.write_str(messages.next().map_or("", String::as_str))?;
        messages.try_for_each(|cause| write!(f, "\n  caused by: {cause}"))
    }
}
