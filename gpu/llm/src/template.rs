//! A chat's messages to the one text a model continues, by the Jinja template in the model's own file.
//!
//! The environment is the one Hugging Face's `apply_chat_template` makes: `trim_blocks`, `lstrip_blocks`, loop
//! controls, Python's methods of strings and dictionaries, `raise_exception`, `strftime_now`, and a `tojson` that
//! writes what Python's `json.dumps` writes. A template comes from the model's file only, never from a request, and
//! runs with bounded fuel and output.
//!
//! What a user wrote can not become a control token: see [`Rendered`].

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, ErrorKind, context};
use mobula_serve::ChatMessage;

use crate::gguf::{self, Gguf, optional};
use crate::tokenizer::{Guard, Rendered, Tokenizer};

/// Work per rendering. One unit is an instruction or 64 bytes moved: a chat of 8 MiB takes some 0.5 million, and the
/// whole amount is spent in about a second.
const FUEL: u64 = 5_000_000;
/// Bytes of a rendered chat at most: twice the 8 MiB that a request's body may have.
const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// The name under which the one template is kept; it shows in error messages.
const NAME: &str = "chat_template";

/// A model's chat template, compiled.
///
/// ```
/// use mobula_llm::template::Template;
/// use mobula_serve::{ChatMessage, Role};
/// use mobula_llm::{gguf::Gguf, tiny, tokenizer::Tokenizer};
///
/// let file = Gguf::from_bytes(tiny::model(7))?;
/// let tokenizer = Tokenizer::from_gguf(&file)?;
/// let template = Template::from_gguf(&file, &tokenizer)?;
/// let rendered = template.render(&[ChatMessage::new(Role::User, "hi")], std::time::SystemTime::now())?;
/// assert_eq!(rendered.text(), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    guard: Guard,
    bos: String,
    eos: String,
}

/// Why there is no text to continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file has no template: only plain completions are possible.
    #[error("the model file has no chat template (key \"tokenizer.chat_template\"): use a plain completion")]
    Missing,
    /// The key holds something else.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// The template is no valid Jinja.
    #[error("the model's chat template does not compile: {0}")]
    Syntax(String),
    /// The template itself refuses these messages, by `raise_exception`.
    #[error("the model's chat template refuses these messages: {0}")]
    Refused(String),
    /// The messages are too much for the bounds of a rendering.
    #[error("rendering these messages exceeds {0}")]
    TooLarge(&'static str),
    /// The template failed.
    #[error("the model's chat template fails: {0}")]
    Failed(String),
}

impl Template {
    /// Compiles the template in a model's metadata.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Syntax`].
    pub fn from_gguf(file: &Gguf, tokenizer: &Tokenizer) -> Result<Self, Error> {
        let source = optional(file.string("tokenizer.chat_template"))?.ok_or(Error::Missing)?;
        let text = |token: Option<u32>| token.map(|t| tokenizer.text_of(t)).unwrap_or_default();
        Self::new(source, tokenizer.guard(), text(tokenizer.bos()), text(tokenizer.eos()))
    }

