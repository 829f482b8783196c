//! Certificates and keys as bytes: reading PEM, making a self-signed certificate, telling when one ends.
//!
//! Must not touch files: whoever reads them adds the file's name to the errors from here, and the remedy.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureScheme};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::limits;
use crate::time::Now;

/// A certificate chain with the key that belongs to it. The key is wiped when dropped.
#[derive(Debug)]
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    /// As it was read, so that any number of keys can be made from it that share nothing.
    key: Zeroizing<PrivateKeyDer<'static>>,
    key_type: KeyType,
    names: Vec<String>,
    not_before: Duration,
    not_after: Duration,
}

impl Certificate {
    /// Reads a chain, the server's own certificate first, and its key (PKCS #8, PKCS #1 or SEC 1), both as PEM.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with either of them, or that they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain = chain_from_pem(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            pem::Error::NoItemsFound => CertificateError::NoKey,
            error => CertificateError::BrokenKey(error.to_string()),
        })?;
        let key = Zeroizing::new(key);
        let (names, not_before, not_after) = read_leaf(&chain[0])?;
        let key_type = KeyType::of(&certified(&chain, &key).map_err(key_error)?);
        Ok(Self { chain, key, key_type, names, not_before, not_after })
    }

    /// The DNS names that the certificate is for (RFC 5280 §4.2.1.6), in lower case; `*.` opens a wildcard.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What the key is, on which the cost of a full handshake depends most.
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// The last moment at which the certificate is good, since 1970 (UTC).
    pub fn not_after(&self) -> Duration {
        self.not_after
    }

    /// What clients will dislike about the certificate's dates, now or soon. Serving goes on: some clients do not care,
    /// and an operator who has the clock wrong needs a running server more than a strict one.
    pub fn warning(&self, now: Now) -> Option<DateWarning> {
        if now.unix < self.not_before {
            return Some(DateWarning::NotYetValid { not_before: self.not_before });
        }
        if now.unix > self.not_after {
            return Some(DateWarning::Expired { not_after: self.not_after });
        }
        let ends_soon = now.unix + limits::TLS_EXPIRY_NOTICE > self.not_after;
        ends_soon.then_some(DateWarning::ExpiresSoon { not_after: self.not_after })
    }

    /// The same in the TLS library's terms, made anew each time. Every full handshake counts its use of the key and, inside
    /// it, of the pair of numbers; two shards with the same key would write the same two counts.
    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::new(certified(&self.chain, &self.key).expect("the same chain and key were read before"))
    }
}

impl Clone for Certificate {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: Zeroizing::new(self.key.clone_key()),
            key_type: self.key_type,
            names: self.names.clone(),
            ..*self
        }
    }
}

/// What the key of a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA on the P-256 curve.
    P256,
    /// ECDSA on the P-384 curve.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA of any length.
    Rsa,
}

impl KeyType {
    fn of(certified: &CertifiedKey) -> Self {
        let signs = |scheme| certified.key.choose_scheme(&[scheme]).is_some();
        match () {
            () if signs(SignatureScheme::ECDSA_NISTP256_SHA256) => Self::P256,
            () if signs(SignatureScheme::ECDSA_NISTP384_SHA384) => Self::P384,
            () if signs(SignatureScheme::ED25519) => Self::Ed25519,
            () => Self::Rsa,
        }
    }

    /// The name that people know.
    pub const fn name(self) -> &'static str {
        match self {
            Self::P256 => "ECDSA P-256",
            Self::P384 => "ECDSA P-384",
            Self::Ed25519 => "Ed25519",
            Self::Rsa => "RSA",
        }
    }
}

/// Reads all certificates of a PEM text: a chain, or the roots that a client trusts.
///
/// # Errors
///
/// [`CertificateError::NoCertificate`] if there is none, [`CertificateError::BrokenCertificate`] if one is not PEM.
pub fn chain_from_pem(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let chain = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| CertificateError::BrokenCertificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate);
    }
    Ok(chain)
}

