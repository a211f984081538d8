//! Tokens' bytes to text, one token at a time, never half a character.

/// Keeps the bytes of an unfinished character until the next token completes it.
///
/// ```
/// use mobula_llm::tokenizer::Detokenizer;
///
/// let mut detokenizer = Detokenizer::new();
/// assert_eq!(detokenizer.push(b"caf\xc3"), "caf");
/// assert_eq!(detokenizer.push(b"\xa9!"), "é!");
/// assert_eq!(detokenizer.push(b"\xe2\x82"), "");
/// assert_eq!(detokenizer.finish(), "\u{fffd}"); // The model stopped inside a character.
/// ```
#[derive(Debug, Default, Clone)]
pub struct Detokenizer {
    /// At most 3 bytes: a valid beginning of a character.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// One with nothing pending.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a token's bytes and gives the characters that are complete. Bytes that can begin no character become
    /// U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut taken = 0;
        loop {
            match std::str::from_utf8(&self.pending[taken..]) {
                Ok(valid) => {
                    text.push_str(valid);
                    taken = self.pending.len();
                    break;
                }
                Err(error) => {
                    let valid = &self.pending[taken..taken + error.valid_up_to()];
                    text.push_str(std::str::from_utf8(valid).expect("it is valid up to there"));
                    taken += error.valid_up_to();
                    let Some(wrong) = error.error_len() else {
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    taken += wrong;
                }
            }
        }
        self.pending.drain(..taken);
        text
    }

    /// Ends the text: an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.pending);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    /// Whatever the cuts, the text is what a lossy decoding of all bytes at once gives.
    #[test]
    fn cuts_do_not_show() {
        for seed in 0..2_000 {
            let mut random = SplitMix64::new(seed);
            let alphabet = ["a", "é", "€", "🦀", "\u{7ff}", "\u{ffff}"];
            let mut bytes = Vec::new();
            for _ in 0..20 {
                match random.below(8) {
                    0 => bytes.push(random.next_u64() as u8),
                    _ => bytes.extend(alphabet[random.below(6) as usize].as_bytes()),
                }
            }
            let (mut detokenizer, mut text, mut rest) = (Detokenizer::new(), String::new(), &bytes[..]);
            while !rest.is_empty() {
                let (now, later) = rest.split_at(1 + random.below(rest.len() as u64) as usize);
                text += &detokenizer.push(now);
                rest = later;
            }
            text += &detokenizer.finish();
            assert_eq!(text, String::from_utf8_lossy(&bytes), "seed {seed}");
        }
    }
}
