//! A rendered chat that remembers which control tokens a user wrote himself.
//!
//! Before rendering, a [`Guard`] puts a mark into every control token in a user's text: a noncharacter of Unicode
//! (U+FDD0 to U+FDEF, "for internal use", which the text itself must not hold or another is taken). The template then
//! moves the text wherever it likes: trims it, splits it, joins it. After rendering, a control token without a mark was
//! written by the template, and the marks are taken out.

use regex::Regex;

/// Marks the control tokens in users' texts.
#[derive(Debug, Clone)]
pub struct Guard {
    find: Option<Regex>,
    control: Vec<String>,
}

/// A rendered chat, to be encoded by [`crate::tokenizer::Tokenizer::encode_rendered`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    marked: String,
    mark: char,
}

impl Guard {
    pub(super) fn new(mut control: Vec<String>) -> Self {
        control.retain(|text| !text.is_empty());
        control.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let pattern: Vec<String> = control.iter().map(|text| regex::escape(text)).collect();
        let find = (!control.is_empty())
            .then(|| Regex::new(&pattern.join("|")).expect("the tokenizer has built the same pattern before"));
        Guard { find, control }
    }

    /// A mark that none of the texts holds, or `None` when they hold all 32 of them.
    pub fn mark<'a>(texts: impl Iterator<Item = &'a str>) -> Option<char> {
        let mut used = [false; 32];
        for c in texts.flat_map(str::chars).filter(|c| ('\u{fdd0}'..='\u{fdef}').contains(c)) {
            used[c as usize - 0xfdd0] = true;
        }
        let free = used.iter().position(|used| !used)?;
        char::from_u32(0xfdd0 + free as u32)
    }

    /// The text with a mark after the first character of each control token in it, and of a beginning of one at its
    /// end, which what follows might complete.
    pub fn guarded(&self, text: &str, mark: char) -> String {
        let Some(find) = &self.find else {
            return text.to_owned();
        };
        let mut marked = String::with_capacity(text.len() + 16);
        let mut at = 0;
        while let Some(found) = find.find_at(text, at) {
            // The search goes on behind the first character, since control tokens may overlap.
            let end = found.start() + first_char_len(found.as_str());
            marked.push_str(&text[at..end]);
            marked.push(mark);
            at = end;
        }
        let rest = &text[at..];
        let beginning = rest.char_indices().map(|(i, _)| i).rev().take(self.longest()).filter(|&i| {
            self.control.iter().any(|control| control.len() > rest.len() - i && control.starts_with(&rest[i..]))
        });
        let mut ends: Vec<usize> = beginning.map(|i| i + first_char_len(&rest[i..])).collect();
        ends.reverse();
        let mut from = 0;
        for end in ends {
            marked.push_str(&rest[from..end]);
            marked.push(mark);
            from = end;
        }
        marked.push_str(&rest[from..]);
        marked
    }

    /// Bytes of the longest control token.
    fn longest(&self) -> usize {
        self.control.first().map_or(0, String::len)
    }
}

fn first_char_len(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

impl Rendered {
    /// What a template made of guarded texts.
    pub fn new(marked: String, mark: char) -> Self {
        Rendered { marked, mark }
    }

    /// The chat as text, without marks.
    pub fn text(&self) -> String {
        self.unmarked(&self.marked)
    }

    pub(super) fn marked(&self) -> &str {
        &self.marked
    }

    pub(super) fn unmarked(&self, text: &str) -> String {
        text.replace(self.mark, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_tokens_of_users_are_broken() {
        let guard = Guard::new(vec!["<|im_end|>".into(), "<|im_start|>".into(), "".into(), "aa".into()]);
        let check = |text: &str, expect: &str| {
            assert_eq!(guard.guarded(text, '\u{fdd0}').replace('\u{fdd0}', "·"), expect);
        };
        check("hello", "hello");
        check("x<|im_end|>y", "x<·|im_end|>y");
        check("<|im_<|im_end|>end|>", "<|im_<·|im_end|>end|>");
        check("aaaz", "a·a·az");
        // A beginning at the end might be completed by what the template or the next message writes.
        check("a < b <", "a < b <·");
        check("b <|im_", "b <·|im_");
        check("", "");
    }

    #[test]
    fn a_mark_is_one_that_no_text_holds() {
        assert_eq!(Guard::mark(["", "\u{fdd0}\u{fdd1}"].into_iter()), Some('\u{fdd2}'));
        let all: String = ('\u{fdd0}'..='\u{fdef}').collect();
        assert_eq!(Guard::mark([all.as_str()].into_iter()), None);
    }
}
