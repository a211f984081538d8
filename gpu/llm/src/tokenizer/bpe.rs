//! Byte-level byte-pair encoding: the pair of neighbours whose merge was learnt first is joined first (Sennrich et al.,
//! "Neural machine translation of rare words with subword units", 2016; byte-level as in GPT-2's `encoder.py`).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::{Error, Token};

/// The learnt merges.
#[derive(Debug)]
pub(super) struct Bpe {
    /// Tokens by their bytes, control tokens left out: merges must not make one out of a user's text.
    tokens: HashMap<Box<[u8]>, Token>,
    /// The token of each single byte.
    of_byte: [Option<Token>; 256],
    /// What two neighbours become, and how early that was learnt.
    merges: HashMap<(Token, Token), (u32, Token)>,
    /// Whether a piece that is a token is taken as it is, whatever its merges would give (Llama 3).
    whole_pieces_first: bool,
}

impl Bpe {
    /// Takes the bytes of every token and the merges as `left right` in GPT-2's alphabet. Of two tokens with the same
    /// bytes the first counts.
    pub(super) fn new(
        bytes: &[Box<[u8]>],
        may_be_text: impl Fn(Token) -> bool,
        merges: &[&str],
        whole_pieces_first: bool,
    ) -> Result<Self, Error> {
        let mut tokens = HashMap::with_capacity(bytes.len());
        for (id, bytes) in (0..).zip(bytes).filter(|(id, _)| may_be_text(*id)) {
            tokens.entry(bytes.clone()).or_insert(id);
        }
        let of_byte = std::array::from_fn(|byte| tokens.get(&[byte as u8][..]).copied());
        let mut ranks = HashMap::with_capacity(merges.len());
        for (rank, merge) in (0..).zip(merges) {
            // A token can itself be a space's stand-in but never a space, so the first one separates.
            let (left, right) = merge.split_once(' ').ok_or_else(|| {
                Error::Inconsistent(format!("merge {rank} is {merge:?}, expected two tokens and a space between"))
            })?;
            let (left, right) = (bytes_of(left, false), bytes_of(right, false));
            let joined = [&left[..], &right[..]].concat();
            let find = |bytes: &[u8]| {
                tokens.get(bytes).copied().ok_or_else(|| {
                    let text = String::from_utf8_lossy(bytes);
                    Error::Inconsistent(format!("merge {rank} ({merge:?}) needs the token {text:?}, which is missing"))
                })
            };
            ranks.entry((find(&left)?, find(&right)?)).or_insert((rank, find(&joined)?));
        }
        Ok(Bpe { tokens, of_byte, merges: ranks, whole_pieces_first })
    }

    /// Appends the tokens of one piece of text.
    ///
    /// A linked list of symbols and a heap of candidate merges: `O(n log n)` in the bytes of the piece, which a user
    /// may make a megabyte long.
    pub(super) fn encode(&self, piece: &[u8], tokens: &mut Vec<Token>) {
        if self.whole_pieces_first
            && let Some(&token) = self.tokens.get(piece)
        {
            tokens.push(token);
            return;
        }
        let mut symbols: Vec<Symbol> = Vec::with_capacity(piece.len());
        for token in piece.iter().filter_map(|&byte| self.of_byte[byte as usize]) {
            let at = symbols.len();
            symbols.push(Symbol { token: Some(token), previous: at.wrapping_sub(1), next: at + 1 });
        }
        let mut heap = BinaryHeap::with_capacity(symbols.len());
        for left in 1..symbols.len() {
            self.propose(&symbols, left - 1, left, &mut heap);
        }
        while let Some(Reverse((_, left, right, pair))) = heap.pop() {
            // Stale if either side was merged meanwhile.
            if (symbols[left].token, symbols[right].token) != (Some(pair.0), Some(pair.1)) {
                continue;
            }
            symbols[left].token = Some(self.merges[&pair].1);
            symbols[right].token = None;
            let next = symbols[right].next;
            symbols[left].next = next;
            if next < symbols.len() {
                symbols[next].previous = left;
                self.propose(&symbols, left, next, &mut heap);
            }
            let previous = symbols[left].previous;
            if previous < symbols.len() {
                self.propose(&symbols, previous, left, &mut heap);
            }
        }
        tokens.extend(symbols.iter().filter_map(|symbol| symbol.token));
    }

    fn propose(&self, symbols: &[Symbol], left: usize, right: usize, heap: &mut BinaryHeap<Reverse<Candidate>>) {
        if let (Some(a), Some(b)) = (symbols[left].token, symbols[right].token)
            && let Some(&(rank, _)) = self.merges.get(&(a, b))
        {
            heap.push(Reverse((rank, left, right, (a, b))));
        }
    }
}

/// Rank, left symbol, right symbol, and the tokens they had: ordered by rank, then from the left.
type Candidate = (u32, usize, usize, (Token, Token));

#[derive(Clone, Copy)]
struct Symbol {
    /// `None` once it became part of its left neighbour.
    token: Option<Token>,
    /// `usize::MAX` before the first.
    previous: usize,
    /// The count of symbols after the last.
    next: usize,
}

/// The bytes a token stands for. GPT-2 writes every byte as one visible character (`Ġ` for a space), special tokens
/// are written as they are.
pub(super) fn bytes_of(text: &str, as_written: bool) -> Box<[u8]> {
    if as_written {
        return text.as_bytes().into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match byte_of(c) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes.into()
}

/// The inverse of GPT-2's `bytes_to_unicode`: visible Latin-1 characters are themselves, the other 68 bytes are the
/// characters from U+0100 on, in order.
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// How GPT-2 writes a byte: what [`byte_of`] reads.
pub(crate) fn char_of(byte: u8) -> char {
    let code = match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => byte.into(),
        0..=0x20 => 0x100 + u32::from(byte),
        0x7f..=0xa0 => 0x121 + u32::from(byte) - 0x7f,
        0xad => 0x143,
    };
    char::from_u32(code).expect("all codes are below U+0144")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_one_to_one() {
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!((char_of(b' '), char_of(b'\n')), ('Ġ', 'Ċ'));
        assert_eq!(byte_of('中'), None);
    }
}
