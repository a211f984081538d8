//! Text to tokens and back, as the model's own file says.
//!
//! ```text
//! text ─ specials (whole tokens found in the text) ─ pre-tokenizer (pieces) ─ BPE merges ─► tokens
//! tokens ─► bytes ─ Detokenizer (holds half characters back) ─► text
//! ```
//!
//! **Control tokens come from templates only.** A file marks tokens such as `<|im_end|>` as *control*; if they were
//! recognised in what a user writes, the user could close his own message and speak as the system. So
//! [`Tokenizer::encode`] reads them as plain text, and only [`Tokenizer::encode_rendered`] recognises them, in what the
//! template itself wrote: [`Rendered`] knows which part is which. Tokens marked *user defined* (`<think>`, runs of
//! spaces) are recognised everywhere.
//!
//! Byte-pair encoding with the vocabulary is written out here rather than taken from the crate `tokenizers`: that one
//! panics on a merge longer than every token (files may lie), keeps 16 bytes of alignment per byte of text, splits with
//! a backtracking regex, which a user's megabytes must not reach, and drops errors of it. The tests compare with it.

mod bpe;
mod detokenizer;
mod pieces;
mod rendered;

use std::collections::HashMap;

use crate::gguf::{self, Gguf, optional};
use bpe::Bpe;
pub(crate) use bpe::char_of;
pub use detokenizer::Detokenizer;
use pieces::Pieces;
use regex::Regex;
pub use rendered::{Guard, Rendered};

/// The index of a token in the vocabulary.
pub type Token = u32;

/// Tokens of a vocabulary at most: the largest of 2026 have 262,144.
pub const VOCABULARY_MAX: usize = 1 << 20;

/// Texts of control tokens that end an answer although the file's `eos_token_id` names another one. Chat models end
/// their turns with one token and documents with a second, and files name only one of them.
const END_TEXTS: [&str; 7] =
    ["<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<end_of_turn>", "<|eom_id|>"];

/// A vocabulary and how text is cut into it.
///
/// ```
/// use mobula_llm::{gguf::Gguf, tiny, tokenizer::Tokenizer};
///
/// let tokenizer = Tokenizer::from_gguf(&Gguf::from_bytes(tiny::model(7))?)?;
/// let tokens = tokenizer.encode("the thing");
/// assert_eq!(tokenizer.decode(&tokens), "the thing");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Tokenizer {
    bytes: Vec<Box<[u8]>>,
    kinds: Vec<Kind>,
    bpe: Bpe,
    pieces: Pieces,
    /// Finds user-defined tokens; `None` when there are none.
    user_defined: Option<Specials>,
    /// Finds control and user-defined tokens.
    all_special: Option<Specials>,
    bos: Option<Token>,
    eos: Option<Token>,
    ends: Vec<Token>,
    adds_bos: bool,
    longest_token_bytes: usize,
}

/// What a token stands for, with GGUF's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// What is wrong with a file's vocabulary.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key is missing or holds something else.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// A kind of tokenizer that is not implemented.
    #[error("tokenizer {key} is {found:?}, supported: {supported}")]
    Unsupported {
        /// The key that says so.
        key: &'static str,
        /// Its value.
        found: String,
        /// What would be right.
        supported: &'static str,
    },
    /// The vocabulary contradicts itself.
    #[error("the vocabulary is inconsistent: {0}")]
    Inconsistent(String),
}

