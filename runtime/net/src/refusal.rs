//! Why somebody is not let in: one list of causes, each with its number on the wire, its counter, and words that say what
//! to do.
//!
//! A refusal travels as the code and reason with which a QUIC connection is closed: even who speaks another version of
//! our language understands that.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why somebody is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The cause, for those that act on it.
    pub cause: Cause,
    /// What is wrong and what to do, for those that read.
    pub message: String,
}

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $word:literal, $advice:literal;)*) => {
        /// A cause of a refusal.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Cause {
            $($(#[$doc])* $name,)*
        }

        impl Cause {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its number on the wire.
            pub const fn code(self) -> u32 {
                match self { $(Self::$name => $code),* }
            }

            /// Its word in counters.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word),* }
            }

            /// What whoever is refused can do.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$name => $advice),* }
            }
        }
    };
}

causes! {
    /// No certificate was shown.
    NoCertificate = 1, "no_certificate",
        "no certificate was shown: join the cluster first, with a token of `mobula token create`";
    /// The certificate is of another CA.
    ForeignAuthority = 2, "foreign_authority",
        "the certificate is not of this cluster's CA: check the address, or join this cluster with a token of its own";
    /// The certificate's time is over, or has not begun.
    Expired = 3, "expired",
        "the certificate is not good at this time: check the clocks of both hosts, or join again with a new token";
    /// The certificate cannot be used.
    BadCertificate = 4, "bad_certificate",
        "the certificate cannot be used: remove it and join again with a new token";
    /// The role is not one that may do this.
    WrongRole = 5, "wrong_role",
        "the certificate's role may not do this: use a token that `mobula token create --role` made for it";
    /// The other side belongs to another cluster.
    WrongCluster = 6, "wrong_cluster",
        "this is another cluster: check the address";
    /// The other side speaks another version.
    Protocol = 7, "protocol",
        "the two sides speak different versions: run one version of mobula on all hosts";
    /// There is no such token.
    TokenUnknown = 8, "token_unknown",
        "there is no such token: make one with `mobula token create` on the head's host";
    /// The token's time is over.
    TokenExpired = 9, "token_expired",
        "the token's time is over: make a new one with `mobula token create`";
    /// The token was used.
    TokenUsed = 10, "token_used",
        "the token was used already: make a new one with `mobula token create`";
    /// The token was tried too often with a wrong secret.
    TokenBurned = 11, "token_burned",
        "the token was tried with wrong secrets and is void: make a new one with `mobula token create`";
    /// The other side was declared dead.
    DeclaredDead = 12, "declared_dead",
        "this process was silent too long and was declared dead: start it again";
    /// The other side is not who was expected at that address.
    Another = 13, "another",
        "another process answers at this address";
    /// The first words cannot be read.
    Malformed = 14, "malformed",
        "the first words cannot be read";
    /// Too many are at the door.
    Busy = 15, "busy",
        "too many connections begin at once: try again later";
    /// The node has not joined itself yet.
    NotReady = 16, "not_ready",
        "this node is starting: try again";
    /// Something failed here.
    Failed = 17, "failed",
        "it failed on the other side: its log says why";
    /// The first words did not come in time.
    TooSlow = 18, "too_slow",
        "the first words did not come in time: try again";
    /// A process of this host says that it is a worker, and was started as none.
    WorkerUnknown = 19, "worker_unknown",
        "this node started no such worker";
}

impl Cause {
    /// The cause with this number.
    pub fn of_code(code: u64) -> Option<Self> {
        Self::ALL.iter().copied().find(|cause| u64::from(cause.code()) == code)
    }

    /// The cause of a handshake that TLS refused, from its alert (RFC 8446, 6.2).
    pub(crate) fn of_alert(alert: u8) -> Option<Self> {
        Some(match alert {
            116 => Self::NoCertificate,
            // unknown_ca; decrypt_error: a signature by another key with the CA's name.
            48 | 51 => Self::ForeignAuthority,
            45 => Self::Expired,
            42 | 43 | 44 | 46 => Self::BadCertificate,
            // protocol_version, no_application_protocol.
            70 | 120 => Self::Protocol,
            _ => return None,
        })
    }
}

impl Refusal {
    /// A refusal in the cause's own words.
    pub fn new(cause: Cause) -> Self {
        Self { cause, message: cause.advice().into() }
    }

    /// A refusal that says more: what was seen, and what to do.
    pub fn because(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into() }
    }

    /// The reason that travels: one packet holds it.
    pub(crate) fn reason(&self) -> &[u8] {
        let mut end = self.message.len().min(REASON_BYTES_MAX);
        while !self.message.is_char_boundary(end) {
            end -= 1;
        }
        &self.message.as_bytes()[..end]
    }

    /// What the other side said when it closed the connection.
    pub(crate) fn read(code: u64, reason: &[u8]) -> Option<Self> {
        let cause = Cause::of_code(code)?;
        let message = String::from_utf8_lossy(&reason[..reason.len().min(REASON_BYTES_MAX)]);
        // The words of others end up in terminals.
        let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Some(if message.is_empty() { Self::new(cause) } else { Self { cause, message } })
    }
}

/// A reason for closing must fit one datagram of 1,200 bytes.
const REASON_BYTES_MAX: usize = 900;

/// How often each cause has turned somebody away here (G21).
#[derive(Debug)]
pub struct Refusals {
    counts: Box<[AtomicU64]>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { counts: Cause::ALL.iter().map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Refusals {
    /// One more was turned away for this cause.
    pub fn count(&self, cause: Cause) {
        self.counts[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often for this cause.
    pub fn of(&self, cause: Cause) -> u64 {
        self.counts[cause as usize].load(Ordering::Relaxed)
    }

    /// How often altogether.
    pub fn total(&self) -> u64 {
        Cause::ALL.iter().map(|cause| self.of(*cause)).sum()
    }

    /// The word and count of each cause.
    pub fn list(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Cause::ALL.iter().map(|cause| (cause.word(), self.of(*cause)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_travels_and_says_what_to_do() {
        for (at, cause) in Cause::ALL.iter().enumerate() {
            let refusal = Refusal::new(*cause);
            assert_eq!(Refusal::read(cause.code().into(), refusal.reason()), Some(refusal.clone()));
            assert_eq!(Refusal::read(cause.code().into(), b""), Some(refusal));
            assert_eq!((*cause as usize, cause.code() as usize), (at, at + 1), "its place in the counters");
        }
        assert_eq!(Refusal::read(0, b"bye"), None);
        let long = Refusal::because(Cause::Failed, "ä".repeat(1000));
        assert!(long.reason().len() <= REASON_BYTES_MAX && std::str::from_utf8(long.reason()).is_ok());
        let odd = Refusal::read(17, b"\x1b[2Jgone\xff").unwrap();
        assert_eq!(odd.message, " [2Jgone\u{fffd}");
    }

    #[test]
    fn each_cause_is_counted_for_itself() {
        let refusals = Refusals::default();
        refusals.count(Cause::Expired);
        refusals.count(Cause::Expired);
        refusals.count(Cause::Busy);
        let seen: Vec<_> = refusals.list().filter(|(_, count)| *count > 0).collect();
        assert_eq!(seen, [("expired", 2), ("busy", 1)]);
    }
}
