//! The first words on a connection, before anything is believed: bounded, and readable to other versions as far as they
//! must be.
//!
//! ```text
//! frame head │ protocol (4 bytes) │ words, in the layout of mobula_wire::codec
//! ```
//!
//! The protocol stands first and at a fixed place, so that a side of another version can say so (G20).

use mobula_logic::session::{Link, Made, Offer};
use mobula_types::{ClusterId, ProcessId};
use mobula_wire::frame::{CONTROL_BYTES_MAX, FRAME_HEAD_BYTES, GREETING_BYTES_MAX};
use mobula_wire::{FrameHead, FrameKind, HeadError, PROTOCOL};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::refusal::{Cause, Refusal};

/// What either side of a connection between members says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Greeting {
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// Abilities that this side has beyond the protocol's; none is defined yet, and unknown ones are no fault.
    pub(crate) features: u64,
    /// Who says it, if it knows; the side that is connected to always does.
    pub(crate) process: Option<ProcessId>,
    /// Where the session stands.
    pub(crate) session: SessionWords,
    /// The hello of the side that connects, or the welcome of the other.
    pub(crate) body: Vec<u8>,
}

/// [`Offer`] as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionWords {
    half: u64,
    knows: Option<u64>,
    is_bulk: bool,
    number: u64,
    seen: u64,
    received: [u64; 3],
}

impl From<Offer> for SessionWords {
    fn from(offer: Offer) -> Self {
        let Offer { half, knows, link, made: Made { number, seen }, received } = offer;
        Self { half, knows, is_bulk: link == Link::Bulk, number, seen, received }
    }
}

impl From<SessionWords> for Offer {
    fn from(words: SessionWords) -> Self {
        let SessionWords { half, knows, is_bulk, number, seen, received } = words;
        let link = if is_bulk { Link::Bulk } else { Link::Main };
        Self { half, knows, link, made: Made { number, seen }, received }
    }
}

/// How a member's first words travel: TLS has shown who it is, so they may be longer than a stranger's. A node that registers
/// again says with them which names its actors hold. What does not fit one frame goes on in the next: a frame that is full
/// is not the last.
pub(crate) const MEMBER: FrameKind = FrameKind::Cluster;

/// The first words of a node: 100,000 names, as many as a cluster has, of 150 bytes each.
pub(crate) const NODE_BYTES_MAX: usize = 16 << 20;

/// The first words of who is not known yet as the body of a frame.
///
/// # Errors
///
/// They are longer than first words may be.
pub(crate) fn encode<T: Serialize>(words: &T) -> Result<Vec<u8>, Refusal> {
    encode_within(words, GREETING_BYTES_MAX)
}

/// A member's first words as the body of a frame.
///
/// # Errors
///
/// They are longer than words of control may be.
pub(crate) fn encode_member<T: Serialize>(words: &T) -> Result<Vec<u8>, Refusal> {
    encode_within(words, NODE_BYTES_MAX)
}

/// The bodies of the frames in which a member's first words travel.
pub(crate) fn frames(words: &[u8]) -> impl Iterator<Item = &[u8]> {
    // The last one must not be full.
    let end = words.len().is_multiple_of(CONTROL_BYTES_MAX).then_some(&[][..]);
    words.chunks(CONTROL_BYTES_MAX).chain(end)
}

fn encode_within<T: Serialize>(words: &T, max: usize) -> Result<Vec<u8>, Refusal> {
    let mut bytes = PROTOCOL.to_le_bytes().to_vec();
    let words = mobula_wire::encode(words).map_err(|error| Refusal::because(Cause::Malformed, error.to_string()))?;
    bytes.extend_from_slice(&words);
    if bytes.len() > max {
        let message = format!("first words of {} bytes, where {max} are allowed", bytes.len());
        return Err(Refusal::because(Cause::Malformed, message));
    }
    Ok(bytes)
}

/// Reads what [`encode`] made, from bytes that anyone may have sent.
///
/// # Errors
///
/// Another version, or no such words.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    decode_within::<T, GREETING_BYTES_MAX>(bytes)
}

/// Reads what [`encode_member`] made, from bytes that a member has sent.
///
/// # Errors
///
/// Another version, or no such words.
pub(crate) fn decode_member<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    decode_within::<T, NODE_BYTES_MAX>(bytes)
}

fn decode_within<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, Refusal> {
    let Some((protocol, words)) = bytes.split_first_chunk() else {
        return Err(Refusal::new(Cause::Malformed));
    };
    let theirs = u32::from_le_bytes(*protocol);
    if theirs != PROTOCOL {
        return Err(other_protocol(theirs));
    }
    mobula_wire::decode_limited::<T, LIMIT>(words)
        .map_err(|error| Refusal::because(Cause::Malformed, format!("the first words cannot be read: {error}")))
}

fn other_protocol(theirs: u32) -> Refusal {
    Refusal::because(Cause::Protocol, HeadError::Version { theirs }.to_string())
}

/// Reads the one frame that may come before the other side is known.
///
/// # Errors
///
/// The stream ended or is no such frame.
pub(crate) async fn read(stream: &mut quinn::RecvStream) -> Result<Vec<u8>, FirstWords> {
    read_kind(stream, FrameKind::Greeting).await
}

