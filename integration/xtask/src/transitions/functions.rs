//! Which functions of a source file can change something, those whose signature says `&mut`, and what in them only a planted
//! fault does.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, LineColumn, TokenStream, TokenTree};

/// A place in a file: line and column, both from 1.
pub(super) type Place = (usize, usize);

/// The functions of a file.
pub(super) struct Functions {
    all: Vec<Function>,
    /// From where to where a planted fault decides.
    planted: Vec<(Place, Place)>,
}

struct Function {
    start: Place,
    end: Place,
    can_change: bool,
}

impl Functions {
    /// # Errors
    /// What is not Rust.
    pub(super) fn read(source: &str) -> Result<Self> {
        let tokens: TokenStream = source.parse().map_err(|error| anyhow!("it is not Rust: {error}"))?;
        let mut functions = Self { all: Vec::new(), planted: Vec::new() };
        find_planted(tokens.clone(), &mut functions.planted);
        find(tokens, &mut functions.all);
        Ok(functions)
    }

    /// Whether what is at `place` is done only by a planted fault.
    pub(super) fn is_planted(&self, place: Place) -> bool {
        self.planted.iter().any(|(start, end)| *start <= place && place < *end)
    }

    /// Whether the innermost function at `place` can change something; a closure belongs to the function around it.
    pub(super) fn can_change(&self, place: Place) -> bool {
        let around = self.all.iter().filter(|function| function.start <= place && place < function.end);
        around.max_by_key(|function| function.start).is_some_and(|function| function.can_change)
    }
}

fn find(tokens: TokenStream, functions: &mut Vec<Function>) {
    // Where the signature began that is being read, and what it says.
    let mut signature: Option<(Place, TokenStream)> = None;
    for token in tokens {
        match &token {
            TokenTree::Ident(word) if word == "fn" => {
                signature = Some((place(word.span().start()), TokenStream::new()));
            }
            TokenTree::Punct(sign) if sign.as_char() == ';' => signature = None,
            TokenTree::Group(group) => {
                if group.delimiter() == Delimiter::Brace
                    && let Some((start, said)) = signature.take()
                {
                    let end = place(group.span_close().end());
                    functions.push(Function { start, end, can_change: borrows_mutably(said) });
                }
                find(group.stream(), functions);
            }
            _ => {}
        }
        if let Some((_, said)) = &mut signature {
            said.extend([token]);
        }
    }
}

/// Finds what is done, and asked, only where `planted.is(Mutant::…)` holds: up to the end of a block, or of an arm of a match.
fn find_planted(tokens: TokenStream, planted: &mut Vec<(Place, Place)>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is_sign = |at: usize, sign: char| matches!(tokens.get(at), Some(TokenTree::Punct(it)) if it.as_char() == sign);
    let is_word = |at: usize, word: &str| matches!(tokens.get(at), Some(TokenTree::Ident(it)) if it == word);
    // Where the answer begins to matter, and whether all of the next block hangs on it.
    let mut asked: Option<(Place, bool)> = None;
    // Where an arm of a match begins, if these are arms: its pattern counts with it.
    let mut begun = 0;
    for (at, token) in tokens.iter().enumerate() {
        if is_word(at, "planted") && is_sign(at + 1, '.') && is_word(at + 2, "is") {
            let of_self = if is_sign(at.wrapping_sub(1), '.') { 2 } else { 0 };
            let is_denied = is_sign(at.wrapping_sub(of_self + 1), '!');
            let after = tokens.get(at + 3).map(|question| place(question.span().end()));
            // What follows `!planted.is(…) ||` is asked of a fault only.
            asked = after.filter(|_| !is_denied || is_sign(at + 4, '|')).map(|after| (after, !is_denied));
        }
        let end = match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(group),
            _ => None,
        };
        if let Some((start, is_all)) = asked
            && (end.is_some() || is_sign(at, ',') || is_sign(at, ';'))
        {
            let after = place(token.span().end());
            let is_arm = tokens[begun..at].windows(2).any(|signs| is_arrow(&signs[0], &signs[1]));
            let start = tokens.get(begun).filter(|_| is_arm).map_or(start, |pattern| place(pattern.span().start()));
            planted.push((start, end.filter(|_| !is_all).map_or(after, |block| place(block.span_open().start()))));
            asked = None;
        }
        let is_body = end.is_some() && is_sign(at.wrapping_sub(1), '>') && is_sign(at.wrapping_sub(2), '=');
        if is_body || is_sign(at, ',') || is_sign(at, ';') {
            begun = at + 1;
        }
        if let TokenTree::Group(group) = token {
            find_planted(group.stream(), planted);
        }
    }
}

fn is_arrow(one: &TokenTree, other: &TokenTree) -> bool {
    let is = |token: &TokenTree, sign: char| matches!(token, TokenTree::Punct(it) if it.as_char() == sign);
    is(one, '=') && is(other, '>')
}

/// Whether a signature takes something by `&mut` that is no text in the making, and no planted fault: those functions plant it.
fn borrows_mutably(signature: TokenStream) -> bool {
    let mut words = Vec::new();
    flatten(signature, &mut words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let is_mutable = |at: usize| matches!(words[..at], [.., "&", "'", _] | [.., "&"]) && words[at] == "mut";
    !words.contains(&"Mutant") && !words.contains(&"Formatter") && (0..words.len()).any(is_mutable)
}

/// The words and signs of `tokens` and of the groups among them.
fn flatten(tokens: TokenStream, words: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => flatten(group.stream(), words),
            token => words.push(token.to_string()),
        }
    }
}

fn place(at: LineColumn) -> Place {
    (at.line, at.column + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_borrows_mutably_can_change() {
        let source = "impl A {
    pub(super) fn look(&self) -> Option<u8> { self.a }
    fn change(&mut self) {
        let each = |b| b;
        fn inner(b: &u8) -> u8 { *b }
    }
    fn fill<'a>(into: &'a mut Vec<u8>) where Self: Sized { into.push(1) }
    fn plant(&mut self, mutant: Option<Mutant>) { self.planted = mutant }
    fn grow(mut self) -> Self { self }
}
trait B { fn only_said(&mut self); fn look(&self) { } }";
        let functions = Functions::read(source).unwrap();
        let at = [(2, 50), (3, 5), (4, 13), (5, 36), (7, 62), (8, 55), (9, 35), (11, 54), (12, 1)];
        let expect = [false, true, true, false, true, false, false, false, false];
        assert_eq!(at.map(|place| functions.can_change(place)), expect);
        assert!(Functions::read("fn a( {").is_err());
    }

    #[test]
    fn what_a_planted_fault_does_is_known() {
        let source = "fn a(&mut self) {
    if self.planted.is(Mutant::A) && b {
        c();
    }
    if !self.planted.is(Mutant::A) { d(); }
    match e {
        None => {}
        Some(E { .. }) if planted.is(Mutant::B) => f(),
        _ => g(),
    }
    h(i && !self.planted.is(Mutant::A), j);
    if !self.planted.is(Mutant::A) || k {
        l();
    }
}";
        let functions = Functions::read(source).unwrap();
        let real = [(2, 8), (5, 38), (7, 17), (9, 14), (11, 42), (12, 8), (13, 9)];
        assert_eq!(real.map(|place| functions.is_planted(place)), [false; 7]);
        let planted = [(2, 39), (3, 9), (8, 9), (8, 52), (12, 39)];
        assert_eq!(planted.map(|place| functions.is_planted(place)), [true; 5]);
    }
}