/// A certificate that nobody vouches for, and its key, both as PEM. The key is wiped when dropped.
#[derive(Debug)]
pub struct SelfSigned {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: Zeroizing<String>,
}

impl SelfSigned {
    /// Makes a key on the P-256 curve and a certificate for `host_name`, `localhost`, `127.0.0.1` and `::1`.
    ///
    /// # Errors
    ///
    /// [`CertificateError::NotMade`], if the host name can stand in no certificate.
    pub fn new(host_name: &str, now: Now) -> Result<Self, CertificateError> {
        Self::signed_with(&KeyPair::generate().map_err(not_made)?, host_name, now)
    }

    /// The same with a key that is there already.
    ///
    /// # Errors
    ///
    /// [`CertificateError::BrokenKey`] if the key cannot be read, and those of [`SelfSigned::new`].
    pub fn with_key(key: &str, host_name: &str, now: Now) -> Result<Self, CertificateError> {
        let key = KeyPair::from_pem(key).map_err(|error| CertificateError::BrokenKey(error.to_string()))?;
        Self::signed_with(&key, host_name, now)
    }

    fn signed_with(key: &KeyPair, host_name: &str, now: Now) -> Result<Self, CertificateError> {
        let certificate = self_signed_parameters(host_name, now)?.self_signed(key).map_err(not_made)?;
        Ok(Self { certificate: certificate.pem(), key: Zeroizing::new(key.serialize_pem()) })
    }
}

/// Why a certificate or key is of no use. Says what is wrong; the file's name and the remedy are the caller's to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateError {
    /// There is no certificate in the text.
    NoCertificate,
    /// A certificate cannot be read; the reason in words.
    BrokenCertificate(String),
    /// There is no private key in the text.
    NoKey,
    /// The key cannot be read or used; the reason in words.
    BrokenKey(String),
    /// The key is not the one that the first certificate was made for.
    KeyMismatch,
    /// No self-signed certificate could be made; the reason in words.
    NotMade(String),
}

impl CertificateError {
    /// Whether the key is at fault, and not the certificate.
    pub const fn concerns_key(&self) -> bool {
        matches!(self, Self::NoKey | Self::BrokenKey(_) | Self::KeyMismatch)
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => f.write_str("no certificate in it (expected PEM, `-----BEGIN CERTIFICATE-----`)"),
            Self::BrokenCertificate(reason) => write!(f, "a certificate in it cannot be read: {reason}"),
            Self::NoKey => f.write_str("no private key in it (expected PEM, `-----BEGIN PRIVATE KEY-----`)"),
            Self::BrokenKey(reason) => write!(f, "the private key in it cannot be used: {reason}"),
            Self::KeyMismatch => f.write_str("the key does not match the certificate"),
            Self::NotMade(reason) => write!(f, "no self-signed certificate could be made: {reason}"),
        }
    }
}

impl std::error::Error for CertificateError {}

/// What is wrong with the dates of a certificate that is served all the same. Dates count since 1970 (UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DateWarning {
    /// It is good only later; often this host's clock is wrong.
    NotYetValid {
        /// From when on it is good.
        not_before: Duration,
    },
    /// It is good no more.
    Expired {
        /// Until when it was good.
        not_after: Duration,
    },
    /// It ends within [`limits::TLS_EXPIRY_NOTICE`].
    ExpiresSoon {
        /// Until when it is good.
        not_after: Duration,
    },
}

impl fmt::Display for DateWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYetValid { not_before } => {
                write!(f, "the certificate is not valid before {}: check this host's clock", Date(*not_before))
            }
            Self::Expired { not_after } => {
                write!(f, "the certificate expired on {}: renew it, then reload", Date(*not_after))
            }
            Self::ExpiresSoon { not_after } => {
                write!(f, "the certificate expires on {}: renew it, then reload", Date(*not_after))
            }
        }
    }
}

