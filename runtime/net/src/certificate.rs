//! What a certificate of the cluster says: `mobula://<cluster>/<role>/<member>` as a URI among its names.
//!
//! It is read only from certificates that rustls has verified up to the cluster's CA; nothing here verifies.

use std::time::{Duration, SystemTime};

use mobula_types::{ClusterId, MemberId, Role};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Who has a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// The cluster that issued it.
    pub cluster: ClusterId,
    /// What its owner may be.
    pub role: Role,
    /// Its owner.
    pub member: MemberId,
}

/// The name that every node's certificate has, and no other: who connects to a node asks for it, so that a driver's
/// certificate is none for a server.
pub(crate) const NODE_NAME: &str = "node.mobula";

const SCHEME: &str = "mobula://";

impl PeerIdentity {
    /// The URI for a certificate.
    pub(crate) fn uri(&self) -> String {
        format!("{SCHEME}{}/{}/{}", self.cluster, self.role, self.member)
    }

    fn of_uri(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix(SCHEME)?.split('/');
        let (cluster, role, member) = (parts.next()?, parts.next()?, parts.next()?);
        let whole = parts.next().is_none();
        let read = Self { cluster: cluster.parse().ok()?, role: role.parse().ok()?, member: member.parse().ok()? };
        whole.then_some(read)
    }

    /// Whom a verified certificate belongs to.
    ///
    /// # Errors
    ///
    /// [`CertificateError`] when it says no such thing.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        uris(certificate)?.iter().find_map(|uri| Self::of_uri(uri)).ok_or(CertificateError::Nameless)
    }
}

/// The URI of a CA.
pub(crate) fn authority_uri(cluster: ClusterId) -> String {
    format!("{SCHEME}{cluster}")
}

/// Which cluster a CA certificate is for.
pub(crate) fn cluster_of(authority: &CertificateDer<'_>) -> Result<ClusterId, CertificateError> {
    let of = |uri: &String| uri.strip_prefix(SCHEME)?.parse().ok();
    uris(authority)?.iter().find_map(of).ok_or(CertificateError::Nameless)
}

/// Until when a certificate is good.
pub(crate) fn not_after(certificate: &CertificateDer<'_>) -> Result<SystemTime, CertificateError> {
    let seconds = read(certificate)?.validity().not_after.timestamp();
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The key of a certificate's owner.
pub(crate) fn public_key(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, CertificateError> {
    Ok(read(certificate)?.public_key().subject_public_key.data.to_vec())
}

fn uris(certificate: &CertificateDer<'_>) -> Result<Vec<String>, CertificateError> {
    let certificate = read(certificate)?;
    let names = certificate.subject_alternative_name().map_err(|_| CertificateError::Unreadable)?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    Ok(uris.collect())
}

fn read<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    X509Certificate::from_der(certificate).map(|(_, certificate)| certificate).map_err(|_| CertificateError::Unreadable)
}

/// Why a certificate says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is none.
    #[error("the certificate cannot be read: join the cluster again with a new token")]
    Unreadable,
    /// It is one of something else.
    #[error("the certificate names no member of a cluster: join the cluster with a token of `mobula token create`")]
    Nameless,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_uri_is_an_identity() {
        let identity = PeerIdentity { cluster: ClusterId([1; 16]), role: Role::Driver, member: MemberId([2; 16]) };
        let uri = identity.uri();
        assert_eq!(PeerIdentity::of_uri(&uri), Some(identity));
        let more = format!("{uri}/more");
        let other_role = uri.replace("driver", "root");
        for wrong in ["", "mobula://", &uri[1..], &uri[..uri.len() - 1], &more, &other_role, "https://x/node/y"] {
            assert_eq!(PeerIdentity::of_uri(wrong), None, "{wrong}");
        }
        assert_eq!(PeerIdentity::of(&CertificateDer::from(&b"none"[..])), Err(CertificateError::Unreadable));
    }
}
