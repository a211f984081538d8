//! A new certificate for a member that has one: its wish, signed with the key of the one that runs out.
//!
//! A driver or a command line on another host speaks with any node, and only the head has the CA's key. The head believes
//! the signature and not the node between: else whoever has taken a node over could make itself an admin.

use std::sync::Arc;
use std::time::SystemTime;

use mobula_types::Role;
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::authority::{Authority, PublicKey};
use crate::certificate::{self, PeerIdentity};
use crate::identity::{Identity, IdentityError, Key};
use crate::quic::provider;
use crate::refusal::{Cause, Refusal};

/// Before what is signed, so that no signature made for something else is one for this.
const CONTEXT: &[u8] = b"mobula 2026-11 renewal of a certificate\0";

/// A member's wish for a certificate for another key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The certificate that it has.
    pub certificate: Vec<u8>,
    /// The key for the new one.
    pub key: PublicKey,
    /// Over the new key, by the key of the old one.
    pub signature: Vec<u8>,
}

impl Renewal {
    /// The wish of whoever has `identity` for a certificate for `key`.
    ///
    /// # Errors
    ///
    /// The identity's key cannot sign.
    pub fn new(identity: &Identity, key: &Key) -> Result<Self, IdentityError> {
        let public = key.public();
        let signature = identity.sign(&message(&public))?;
        Ok(Self { certificate: identity.certificate().to_vec(), key: public, signature })
    }
}

impl Authority {
    /// A new certificate for a member that is no node: a node asks in its own name. What is shown came from anywhere.
    ///
    /// # Errors
    ///
    /// The old certificate is not of this CA or not good now, or somebody else has signed.
    pub fn renew(&self, renewal: &Renewal, now: SystemTime) -> Result<CertificateDer<'static>, Refusal> {
        let failed = |error: &dyn std::fmt::Display| Refusal::because(Cause::Failed, error.to_string());
        let bad = || Refusal::new(Cause::BadCertificate);
        let old = CertificateDer::from(renewal.certificate.as_slice());
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate().clone()).map_err(|error| failed(&error))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let verifier = verifier.build().map_err(|error| failed(&error))?;
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let verified = verifier.verify_client_cert(&old, &[], UnixTime::since_unix_epoch(since));
        verified.map_err(|error| Refusal::new(cause_of(&error)))?;
        let PeerIdentity { role, member, .. } = PeerIdentity::of(&old).map_err(|_| bad())?;
        let signer = certificate::public_key(&old).map_err(|_| bad())?;
        if !is_signed(&signer, &message(&renewal.key), &renewal.signature) {
            return Err(Refusal::because(Cause::BadCertificate, "the wish is not signed by the certificate's owner"));
        }
        if role == Role::Node {
            return Err(Refusal::because(Cause::WrongRole, "a node renews its certificate in its own name"));
        }
        self.issue(member, role, &renewal.key, now).map_err(|error| failed(&error))
    }
}

/// Why a certificate is not believed.
fn cause_of(error: &rustls::Error) -> Cause {
    use CertificateError::*;
    match error {
        rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
        ) => Cause::Expired,
        // A signature by another key with the CA's name.
        rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature) => Cause::ForeignAuthority,
        _ => Cause::BadCertificate,
    }
}

fn message(key: &PublicKey) -> Vec<u8> {
    [CONTEXT, key].concat()
}

fn is_signed(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let known = provider().signature_verification_algorithms.mapping;
    let ed25519 = known.iter().find(|(scheme, _)| *scheme == SignatureScheme::ED25519);
    ed25519.is_some_and(|(_, ways)| ways.iter().any(|way| way.verify_signature(key, message, signature).is_ok()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mobula_types::{ClusterId, MemberId};

    use super::*;
    use crate::authority::LEAF_LIFE;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn cluster() -> (Authority, SystemTime) {
        let now = SystemTime::now();
        (Authority::new(ClusterId([7; 16]), now).unwrap(), now)
    }

    fn member(authority: &Authority, role: Role, now: SystemTime) -> Identity {
        Identity::issue(authority, MemberId([2; 16]), role, now).unwrap()
    }

    #[test]
    fn who_has_a_certificate_gets_the_next_for_the_same_role() {
        let (authority, begun) = cluster();
        for role in [Role::Driver, Role::Admin, Role::Viewer] {
            let old = member(&authority, role, begun);
            let (key, now) = (Key::new().unwrap(), begun + 5 * DAY);
            let certificate = authority.renew(&Renewal::new(&old, &key).unwrap(), now).unwrap();
            let new = Identity::new(&key, certificate, authority.certificate().clone()).unwrap();
            assert_eq!(new.peer(), old.peer());
            // Certificates know seconds only.
            assert!(new.not_after() + Duration::from_secs(1) >= now + LEAF_LIFE);
            let credentials = crate::Credentials::new(&old).unwrap();
            credentials.renew(&new).unwrap();
        }
    }

    #[test]
    fn nobody_else_does() {
        let (authority, now) = cluster();
        let (key, driver) = (Key::new().unwrap(), member(&authority, Role::Driver, now));
        let good = Renewal::new(&driver, &key).unwrap();
        let refused = |renewal: &Renewal, at| authority.renew(renewal, at).unwrap_err().cause;
        assert!(authority.renew(&good, now).is_ok());
        assert_eq!(refused(&good, now + LEAF_LIFE + DAY), Cause::Expired, "its time is over");
        let other = Key::new().unwrap().public();
        assert_eq!(refused(&Renewal { key: other, ..good.clone() }, now), Cause::BadCertificate, "another key");
        let admin = member(&authority, Role::Admin, now).certificate().to_vec();
        assert_eq!(refused(&Renewal { certificate: admin, ..good.clone() }, now), Cause::BadCertificate, "not its own");
        assert_eq!(refused(&Renewal { signature: Vec::new(), ..good.clone() }, now), Cause::BadCertificate);
        assert_eq!(refused(&Renewal { certificate: vec![7; 100], ..good.clone() }, now), Cause::BadCertificate);
        let elsewhere = Authority::new(authority.cluster(), now).unwrap();
        let foreign = Renewal::new(&member(&elsewhere, Role::Admin, now), &key).unwrap();
        assert_eq!(refused(&foreign, now), Cause::ForeignAuthority);
        let node = Renewal::new(&member(&authority, Role::Node, now), &key).unwrap();
        assert_eq!(refused(&node, now), Cause::WrongRole);
    }

    #[test]
    fn bytes_of_others_are_no_fault() {
        let (authority, now) = cluster();
        let key = Key::new().unwrap();
        let good = Renewal::new(&member(&authority, Role::Driver, now), &key).unwrap();
        for at in 0..good.certificate.len() {
            let mut certificate = good.certificate.clone();
            certificate[at] ^= 0x55;
            assert!(authority.renew(&Renewal { certificate, ..good.clone() }, now).is_err(), "byte {at}");
            let certificate = good.certificate[..at].to_vec();
            assert!(authority.renew(&Renewal { certificate, ..good.clone() }, now).is_err(), "cut at {at}");
        }
    }
}
