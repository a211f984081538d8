//! Inference of language models from GGUF files: tokenizer, template, batching, tensor-parallel shards, sampling.

#![forbid(unsafe_code)]

pub mod catalogue;
pub mod gguf;
pub mod random;
pub mod template;
pub mod tiny;
pub mod tokenizer;
