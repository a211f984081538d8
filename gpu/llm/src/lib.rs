//! Inference of language models from GGUF files: tokenizer, template, batching, tensor-parallel shards, sampling.

#![forbid(unsafe_code)]

pub mod catalogue;
pub mod config;
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