impl Tokenizer {
    /// Reads the vocabulary from a model's metadata (`tokenizer.ggml.*`).
    ///
    /// # Errors
    /// [`Error`] names the key, token or merge that is wrong.
    pub fn from_gguf(file: &Gguf) -> Result<Self, Error> {
        let model = file.string("tokenizer.ggml.model")?;
        if model != "gpt2" {
            let (key, supported) = ("tokenizer.ggml.model", "\"gpt2\" (byte-level BPE)");
            return Err(Error::Unsupported { key, found: model.to_owned(), supported });
        }
        // Files from before the key existed are GPT-2's.
        let pre = optional(file.string("tokenizer.ggml.pre"))?.unwrap_or("gpt-2");
        let pieces = Pieces::named(pre)?;

        let texts = file.strings("tokenizer.ggml.tokens")?;
        if texts.is_empty() || texts.len() > VOCABULARY_MAX {
            let why = format!("{} tokens, expected 1 to {VOCABULARY_MAX}", texts.len());
            return Err(Error::Inconsistent(why));
        }
        let kinds = read_kinds(file, texts.len())?;
        let special = |id: Token| matches!(kinds[id as usize], Kind::Control | Kind::UserDefined | Kind::Unknown);
        let bytes: Vec<Box<[u8]>> = (0..).zip(&texts).map(|(id, text)| bpe::bytes_of(text, special(id))).collect();

        let named = |key| token_of_key(file, key, texts.len());
        let bos = named("tokenizer.ggml.bos_token_id")?;
        let eos = named("tokenizer.ggml.eos_token_id")?;
        let mut ends: Vec<Token> = eos.into_iter().collect();
        ends.extend(named("tokenizer.ggml.eot_token_id")?);
        ends.extend(named("tokenizer.ggml.eom_token_id")?);
        let of_text =
            (0..).zip(&texts).filter(|(id, text)| kinds[*id as usize] == Kind::Control && END_TEXTS.contains(text));
        ends.extend(of_text.map(|(id, _)| id));
        ends.sort_unstable();
        ends.dedup();

        let merges = file.strings("tokenizer.ggml.merges")?;
        let adds_bos = optional(file.boolean("tokenizer.ggml.add_bos_token"))?.unwrap_or(pieces.adds_bos());
        let specials = |wanted: &[Kind]| {
            let ids = (0..).zip(&texts).filter(|(id, _)| wanted.contains(&kinds[*id as usize]));
            Specials::new(ids.map(|(id, text)| (id, *text)).collect())
        };
        Ok(Tokenizer {
            bpe: Bpe::new(&bytes, |id| kinds[id as usize] != Kind::Control, &merges, pieces.whole_pieces_first())?,
            user_defined: specials(&[Kind::UserDefined])?,
            all_special: specials(&[Kind::UserDefined, Kind::Control])?,
            longest_token_bytes: bytes.iter().map(|b| b.len()).max().unwrap_or(1).max(1),
            bytes,
            kinds,
            pieces,
            bos,
            eos,
            ends,
            adds_bos: adds_bos && bos.is_some(),
        })
    }

    /// Plain text as tokens: no control tokens, whatever the text holds, and none added.
    ///
    /// A byte that the vocabulary has no token for is left out, as llama.cpp and Hugging Face do (SmolLM2 lacks some
    /// control characters).
    pub fn encode(&self, text: &str) -> Vec<Token> {
        let mut tokens = Vec::with_capacity(text.len() / 4 + 1);
        self.encode_into(text, self.user_defined.as_ref(), &mut tokens);
        tokens
    }

    /// The prompt of a plain completion: the text, behind the token that begins a document if the model wants one.
    pub fn encode_prompt(&self, text: &str) -> Vec<Token> {
        let mut tokens: Vec<Token> = self.bos.filter(|_| self.adds_bos).into_iter().collect();
        tokens.extend(self.encode(text));
        tokens
    }

    /// A rendered chat as tokens: control tokens where the template wrote them, plain text where a user did.
    ///
    /// Nothing is put in front: a template writes `bos_token` itself where its model wants one.
    pub fn encode_rendered(&self, rendered: &Rendered) -> Vec<Token> {
        let mut tokens = Vec::with_capacity(rendered.marked().len() / 4 + 1);
        // A control token that a user wrote is broken by a mark and so not found; the marks go before the merges.
        Specials::split(self.all_special.as_ref(), rendered.marked(), |found| match found {
            Found::Token(token) => tokens.push(token),
            Found::Text(text) => {
                self.encode_into(&rendered.unmarked(text), self.user_defined.as_ref(), &mut tokens);
            }
        });
        tokens
    }

    /// The guard that marks control tokens in users' texts, for [`crate::template::Template`].
    pub fn guard(&self) -> Guard {
        let control = (0..).zip(&self.kinds).filter(|(_, kind)| **kind == Kind::Control);
        Guard::new(control.map(|(id, _)| self.text_of(id)).collect())
    }

    /// The bytes of a token; often less or more than one character. Empty for tokens that are not in the vocabulary.
    pub fn bytes_of(&self, token: Token) -> &[u8] {
        self.bytes.get(token as usize).map_or(&[], |bytes| bytes)
    }

    /// The text of a token, with U+FFFD for what is no whole character: for logs and logprobs.
    pub fn text_of(&self, token: Token) -> String {
        String::from_utf8_lossy(self.bytes_of(token)).into_owned()
    }

