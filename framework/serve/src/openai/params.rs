//! The parameters that chat and text completions share, checked against the model and the bounds before anything is
//! allocated for the answer.

use super::ApiError;
use super::fields::{Fields, is_list, shown, string};
use crate::engine::{GenerateRequest, ModelInfo, Prompt, Sampling};
use crate::limits::Limits;

/// Answers to one prompt; OpenAI's own bound.
pub(crate) const CHOICES_MAX: usize = 128;
/// Stop texts; OpenAI's own bound.
const STOPS_MAX: usize = 4;
/// One stop text, in bytes. A stream holds back as much as may be the start of a stop text, so a long one would stall
/// it; the texts that chats are stopped by (`\nUser:`, `<|im_end|>`) have a few dozen bytes.
const STOP_BYTES_MAX: usize = 256;

/// How each answer is to be made, and how many, and how they are sent.
#[derive(Debug)]
pub(crate) struct Params {
    /// Answers per prompt.
    pub(crate) n: usize,
    pub(crate) sampling: Sampling,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) stop: Vec<String>,
    /// `Some` when the answer is to be streamed.
    pub(crate) stream: Option<StreamOptions>,
}

/// What else a stream carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StreamOptions {
    /// One more event, before the end, with the tokens used.
    pub(crate) include_usage: bool,
}

impl Params {
    pub(crate) fn read(fields: &Fields<'_>, model: &ModelInfo) -> Result<Self, ApiError> {
        check_model(fields, model)?;
        for (name, neutral, instead) in REFUSED {
            fields.refuse(name, neutral, instead)?;
        }
        Ok(Self {
            n: fields.integer("n", 1..=CHOICES_MAX as i64)?.unwrap_or(1) as usize,
            sampling: sampling(fields)?,
            max_tokens: max_tokens(fields, model)?,
            stop: stop(fields)?,
            stream: stream(fields)?,
        })
    }

    /// Refuses a request whose choices could hold more tokens than the server bounds. `prompt_bytes` stands for the
    /// prompt's tokens, which are not counted yet: a token has at least one byte.
    pub(crate) fn check_size(
        &self,
        choices: usize,
        prompt_bytes: usize,
        model: &ModelInfo,
        limits: &Limits,
    ) -> Result<(), ApiError> {
        let context = u64::from(model.context_len);
        let each = (prompt_bytes as u64 + self.max_tokens.map_or(context, u64::from)).min(context);
        let total = each.saturating_mul(choices as u64);
        if total <= limits.request_tokens_max {
            return Ok(());
        }
        let max = limits.request_tokens_max;
        let message = format!(
            "n is {}: {choices} choices of up to {each} tokens are {total} tokens; this server allows {max} in one \
             request; ask for fewer choices or a smaller max_tokens",
            self.n
        );
        Err(ApiError::field("n", message))
    }

    /// One sequence per prompt and choice, in the order of OpenAI's `index`.
    pub(crate) fn requests(&self, prompts: &[Prompt], logprobs: Option<u8>) -> Vec<GenerateRequest> {
        let choice = |prompt: &Prompt, choice: usize| GenerateRequest {
            prompt: prompt.clone(),
            sampling: Sampling { seed: self.sampling.seed.map(|seed| derive(seed, choice)), ..self.sampling },
            max_tokens: self.max_tokens,
            stop: self.stop.clone(),
            logprobs,
        };
        prompts.iter().flat_map(|prompt| (0..self.n).map(move |index| choice(prompt, index))).collect()
    }
}

