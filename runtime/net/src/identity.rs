//! A member's certificate and key, on disk and in use.
//!
//! [`Identity`] is what the file holds. [`Credentials`] is what TLS uses: it can be given another identity while
//! connections are there, so that a renewed certificate needs no restart; handshakes from then on use the new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;
use rcgen::{KeyPair, PKCS_ED25519};
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::authority::{Authority, AuthorityError, LEAF_LIFE, PublicKey, pem, write_secret};
use crate::certificate::{self, CertificateError, PeerIdentity};

/// The file in a member's folder.
const FILE: &str = "identity.pem";

/// A key that has no certificate yet.
pub struct Key(KeyPair);

impl Key {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// The system gives no random numbers.
    pub fn new() -> Result<Self, IdentityError> {
        Ok(Self(KeyPair::generate_for(&PKCS_ED25519).map_err(AuthorityError::from)?))
    }

    /// The part for the certificate.
    pub fn public(&self) -> PublicKey {
        self.0.public_key_raw().try_into().expect("an Ed25519 key has 32 bytes")
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

/// A member's certificate, its key and the cluster's CA.
pub struct Identity {
    peer: PeerIdentity,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
    key: Vec<u8>,
    not_after: SystemTime,
}

impl Identity {
    /// What a certificate and the key it was issued for make.
    ///
    /// # Errors
    ///
    /// The certificate names no member.
    pub fn new(
        key: &Key,
        certificate: CertificateDer<'static>,
        authority: CertificateDer<'static>,
    ) -> Result<Self, IdentityError> {
        Self::from_parts(certificate, authority, key.0.serialize_der())
    }

    fn from_parts(
        certificate: CertificateDer<'static>,
        authority: CertificateDer<'static>,
        key: Vec<u8>,
    ) -> Result<Self, IdentityError> {
        let peer = PeerIdentity::of(&certificate)?;
        let not_after = certificate::not_after(&certificate)?;
        Ok(Self { peer, certificate, authority, key, not_after })
    }

    /// One issued on the spot, for the head itself and nodes on its host.
    ///
    /// # Errors
    ///
    /// The system gives no random numbers.
    pub fn issue(
        authority: &Authority,
        member: mobula_types::MemberId,
        role: mobula_types::Role,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let key = Key::new()?;
        let certificate = authority.issue(member, role, &key.public(), now)?;
        Self::new(&key, certificate, authority.certificate().clone())
    }

    /// Reads the one in `folder`; `None` when there is none.
    ///
    /// # Errors
    ///
    /// [`IdentityError`].
    pub fn load(folder: &Path) -> Result<Option<Self>, IdentityError> {
        let path = folder.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Io { path, source }),
        };
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let key = PrivatePkcs8KeyDer::from_pem_slice(&text);
        match (certificates.as_deref(), key) {
            (Ok([certificate, authority]), Ok(key)) => {
                let key = key.secret_pkcs8_der().to_vec();
                Self::from_parts(certificate.clone(), authority.clone(), key).map(Some)
            }
            _ => Err(IdentityError::Broken { path }),
        }
    }