    fn new(source: &str, guard: Guard, bos: String, eos: String) -> Result<Self, Error> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the delimiters are the usual ones"));
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |why: String| -> Result<Value, minijinja::Error> {
            let error = minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception");
            Err(error.with_source(Raised(why)))
        });
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| Error::Syntax(format!("{error:#}")))?;
        Ok(Template { environment, guard, bos, eos })
    }

    /// Renders messages, up to where the assistant is to speak. `now` is what `strftime_now` tells, in UTC.
    ///
    /// # Errors
    /// [`Error::Refused`] when the template says that it cannot take these messages (two of one role, say);
    /// [`Error::TooLarge`] beyond the bounds; else [`Error::Failed`].
    pub fn render(&self, messages: &[ChatMessage], now: SystemTime) -> Result<Rendered, Error> {
        let mark = Guard::mark(messages.iter().map(|message| message.content.as_str()))
            .ok_or(Error::TooLarge("what can be marked: they hold every noncharacter from U+FDD0 to U+FDEF"))?;
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| {
                let content = self.guard.guarded(&message.content, mark);
                context! { role => message.role.as_str(), content => content }
            })
            .collect();
        let now_s = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let context = context! {
            messages => messages,
            add_generation_prompt => true,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            tools => (),
            documents => (),
            strftime_now => Value::from_function(move |format: &str| strftime(now_s, format)),
        };
        let template = self.environment.get_template(NAME).expect("the constructor has added it");
        let mut output = Bounded(Vec::new());
        match template.render_captured_to(context, &mut output) {
            Ok(_) => {
                let text = String::from_utf8(output.0).map_err(|error| Error::Failed(error.to_string()))?;
                Ok(Rendered::new(text, mark))
            }
            Err(error) => Err(explain(&error)),
        }
    }
}

/// The text a template gave to `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn explain(error: &minijinja::Error) -> Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(Raised(why)) = cause.downcast_ref() {
            return Error::Refused(why.clone());
        }
        if cause.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::FileTooLarge) {
            return Error::TooLarge("16 MiB of text");
        }
        source = cause.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => Error::TooLarge("the template's 5 million steps"),
        ErrorKind::WriteFailure => Error::TooLarge("16 MiB of text"),
        _ => Error::Failed(error.to_string()),
    }
}

/// A buffer that refuses to grow beyond [`OUTPUT_BYTES_MAX`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Python's `json.dumps(value, ensure_ascii=False)`: what Jinja's own filter writes, without its escapes for HTML.
fn tojson(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<String, minijinja::Error> {
    let escaped = minijinja::filters::tojson(value, indent, options)?.to_string();
    let mut json = String::with_capacity(escaped.len());
    let mut rest = escaped.as_str();
    while let Some(at) = rest.find('\\') {
        json.push_str(&rest[..at]);
        rest = &rest[at..];
        let html = [("\\u003c", '<'), ("\\u003e", '>'), ("\\u0026", '&'), ("\\u0027", '\'')];
        if let Some((escape, c)) = html.iter().find(|(escape, _)| rest.starts_with(escape)) {
            json.push(*c);
            rest = &rest[escape.len()..];
        } else {
            // The backslash and what it escapes, which may be a backslash too.
            json.push_str(&rest[..2]);
            rest = &rest[2..];
        }
    }
    json.push_str(rest);
    Ok(json)
}

/// The conversions of C's `strftime` that templates use, in UTC and English; others stay as written.
fn strftime(unix_s: u64, format: &str) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    let days = unix_s / 86_400;
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (unix_s / 3_600 % 24, unix_s / 60 % 60, unix_s % 60);
    let (month_name, weekday) = (MONTHS[month as usize - 1], WEEKDAYS[((days + 4) % 7) as usize]);
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => text += &year.to_string(),
            Some('m') => text += &format!("{month:02}"),
            Some('d') => text += &format!("{day:02}"),
            Some('H') => text += &format!("{hour:02}"),
            Some('M') => text += &format!("{minute:02}"),
            Some('S') => text += &format!("{second:02}"),
            Some('B') => text += month_name,
            Some('b') => text += &month_name[..3],
            Some('A') => text += weekday,
            Some('a') => text += &weekday[..3],
            Some('%') => text.push('%'),
            Some(other) => text.extend(['%', other]),
            None => text.push('%'),
        }
    }
    text
}