/// The seed of a choice: the first has the request's own, so that it is the answer that `n` = 1 gives; the others are
/// spread by the odd constant of SplitMix64 (Steele et al., 2014), so that no two requests of close seeds share answers.
fn derive(seed: u64, choice: usize) -> u64 {
    seed.wrapping_add((choice as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// Parameters of OpenAI and of servers like it that would change the answer and that we do not serve: the name, the
/// values that change nothing, and what to do instead.
const REFUSED: &[(&str, &[&str], &str)] = &[
    ("tools", &["[]"], "leave it out and describe the tools in a message"),
    ("tool_choice", &["\"none\"", "\"auto\""], "leave it out"),
    ("functions", &["[]"], "leave it out and describe the functions in a message"),
    ("function_call", &["\"none\"", "\"auto\""], "leave it out"),
    ("logit_bias", &["{}"], "leave it out"),
    ("presence_penalty", &["0"], "leave it out or set it to 0"),
    ("frequency_penalty", &["0"], "leave it out or set it to 0"),
    ("repetition_penalty", &["1"], "leave it out or set it to 1"),
    ("min_p", &["0"], "leave it out, or use top_p or top_k"),
    ("modalities", &["[\"text\"]"], "only text is served"),
    ("audio", &[], "only text is served"),
    ("reasoning_effort", &["\"none\""], "leave it out"),
    ("verbosity", &["\"medium\""], "leave it out"),
    ("web_search_options", &[], "leave it out"),
];

fn check_model(fields: &Fields<'_>, model: &ModelInfo) -> Result<(), ApiError> {
    let raw = fields.required("model", &format!("\"{}\"", model.id))?;
    let name = string(raw).ok_or_else(|| fields.unexpected("model", raw, "a string"))?;
    if name == model.id { Ok(()) } else { Err(unknown_model(&shown(raw), model)) }
}

/// 404, as OpenAI answers it. `name` is as it may be shown.
pub(crate) fn unknown_model(name: &str, model: &ModelInfo) -> ApiError {
    let message = format!("the model {name} is not served here; this server has \"{}\"", model.id);
    ApiError::not_found("model", message).code("model_not_found")
}

fn sampling(fields: &Fields<'_>) -> Result<Sampling, ApiError> {
    // Zero would leave no token at all; the least that f32 tells from it leaves the likeliest.
    const TOP_P_MIN: f64 = 1e-6;
    let top_k = fields.integer("top_k", -1..=i64::from(u32::MAX))?;
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(1.0) as f32,
        // As in vLLM, whose extension this is, 0 and -1 are all tokens.
        top_k: top_k.filter(|k| *k > 0).map(|k| k as u32),
        top_p: fields.number("top_p", 0.0..=1.0)?.unwrap_or(1.0).max(TOP_P_MIN) as f32,
        seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64),
    })
}

fn max_tokens(fields: &Fields<'_>, model: &ModelInfo) -> Result<Option<u32>, ApiError> {
    let range = 1..=i64::from(model.context_len);
    let old = fields.integer("max_tokens", range.clone())?;
    let new = fields.integer("max_completion_tokens", range)?;
    if let (Some(old), Some(new)) = (old, new)
        && old != new
    {
        let message = format!("max_tokens is {old} and max_completion_tokens is {new}; they mean the same, give one");
        return Err(ApiError::field("max_tokens", message));
    }
    Ok(new.or(old).map(|tokens| tokens as u32))
}

/// A string or up to four.
fn stop(fields: &Fields<'_>) -> Result<Vec<String>, ApiError> {
    let Some(raw) = fields.raw("stop") else { return Ok(Vec::new()) };
    if !is_list(raw) {
        let stop = fields.text("stop")?.unwrap_or_default();
        return Ok(vec![checked_stop("stop".to_owned(), &stop)?]);
    }
    let texts = fields.list("stop", raw, STOPS_MAX)?;
    let each = texts.into_iter().enumerate().map(|(index, raw)| {
        let path = format!("stop[{index}]");
        let stop = string(raw);
        let text =
            stop.ok_or_else(|| ApiError::field(path.clone(), format!("{path} is {}; expected a string", shown(raw))))?;
        checked_stop(path, &text)
    });
    each.collect()
}

fn checked_stop(path: String, text: &str) -> Result<String, ApiError> {
    let message = match text.len() {
        0 => format!("{path} is empty, which would stop every answer at once; expected 1 to {STOP_BYTES_MAX} bytes"),
        1..=STOP_BYTES_MAX => return Ok(text.to_owned()),
        bytes => format!("{path} has {bytes} bytes; expected 1 to {STOP_BYTES_MAX}"),
    };
    Err(ApiError::field(path, message))
}

