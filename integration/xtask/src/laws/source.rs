//! Rust sources as the laws read them: the paths that a file names, without comments and strings.
//!
//! `use std::{fs, time::Instant as Now}` names `std::fs` and `std::time::Instant`; `thread::spawn(f)` names
//! `thread::spawn` and `f`. Macro bodies are read like all else. Nothing is resolved: an import is seen where it is
//! written, which is enough to forbid it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// One file, by its path from the root, and what it names in order.
pub(super) struct Source {
    /// With `/` between folders.
    pub file: String,
    /// Each path or lone word, keywords too.
    pub names: Vec<Name>,
}

/// A path as it is written: `["std", "time", "Instant"]`.
pub(super) struct Name {
    /// Segments; a glob is `*`.
    pub path: Vec<String>,
    /// Counted from 1.
    pub line: usize,
}

/// All Rust files under `root`, but for build outputs, hidden folders, and the inputs of compile-fail tests, whose
/// mistakes are their purpose.
pub(super) fn files(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let at = root.join(&folder);
        for entry in at.read_dir().with_context(|| format!("list {}", at.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let (path, hidden) = (folder.join(&name), name.to_string_lossy().starts_with('.'));
            if entry.file_type()?.is_dir() {
                if !hidden && name != "target" && !path.ends_with("tests/ui") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Reads the file at `root`/`file`.
///
/// # Errors
/// When it is not text or does not consist of Rust's tokens.
pub(super) fn read(root: &Path, file: &str) -> Result<Source> {
    let text = std::fs::read_to_string(root.join(file)).with_context(|| format!("read {file}"))?;
    parse(file, &text)
}

/// Reads `text` as the file `file`.
pub(super) fn parse(file: &str, text: &str) -> Result<Source> {
    let tokens: TokenStream = text
        .parse()
        .map_err(|error: proc_macro2::LexError| anyhow!("{file}:{}: {error}", error.span().start().line))?;
    let mut names = Vec::new();
    read_names(tokens, &[], &mut names);
    Ok(Source { file: file.to_owned(), names })
}

/// Collects the names in `tokens`; `prefix` is the path before the braces of a `use` that they are in.
fn read_names(tokens: TokenStream, prefix: &[String], names: &mut Vec<Name>) {
    let mut tokens = tokens.into_iter().peekable();
    // The path being read, and whether what comes next belongs to it.
    let mut path = prefix.to_vec();
    let mut open = !prefix.is_empty();
    while let Some(token) = tokens.next() {
        let line = token.span().start().line;
        match token {
            TokenTree::Ident(word) => {
                if !open {
                    path.clear();
                }
                let word = word.to_string();
                path.push(word.strip_prefix("r#").unwrap_or(&word).to_owned());
                open = false;
                if !tokens.peek().is_some_and(is_path_separator) {
                    names.push(Name { path: path.clone(), line });
                }
            }
            TokenTree::Punct(punct) if is_path_separator(&TokenTree::Punct(punct.clone())) => {
                tokens.next();
                open = !path.is_empty();
                // `Vec::<u8>` is named before its generics.
                if open && matches!(tokens.peek(), Some(TokenTree::Punct(next)) if next.as_char() == '<') {
                    names.push(Name { path: path.clone(), line });
                }
            }
            TokenTree::Punct(punct) if punct.as_char() == '*' && open => {
                path.push("*".to_owned());
                names.push(Name { path: path.clone(), line });
                open = false;
            }
            TokenTree::Punct(punct) if punct.as_char() == ',' => {
                path = prefix.to_vec();
                open = !prefix.is_empty();
            }
            TokenTree::Group(group) => {
                let in_use = open && group.delimiter() == Delimiter::Brace;
                read_names(group.stream(), if in_use { &path } else { &[] }, names);
                open = false;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {
                path.clear();
                open = false;
            }
        }
    }
}

/// Whether this is the first half of a `::`.
fn is_path_separator(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':' && punct.spacing() == Spacing::Joint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        parse("a.rs", text).unwrap().names.iter().map(|name| name.path.join("::")).collect()
    }

    #[test]
    fn use_trees_are_spelt_out() {
        assert_eq!(
            names("use std::{fs, io::{self, *}, time::Instant as Now};"),
            ["use", "std::fs", "std::io::self", "std::io::*", "std::time::Instant", "as", "Now"]
        );
    }

    #[test]
    fn comments_strings_and_lifetimes_name_nothing() {
        assert_eq!(
            names("/* unsafe */ // async\nlet a: &'fs str = \"std::fs\"; r#\"tokio\"#"),
            ["let", "a", "fs", "str"]
        );
    }

    #[test]
    fn expressions_and_generics_name_their_paths() {
        assert_eq!(
            names("x(thread::spawn(a * b), Vec::<u8>::new())"),
            ["x", "thread::spawn", "a", "b", "Vec", "u8", "new"]
        );
        assert_eq!(names("a { b: ::std::net::IpAddr }"), ["a", "b", "std::net::IpAddr"]);
    }

    #[test]
    fn lines_are_counted_from_one() {
        assert_eq!(parse("a.rs", "\n\nfoo").unwrap().names[0].line, 3);
    }

    #[test]
    fn what_is_not_rust_is_an_error_with_its_place() {
        let error = parse("a.rs", "fn a() {\n  \"open").err().unwrap().to_string();
        assert!(error.starts_with("a.rs:"), "{error}");
    }
}
