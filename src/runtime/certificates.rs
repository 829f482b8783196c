//! Certificate files: loaded at the start, loaded again on a signal, made on the first start.
//!
//! A reload that fails leaves everything as it was. Each shard has certificates of its own. Must not judge certificates:
//! [`crate::tls::certificate`] does.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::atomic_file::{AtomicFile, create_directory, directory_of};
use crate::exit::Exit;
use crate::limits;
use crate::time::Now;
use crate::tls::certificate::{Certificate, CertificateError, DateWarning, SelfSigned, chain_from_pem};
use crate::tls::client::NoRoots;
use crate::tls::config::{CertificateSet, Certificates};

/// The files of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain as PEM, the server's own certificate first.
    pub certificate: PathBuf,
    /// Its private key as PEM.
    pub key: PathBuf,
}

impl CertificateFiles {
    /// The files in the state directory that are used when the operator names none.
    pub fn in_state_directory(directory: &Path) -> Self {
        Self { certificate: directory.join("tls-cert.pem"), key: directory.join("tls-key.pem") }
    }

    /// Makes a self-signed certificate in these files, if they are not there. A key that is there without a certificate is
    /// kept and gets one; so a start that was interrupted between the two is made good by the next. A certificate without
    /// its key is left alone: to replace it would surprise whoever trusts it.
    ///
    /// Returns whether a certificate was made.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or written, a key that is of no use, a host name that can stand in no certificate.
    pub fn create_if_missing(&self, host_name: &str, now: Now) -> Result<bool, CertificateFault> {
        let certificate_exists = exists(&self.certificate)?;
        let key_exists = exists(&self.key)?;
        if certificate_exists {
            return Ok(false);
        }
        let made = match key_exists {
            true => SelfSigned::with_key(&read_text(&self.key)?, host_name, now),
            false => SelfSigned::new(host_name, now),
        }
        .map_err(|problem| self.fault(problem))?;
        if !key_exists {
            write_new(&self.key, made.key.as_bytes(), 0o600)?;
        }
        write_new(&self.certificate, made.certificate.as_bytes(), 0o644)?;
        Ok(true)
    }

    /// Reads both files.
    pub(super) fn load(&self) -> Result<Certificate, CertificateFault> {
        let chain = read(&self.certificate)?;
        let key = read(&self.key)?;
        Certificate::from_pem(&chain, &key).map_err(|problem| self.fault(problem))
    }

    /// What an operator should know about these files although they are good enough to serve with.
    fn warnings(&self, certificate: &Certificate, now: Now) -> Result<Vec<CertificateWarning>, CertificateFault> {
        let date = certificate.warning(now).map(|warning| CertificateWarning::Date(self.certificate.clone(), warning));
        let mode =
            fs::metadata(&self.key).map_err(|error| CertificateFault::read(&self.key, &error))?.permissions().mode();
        // The group is left in peace: a group of its own for keys is how several services share one.
        let exposed = (mode & OTHERS != 0).then(|| CertificateWarning::KeyExposed(self.key.clone()));
        Ok(date.into_iter().chain(exposed).collect())
    }

    fn fault(&self, problem: CertificateError) -> CertificateFault {
        let (file, other) = match problem.concerns_key() {
            true => (&self.key, Some(self.certificate.clone())),
            false => (&self.certificate, None),
        };
        CertificateFault { file: file.clone(), problem: Problem::Content { problem, certificate: other } }
    }
}

/// The certificates of a running server and the files that they come from.
#[derive(Debug)]
pub struct CertificateLoader {
    files: Vec<CertificateFiles>,
    /// By the shard's number.
    certificates: Vec<Arc<Certificates>>,
}

impl CertificateLoader {
    /// Loads all certificates, for so many shards. `default` is for clients that name no server or an unknown one.
    ///
    /// # Errors
    ///
    /// The first file that is of no use.
    pub fn open(
        default: CertificateFiles,
        others: Vec<CertificateFiles>,
        shards: u16,
        now: Now,
    ) -> Result<(Self, Vec<CertificateWarning>), CertificateFault> {
        let mut files = vec![default];
        files.extend(others);
        let (loaded, warnings) = load_all(&files, now)?;
        let certificates = (0..shards).map(|_| Arc::new(Certificates::new(loaded.set()))).collect();
        Ok((Self { files, certificates }, warnings))
    }

