//! Join tokens: `id.secret.pin`, what a new member shows once to be given a certificate.
//!
//! The pin is the hash of the cluster's CA certificate, so whoever holds a token knows whom to believe before it sends
//! the secret. The head keeps the secret's hash only; when a token ends and how often it was used is the head's business.

use std::fmt;
use std::str::FromStr;

use subtle::ConstantTimeEq;

/// A token as it is handed on.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Names it, in lists and logs; not secret.
    pub id: TokenId,
    /// What makes it good.
    pub secret: Secret,
    /// The CA that the cluster's nodes must show.
    pub pin: Pin,
}

/// Names a token; not secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; ID_BYTES]);

/// The secret part of a token; `Debug` does not show it.
#[derive(Clone)]
pub struct Secret([u8; SECRET_BYTES]);

/// What the head keeps of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretHash(pub [u8; 32]);

/// The hash of a CA certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin(pub [u8; PIN_BYTES]);

/// An id is 64 bits: tokens live 15 minutes, so it need only be unlikely to be there twice.
const ID_BYTES: usize = 8;
/// 256 bits cannot be guessed, whatever the number of tries.
const SECRET_BYTES: usize = 32;
/// 128 bits: a second CA with this hash would have to be found, which takes 2^128 tries.
const PIN_BYTES: usize = 16;

impl Token {
    /// Makes a token for the cluster whose CA has `pin`.
    ///
    /// # Errors
    ///
    /// The system gives no random numbers.
    pub fn new(pin: Pin) -> Result<Self, getrandom::Error> {
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut secret)?;
        Ok(Self { id: TokenId(id), secret: Secret(secret), pin })
    }
}

impl Secret {
    /// What is kept of it.
    pub fn hash(&self) -> SecretHash {
        SecretHash(*blake3::hash(&self.0).as_bytes())
    }

    /// Its bytes, for the one message that carries it.
    pub(crate) const fn bytes(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    /// A secret that somebody has sent.
    pub(crate) const fn received(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    /// Whether `hash` was made of it; takes the same time wherever the first difference is.
    pub fn matches(&self, hash: &SecretHash) -> bool {
        self.hash().0.ct_eq(&hash.0).into()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl Pin {
    /// The pin of a CA certificate (DER).
    pub fn of(certificate: &[u8]) -> Self {
        let mut pin = [0; PIN_BYTES];
        pin.copy_from_slice(&blake3::hash(certificate).as_bytes()[..PIN_BYTES]);
        Self(pin)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}.….{})", self.id, self.pin)
    }
}

/// The whole token, secret included: for whoever is to use it.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.id.0)?;
        f.write_str(".")?;
        hex(f, &self.secret.0)?;
        f.write_str(".")?;
        hex(f, &self.pin.0)
    }
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.trim().split('.').take(4).collect();
        let [id, secret, pin] = parts[..] else { return Err(TokenError::Parts { found: parts.len() }) };
        Ok(Self {
            id: TokenId(read("id", id)?),
            secret: Secret(read("secret", secret)?),
            pin: Pin(read("pin of the cluster's CA", pin)?),
        })
    }
}

impl FromStr for TokenId {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        read("id", text).map(Self)
    }
}

fn read<const BYTES: usize>(part: &'static str, text: &str) -> Result<[u8; BYTES], TokenError> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.ok_or(TokenError::Digits { part })?;
    if digits.len() != 2 * BYTES {
        return Err(TokenError::Length { part, found: digits.len(), expected: 2 * BYTES });
    }
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Ok(bytes)
}

/// Why a text is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts.
    #[error(
        "a token is `id.secret.pin`, this has {found} parts: copy the whole line that `mobula token create` printed"
    )]
    Parts {
        /// How many there are, counted up to 4.
        found: usize,
    },
    /// A part was cut or has grown.
    #[error(
        "the {part} of a token has {expected} digits, this one {found}: copy the whole line that `mobula token create` printed"
    )]
    Length {
        /// Which.
        part: &'static str,
        /// Its digits.
        found: usize,
        /// The digits it has in a whole token.
        expected: usize,
    },
    /// A part has other characters than digits.
    #[error(
        "the {part} of a token is hexadecimal, this is not: copy the whole line that `mobula token create` printed"
    )]
    Digits {
        /// Which.
        part: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_its_secret_is_kept_as_a_hash() {
        let token = Token::new(Pin::of(b"a certificate")).unwrap();
        let text = token.to_string();
        assert_eq!(text.len(), 16 + 1 + 64 + 1 + 32);
        assert_eq!(format!(" {text}\n").parse(), Ok(token.clone()), "blanks around it are no fault");
        assert!(token.secret.matches(&token.secret.hash()));
        let other = Token::new(token.pin).unwrap();
        assert!(!other.secret.matches(&token.secret.hash()));
        assert_ne!((other.id, &other.secret), (token.id, &token.secret));
        let secret = text.split('.').nth(1).unwrap().to_owned();
        assert!(!format!("{token:?} {:?}", token.secret).contains(&secret), "no log shows it");
    }

    #[test]
    fn every_cut_and_every_wrong_digit_is_refused_with_the_part() {
        let text = Token::new(Pin([7; 16])).unwrap().to_string();
        for cut in 0..text.len() {
            assert!(text[..cut].parse::<Token>().is_err(), "{cut} characters");
        }
        for at in 0..text.len() {
            let mut wrong = text.clone();
            wrong.replace_range(at..=at, "g");
            assert!(wrong.parse::<Token>().is_err(), "at {at}");
        }
        let long = format!("{text}.");
        assert_eq!(long.parse::<Token>(), Err(TokenError::Parts { found: 4 }));
        let cut = &text[..text.len() - 1];
        let expect = TokenError::Length { part: "pin of the cluster's CA", found: 31, expected: 32 };
        assert_eq!(cut.parse::<Token>(), Err(expect));
        assert!("ä.ö.ü".parse::<Token>().is_err());
    }
}
