//! `/v1/models`: what is served here.

use serde::Serialize;

use crate::engine::ModelInfo;

/// One model, as OpenAI lists it.
#[derive(Debug, Serialize)]
pub(crate) struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
    /// Not OpenAI's: servers such as vLLM tell the context's length by this name.
    max_model_len: u32,
}

impl<'a> From<&'a ModelInfo> for Model<'a> {
    fn from(model: &'a ModelInfo) -> Self {
        let ModelInfo { id, created, owned_by, context_len, .. } = model;
        Self { id, object: "model", created: *created, owned_by, max_model_len: *context_len }
    }
}

/// All of them; today one.
#[derive(Debug, Serialize)]
pub(crate) struct ModelList<'a> {
    object: &'static str,
    data: [Model<'a>; 1],
}

impl<'a> From<&'a ModelInfo> for ModelList<'a> {
    fn from(model: &'a ModelInfo) -> Self {
        Self { object: "list", data: [model.into()] }
    }
}