/// A moment since 1970 that prints as a date, such as `2026-11-22`.
struct Date(Duration);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match date_time(self.0) {
            Some(moment) => write!(f, "{}", moment.date()),
            None => f.write_str("a date out of range"),
        }
    }
}

fn date_time(unix: Duration) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(i64::try_from(unix.as_secs()).ok()?).ok()
}

fn self_signed_parameters(host_name: &str, now: Now) -> Result<CertificateParams, CertificateError> {
    let mut names = vec![host_name.to_ascii_lowercase()];
    for local in ["localhost", "127.0.0.1", "::1"] {
        if host_name != local {
            names.push(local.to_owned());
        }
    }
    let out_of_range = || CertificateError::NotMade("the clock is out of range".to_owned());
    let mut parameters = CertificateParams::new(names).map_err(not_made)?;
    // A day back, for clients whose clocks are late.
    parameters.not_before = date_time(now.unix.saturating_sub(A_DAY)).ok_or_else(out_of_range)?;
    parameters.not_after = date_time(now.unix + limits::TLS_SELF_SIGNED_LIFETIME).ok_or_else(out_of_range)?;
    // Not an authority: clients that are told to trust this certificate must not trust others for its sake.
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let common_name = if host_name.len() <= COMMON_NAME_BYTES_MAX { host_name } else { "onetrip" };
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    Ok(parameters)
}

/// The names and dates of a server's own certificate.
fn read_leaf(leaf: &CertificateDer<'_>) -> Result<(Vec<String>, Duration, Duration), CertificateError> {
    let leaf = webpki::EndEntityCert::try_from(leaf)
        .map_err(|error| CertificateError::BrokenCertificate(error.to_string()))?;
    let names = leaf.valid_dns_names().map(str::to_ascii_lowercase).collect();
    // The parser tells the dates only in refusals, so it is asked about the first and the last moment there is.
    let not_before = match refusal_at(&leaf, UnixTime::since_unix_epoch(Duration::ZERO)) {
        Some(webpki::Error::CertNotValidYet { not_before, .. }) => not_before.as_secs(),
        _ => 0,
    };
    let not_after = match refusal_at(&leaf, UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX))) {
        Some(webpki::Error::CertExpired { not_after, .. }) => not_after.as_secs(),
        Some(error) => return Err(CertificateError::BrokenCertificate(error.to_string())),
        None => u64::MAX,
    };
    Ok((names, Duration::from_secs(not_before), Duration::from_secs(not_after)))
}

fn refusal_at(leaf: &webpki::EndEntityCert<'_>, moment: UnixTime) -> Option<webpki::Error> {
    leaf.verify_for_usage(&[], &[], &[], moment, webpki::KeyUsage::server_auth(), None, None).err()
}

