//! OpenAI's dialect as own types: what a request may say, and how answers and errors are written.
//!
//! Reading is pure: bytes in, a typed request or an [`ApiError`] that names the field, the value and what would be right.
//! Fields that OpenAI does not know are ignored, as OpenAI does. Fields that OpenAI knows, that would change the answer
//! and that we do not serve are refused by name: silence would be a wrong answer.

pub(crate) mod answer;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod error;
pub(crate) mod fields;
pub(crate) mod models;
pub(crate) mod params;

pub(crate) use error::ApiError;
