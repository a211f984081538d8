//! How a returned `Result<T, E>` travels: `E` itself if serde can write it, else as text with its causes.
//!
//! A macro sees the tokens of `E` and not its traits, and a trait cannot ask whether another holds. An associated
//! constant can: where the constant of [`Probe`] itself has unmet bounds, rustc takes that of the trait [`Fallback`],
//! and a constant may choose a type. All of it is decided for concrete types, in code that a macro wrote for them.

use std::fmt;
use std::marker::PhantomData;

use mobula_node::{TaskOptions, encode_error};
use mobula_types::{CallError, Error, ErrorChain};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a function returns whose return type is written `Result`, whatever alias that is.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is written like a `Result` and is none",
    note = "Mobula gives callers the error of whatever is written `..::Result<..>`: give another type another name"
)]
pub trait Returned {
    /// What it returns when all is well.
    type Value;
    /// What else.
    type Error;

    /// Itself.
    #[expect(clippy::missing_errors_doc, reason = "the error is the user's")]
    fn into_result(self) -> Result<Self::Value, Self::Error>;
}

impl<T, E> Returned for Result<T, E> {
    type Value = T;
    type Error = E;

    fn into_result(self) -> Self {
        self
    }
}

/// Asks what the error of the result type `R` can do.
pub struct Probe<R>(PhantomData<R>);

impl<R: Returned<Error: Serialize + DeserializeOwned + Send + 'static>> Probe<R> {
    /// Whether the error travels as it is.
    pub const TRAVELS: bool = true;
}

impl<R: Returned<Error: Into<Error>>> Probe<R> {
    /// Whether it is an error with causes.
    pub const HAS_CAUSES: bool = true;
}

impl<R: Returned<Error: fmt::Display>> Probe<R> {
    /// Whether it can be shown.
    pub const IS_SHOWN: bool = true;
}

/// The answers of a [`Probe`] whose bounds are not met.
pub trait Fallback {
    /// It does not travel.
    const TRAVELS: bool = false;
    /// It is no error with causes.
    const HAS_CAUSES: bool = false;
    /// It says nothing.
    const IS_SHOWN: bool = false;
}

impl<R> Fallback for Probe<R> {}

/// Chooses how an error travels, from the answers of its [`Probe`].
pub const fn how(travels: bool, has_causes: bool, is_shown: bool) -> u8 {
    match (travels, has_causes, is_shown) {
        (true, ..) => AS_IT_IS,
        (false, true, _) => WITH_CAUSES,
        (false, false, true) => AS_SHOWN,
        (false, false, false) => NOT_AT_ALL,
    }
}

const AS_IT_IS: u8 = 0;
const WITH_CAUSES: u8 = 1;
const AS_SHOWN: u8 = 2;
const NOT_AT_ALL: u8 = 3;

/// An error that travels in the way that [`how`] chose.
pub struct Carrier<const HOW: u8>;

/// Makes an error into what travels.
#[diagnostic::on_unimplemented(
    message = "no caller can be told of an error `{E}`",
    label = "neither travels nor can be shown",
    note = "derive `serde::Serialize` and `serde::Deserialize` for it to arrive as it is, or implement \
            `std::fmt::Display` for it to arrive as text"
)]
pub trait Carry<E> {
    /// What arrives.
    type Error;

    /// Makes `error` into what arrives.
    fn carry(error: E) -> Self::Error;
}

#[diagnostic::do_not_recommend]
impl<E> Carry<E> for Carrier<AS_IT_IS> {
    type Error = E;

    fn carry(error: E) -> E {
        error
    }
}

#[diagnostic::do_not_recommend]
impl<E: Into<Error>> Carry<E> for Carrier<WITH_CAUSES> {
    type Error = ErrorChain;

    fn carry(error: E) -> ErrorChain {
        Self::explain(error).into()
    }
}

#[diagnostic::do_not_recommend]
impl<E: fmt::Display> Carry<E> for Carrier<AS_SHOWN> {
    type Error = ErrorChain;

    fn carry(error: E) -> ErrorChain {
        Self::explain(error).into()
    }
}