    /// The certificates of a shard, for [`crate::tls::config::ServerSettings`].
    ///
    /// # Panics
    ///
    /// If there are fewer shards.
    pub fn of_shard(&self, number: u16) -> Arc<Certificates> {
        Arc::clone(&self.certificates[usize::from(number)])
    }

    /// Loads the same files again; from the next handshake on clients see what is in them now. Open connections go on.
    ///
    /// # Errors
    ///
    /// The first file that is of no use; then the certificates stay as they are.
    pub fn reload(&self, now: Now) -> Result<Vec<CertificateWarning>, CertificateFault> {
        let (loaded, warnings) = load_all(&self.files, now)?;
        self.certificates.iter().for_each(|certificates| certificates.replace(loaded.set()));
        Ok(warnings)
    }
}

/// Reads the roots that a client trusts from a file (`--ca`).
///
/// # Errors
///
/// If the file cannot be read or has no certificate in it.
pub fn roots_from(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateFault> {
    chain_from_pem(&read(file)?).map_err(|problem| CertificateFault {
        file: file.to_owned(),
        problem: Problem::Content { problem, certificate: None },
    })
}

/// Finds the roots that this platform trusts. The environment's `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
///
/// # Errors
///
/// If there are none.
pub fn platform_roots() -> Result<Vec<CertificateDer<'static>>, NoRoots> {
    // A bundle with a damaged entry is still good for its other entries.
    let roots = rustls_native_certs::load_native_certs().certs;
    if roots.is_empty() { Err(NoRoots) } else { Ok(roots) }
}

/// A certificate or key file that is of no use, why, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub struct CertificateFault {
    file: PathBuf,
    problem: Problem,
}

#[derive(Debug, PartialEq, Eq)]
enum Problem {
    Read { reason: String, remedy: &'static str, exit: Exit },
    Write { reason: String, remedy: &'static str },
    TooLarge,
    Content { problem: CertificateError, certificate: Option<PathBuf> },
}

impl CertificateFault {
    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The exit code of a command that cannot do without the file.
    pub fn exit(&self) -> Exit {
        match &self.problem {
            Problem::Read { exit, .. } => *exit,
            Problem::Write { .. } => Exit::CannotCreate,
            Problem::TooLarge | Problem::Content { .. } => Exit::Data,
        }
    }

    fn read(file: &Path, error: &io::Error) -> Self {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => "check the path, or put the file there",
            io::ErrorKind::PermissionDenied => "let the server's user read it",
            _ => "check the file system",
        };
        Self {
            file: file.to_owned(),
            problem: Problem::Read { reason: error.to_string(), remedy, exit: Exit::of_read_error(error) },
        }
    }

    fn write(file: &Path, error: &io::Error) -> Self {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "let the server's user write to the directory, or name files of your own"
            }
            _ => "check the file system, or name files of your own",
        };
        Self { file: file.to_owned(), problem: Problem::Write { reason: error.to_string(), remedy } }
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match &self.problem {
            Problem::Read { reason, remedy, .. } => write!(f, "{file}: cannot be read ({reason}); {remedy}"),
            Problem::Write { reason, remedy } => write!(f, "{file}: cannot be written ({reason}); {remedy}"),
            Problem::TooLarge => write!(f, "{file}: too large for certificates; check the path"),
            Problem::Content { problem, certificate } => {
                write!(f, "{file}: {problem}; {}", Remedy { problem, certificate: certificate.as_deref() })
            }
        }
    }
}

impl std::error::Error for CertificateFault {}

/// Prints what to do about a problem.
struct Remedy<'a> {
    problem: &'a CertificateError,
    certificate: Option<&'a Path>,
}

impl fmt::Display for Remedy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.problem, self.certificate) {
            (CertificateError::NoCertificate | CertificateError::BrokenCertificate(_), _) => {
                f.write_str("name a file with PEM certificates in it")
            }
            (CertificateError::KeyMismatch, Some(certificate)) => {
                write!(f, "use the key that {} was made for", certificate.display())
            }
            (CertificateError::NotMade(_), _) => f.write_str("set --hostname to this host's full DNS name"),
            _ => f.write_str("name a file with an unencrypted PEM key in it: ECDSA (P-256 is best), Ed25519 or RSA"),
        }
    }
}

/// Something about certificate files that an operator should know, although they are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateWarning {
    /// The dates of the certificate in this file.
    Date(PathBuf, DateWarning),
    /// Every user of this host can get at this key.
    KeyExposed(PathBuf),
}