    /// The text of tokens, without control tokens.
    pub fn decode(&self, tokens: &[Token]) -> String {
        let mut detokenizer = Detokenizer::new();
        let mut text = String::new();
        for &token in tokens.iter().filter(|&&t| !self.is_control(t)) {
            text.push_str(&detokenizer.push(self.bytes_of(token)));
        }
        text + &detokenizer.finish()
    }

    /// Whether a token is a mark of the model's own and no text.
    pub fn is_control(&self, token: Token) -> bool {
        matches!(self.kinds.get(token as usize), Some(Kind::Control))
    }

    /// Whether a token ends an answer.
    pub fn is_end(&self, token: Token) -> bool {
        self.ends.binary_search(&token).is_ok()
    }

    /// The token that begins a document.
    pub fn bos(&self) -> Option<Token> {
        self.bos
    }

    /// The token that ends a document or a turn.
    pub fn eos(&self) -> Option<Token> {
        self.eos
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary_len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of the longest token: a text of more than `context × this` cannot fit and need not be encoded to know.
    pub fn longest_token_bytes(&self) -> usize {
        self.longest_token_bytes
    }

    fn encode_into(&self, text: &str, specials: Option<&Specials>, tokens: &mut Vec<Token>) {
        Specials::split(specials, text, |found| match found {
            Found::Token(token) => tokens.push(token),
            Found::Text(text) => self.pieces.split(text, |piece| self.bpe.encode(piece.as_bytes(), tokens)),
        });
    }
}

/// Tokens that are found in a text before it is cut into pieces.
#[derive(Debug)]
struct Specials {
    find: Regex,
    ids: HashMap<String, Token>,
}

enum Found<'a> {
    Token(Token),
    Text(&'a str),
}

impl Specials {
    fn new(tokens: Vec<(Token, &str)>) -> Result<Option<Self>, Error> {
        let mut texts: Vec<&str> = tokens.iter().map(|(_, text)| *text).filter(|text| !text.is_empty()).collect();
        if texts.is_empty() {
            return Ok(None);
        }
        // An alternation takes its first branch that matches, so the longest token stands first.
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let pattern: Vec<String> = texts.iter().map(|text| regex::escape(text)).collect();
        let find = Regex::new(&pattern.join("|"))
            .map_err(|error| Error::Inconsistent(format!("its special tokens cannot be searched for: {error}")))?;
        Ok(Some(Specials { find, ids: tokens.into_iter().map(|(id, text)| (text.to_owned(), id)).collect() }))
    }

    fn split<'a>(specials: Option<&Self>, text: &'a str, mut each: impl FnMut(Found<'a>)) {
        let mut rest = 0;
        if let Some(specials) = specials {
            for found in specials.find.find_iter(text) {
                each(Found::Text(&text[rest..found.start()]));
                each(Found::Token(specials.ids[found.as_str()]));
                rest = found.end();
            }
        }
        each(Found::Text(&text[rest..]));
    }
}

fn read_kinds(file: &Gguf, len: usize) -> Result<Vec<Kind>, Error> {
    let Some(numbers) = optional(file.integers("tokenizer.ggml.token_type"))? else {
        return Ok(vec![Kind::Normal; len]);
    };
    if numbers.len() != len {
        return Err(Error::Inconsistent(format!("{len} tokens but {} token types", numbers.len())));
    }
    let kind = |(id, number): (usize, i64)| match number {
        1 => Ok(Kind::Normal),
        2 => Ok(Kind::Unknown),
        3 => Ok(Kind::Control),
        4 => Ok(Kind::UserDefined),
        5 => Ok(Kind::Unused),
        6 => Ok(Kind::Byte),
        _ => Err(Error::Inconsistent(format!("token {id} has type {number}, expected 1 to 6"))),
    };
    numbers.into_iter().enumerate().map(kind).collect()
}

fn token_of_key(file: &Gguf, key: &str, len: usize) -> Result<Option<Token>, Error> {
    match optional(file.unsigned(key))? {
        None => Ok(None),
        Some(id) if id < len as u64 => Ok(Some(id as Token)),
        Some(id) => Err(Error::Inconsistent(format!("{key} is {id}, but there are {len} tokens"))),
    }
}

#[cfg(test)]
mod tests;
