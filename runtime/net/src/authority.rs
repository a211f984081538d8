//! The cluster's certificate authority, which only the head has: made once, its key readable by its user alone.
//!
//! It signs what it is told to; whether somebody deserves a certificate is decided by tokens ([`join`](mod@crate::join)) or
//! by a member's present certificate, when it renews.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mobula_types::{ClusterId, MemberId, Role};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::certificate::{self, CertificateError, NODE_NAME, PeerIdentity};
use crate::token::Pin;

/// How long a member's certificate is good (promises.md); it is renewed at two thirds of it.
pub const LEAF_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The CA outlives every cluster: its end would end the cluster.
const AUTHORITY_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);

/// Clocks of hosts differ: a certificate is good from so long ago on.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

/// The file with the CA's certificate and key, in the head's folder.
const FILE: &str = "authority.pem";

/// A member's public key: Ed25519.
pub type PublicKey = [u8; 32];

/// The cluster's CA.
pub struct Authority {
    cluster: ClusterId,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one for a new cluster.
    ///
    /// # Errors
    ///
    /// The system gives no random numbers.
    pub fn new(cluster: ClusterId, now: SystemTime) -> Result<Self, AuthorityError> {
        Self::from_key(cluster, KeyPair::generate_for(&PKCS_ED25519)?, now)
    }

    fn from_key(cluster: ClusterId, key: KeyPair, now: SystemTime) -> Result<Self, AuthorityError> {
        let mut params = params(cluster)?;
        (params.not_before, params.not_after) = (time(now - CLOCK_SKEW), time(now + AUTHORITY_LIFE));
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { cluster, certificate, issuer: Issuer::new(params, key) })
    }

    /// The CA in `folder`; makes one there, for a new cluster, when there is none.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`]; what is there is never replaced.
    pub fn open(folder: &Path, now: SystemTime) -> Result<Self, AuthorityError> {
        let path = folder.join(FILE);
        let failed = |source| AuthorityError::Io { path: path.clone(), source };
        match fs::read(&path) {
            Ok(pem) => Self::from_pem(&pem, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut cluster = [0; 16];
                getrandom::fill(&mut cluster).map_err(|error| failed(error.into()))?;
                let made = Self::new(ClusterId(cluster), now)?;
                write_secret(&path, &made.to_pem()).map_err(failed)?;
                Ok(made)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn to_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate) + &pem("PRIVATE KEY", &self.issuer.key().serialize_der())
    }

    fn from_pem(text: &[u8], path: &Path) -> Result<Self, AuthorityError> {
        let broken = || AuthorityError::Broken { path: path.to_owned() };
        let certificate = CertificateDer::from_pem_slice(text).map_err(|_| broken())?.into_owned();
        let key = PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_| broken())?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ED25519).map_err(|_| broken())?;
        let cluster = certificate::cluster_of(&certificate)?;
        Ok(Self { cluster, certificate, issuer: Issuer::new(params(cluster)?, key) })
    }

    /// The cluster it is for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Its certificate, which every member keeps.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What a join token says of it.
    pub fn pin(&self) -> Pin {
        Pin::of(&self.certificate)
    }

    /// A certificate of [`LEAF_LIFE`] for a member.
    ///
    /// # Errors
    ///
    /// The key is none.
    pub fn issue(
        &self,
        member: MemberId,
        role: Role,
        key: &PublicKey,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let identity = PeerIdentity { cluster: self.cluster, role, member };
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("mobula {role} {member}"));
        params.subject_alt_names = vec![SanType::URI(identity.uri().try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if role == Role::Node {
            params.subject_alt_names.push(SanType::DnsName(NODE_NAME.try_into()?));
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (time(now - CLOCK_SKEW), time(now + LEAF_LIFE));
        Ok(params.signed_by(&Raw(key), &self.issuer)?.der().clone())
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

fn params(cluster: ClusterId) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("mobula cluster {cluster}"));
    params.subject_alt_names = vec![SanType::URI(certificate::authority_uri(cluster).try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// rcgen speaks the `time` crate's language; seconds are enough.
fn time(at: SystemTime) -> CertificateTime {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs())
}

type CertificateTime = time::OffsetDateTime;

/// Writes a file that only its user may read, whole or not at all.
pub(crate) fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path)
}

/// A block of a PEM file (RFC 7468).
pub(crate) fn pem(label: &str, bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----");
    for (at, chunk) in bytes.chunks(3).enumerate() {
        if at % 16 == 0 {
            text.push('\n');
        }
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let is_there = digit <= chunk.len();
            let value = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if is_there { DIGITS[value] as char } else { '=' });
        }
    }
    text + &format!("\n-----END {label}-----\n")
}

/// A public key as rcgen takes it.
struct Raw<'a>(&'a PublicKey);

impl PublicKeyData for Raw<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ED25519
    }
}

/// Why there is no CA, or no certificate of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The file cannot be used.
    #[error("cannot use the cluster's CA in {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds no CA.
    #[error("{path} holds no CA: restore it, or remove it for a new cluster", path = path.display())]
    Broken {
        /// The file.
        path: PathBuf,
    },
    /// The CA is for something else.
    #[error("the CA cannot be used: {0}")]
    Certificate(#[from] CertificateError),
    /// Nothing was made or signed.
    #[error("no certificate could be made: {0}")]
    Making(#[from] rcgen::Error),
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_ca_is_made_once_and_its_key_is_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let made = Authority::open(folder.path(), now).unwrap();
        let path = folder.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let opened = Authority::open(folder.path(), now).unwrap();
        assert_eq!((opened.cluster(), opened.certificate()), (made.cluster(), made.certificate()));
        assert_eq!(opened.pin(), made.pin());
        fs::write(&path, "nothing").unwrap();
        assert!(matches!(Authority::open(folder.path(), now), Err(AuthorityError::Broken { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"nothing", "what is there is never replaced");
    }

    #[test]
    fn a_certificate_says_whose_it_is_and_when_it_ends() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let authority = Authority::new(ClusterId([9; 16]), now).unwrap();
        let certificate = authority.issue(MemberId([3; 16]), Role::Viewer, &[5; 32], now).unwrap();
        let expect = PeerIdentity { cluster: ClusterId([9; 16]), role: Role::Viewer, member: MemberId([3; 16]) };
        assert_eq!(PeerIdentity::of(&certificate), Ok(expect));
        assert_eq!(certificate::not_after(&certificate), Ok(now + LEAF_LIFE));
    }

    #[test]
    fn pem_blocks_read_back_at_every_length() {
        for bytes in 0..100u8 {
            let body: Vec<u8> = (0..bytes).collect();
            let text = pem("CERTIFICATE", &body);
            assert_eq!(CertificateDer::from_pem_slice(text.as_bytes()).unwrap().as_ref(), body, "{bytes}");
        }
    }
}