impl fmt::Display for CertificateWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Date(file, warning) => write!(f, "{}: {warning}", file.display()),
            Self::KeyExposed(file) => {
                let file = file.display();
                write!(f, "{file}: every user of this host can get at this key: `chmod o= {file}`")
            }
        }
    }
}

/// All certificates as they were read; kept only until every shard has a set.
struct Loaded(Vec<Certificate>);

impl Loaded {
    /// A set for one shard.
    fn set(&self) -> CertificateSet {
        let (default, others) = self.0.split_first().expect("a loader always has its default certificate");
        CertificateSet::new(default, others)
    }
}

fn load_all(files: &[CertificateFiles], now: Now) -> Result<(Loaded, Vec<CertificateWarning>), CertificateFault> {
    let mut certificates = Vec::with_capacity(files.len());
    let mut warnings = Vec::new();
    for pair in files {
        let certificate = pair.load()?;
        warnings.extend(pair.warnings(&certificate, now)?);
        certificates.push(certificate);
    }
    Ok((Loaded(certificates), warnings))
}

fn exists(file: &Path) -> Result<bool, CertificateFault> {
    file.try_exists().map_err(|error| CertificateFault::read(file, &error))
}

/// Reads a whole file; wiped when dropped, as it may be a key.
fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, CertificateFault> {
    let mut content = Zeroizing::new(Vec::new());
    File::open(file)
        .and_then(|open| {
            // Reserved at once: a buffer that grows leaves copies of the key behind.
            let bytes = open.metadata()?.len().min(limits::CERTIFICATE_FILE_BYTES_MAX);
            content.reserve_exact(usize::try_from(bytes).unwrap_or_default() + 1);
            open.take(limits::CERTIFICATE_FILE_BYTES_MAX + 1).read_to_end(&mut content)
        })
        .map_err(|error| CertificateFault::read(file, &error))?;
    if content.len() as u64 > limits::CERTIFICATE_FILE_BYTES_MAX {
        return Err(CertificateFault { file: file.to_owned(), problem: Problem::TooLarge });
    }
    Ok(content)
}

fn read_text(file: &Path) -> Result<Zeroizing<String>, CertificateFault> {
    Ok(Zeroizing::new(String::from_utf8_lossy(&read(file)?).into_owned()))
}

/// Writes a new file so that after a crash it is there whole or not at all.
fn write_new(file: &Path, content: &[u8], mode: u32) -> Result<(), CertificateFault> {
    create_directory(directory_of(file))
        .and_then(|()| AtomicFile::private(file).with_mode(mode).replace(content))
        .map_err(|fault| CertificateFault::write(file, &fault.error))
}