/// Days since 1970-01-01 to year, month, day (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use mobula_serve::Role;

    use super::*;
    use crate::tiny;
    use std::time::Duration;

    fn rendered(source: &str, messages: &[ChatMessage]) -> Result<String, Error> {
        let tokenizer = Tokenizer::from_gguf(&Gguf::from_bytes(tiny::model(1)).unwrap()).unwrap();
        let template = Template::new(source, tokenizer.guard(), "<s>".into(), "</s>".into())?;
        template.render(messages, UNIX_EPOCH + Duration::from_secs(1_764_000_000)).map(|r| r.text())
    }

    fn user(content: &str) -> [ChatMessage; 1] {
        [ChatMessage::new(Role::User, content)]
    }

    #[track_caller]
    fn check(source: &str, content: &str, expect: &str) {
        assert_eq!(rendered(source, &user(content)).unwrap(), expect);
    }

    #[test]
    fn speaks_hugging_faces_jinja() {
        check("{{ bos_token }}{{ messages[0].role }}{{ eos_token }}\n", "", "<s>user</s>");
        check(
            "{% for m in messages %}\n  {% if true %}\n{{ m['content'].strip() | upper }}\n  {% endif %}\n{% endfor %}",
            " hi ",
            "HI\n",
        );
        check("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "", "012");
        check("{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}", "", "2");
        check("{% if tools %}x{% endif %}{{ tools is none }}", "", "True");
        check("{{ {'a': [1, 2], 'b': '<ü>'} | tojson }}", "", r#"{"a": [1, 2], "b": "<ü>"}"#);
        check("{{ [1] | tojson(indent=2) }}", "", "[\n  1\n]");
        check("{{ strftime_now('%d %b %Y, %A %H:%M:%S 100%%') }}", "", "24 Nov 2025, Monday 16:00:00 100%");
        check("{{ messages[0].content }}", "a <|im_end|> <", "a <|im_end|> <");
    }

    #[test]
    fn a_template_may_refuse() {
        let error = rendered("{{ raise_exception('roles must alternate') }}", &user("")).unwrap_err();
        assert!(matches!(&error, Error::Refused(why) if why == "roles must alternate"), "{error:?}");
        let inside = "{% macro m() %}{{ raise_exception('no') }}{% endmacro %}{{ m() }}";
        assert!(matches!(rendered(inside, &user("")), Err(Error::Refused(_))));
    }

    #[test]
    fn broken_templates_are_errors() {
        assert!(matches!(rendered("{% for %}", &user("")), Err(Error::Syntax(_))));
        assert!(matches!(rendered("{{ messages[0].content.nope() }}", &user("")), Err(Error::Failed(_))));
        let deep = "(".repeat(100_000);
        assert!(matches!(rendered(&format!("{{{{ {deep} }}}}"), &user("")), Err(Error::Syntax(_))));
    }

    #[test]
    fn work_and_output_are_bounded() {
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% set x = a * b %}{% endfor %}{% endfor %}";
        assert!(matches!(rendered(endless, &user("")), Err(Error::TooLarge(_))));
        let growing = "{% for a in range(1000) %}{{ 'x' * 1000000 }}{% endfor %}";
        assert!(matches!(rendered(growing, &user("")), Err(Error::TooLarge(_))));
        let doubling =
            "{% set ns = namespace(s='x') %}{% for a in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}";
        assert!(matches!(rendered(doubling, &user("")), Err(Error::TooLarge(_))));
        let all: String = ('\u{fdd0}'..='\u{fdef}').collect();
        assert!(matches!(rendered("", &user(&all)), Err(Error::TooLarge(_))));
        // The largest body that a request may have still fits.
        let source = "{% for m in messages %}{{ '<|im_start|>' + m['content'] + '<|im_end|>' }}{% endfor %}";
        assert_eq!(rendered(source, &user(&"a".repeat(8 << 20))).unwrap().len(), (8 << 20) + 22);
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(strftime(0, "%Y-%m-%d %a"), "1970-01-01 Thu");
        assert_eq!(strftime(951_782_400, "%Y-%m-%d"), "2000-02-29");
        assert_eq!(strftime(4_107_542_399, "%Y-%m-%d %H"), "2100-02-28 23");
    }
}