    /// Writes it to `folder`, in place of the one that is there.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub fn store(&self, folder: &Path) -> Result<(), IdentityError> {
        let path = folder.join(FILE);
        let text = pem("CERTIFICATE", &self.certificate)
            + &pem("CERTIFICATE", &self.authority)
            + &pem("PRIVATE KEY", &self.key);
        write_secret(&path, &text).map_err(|source| IdentityError::Io { path, source })
    }

    /// Whose it is.
    pub fn peer(&self) -> PeerIdentity {
        self.peer
    }

    /// Until when it is good.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether two thirds of its life are over: a new certificate is to be asked for.
    pub fn needs_renewal(&self, now: SystemTime) -> bool {
        now + LEAF_LIFE / 3 >= self.not_after
    }

    /// The cluster's CA.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A signature by its key.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        let signer = self.certified()?.key.choose_scheme(&[SignatureScheme::ED25519]);
        let signer = signer.ok_or_else(|| IdentityError::Key(rustls::Error::General("it is no Ed25519 key".into())))?;
        signer.sign(message).map_err(IdentityError::Key)
    }

    fn certified(&self) -> Result<CertifiedKey, IdentityError> {
        let key = PrivatePkcs8KeyDer::from(self.key.as_slice());
        let key = rustls::crypto::ring::sign::any_eddsa_type(&key).map_err(IdentityError::Key)?;
        let certified = CertifiedKey::new(vec![self.certificate.clone(), self.authority.clone()], key);
        certified.keys_match().map_err(IdentityError::Key)?;
        Ok(certified)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("peer", &self.peer).field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// The identity in use: what TLS shows to others and by what it judges them.
#[derive(Debug)]
pub struct Credentials {
    peer: PeerIdentity,
    authority: CertificateDer<'static>,
    key: RwLock<Arc<CertifiedKey>>,
    /// What stateless resets are made with: the same after a restart with the same identity.
    reset_key: [u8; 32],
}

impl Credentials {
    /// Uses an identity.
    ///
    /// # Errors
    ///
    /// Its key is not the certificate's.
    pub fn new(identity: &Identity) -> Result<Arc<Self>, IdentityError> {
        let key = RwLock::new(Arc::new(identity.certified()?));
        let reset_key = blake3::derive_key("mobula 2026-11 stateless resets of a member", &identity.key);
        Ok(Arc::new(Self { peer: identity.peer, authority: identity.authority.clone(), key, reset_key }))
    }

    /// Uses another certificate of the same member from now on.
    ///
    /// # Errors
    ///
    /// It is another member's, another cluster's, or its key does not fit.
    pub fn renew(&self, identity: &Identity) -> Result<(), IdentityError> {
        if identity.peer != self.peer || identity.authority != self.authority {
            return Err(IdentityError::Another);
        }
        *self.key.write() = Arc::new(identity.certified()?);
        Ok(())
    }

    /// Whose they are.
    pub fn peer(&self) -> PeerIdentity {
        self.peer
    }

    pub(crate) fn reset_key(&self) -> [u8; 32] {
        self.reset_key
    }

    /// The only CA believed.
    pub(crate) fn roots(&self) -> Result<Arc<RootCertStore>, IdentityError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).map_err(IdentityError::Key)?;
        Ok(Arc::new(roots))
    }

    fn key(&self) -> Arc<CertifiedKey> {
        self.key.read().clone()
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file cannot be used.
    #[error("cannot use this member's certificate in {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds no identity.
    #[error("{path} is no certificate with its key: remove it and join again with a new token", path = path.display())]
    Broken {
        /// The file.
        path: PathBuf,
    },
    /// The certificate says nothing of a member.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// No certificate was made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The key cannot be used, or belongs to another certificate.
    #[error("the certificate and its key cannot be used: {0}")]
    Key(rustls::Error),
    /// Another member's certificate cannot take this one's place.
    #[error("the new certificate is another member's or another cluster's: restart to use it")]
    Another,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use mobula_types::{ClusterId, MemberId, Role};

    use super::*;

    fn now() -> SystemTime {
        SystemTime::now()
    }

    fn authority() -> Authority {
        Authority::new(ClusterId([1; 16]), now()).unwrap()
    }

    #[test]
    fn it_is_kept_closed_to_others_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Identity::load(folder.path()).unwrap().is_none());
        let identity = Identity::issue(&authority(), MemberId([2; 16]), Role::Node, now()).unwrap();
        identity.store(folder.path()).unwrap();
        let path = folder.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = Identity::load(folder.path()).unwrap().expect("it is there");
        assert_eq!((read.peer(), read.not_after()), (identity.peer(), identity.not_after()));
        Credentials::new(&read).expect("its key fits");
        fs::write(&path, pem("CERTIFICATE", &identity.certificate)).unwrap();
        assert!(matches!(Identity::load(folder.path()), Err(IdentityError::Broken { .. })));
    }

    #[test]
    fn it_is_renewed_after_two_thirds_by_its_own_member_only() {
        let authority = authority();
        let issue = |member, at| Identity::issue(&authority, MemberId([member; 16]), Role::Node, at).unwrap();
        let first = issue(2, now());
        let two_thirds = first.not_after() - LEAF_LIFE / 3;
        assert!(!first.needs_renewal(two_thirds - std::time::Duration::from_secs(1)));
        assert!(first.needs_renewal(two_thirds));
        let credentials = Credentials::new(&first).unwrap();
        let before = credentials.key();
        credentials.renew(&issue(2, two_thirds)).unwrap();
        assert!(before.cert != credentials.key().cert, "the next handshake shows the new one");
        assert!(matches!(credentials.renew(&issue(3, two_thirds)), Err(IdentityError::Another)));
        let (a, b) = (issue(2, now()), issue(2, now()));
        let mixed = Identity::from_parts(a.certificate, a.authority, b.key).unwrap();
        assert!(matches!(credentials.renew(&mixed), Err(IdentityError::Key(_))));
    }
}