/// Reads a key, and whether it is the one that the chain was made for. (The library's own way to do so takes the key away
/// and leaves it in memory.)
fn certified(chain: &[CertificateDer<'static>], key: &PrivateKeyDer<'static>) -> Result<CertifiedKey, rustls::Error> {
    let certified = CertifiedKey::new(chain.to_vec(), any_supported_type(key)?);
    match certified.keys_match() {
        // A key of a kind that does not tell its public half.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(error) => Err(error),
    }
}

fn key_error(error: rustls::Error) -> CertificateError {
    match error {
        rustls::Error::InconsistentKeys(_) => CertificateError::KeyMismatch,
        rustls::Error::InvalidCertificate(reason) => CertificateError::BrokenCertificate(reason.to_string()),
        error => CertificateError::BrokenKey(error.to_string()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err asks for")]
fn not_made(error: rcgen::Error) -> CertificateError {
    CertificateError::NotMade(error.to_string())
}

const A_DAY: Duration = Duration::from_secs(86_400);

/// Longest common name in bytes (RFC 5280 appendix A.1, `ub-common-name`).
const COMMON_NAME_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now::simulated_ms(0);

    fn made(host_name: &str) -> SelfSigned {
        SelfSigned::new(host_name, NOW).unwrap()
    }

    fn read(pair: &SelfSigned) -> Certificate {
        Certificate::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap()
    }

    fn at(unix: Duration) -> Now {
        Now { monotonic: Duration::ZERO, unix }
    }

    #[test]
    fn a_self_signed_certificate_is_for_its_host_and_for_localhost() {
        assert_eq!(read(&made("Mail.Example.org")).names(), ["mail.example.org", "localhost"]);
        assert_eq!(read(&made("localhost")).names(), ["localhost"]);
    }

    #[test]
    fn a_self_signed_certificate_names_the_loopback_addresses() {
        let certificate = read(&made("mail.example.org"));
        let leaf = webpki::EndEntityCert::try_from(&certificate.chain[0]).unwrap();
        for name in ["mail.example.org", "localhost", "127.0.0.1", "::1"] {
            let name = rustls::pki_types::ServerName::try_from(name).unwrap();
            assert_eq!(leaf.verify_is_valid_for_subject_name(&name), Ok(()));
        }
    }

    #[test]
    fn a_self_signed_certificate_is_good_from_yesterday_for_ten_years() {
        let certificate = read(&made("mail.example.org"));
        assert_eq!(certificate.warning(NOW), None);
        assert_eq!(certificate.warning(at(NOW.unix - A_DAY)), None);
        assert_eq!(certificate.not_after(), NOW.unix + limits::TLS_SELF_SIGNED_LIFETIME);
    }

    #[test]
    fn dates_that_clients_dislike_give_warnings_that_name_the_day() {
        let certificate = read(&made("mail.example.org"));
        let text = |unix| certificate.warning(at(unix)).unwrap().to_string();
        assert_eq!(
            text(NOW.unix - A_DAY - Duration::from_secs(1)),
            "the certificate is not valid before 2025-12-31: check this host's clock"
        );
        let end = certificate.not_after();
        assert_eq!(text(end), "the certificate expires on 2035-12-30: renew it, then reload");
        assert_eq!(text(end + A_DAY), "the certificate expired on 2035-12-30: renew it, then reload");
        assert_eq!(certificate.warning(at(end - limits::TLS_EXPIRY_NOTICE)), None);
    }

    #[test]
    fn an_old_key_can_be_kept_for_a_new_certificate() {
        let old = made("old.example.org");
        let new = SelfSigned::with_key(&old.key, "new.example.org", NOW).unwrap();
        assert_eq!(*new.key, *old.key);
        assert_eq!(read(&new).names()[0], "new.example.org");
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (one, other) = (made("one.example.org"), made("other.example.org"));
        let error = Certificate::from_pem(one.certificate.as_bytes(), other.key.as_bytes()).unwrap_err();
        assert_eq!(error, CertificateError::KeyMismatch);
    }

    #[test]
    fn what_is_missing_or_broken_is_named() {
        let pair = made("mail.example.org");
        let error = |chain: &str, key: &str| Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
        assert_eq!(error("", &pair.key), CertificateError::NoCertificate);
        assert_eq!(error(&pair.key, &pair.key), CertificateError::NoCertificate);
        assert_eq!(error(&pair.certificate, ""), CertificateError::NoKey);
        assert_eq!(error(&pair.certificate, &pair.certificate), CertificateError::NoKey);
        let cut = &pair.certificate[..100];
        assert!(matches!(error(cut, &pair.key), CertificateError::BrokenCertificate(_)));
        let wrong = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(error(wrong, &pair.key), CertificateError::BrokenCertificate(_)));
        let wrong = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(matches!(error(&pair.certificate, wrong), CertificateError::BrokenKey(_)));
    }

    #[test]
    fn a_certificate_prints_no_key() {
        let certificate = read(&made("mail.example.org"));
        let text = format!("{certificate:?}");
        assert!(text.contains("key: Zeroizing { .. }"), "{text}");
    }

    #[test]
    fn a_host_name_that_no_certificate_can_bear_is_an_error() {
        assert!(matches!(SelfSigned::new("mäil.example", NOW), Err(CertificateError::NotMade(_))));
    }
}
