//! `/v1/completions`: a raw text, or token ids, in; its continuation out. Several prompts give the choices of each.

use serde_json::value::RawValue;

use super::ApiError;
use super::chat::too_long;
use super::fields::{Fields, is_list, shown, string};
use super::params::{CHOICES_MAX, Params};
use crate::engine::{ModelInfo, Prompt};
use crate::limits::Limits;

/// Likeliest tokens beside each token; OpenAI's own bound for this route.
const LOGPROBS_MAX: i64 = 5;
/// OpenAI's own default for this route, where nothing else would end a continuation.
const MAX_TOKENS_DEFAULT: u32 = 16;

/// A checked request.
#[derive(Debug)]
pub(crate) struct CompletionRequest {
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) params: Params,
    pub(crate) logprobs: Option<u8>,
}

impl CompletionRequest {
    pub(crate) fn read(body: &[u8], model: &ModelInfo, limits: &Limits) -> Result<Self, ApiError> {
        let fields = Fields::of_body(body)?;
        let mut params = Params::read(&fields, model)?;
        params.max_tokens = Some(params.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT.min(model.context_len)));
        fields.refuse("echo", &["false"], "put the prompt before the answer yourself")?;
        fields.refuse("suffix", &["\"\""], "leave it out")?;
        fields.refuse("best_of", &["1"], "use n")?;
        let logprobs = fields.integer("logprobs", 0..=LOGPROBS_MAX)?.map(|top| top as u8);
        let prompts = prompts(&fields, model)?;

        let choices = prompts.len() * params.n;
        if choices > CHOICES_MAX {
            let message = format!(
                "n is {} for each of {} prompts, {choices} choices in all; expected at most {CHOICES_MAX}",
                params.n,
                prompts.len()
            );
            return Err(ApiError::field("n", message));
        }
        let prompt_tokens_max = prompts.iter().map(tokens_max).max().unwrap_or(0);
        params.check_size(choices, prompt_tokens_max, model, limits)?;
        Ok(Self { prompts, params, logprobs })
    }
}

/// The most tokens that a prompt can be: a token has at least one byte.
fn tokens_max(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Text(text) | Prompt::Rendered(text) => text.len(),
        Prompt::Tokens(ids) => ids.len(),
    }
}

/// A string, a list of strings, a list of token ids, or a list of such lists.
fn prompts(fields: &Fields<'_>, model: &ModelInfo) -> Result<Vec<Prompt>, ApiError> {
    const EXPECTED: &str = "a string, a list of token ids, or a list of either";
    let raw = fields.required("prompt", EXPECTED)?;
    if !is_list(raw) {
        return Ok(vec![text(raw, model)?.ok_or_else(|| fields.unexpected("prompt", raw, EXPECTED))?]);
    }
    let list = fields.list("prompt", raw, model.context_len as usize)?;
    let Some(first) = list.first() else {
        return Err(ApiError::field("prompt", "prompt is []; expected at least one prompt or token id"));
    };
    let is_ids = !is_list(first) && !first.get().starts_with('"');
    if is_ids {
        return Ok(vec![ids(&list)?]);
    }
    if list.len() > CHOICES_MAX {
        return Err(ApiError::field(
            "prompt",
            format!("prompt has {} prompts; expected at most {CHOICES_MAX}", list.len()),
        ));
    }
    let each = list.into_iter().enumerate().map(|(index, raw)| {
        if is_list(raw) {
            return ids(&fields.list("prompt", raw, model.context_len as usize)?);
        }
        let path = format!("prompt[{index}]");
        let message = format!("{path} is {}; expected a string or a list of token ids", shown(raw));
        text(raw, model)?.ok_or_else(|| ApiError::field(path, message))
    });
    each.collect()
}

/// The text that a value is, if it is one and could fit the context.
fn text(raw: &RawValue, model: &ModelInfo) -> Result<Option<Prompt>, ApiError> {
    let Some(text) = string(raw) else { return Ok(None) };
    if text.len() > model.prompt_bytes_max() {
        return Err(too_long("prompt", model));
    }
    Ok(Some(Prompt::Text(text.as_ref().into())))
}

fn ids(list: &[&RawValue]) -> Result<Prompt, ApiError> {
    let id = |raw: &&RawValue| {
        let message = || format!("prompt holds {}; expected token ids, whole numbers from 0", shown(raw));
        raw.get().parse().map_err(|_| ApiError::field("prompt", message()))
    };
    let ids = list.iter().map(id).collect::<Result<Vec<u32>, _>>()?;
    if ids.is_empty() {
        return Err(ApiError::field("prompt", "prompt holds an empty list; expected at least one token id"));
    }
    Ok(Prompt::Tokens(ids.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rest: &str) -> Result<CompletionRequest, ApiError> {
        let (id, owned_by) = ("m".to_owned(), "test".to_owned());
        let model = ModelInfo { id, created: 0, owned_by, context_len: 256, token_bytes_max: 16 };
        CompletionRequest::read(format!(r#"{{"model":"m",{rest}}}"#).as_bytes(), &model, &Limits::default())
    }

    #[test]
    fn every_form_of_prompt_is_read() {
        let text = |text: &str| Prompt::Text(text.into());
        let tokens = |ids: &[u32]| Prompt::Tokens(ids.into());
        let table = [
            (r#""prompt":"a\"b""#, vec![text("a\"b")]),
            (r#""prompt":["a","b"]"#, vec![text("a"), text("b")]),
            (r#""prompt":[1, 2]"#, vec![tokens(&[1, 2])]),
            (r#""prompt":[[1],[2,3]]"#, vec![tokens(&[1]), tokens(&[2, 3])]),
        ];
        for (rest, expected) in table {
            let request = read(rest).expect(rest);
            assert_eq!(request.prompts, expected);
            assert_eq!(request.params.max_tokens, Some(16));
        }
    }

    #[test]
    fn each_bad_prompt_is_refused() {
        let long = format!(r#""prompt":"{}""#, "x".repeat(7 << 20));
        let many = format!(r#""prompt":[{}]"#, vec![r#""a""#; 129].join(","));
        let table = [
            (r#""n":1"#, "prompt", "missing"),
            (r#""prompt":5"#, "prompt", "is 5"),
            (r#""prompt":[]"#, "prompt", "at least one"),
            (r#""prompt":[-1]"#, "prompt", "holds -1"),
            (r#""prompt":[[]]"#, "prompt", "empty list"),
            (r#""prompt":["a",1]"#, "prompt[1]", "is 1"),
            (r#""prompt":["a","b"],"n":65"#, "n", "130 choices"),
            (r#""prompt":"a","logprobs":6"#, "logprobs", "from 0 to 5"),
            (r#""prompt":"a","echo":true"#, "echo", "does not support"),
            (r#""prompt":"a","suffix":"z""#, "suffix", "does not support"),
            (r#""prompt":"a","best_of":2"#, "best_of", "use n"),
            (&long, "prompt", "longer than 4096 bytes"),
            (&many, "prompt", "129 prompts"),
        ];
        for (rest, param, says) in table {
            let body: serde_json::Value = serde_json::from_slice(&read(rest).expect_err(rest).body()).unwrap();
            assert_eq!(body["error"]["param"], param, "{body}");
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.contains(says) && message.len() < 400, "{message}");
        }
    }
}