/// Makes an error into text with its causes.
#[diagnostic::on_unimplemented(
    message = "an error `{E}` says nothing a person could read",
    label = "cannot be shown",
    note = "implement `std::error::Error` for it, or `std::fmt::Display`"
)]
pub trait Explain<E> {
    /// The text.
    fn explain(error: E) -> Error;
}

#[diagnostic::do_not_recommend]
impl<E: Into<Error>> Explain<E> for Carrier<WITH_CAUSES> {
    fn explain(error: E) -> Error {
        error.into()
    }
}

#[diagnostic::do_not_recommend]
impl<E: fmt::Display> Explain<E> for Carrier<AS_SHOWN> {
    /// The alternate form, in which catch-all errors such as `anyhow`'s name their causes.
    fn explain(error: E) -> Error {
        Error::msg(format_args!("{error:#}"))
    }
}

/// How an error is shown to whoever decides by it whether its task runs again.
pub trait Show<E> {
    /// What is shown of it.
    type Shown: 'static;

    /// The error as it is, in at most `max` bytes; none where it is shown as the text that travels anyway.
    fn encode(error: &E, max: usize) -> Option<Vec<u8>>;

    /// Lets `test` decide.
    fn retry_on(
        options: TaskOptions,
        test: impl Fn(&Self::Shown) -> bool + Send + Sync + 'static,
        count: u32,
    ) -> TaskOptions;
}

#[diagnostic::do_not_recommend]
impl<E: Serialize + DeserializeOwned + 'static> Show<E> for Carrier<AS_IT_IS> {
    type Shown = E;

    fn encode(error: &E, max: usize) -> Option<Vec<u8>> {
        encode_error(error, max)
    }

    fn retry_on(options: TaskOptions, test: impl Fn(&E) -> bool + Send + Sync + 'static, count: u32) -> TaskOptions {
        options.retry_on(test, count)
    }
}

macro_rules! show_as_text {
    ($($how:ident)*) => {$(
        #[diagnostic::do_not_recommend]
        impl<E> Show<E> for Carrier<$how> {
            type Shown = ErrorChain;

            fn encode(_: &E, _: usize) -> Option<Vec<u8>> {
                None
            }

            fn retry_on(
                options: TaskOptions,
                test: impl Fn(&ErrorChain) -> bool + Send + Sync + 'static,
                count: u32,
            ) -> TaskOptions {
                options.retry_on_text(test, count)
            }
        }
    )*};
}

// An error that says nothing is refused where it is told to callers.
show_as_text!(WITH_CAUSES AS_SHOWN NOT_AT_ALL);

/// The reply of a function that returns an error of its own, as its caller gets it.
///
/// # Errors
///
/// The function's own.
pub fn flatten<T, E>(reply: Result<T, E>) -> Result<T, CallError<E>> {
    reply.map_err(CallError::Returned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Travels(u8);

    struct OnlyText;

    impl fmt::Display for OnlyText {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("only text")
        }
    }

    type P<E> = Probe<Result<(), E>>;

    macro_rules! carry {
        ($error:ty, $value:expr) => {
            Carrier::<{ how(P::<$error>::TRAVELS, P::<$error>::HAS_CAUSES, P::<$error>::IS_SHOWN) }>::carry($value)
        };
    }

    #[test]
    fn what_serde_can_write_travels_as_it_is() {
        let carried: Travels = carry!(Travels, Travels(7));
        assert_eq!(carried, Travels(7));
        let carried: Error = carry!(Error, Error::msg("as it is"));
        assert_eq!(carried, Error::msg("as it is"));
    }

    #[test]
    fn an_error_travels_as_text_with_its_causes() {
        let error = std::io::Error::other("x".parse::<u32>().unwrap_err());
        let carried: ErrorChain = carry!(std::io::Error, error);
        assert_eq!(carried.messages.first().map(String::as_str), Some("invalid digit found in string"));
    }

    #[test]
    fn what_can_only_be_shown_travels_as_shown() {
        let carried: ErrorChain = carry!(OnlyText, OnlyText);
        assert_eq!(carried, ErrorChain::message("only text"));
    }

    #[test]
    fn the_alias_says_which_error_it_is() {
        type Alias<T> = Result<T, Travels>;
        const { assert!(Probe::<Alias<u8>>::TRAVELS) };
        const { assert!(!Probe::<std::io::Result<u8>>::TRAVELS) };
    }
}