fn stream(fields: &Fields<'_>) -> Result<Option<StreamOptions>, ApiError> {
    let is_stream = fields.boolean("stream")?.unwrap_or(false);
    let options = fields.object("stream_options")?;
    if !is_stream && options.is_some() {
        return Err(ApiError::field("stream_options", "stream_options is given, but stream is not true"));
    }
    let include_usage = match &options {
        Some(options) => options.boolean("include_usage")?.unwrap_or(false),
        None => false,
    };
    Ok(is_stream.then_some(StreamOptions { include_usage }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Params, ApiError> {
        let model =
            ModelInfo { id: "m".into(), created: 0, owned_by: "test".into(), context_len: 2_048, token_bytes_max: 16 };
        Params::read(&Fields::of_body(body.as_bytes())?, &model)
    }

    /// The error's parameter and message.
    fn refused(body: &str) -> (String, String) {
        let error: serde_json::Value = serde_json::from_slice(&read(body).expect_err(body).body()).unwrap();
        (error["error"]["param"].as_str().unwrap_or("").to_owned(), error["error"]["message"].to_string())
    }

    #[test]
    fn defaults_are_openais() {
        let params = read(r#"{"model":"m"}"#).unwrap();
        assert_eq!((params.n, params.sampling, params.max_tokens), (1, Sampling::default(), None));
        assert_eq!((params.stop.len(), params.stream), (0, None));
    }

    #[test]
    fn every_parameter_is_read() {
        let params = read(
            r#"{"model":"m","n":2,"temperature":0.5,"top_p":0.25,"top_k":40,"seed":-1,"max_completion_tokens":7,
                "stop":["a","b"],"stream":true,"stream_options":{"include_usage":true},"user":"ignored","made_up":[1]}"#,
        )
        .unwrap();
        let sampling = Sampling { temperature: 0.5, top_k: Some(40), top_p: 0.25, seed: Some(u64::MAX) };
        assert_eq!((params.n, params.sampling, params.max_tokens), (2, sampling, Some(7)));
        assert_eq!(params.stop, ["a", "b"]);
        assert_eq!(params.stream, Some(StreamOptions { include_usage: true }));
    }

    #[test]
    fn each_bad_value_names_its_field() {
        let long = format!(r#"{{"model":"m","stop":["a","{}"]}}"#, "x".repeat(1_900_000));
        let table = [
            (r#"{}"#, "model", "missing"),
            (r#"{"model":"gpt"}"#, "model", "not served here"),
            (r#"{"model":"m","n":0}"#, "n", "from 1 to 128"),
            (r#"{"model":"m","n":1000000000}"#, "n", "from 1 to 128"),
            (r#"{"model":"m","temperature":1e999}"#, "temperature", "from 0 to 2"),
            (r#"{"model":"m","temperature":-0.1}"#, "temperature", "from 0 to 2"),
            (r#"{"model":"m","top_p":1.1}"#, "top_p", "from 0 to 1"),
            (r#"{"model":"m","max_tokens":-1}"#, "max_tokens", "from 1 to 2048"),
            (r#"{"model":"m","max_completion_tokens":4096}"#, "max_completion_tokens", "from 1 to 2048"),
            (r#"{"model":"m","max_tokens":1,"max_completion_tokens":2}"#, "max_tokens", "give one"),
            (r#"{"model":"m","stop":""}"#, "stop", "empty"),
            (r#"{"model":"m","stop":["a",1]}"#, "stop[1]", "expected a string"),
            (r#"{"model":"m","stop":["1","2","3","4","5"]}"#, "stop", "more than 4"),
            (&long, "stop[1]", "1900000 bytes; expected 1 to 256"),
            (r#"{"model":"m","stream":1}"#, "stream", "true or false"),
            (r#"{"model":"m","stream_options":{}}"#, "stream_options", "stream is not true"),
            (r#"{"model":"m","logit_bias":{"50256":-100}}"#, "logit_bias", "does not support"),
            (r#"{"model":"m","presence_penalty":0.5}"#, "presence_penalty", "does not support"),
            (r#"{"model":"m","tools":[{"type":"function"}]}"#, "tools", "does not support"),
        ];
        for (body, param, says) in table {
            let (named, message) = refused(body);
            assert_eq!(named, param, "{message}");
            assert!(message.contains(says) && message.len() < 400, "{message}");
        }
    }

    #[test]
    fn the_tokens_of_all_choices_are_bounded() {
        let model =
            ModelInfo { id: "m".into(), created: 0, owned_by: "test".into(), context_len: 8_192, token_bytes_max: 16 };
        let limits = Limits { request_tokens_max: 10_000, ..Limits::default() };
        let params = read(r#"{"model":"m","n":10,"max_tokens":900}"#).unwrap();
        assert!(params.check_size(10, 100, &model, &limits).is_ok());
        let error = params.check_size(10, 101, &model, &limits).unwrap_err();
        assert!(error.to_string().contains("10 choices of up to 1001 tokens are 10010 tokens"), "{error}");
        let params = read(r#"{"model":"m","n":2}"#).unwrap();
        assert!(params.check_size(2, 1, &model, &limits).is_err(), "without max_tokens a choice may fill the context");
    }

    #[test]
    fn each_choice_has_its_own_seed_and_the_first_the_requests() {
        let params = read(r#"{"model":"m","n":3,"seed":7}"#).unwrap();
        let seeds: Vec<_> = params
            .requests(&[Prompt::Text("a".into()), Prompt::Text("b".into())], None)
            .iter()
            .map(|request| request.sampling.seed.unwrap())
            .collect();
        assert_eq!(seeds[0], 7);
        assert_eq!(seeds[..3], seeds[3..], "each prompt has the same choices");
        assert!(seeds[0] != seeds[1] && seeds[1] != seeds[2] && seeds[0] != seeds[2]);
    }
}
