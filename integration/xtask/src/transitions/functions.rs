//! Which functions of a source file can change something: those whose signature says `&mut`.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, LineColumn, TokenStream, TokenTree};

/// A place in a file: line and column, both from 1.
pub(super) type Place = (usize, usize);

/// The functions of a file.
pub(super) struct Functions(Vec<Function>);

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
        let mut functions = Vec::new();
        find(tokens, &mut functions);
        Ok(Self(functions))
    }

    /// Whether the innermost function at `place` can change something; a closure belongs to the function around it.
    pub(super) fn can_change(&self, place: Place) -> bool {
        let around = self.0.iter().filter(|function| function.start <= place && place < function.end);
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

/// Whether a signature takes something by `&mut`, and no planted fault: those functions plant it.
fn borrows_mutably(signature: TokenStream) -> bool {
    let mut words = Vec::new();
    flatten(signature, &mut words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let is_mutable = |at: usize| matches!(words[..at], [.., "&", "'", _] | [.., "&"]) && words[at] == "mut";
    !words.contains(&"Mutant") && (0..words.len()).any(is_mutable)
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
}
