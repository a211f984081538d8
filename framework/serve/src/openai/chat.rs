//! `/v1/chat/completions`: a conversation in, the assistant's next turn out.

use super::ApiError;
use super::fields::{Fields, is_list, shown, string};
use super::params::Params;
use crate::engine::{ChatMessage, ModelInfo, Role};
use crate::limits::Limits;

/// Likeliest tokens beside each token; OpenAI's own bound.
const TOP_LOGPROBS_MAX: i64 = 20;
/// Parts of one message; a part is a few bytes of text at least.
const PARTS_MAX: usize = 1_024;

/// A checked request.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    pub(crate) messages: Vec<ChatMessage>,
    pub(crate) params: Params,
    pub(crate) logprobs: Option<u8>,
}

impl ChatRequest {
    pub(crate) fn read(body: &[u8], model: &ModelInfo, limits: &Limits) -> Result<Self, ApiError> {
        let fields = Fields::of_body(body)?;
        let params = Params::read(&fields, model)?;
        fields.refuse("response_format", &[r#"{"type":"text"}"#, r#"{"type": "text"}"#], "only text is served")?;
        let logprobs = logprobs(&fields)?;
        let messages = messages(&fields, model)?;
        let prompt_bytes = messages.iter().map(|message| message.content.len()).sum();
        params.check_size(params.n, prompt_bytes, model, limits)?;
        Ok(Self { messages, params, logprobs })
    }
}

fn logprobs(fields: &Fields<'_>) -> Result<Option<u8>, ApiError> {
    let is_asked = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=TOP_LOGPROBS_MAX)?;
    if let (false, Some(top)) = (is_asked, top) {
        return Err(ApiError::field("top_logprobs", format!("top_logprobs is {top}, but logprobs is not true")));
    }
    Ok(is_asked.then_some(top.unwrap_or(0) as u8))
}

/// Bounded by the context twice: each message is a token at least, and the texts together no longer than its tokens.
fn messages(fields: &Fields<'_>, model: &ModelInfo) -> Result<Vec<ChatMessage>, ApiError> {
    let raw = fields.required("messages", "a list of messages")?;
    let list = fields.list("messages", raw, model.context_len as usize)?;
    if list.is_empty() {
        return Err(ApiError::field("messages", "messages is []; expected at least one message"));
    }
    let mut bytes_left = model.prompt_bytes_max();
    let each = list.into_iter().enumerate().map(|(index, raw)| {
        let fields = Fields::of_element(raw, "messages", index)?;
        message(&fields, &mut bytes_left, model)
    });
    each.collect()
}

fn message(fields: &Fields<'_>, bytes_left: &mut usize, model: &ModelInfo) -> Result<ChatMessage, ApiError> {
    const ROLES: &str = "\"system\", \"developer\", \"user\", \"assistant\" or \"tool\"";
    const ONLY_TEXT: &str = "only text is served";
    let raw = fields.required("role", ROLES)?;
    let role = match string(raw).as_deref() {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("tool") => Role::Tool,
        _ => return Err(fields.unexpected("role", raw, ROLES)),
    };
    // What an assistant did besides speaking; dropping it in silence would change the answer.
    fields.refuse("tool_calls", &["[]"], ONLY_TEXT)?;
    fields.refuse("function_call", &[], ONLY_TEXT)?;
    fields.refuse("audio", &[], ONLY_TEXT)?;
    fields.refuse("refusal", &["\"\""], "give it as content")?;

    let raw = fields.required("content", "a string or a list of parts")?;
    let mut content = String::new();
    if is_list(raw) {
        for (index, part) in fields.list("content", raw, PARTS_MAX)?.into_iter().enumerate() {
            let path = || format!("{}[{index}]", fields.path("content"));
            append(&mut content, &part_text(part, path)?, bytes_left, model)?;
        }
    } else {
        let text = string(raw).ok_or_else(|| fields.unexpected("content", raw, "a string or a list of parts"))?;
        append(&mut content, &text, bytes_left, model)?;
    }
    Ok(ChatMessage { role, content })
}

/// The text of `{"type":"text","text":"…"}`.
fn part_text(
    raw: &serde_json::value::RawValue,
    path: impl Fn() -> String,
) -> Result<std::borrow::Cow<'_, str>, ApiError> {
    let expected = || {
        let message = format!("{} is {}; expected a part of type \"text\"", path(), shown(raw));
        ApiError::field(path(), message)
    };
    let part = Fields::of_element(raw, "content", 0).map_err(|_| expected())?;
    match part.text("type").map_err(|_| expected())?.as_deref() {
        Some("text") => part.text("text").map_err(|_| expected())?.ok_or_else(expected),
        _ => Err(expected()),
    }
}

