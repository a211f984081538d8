//! [`Fields`]: a JSON object whose values are still as they were written, taken out one by one by name.
//!
//! Why not `derive(Deserialize)` for requests: its errors name a line and a column, not the field and the value
//! (`temperature: 1e999` is only "number out of range"), and it reads everything before the first bound is checked. Here
//! each value is a slice of the body until the one place that knows its bounds asks for it.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use actix_web::http::StatusCode;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::ApiError;

/// An object of a request. Null counts as absent, as it does for OpenAI.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    entries: Vec<(Cow<'a, str>, &'a RawValue)>,
    at: At,
}

/// Where an object stands in the body.
#[derive(Debug, Clone, Copy)]
enum At {
    /// It is the body.
    Body,
    /// It is the element of a list: `messages[3]`.
    Element(&'static str, usize),
    /// It is the value of a field: `stream_options`.
    Field(&'static str),
}

impl<'a> Fields<'a> {
    /// The body of a request.
    pub(crate) fn of_body(body: &'a [u8]) -> Result<Self, ApiError> {
        let bad = |message: String| ApiError::new(StatusCode::BAD_REQUEST, message);
        let text = std::str::from_utf8(body)
            .map_err(|error| bad(format!("the body is not UTF-8: byte {} is wrong", error.valid_up_to())))?;
        if text.trim_ascii_start().is_empty() {
            return Err(bad("the body is empty; expected a JSON object".to_owned()));
        }
        if let Some(offset) = too_deep(body) {
            return Err(bad(format!("the JSON is nested deeper than {DEPTH_MAX} levels at byte {offset}")));
        }
        let entries = serde_json::from_str::<Entries<'a>>(text)
            .map_err(|error| bad(format!("the body is not a JSON object that can be read: {error}")))?;
        Ok(Self { entries: entries.0, at: At::Body })
    }

    /// The `index`th element of the list called `list`.
    pub(crate) fn of_element(raw: &'a RawValue, list: &'static str, index: usize) -> Result<Self, ApiError> {
        let entries = serde_json::from_str::<Entries<'a>>(raw.get()).map_err(|_| {
            let message = format!("{list}[{index}] is {}; expected an object", shown(raw));
            ApiError::field(format!("{list}[{index}]"), message)
        })?;
        Ok(Self { entries: entries.0, at: At::Element(list, index) })
    }

    /// The value as it was written.
    pub(crate) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.entries.iter().find(|(key, _)| key == name).map(|(_, raw)| *raw).filter(|raw| raw.get() != "null")
    }

    /// The value of a field that must be there.
    pub(crate) fn required(&self, name: &'static str, expected: &str) -> Result<&'a RawValue, ApiError> {
        let missing =
            || ApiError::field(self.path(name), format!("{} is missing; expected {expected}", self.path(name)));
        self.raw(name).ok_or_else(missing)
    }

    pub(crate) fn boolean(&self, name: &'static str) -> Result<Option<bool>, ApiError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        match raw.get() {
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            _ => Err(self.unexpected(name, raw, "true or false")),
        }
    }

    pub(crate) fn text(&self, name: &'static str) -> Result<Option<Cow<'a, str>>, ApiError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        string(raw).map(Some).ok_or_else(|| self.unexpected(name, raw, "a string"))
    }

    pub(crate) fn number(&self, name: &'static str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let value = raw.get().parse().ok().filter(|value| range.contains(value));
        let expected = || format!("a number from {} to {}", range.start(), range.end());
        value.map(Some).ok_or_else(|| self.unexpected(name, raw, &expected()))
    }

    pub(crate) fn integer(&self, name: &'static str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let value = raw.get().parse().ok().filter(|value| range.contains(value));
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        value.map(Some).ok_or_else(|| self.unexpected(name, raw, &expected()))
    }

    /// An object inside this one.
    pub(crate) fn object(&self, name: &'static str) -> Result<Option<Fields<'a>>, ApiError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let entries = serde_json::from_str::<Entries<'a>>(raw.get());
        entries
            .map(|entries| Some(Self { entries: entries.0, at: At::Field(name) }))
            .map_err(|_| self.unexpected(name, raw, "an object"))
    }

    /// The elements of a list, at most `max`.
    pub(crate) fn list(
        &self,
        name: &'static str,
        raw: &'a RawValue,
        max: usize,
    ) -> Result<Vec<&'a RawValue>, ApiError> {
        elements(raw, max).map_err(|error| match error {
            ListError::TooLong => {
                let message = format!("{} has more than {max} elements", self.path(name));
                ApiError::field(self.path(name), message)
            }
            ListError::NotAList => self.unexpected(name, raw, "a list"),
        })
    }

    /// Refuses a field that would change the answer in a way that is not served, unless it says one of `neutral`.
    pub(crate) fn refuse(&self, name: &'static str, neutral: &[&str], instead: &str) -> Result<(), ApiError> {
        let Some(raw) = self.raw(name) else { return Ok(()) };
        let number = raw.get().parse::<f64>().ok();
        let is_neutral =
            neutral.iter().any(|value| raw.get() == *value || number.is_some_and(|number| value.parse() == Ok(number)));
        if is_neutral {
            return Ok(());
        }
        let message = format!("{} is {}, which this server does not support; {instead}", self.path(name), shown(raw));
        Err(ApiError::field(self.path(name), message).code("unsupported_parameter"))
    }

    /// The error for a value that is not what it should be: names the field, the value, and what would be right.
    pub(crate) fn unexpected(&self, name: &'static str, raw: &RawValue, expected: &str) -> ApiError {
        let path = self.path(name);
        let message = format!("{path} is {}; expected {expected}", shown(raw));
        ApiError::field(path, message)
    }

    /// The field's name as a path from the body.
    pub(crate) fn path(&self, name: &'static str) -> Cow<'static, str> {
        match self.at {
            At::Body => Cow::Borrowed(name),
            At::Element(list, index) => Cow::Owned(format!("{list}[{index}].{name}")),
            At::Field(field) => Cow::Owned(format!("{field}.{name}")),
        }
    }
}