/// The permission bits of users who are neither the owner nor in the group.
const OTHERS: u32 = 0o007;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Now = Now::simulated_ms(0);
    const SHARDS: u16 = 3;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn created(directory: &Path) -> CertificateFiles {
        let files = CertificateFiles::in_state_directory(directory);
        assert!(files.create_if_missing("mail.example.org", NOW).unwrap());
        files
    }

    fn mode(file: &Path) -> u32 {
        fs::metadata(file).unwrap().permissions().mode() & 0o777
    }

    fn open(files: &CertificateFiles) -> Result<(CertificateLoader, Vec<CertificateWarning>), CertificateFault> {
        CertificateLoader::open(files.clone(), Vec::new(), SHARDS, NOW)
    }

    #[test]
    fn the_first_start_makes_a_certificate_and_a_key_that_only_the_owner_reads() {
        let directory = directory();
        let files = created(&directory.path().join("state"));
        assert_eq!(mode(&files.certificate), 0o644);
        assert_eq!(mode(&files.key), 0o600);
        assert_eq!(mode(&directory.path().join("state")), 0o700);
        assert_eq!(fs::read_dir(directory.path().join("state")).unwrap().count(), 2);
        assert_eq!(open(&files).unwrap().1, []);
    }

    #[test]
    fn later_starts_leave_both_files_alone() {
        let directory = directory();
        let files = created(directory.path());
        let before = fs::read(&files.certificate).unwrap();
        assert!(!files.create_if_missing("other.example.org", NOW).unwrap());
        assert_eq!(fs::read(&files.certificate).unwrap(), before);
    }

    #[test]
    fn a_key_without_a_certificate_is_kept_and_gets_one() {
        let directory = directory();
        let files = created(directory.path());
        let key = fs::read(&files.key).unwrap();
        fs::remove_file(&files.certificate).unwrap();
        fs::write(directory.path().join("tls-cert.pem.new"), "left by a crash").unwrap();
        assert!(files.create_if_missing("mail.example.org", NOW).unwrap());
        assert_eq!(fs::read(&files.key).unwrap(), key);
        open(&files).unwrap();
    }

    #[test]
    fn a_certificate_without_its_key_is_an_error_that_names_the_key_file() {
        let directory = directory();
        let files = created(directory.path());
        fs::remove_file(&files.key).unwrap();
        assert!(!files.create_if_missing("mail.example.org", NOW).unwrap());
        let fault = open(&files).unwrap_err();
        assert_eq!(fault.file(), files.key);
        assert!(fault.to_string().ends_with("; check the path, or put the file there"), "{fault}");
    }

    #[test]
    fn a_key_that_others_can_read_gives_a_warning_and_one_for_a_group_does_not() {
        let directory = directory();
        let files = created(directory.path());
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(open(&files).unwrap().1, []);
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(open(&files).unwrap().1, [CertificateWarning::KeyExposed(files.key.clone())]);
    }

    #[test]
    fn an_expired_certificate_is_served_with_a_warning() {
        let directory = directory();
        let files = created(directory.path());
        let late = Now { monotonic: Duration::ZERO, unix: NOW.unix + 2 * limits::TLS_SELF_SIGNED_LIFETIME };
        let (_, warnings) = CertificateLoader::open(files.clone(), Vec::new(), SHARDS, late).unwrap();
        assert!(
            matches!(&warnings[..], [CertificateWarning::Date(file, DateWarning::Expired { .. })] if *file == files.certificate)
        );
    }

    #[test]
    fn a_failed_reload_keeps_the_old_certificates_and_names_file_and_remedy() {
        let (directory, other) = (directory(), directory());
        let files = created(directory.path());
        let (loader, _) = open(&files).unwrap();
        let before = shown(&loader);
        let foreign = created(other.path());
        fs::copy(&foreign.key, &files.key).unwrap();
        let text = loader.reload(NOW).unwrap_err().to_string();
        let (key, certificate) = (files.key.display(), files.certificate.display());
        assert_eq!(
            text,
            format!("{key}: the key does not match the certificate; use the key that {certificate} was made for")
        );
        assert_eq!(shown(&loader), before);
        fs::copy(&foreign.certificate, &files.certificate).unwrap();
        loader.reload(NOW).unwrap();
        let after = shown(&loader);
        assert!(before.iter().zip(&after).all(|(before, after)| before != after), "a shard shows the old certificate");
    }

    /// What each shard shows.
    fn shown(loader: &CertificateLoader) -> [String; SHARDS as usize] {
        [0, 1, 2].map(|number| format!("{:?}", loader.of_shard(number)))
    }

    #[test]
    fn no_two_shards_have_the_same_certificates() {
        let directory = directory();
        let (loader, _) = open(&created(directory.path())).unwrap();
        let [one, two, three] = [0, 1, 2].map(|number| loader.of_shard(number));
        assert!(!Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&two, &three) && !Arc::ptr_eq(&one, &three));
        assert!(Arc::ptr_eq(&one, &loader.of_shard(0)));
    }

    #[test]
    fn files_of_no_use_are_named_with_a_remedy() {
        let directory = directory();
        let files = created(directory.path());
        fs::write(&files.certificate, "hello").unwrap();
        let text = open(&files).unwrap_err().to_string();
        assert!(text.starts_with(&files.certificate.display().to_string()), "{text}");
        assert!(text.ends_with("name a file with PEM certificates in it"), "{text}");
        let text = roots_from(&files.key).unwrap_err().to_string();
        assert!(text.contains("no certificate in it"), "{text}");
        File::create(&files.key).unwrap().set_len(limits::CERTIFICATE_FILE_BYTES_MAX + 1).unwrap();
        assert_eq!(open(&files).unwrap_err().problem, Problem::TooLarge);
    }

    #[test]
    fn a_host_name_of_no_use_is_told_with_the_flag_to_set() {
        let directory = directory();
        let files = CertificateFiles::in_state_directory(directory.path());
        let text = files.create_if_missing("mäil", NOW).unwrap_err().to_string();
        assert!(text.ends_with("set --hostname to this host's full DNS name"), "{text}");
        assert!(!files.key.exists());
    }

    #[test]
    fn the_roots_in_a_file_are_read() {
        let directory = directory();
        assert_eq!(roots_from(&created(directory.path()).certificate).unwrap().len(), 1);
    }
}
