//! Mistakes gathered while something is read, so that a user sees all of them at once.

use quote::ToTokens;
use syn::Error;

/// What is wrong so far.
#[derive(Default)]
pub(crate) struct Errors(Option<Error>);

impl Errors {
    /// Notes what is wrong with `tokens`.
    pub(crate) fn at(&mut self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.push(Error::new_spanned(tokens, message));
    }

    /// Notes another mistake.
    pub(crate) fn push(&mut self, error: Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }

    /// Gives the value of what was read, and notes its mistakes.
    pub(crate) fn take<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }

    /// What was read, unless something was wrong with it.
    pub(crate) fn finish<T>(self, read: Option<T>) -> syn::Result<T> {
        match self.0 {
            Some(errors) => Err(errors),
            None => Ok(read.expect("what could not be read has been noted")),
        }
    }
}
