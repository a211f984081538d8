//! Inference of language models from GGUF files, by an actor and its shards.
//!
//! ```no_run
//! # async fn example() -> Result<(), mobula::Error> {
//! use mobula_llm::Llm;
//!
//! let llm = Llm::spawn("model.gguf").shards(2).await?;
//! println!("{}", llm.generate("The capital of France is").tokens_max(8).await?);
//! let mut pieces = llm.generate("Once upon a time").stream().await?;
//! while let Some(piece) = pieces.next().await {
//!     println!("{:?}", piece??);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`engine`] | the actor [`Llm`] and its shards; the same behind `mobula serve` |
//! | [`model`] | a file opened and understood, and the shards that compute it |
//! | [`logic`] | what every step computes, decided without I/O |
//! | [`generation`] | one answer as it grows: [`sampler`], [`stop`] strings, text |
//! | [`tokenizer`], [`template`] | text to tokens, chats to text, as the file's own metadata says |
//! | [`gguf`], [`config`], [`split`] | the file, its sizes, and how it is cut |
//! | [`catalogue`], [`tiny`] | models known by name; a random one for tests |

#![forbid(unsafe_code)]

pub mod catalogue;
pub mod config;
pub mod engine;
pub mod generation;
pub mod gguf;
pub mod logic;
pub mod model;
pub mod random;
pub mod sampler;
pub mod split;
pub mod stop;
pub mod template;
pub mod tiny;
pub mod tokenizer;

pub use engine::{Answer, Fault, Llm, LlmEngine, Piece, Request, RequestError};