/// The string that a value is, if it is one. Lone surrogates (`"\ud800"`) are not text, so they are none.
pub(crate) fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let text = raw.get();
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    match inner.contains('\\') {
        false => Some(Cow::Borrowed(inner)),
        true => serde_json::from_str::<String>(text).ok().map(Cow::Owned),
    }
}

/// Whether the value is a list.
pub(crate) fn is_list(raw: &RawValue) -> bool {
    raw.get().starts_with('[')
}

/// A value short enough to be repeated in a message.
pub(crate) fn shown(raw: &RawValue) -> Cow<'_, str> {
    const SHOWN_CHARS_MAX: usize = 64;
    match raw.get().char_indices().nth(SHOWN_CHARS_MAX) {
        None => Cow::Borrowed(raw.get()),
        Some((end, _)) => Cow::Owned(format!("{}… ({} bytes)", &raw.get()[..end], raw.get().len())),
    }
}

/// What OpenAI's own bodies need is 5; serde_json's own bound is 128.
const DEPTH_MAX: usize = 128;
/// OpenAI knows about 40 fields of a request.
const FIELDS_MAX: usize = 256;

/// Where the nesting passes the bound. Strings are skipped: `"[[[["` is only text.
fn too_deep(json: &[u8]) -> Option<usize> {
    // Counting is vectorised, and settles it for nearly every body.
    if json.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() <= DEPTH_MAX {
        return None;
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    json.iter().position(|&byte| {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            return false;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > DEPTH_MAX
    })
}

#[derive(Debug)]
struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut entries: Self::Value = Vec::with_capacity(16);
                while let Some(key) = map.next_key::<Key<'de>>()? {
                    if entries.iter().any(|(other, _)| *other == key.0) {
                        return Err(M::Error::custom(format_args!("the field `{:.64}` is there twice", key.0)));
                    }
                    if entries.len() == FIELDS_MAX {
                        return Err(M::Error::custom(format_args!("more than {FIELDS_MAX} fields")));
                    }
                    entries.push((key.0, map.next_value()?));
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Object).map(Entries)
    }
}

/// A key, borrowed unless it has escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

enum ListError {
    TooLong,
    NotAList,
}