/// Reads the frames with the first words of a member, of which so many bytes are taken.
///
/// # Errors
///
/// The stream ended or holds no such frames, or more.
pub(crate) async fn read_member(stream: &mut quinn::RecvStream, max: usize) -> Result<Vec<u8>, FirstWords> {
    let mut words = Vec::new();
    loop {
        let body = read_kind(stream, MEMBER).await?;
        if words.len() + body.len() > max {
            let message = format!("first words of more than {max} bytes");
            return Err(Refusal::because(Cause::Malformed, message).into());
        }
        words.extend_from_slice(&body);
        if body.len() < CONTROL_BYTES_MAX {
            return Ok(words);
        }
    }
}

async fn read_kind(stream: &mut quinn::RecvStream, expected: FrameKind) -> Result<Vec<u8>, FirstWords> {
    let mut head = [0; FRAME_HEAD_BYTES];
    stream.read_exact(&mut head).await.map_err(|_| FirstWords::Gone)?;
    let body_bytes = match FrameHead::read(head) {
        Ok(FrameHead { kind, body_bytes }) if kind == expected => body_bytes,
        Ok(_) => return Err(Refusal::new(Cause::Malformed).into()),
        Err(HeadError::Version { theirs }) => return Err(other_protocol(theirs).into()),
        Err(error) => return Err(Refusal::because(Cause::Malformed, error.to_string()).into()),
    };
    // Memory grows with what has come, not with what was announced.
    let mut body = Vec::new();
    while body.len() < body_bytes {
        let chunk = stream.read_chunk(body_bytes - body.len(), true).await.map_err(|_| FirstWords::Gone)?;
        body.extend_from_slice(&chunk.ok_or(FirstWords::Gone)?.bytes);
    }
    Ok(body)
}

/// Writes a frame of first words.
///
/// # Errors
///
/// The connection is over.
pub(crate) async fn write(stream: &mut quinn::SendStream, body: &[u8]) -> Result<(), FirstWords> {
    write_kind(stream, FrameKind::Greeting, body).await
}

/// Writes the frames with the first words of a member.
///
/// # Errors
///
/// The connection is over.
pub(crate) async fn write_member(stream: &mut quinn::SendStream, words: &[u8]) -> Result<(), FirstWords> {
    for body in frames(words) {
        write_kind(stream, MEMBER, body).await?;
    }
    Ok(())
}

async fn write_kind(stream: &mut quinn::SendStream, kind: FrameKind, body: &[u8]) -> Result<(), FirstWords> {
    let head = FrameHead { kind, body_bytes: body.len() }.bytes();
    stream.write_all(&[&head, body].concat()).await.map_err(|_| FirstWords::Gone)
}

/// Why there are no first words.
#[derive(Debug)]
pub(crate) enum FirstWords {
    /// The connection is over: it says why.
    Gone,
    /// They are wrong.
    Refused(Refusal),
}

impl From<Refusal> for FirstWords {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting() -> Greeting {
        let made = Made { number: 1, seen: 2 };
        let offer = Offer { half: 3, knows: Some(4), link: Link::Bulk, made, received: [5, 6, 7] };
        Greeting {
            cluster: ClusterId([8; 16]),
            features: 0,
            process: Some(ProcessId::from_u64(9)),
            session: offer.into(),
            body: b"hello".to_vec(),
        }
    }

    #[test]
    fn first_words_read_back_and_say_their_version_first() {
        let mut bytes = encode(&greeting()).unwrap();
        let read: Greeting = decode(&bytes).unwrap();
        assert_eq!(read, greeting());
        assert_eq!(SessionWords::from(Offer::from(read.session)), read.session);
        bytes[0] += 1;
        bytes.truncate(4);
        let refusal = decode::<Greeting>(&bytes).unwrap_err();
        assert_eq!(refusal.cause, Cause::Protocol);
        assert!(refusal.message.contains("protocol 2"), "{refusal}");
    }

    #[test]
    fn cut_and_overlong_words_are_refused() {
        let bytes = encode(&greeting()).unwrap();
        for cut in 0..bytes.len() {
            assert_eq!(decode::<Greeting>(&bytes[..cut]).unwrap_err().cause, Cause::Malformed, "{cut} bytes");
        }
        let long = Greeting { body: vec![0; GREETING_BYTES_MAX], ..greeting() };
        assert_eq!(encode(&long).unwrap_err().cause, Cause::Malformed);
        assert_eq!(decode_member::<Greeting>(&encode_member(&long).unwrap()).unwrap(), long, "a member may say more");
        let longer = Greeting { body: vec![0; NODE_BYTES_MAX], ..greeting() };
        assert_eq!(encode_member(&longer).unwrap_err().cause, Cause::Malformed);
    }

    #[test]
    fn words_that_do_not_fit_one_frame_go_on_in_the_next() {
        for (bytes, expect) in [
            (0, &[0][..]),
            (5, &[5]),
            (CONTROL_BYTES_MAX - 1, &[CONTROL_BYTES_MAX - 1]),
            (CONTROL_BYTES_MAX, &[CONTROL_BYTES_MAX, 0]),
            (CONTROL_BYTES_MAX + 1, &[CONTROL_BYTES_MAX, 1]),
        ] {
            let words = vec![7; bytes];
            assert_eq!(frames(&words).map(<[u8]>::len).collect::<Vec<_>>(), expect);
            assert_eq!(frames(&words).collect::<Vec<_>>().concat(), words);
        }
    }
}
