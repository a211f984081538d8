//! Ends an answer at a stop string, wherever tokens begin and end.
//!
//! Text that may turn out to be the start of a stop string is held back until it is known: a reader never sees a part
//! of one. Each stop string is a Knuth-Morris-Pratt automaton, so a byte costs constant time whatever the strings are,
//! and the outcome does not depend on how the text is cut.

/// Stop strings of one request at most; OpenAI allows 4.
pub const STOPS_MAX: usize = 16;
/// Bytes of one stop string at most. It bounds what is held back from a reader.
pub const STOP_BYTES_MAX: usize = 1024;

/// Watches a growing text for stop strings.
///
/// ```
/// use mobula_llm::stop::Stops;
///
/// let mut stops = Stops::new(["\n\n"])?;
/// assert_eq!(stops.push("one\n"), "one"); // The line break may be the first of two.
/// assert_eq!(stops.push("two\n"), "\ntwo");
/// assert_eq!(stops.push("\nthree"), "");
/// assert_eq!(stops.stopped(), Some("\n\n"));
/// # Ok::<(), mobula_llm::stop::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Stops {
    automata: Vec<Automaton>,
    /// The longest end of the text that begins a stop string.
    held: String,
    stopped: Option<usize>,
}

/// Stop strings that are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// More strings than [`STOPS_MAX`].
    #[error("{0} stop strings, at most {STOPS_MAX} are allowed")]
    TooMany(usize),
    /// A string longer than [`STOP_BYTES_MAX`].
    #[error("stop string {index} has {bytes} bytes, at most {STOP_BYTES_MAX} are allowed")]
    TooLong {
        /// Which one, from 0.
        index: usize,
        /// Its length.
        bytes: usize,
    },
    /// An empty string, which would stop every answer before it begins.
    #[error("stop string {index} is empty")]
    Empty {
        /// Which one, from 0.
        index: usize,
    },
}

impl Stops {
    /// Watches for these strings; none of them is fine.
    ///
    /// # Errors
    /// [`Error`] beyond the limits.
    pub fn new<S: Into<String>>(stops: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let stops: Vec<String> = stops.into_iter().map(Into::into).collect();
        if stops.len() > STOPS_MAX {
            return Err(Error::TooMany(stops.len()));
        }
        for (index, stop) in stops.iter().enumerate() {
            match stop.len() {
                0 => return Err(Error::Empty { index }),
                1..=STOP_BYTES_MAX => {}
                bytes => return Err(Error::TooLong { index, bytes }),
            }
        }
        let automata = stops.into_iter().map(Automaton::new).collect();
        Ok(Stops { automata, held: String::new(), stopped: None })
    }

    /// Adds text and gives what a reader may see of it and of what was held back. Nothing after a stop.
    pub fn push(&mut self, text: &str) -> String {
        if self.stopped.is_some() {
            return String::new();
        }
        let known = self.held.len();
        self.held.push_str(text);
        for (at, &byte) in text.as_bytes().iter().enumerate() {
            // The strings that end here, the longest first: it began first.
            let mut ends = None;
            for (index, automaton) in self.automata.iter_mut().enumerate() {
                let whole = automaton.step(byte);
                if whole && ends.is_none_or(|(_, len)| automaton.stop.len() > len) {
                    ends = Some((index, automaton.stop.len()));
                }
            }
            if let Some((index, len)) = ends {
                self.stopped = Some(index);
                self.held.truncate(known + at + 1 - len);
                return std::mem::take(&mut self.held);
            }
        }
        let held = self.automata.iter().map(|automaton| automaton.matched).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - held);
        std::mem::replace(&mut self.held, rest)
    }

    /// Ends the text: what was held back was no stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The stop string that ended the text.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.map(|index| self.automata[index].stop.as_str())
    }
}

/// How much of one stop string the text ends with.
#[derive(Debug, Clone)]
struct Automaton {
    stop: String,
    /// For each prefix, the length of its longest proper end that is a prefix too.
    falls_to: Vec<usize>,
    matched: usize,
}

impl Automaton {
    fn new(stop: String) -> Self {
        let bytes = stop.as_bytes();
        let mut falls_to = vec![0; bytes.len()];
        for i in 1..bytes.len() {
            let mut len = falls_to[i - 1];
            while len > 0 && bytes[i] != bytes[len] {
                len = falls_to[len - 1];
            }
            falls_to[i] = len + usize::from(bytes[i] == bytes[len]);
        }
        Automaton { stop, falls_to, matched: 0 }
    }

    /// Takes one byte of text; true when it completes the string.
    fn step(&mut self, byte: u8) -> bool {
        let stop = self.stop.as_bytes();
        while self.matched > 0 && stop[self.matched] != byte {
            self.matched = self.falls_to[self.matched - 1];
        }
        self.matched += usize::from(stop[self.matched] == byte);
        self.matched == stop.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    /// The text up to the stop string that is complete first, of several the longest.
    fn expected(text: &str, stops: &[&str]) -> (String, Option<String>) {
        let ends = text.char_indices().map(|(i, c)| i + c.len_utf8());
        for end in ends {
            let here = stops.iter().filter(|stop| text[..end].ends_with(**stop)).max_by_key(|stop| stop.len());
            if let Some(stop) = here {
                return (text[..end - stop.len()].to_owned(), Some((*stop).to_owned()));
            }
        }
        (text.to_owned(), None)
    }

    /// Random texts of few letters, so that stop strings nearly match all the time, cut at random places.
    #[test]
    fn cuts_do_not_show() {
        const STOPS: [&str; 8] = ["ab", "aab", "abaab", "b", "é", "aé", "éa", "aaaa"];
        for seed in 0..5_000 {
            let mut random = SplitMix64::new(seed);
            let stops: Vec<&str> = (0..random.below(4)).map(|_| STOPS[random.below(8) as usize]).collect();
            let parts: Vec<&str> = (0..12).map(|_| ["a", "b", "é", "aa"][random.below(4) as usize]).collect();
            let text = parts.concat();
            let (want, stop) = expected(&text, &stops);

            let mut watch = Stops::new(stops.iter().copied()).unwrap();
            let mut seen = String::new();
            for part in parts {
                seen += &watch.push(part);
                assert!(want.starts_with(&seen), "seed {seed}: {seen:?} of {want:?} for {stops:?}");
            }
            assert_eq!(watch.stopped().map(str::to_owned), stop, "seed {seed}");
            seen += &watch.finish();
            assert_eq!(seen, want, "seed {seed}: {text:?} with {stops:?}");
        }
    }

    #[test]
    fn nothing_comes_after_a_stop() {
        let mut stops = Stops::new(["END"]).unwrap();
        assert_eq!(stops.push("xENDy"), "x");
        assert_eq!(stops.push("z") + &stops.finish(), "");
    }

    #[test]
    fn limits_are_named() {
        let error = |stops: &[&str]| Stops::new(stops.iter().copied()).unwrap_err().to_string();
        let long = "x".repeat(1_900_000);
        assert_eq!(error(&["a", &long]), "stop string 1 has 1900000 bytes, at most 1024 are allowed");
        assert_eq!(error(&[""]), "stop string 0 is empty");
        assert_eq!(error(&["a"; 17]), "17 stop strings, at most 16 are allowed");
    }
}