/// The elements of a list, of which no more than `max` are ever held.
fn elements(raw: &RawValue, max: usize) -> Result<Vec<&RawValue>, ListError> {
    struct Elements<'b> {
        max: usize,
        too_long: &'b mut bool,
    }
    impl<'de> Visitor<'de> for Elements<'_> {
        type Value = Vec<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
            let mut elements = Vec::new();
            while let Some(element) = seq.next_element()? {
                if elements.len() == self.max {
                    *self.too_long = true;
                    return Err(S::Error::custom("too long"));
                }
                elements.push(element);
            }
            Ok(elements)
        }
    }
    impl<'de> DeserializeSeed<'de> for Elements<'_> {
        type Value = Vec<&'de RawValue>;

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_seq(self)
        }
    }
    let mut too_long = false;
    Elements { max, too_long: &mut too_long }
        .deserialize(&mut serde_json::Deserializer::from_str(raw.get()))
        .map_err(|_| if too_long { ListError::TooLong } else { ListError::NotAList })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: Result<impl fmt::Debug, ApiError>) -> String {
        result.expect_err("this must be refused").to_string()
    }

    #[test]
    fn a_value_outside_its_range_is_named_as_it_was_written() {
        let fields =
            Fields::of_body(br#"{"temperature": 1e999, "n": 1000000000, "max_tokens": -1, "seed": 1.5}"#).unwrap();
        let table = [
            (message(fields.number("temperature", 0.0..=2.0)), "temperature is 1e999; expected a number from 0 to 2"),
            (message(fields.integer("n", 1..=128)), "n is 1000000000; expected a whole number from 1 to 128"),
            (message(fields.integer("max_tokens", 1..=9)), "max_tokens is -1; expected a whole number from 1 to 9"),
            (message(fields.integer("seed", 1..=9)), "seed is 1.5; expected a whole number from 1 to 9"),
            (message(fields.boolean("n")), "n is 1000000000; expected true or false"),
            (message(fields.text("n")), "n is 1000000000; expected a string"),
            (message(fields.object("n").map(|_| ())), "n is 1000000000; expected an object"),
        ];
        for (message, expected) in table {
            assert_eq!(message, format!("400 Bad Request: {expected}"));
        }
    }

    #[test]
    fn null_is_absent_and_escapes_are_read() {
        let fields = Fields::of_body(br#"{"n": null, "\u006dodel": "a\nb", "stop": "\ud800"}"#).unwrap();
        assert_eq!(fields.integer("n", 1..=2).unwrap(), None);
        assert_eq!(fields.text("model").unwrap().as_deref(), Some("a\nb"));
        assert!(fields.text("stop").is_err(), "half a surrogate pair is not text");
    }

    #[test]
    fn a_body_that_is_no_object_is_refused_with_the_reason() {
        let deep = "[".repeat(100_000);
        let hidden = format!(r#"{{"unknown": {}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let many = format!("{{{}}}", (0..300).map(|i| format!(r#""k{i}":1"#)).collect::<Vec<_>>().join(","));
        let table: [(&[u8], &str); 8] = [
            (b"", "is empty"),
            (b"  \n", "is empty"),
            (b"{\"model\": \"\xff\"}", "is not UTF-8: byte 11"),
            (deep.as_bytes(), "deeper than 128 levels at byte 128"),
            (hidden.as_bytes(), "deeper than 128 levels"),
            (many.as_bytes(), "more than 256 fields"),
            (br#"{"n":1,"n":2}"#, "`n` is there twice"),
            (b"[1]", "expected a JSON object"),
        ];
        for (body, expected) in table {
            let message = message(Fields::of_body(body));
            assert!(message.contains(expected), "{message}");
        }
        let text = format!(r#"{{"text": "\"{}"}}"#, "[".repeat(1_000));
        assert!(Fields::of_body(text.as_bytes()).is_ok(), "brackets in a string are text");
    }

    #[test]
    fn a_list_is_read_up_to_its_bound() {
        let fields = Fields::of_body(b"{\"stop\": [1, 2, 3]}").unwrap();
        let raw = fields.raw("stop").unwrap();
        assert_eq!(fields.list("stop", raw, 3).unwrap().len(), 3);
        assert!(message(fields.list("stop", raw, 2)).contains("stop has more than 2 elements"));
    }

    #[test]
    fn a_field_we_do_not_serve_is_refused_unless_it_changes_nothing() {
        let fields = Fields::of_body(br#"{"presence_penalty": 0.0, "echo": false, "best_of": 3}"#).unwrap();
        assert!(fields.refuse("presence_penalty", &["0"], "leave it out").is_ok());
        assert!(fields.refuse("echo", &["false"], "leave it out").is_ok());
        assert!(fields.refuse("suffix", &[], "leave it out").is_ok());
        let message = message(fields.refuse("best_of", &["1"], "use n"));
        assert_eq!(message, "400 Bad Request: best_of is 3, which this server does not support; use n");
    }

    #[test]
    fn a_long_value_is_cut_in_the_message() {
        let body = format!(r#"{{"n": "{}"}}"#, "é".repeat(1_000_000));
        let message = message(Fields::of_body(body.as_bytes()).unwrap().integer("n", 1..=2));
        assert!(message.len() < 300 && message.contains("(2000002 bytes)"), "{message}");
    }
}