fn append(content: &mut String, text: &str, bytes_left: &mut usize, model: &ModelInfo) -> Result<(), ApiError> {
    *bytes_left = bytes_left.checked_sub(text.len()).ok_or_else(|| too_long("messages", model))?;
    content.push_str(text);
    Ok(())
}

/// Refused before it is tokenised.
pub(crate) fn too_long(param: &'static str, model: &ModelInfo) -> ApiError {
    let message = format!(
        "{param} is longer than {} bytes, the most that {} tokens of at most {} bytes can say; the model's context \
         cannot hold it",
        model.prompt_bytes_max(),
        model.context_len,
        model.token_bytes_max
    );
    ApiError::field(param, message).code("context_length_exceeded")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ModelInfo {
        let (id, owned_by) = ("m".to_owned(), "test".to_owned());
        ModelInfo { id, created: 0, owned_by, context_len: 64, token_bytes_max: 16 }
    }

    fn read(rest: &str) -> Result<ChatRequest, ApiError> {
        ChatRequest::read(format!(r#"{{"model":"m",{rest}}}"#).as_bytes(), &model(), &Limits::default())
    }

    #[test]
    fn a_conversation_of_all_roles_is_read() {
        let request = read(
            r#""messages":[{"role":"developer","content":"d"},{"role":"system","content":"s"},
                {"role":"user","content":[{"type":"text","text":"a\n"},{"type":"text","text":"b"}],"name":"ann"},
                {"role":"assistant","content":"c","tool_calls":null},{"role":"tool","content":"t","tool_call_id":"1"}],
                "logprobs":true,"top_logprobs":3,"response_format":{"type":"text"}"#,
        )
        .unwrap();
        let said: Vec<_> = request.messages.iter().map(|message| (message.role, message.content.as_str())).collect();
        let expected =
            [(Role::System, "d"), (Role::System, "s"), (Role::User, "a\nb"), (Role::Assistant, "c"), (Role::Tool, "t")];
        assert_eq!(said, expected);
        assert_eq!(request.logprobs, Some(3));
    }

    #[test]
    fn each_bad_message_is_named() {
        let long = format!(r#""messages":[{{"role":"user","content":"{}"}}]"#, "x".repeat(7 << 20));
        let many = format!(r#""messages":[{}]"#, vec!["{}"; 65].join(","));
        let table = [
            (r#""n":1"#, "messages", "missing"),
            (r#""messages":[]"#, "messages", "at least one"),
            (r#""messages":"hi""#, "messages", "expected a list"),
            (r#""messages":["hi"]"#, "messages[0]", "expected an object"),
            (r#""messages":[{"content":"a"}]"#, "messages[0].role", "missing"),
            (r#""messages":[{"role":"god","content":"a"}]"#, "messages[0].role", "\"god\""),
            (r#""messages":[{"role":"user","content":"a"},{"role":"user"}]"#, "messages[1].content", "missing"),
            (r#""messages":[{"role":"user","content":5}]"#, "messages[0].content", "is 5"),
            (
                r#""messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]"#,
                "messages[0].content[0]",
                "of type \"text\"",
            ),
            (
                r#""messages":[{"role":"assistant","content":"","tool_calls":[{"id":"1"}]}]"#,
                "messages[0].tool_calls",
                "",
            ),
            (r#""messages":[{"role":"user","content":"a"}],"top_logprobs":2"#, "top_logprobs", "logprobs is not true"),
            (
                r#""messages":[{"role":"user","content":"a"}],"logprobs":true,"top_logprobs":21"#,
                "top_logprobs",
                "0 to 20",
            ),
            (
                r#""messages":[{"role":"user","content":"a"}],"response_format":{"type":"json_schema"}"#,
                "response_format",
                "only text",
            ),
            (&long, "messages", "longer than 1024 bytes"),
            (&many, "messages", "more than 64 elements"),
        ];
        for (rest, param, says) in table {
            let body: serde_json::Value = serde_json::from_slice(&read(rest).expect_err(rest).body()).unwrap();
            assert_eq!(body["error"]["param"], param, "{body}");
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.contains(says) && message.len() < 400, "{message}");
        }
    }
}
