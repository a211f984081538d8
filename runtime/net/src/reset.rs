//! How a process that was started again frees its peers of connections to the one before.
//!
//! A packet for a connection that nobody here knows is answered by a *stateless reset*, which the other side believes if
//! it ends in a token that it was given for that connection (RFC 9000, 10.3). Tokens are made from the name of the
//! connection and a key that outlives the process: so a peer's next packet after a restart ends its connection, where it
//! would wait in silence otherwise. Names of connections are random, and say nothing of who gave them.

use std::time::Duration;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator};
use subtle::ConstantTimeEq;

/// Makes tokens.
pub(crate) struct ResetKey(pub(crate) [u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        signature.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let is_same: bool = blake3::keyed_hash(&self.0, data).as_bytes()[..].ct_eq(signature).into();
        if is_same { Ok(()) } else { Err(CryptoError) }
    }
}

/// Names connections.
pub(crate) struct RandomNames;

/// Bytes of a name: quinn's own choice.
const NAME_BYTES: usize = 8;

impl ConnectionIdGenerator for RandomNames {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut name = [0; NAME_BYTES];
        getrandom::fill(&mut name).expect("the system gave random numbers for the certificate's key before");
        ConnectionId::new(&name)
    }

    fn cid_len(&self) -> usize {
        NAME_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_depend_on_key_and_name_alone() {
        let sign = |key: u8, name: &[u8]| {
            let mut signature = [0; 32];
            ResetKey([key; 32]).sign(name, &mut signature);
            signature
        };
        assert_eq!(sign(1, b"name"), sign(1, b"name"));
        assert_ne!(sign(1, b"name"), sign(2, b"name"));
        assert_ne!(sign(1, b"name"), sign(1, b"eman"));
        assert!(ResetKey([1; 32]).verify(b"name", &sign(1, b"name")).is_ok());
        assert!(ResetKey([1; 32]).verify(b"name", &sign(2, b"name")).is_err());
        assert!(ResetKey([1; 32]).verify(b"name", b"short").is_err());
    }
}
