//! Cuts a text into the pieces that merges do not cross: words with their leading space, numbers, punctuation, space.
//!
//! The published patterns end in `\s+(?!\S)|\s+`: a run of white space gives its last character to the word behind it.
//! That look-ahead is done by hand here, so that the regex is a real automaton, linear in a user's megabytes.

use regex::Regex;

use super::Error;

/// A pre-tokenizer, by the name in `tokenizer.ggml.pre`.
#[derive(Debug)]
pub(super) struct Pieces {
    regex: Regex,
    /// Cuts out these first, one character each; the regex sees what is between.
    first: Option<Regex>,
    /// Whether a run of white space that holds a line break is a piece of its own, up to its last line break.
    line_breaks_apart: bool,
    llama3: bool,
}

const SUPPORTED: &str = "\"gpt-2\", \"llama-bpe\", \"qwen2\", \"smollm\"";

/// GPT-2's pattern (`encoder.py`).
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
/// Llama 3's pattern (`tokenizer.py` of meta-llama/llama3).
const LLAMA3: &str = concat!(
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]",
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
);
/// Qwen2's pattern: Llama 3's with single digits.
const QWEN2: &str = concat!(
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]",
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
);

impl Pieces {
    pub(super) fn named(pre: &str) -> Result<Self, Error> {
        let (pattern, first, line_breaks_apart) = match pre {
            "gpt-2" | "gpt2" => (GPT2, None, false),
            "llama-bpe" | "llama3" | "llama-v3" => (LLAMA3, None, true),
            "qwen2" => (QWEN2, None, true),
            "smollm" => (GPT2, Some(r"\p{N}"), false),
            other => {
                let key = "tokenizer.ggml.pre";
                return Err(Error::Unsupported { key, found: other.to_owned(), supported: SUPPORTED });
            }
        };
        let regex = |pattern| Regex::new(pattern).expect("the patterns above are valid");
        Ok(Pieces { regex: regex(pattern), first: first.map(regex), line_breaks_apart, llama3: pattern == LLAMA3 })
    }

    /// Whether the model wants its first token in front of a plain prompt where the file does not say.
    pub(super) fn adds_bos(&self) -> bool {
        self.llama3
    }

    /// Whether a piece that is a token stays whole whatever its merges say.
    pub(super) fn whole_pieces_first(&self) -> bool {
        self.llama3
    }

    /// Calls `each` with every piece; together they are the text.
    pub(super) fn split<'a>(&self, text: &'a str, mut each: impl FnMut(&'a str)) {
        let Some(first) = &self.first else {
            return self.split_plain(text, &mut each);
        };
        let mut rest = 0;
        for found in first.find_iter(text) {
            self.split_plain(&text[rest..found.start()], &mut each);
            each(found.as_str());
            rest = found.end();
        }
        self.split_plain(&text[rest..], &mut each);
    }

    fn split_plain<'a>(&self, text: &'a str, each: &mut impl FnMut(&'a str)) {
        let mut at = 0;
        while let Some(found) = self.regex.find_at(text, at) {
            // The patterns leave no character out, so every match starts where the last one ended.
            debug_assert_eq!(found.start(), at);
            let end = at + self.without_look_ahead(found.as_str(), found.end() == text.len());
            each(&text[at..end]);
            at = end;
        }
    }

    /// The length of a match after `\s+(?!\S)` has given its last character back.
    fn without_look_ahead(&self, matched: &str, at_end: bool) -> usize {
        let last = matched.chars().next_back().map_or(0, char::len_utf8);
        let apart = self.line_breaks_apart && matched.ends_with(['\r', '\n']);
        let space = matched.chars().all(char::is_whitespace);
        let gives_back = space && !at_end && !apart && matched.len() > last;
        matched.len() - if gives_back { last } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pre: &str, text: &str, expect: &[&str]) {
        let mut pieces = Vec::new();
        Pieces::named(pre).unwrap().split(text, |piece| pieces.push(piece));
        assert_eq!(pieces, expect, "{pre} of {text:?}");
    }

    #[test]
    fn words_keep_their_space() {
        check("gpt-2", "", &[]);
        check("gpt-2", "It's  2024!\n\n  Yes ", &["It", "'s", " ", " 2024", "!", "\n\n ", " Yes", " "]);
        check("smollm", "in 2024  7", &["in", " ", "2", "0", "2", "4", "  ", "7"]);
        check("llama-bpe", "It'S 12345\n \n  x", &["It", "'S", " ", "123", "45", "\n \n", " ", " x"]);
        check("qwen2", "a_b 12!?\n\nc", &["a", "_b", " ", "1", "2", "!?\n\n", "c"]);
        check("gpt-2", "\u{3000}\u{3000}中文", &["\u{3000}", "\u{3000}", "中文"]);
    }

    #[test]
    fn others_are_refused_by_name() {
        let error = Pieces::named("deepseek-llm").unwrap_err().to_string();
        assert!(error.contains("\"deepseek-llm\"") && error.contains("\"qwen2\""), "{error}");
    }

    #[test]
    fn long_runs_are_linear() {
        for long in [" ".repeat(1 << 17), "a".repeat(1 << 17), "\n ".repeat(1 << 16), "!1 ".repeat(1 << 15)] {
            for pre in ["gpt-2", "llama-bpe", "qwen2", "smollm"] {
                let mut bytes = 0;
                Pieces::named(pre).unwrap().split(&long, |piece| bytes += piece.len());
                assert_eq!(bytes, long.len());
            }
        }
    }
}
