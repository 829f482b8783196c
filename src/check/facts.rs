//! What is known about a host, as plain values: the runtime gathers them, this layer judges them, and tests make them up.
//!
//! Nothing here is an opinion.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::exit::Exit;
use crate::tls::certificate::Certificate;

/// What the system said when it refused something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The kind of error, for judging.
    pub kind: io::ErrorKind,
    /// The error in words, for people.
    pub text: String,
}

impl From<&io::Error> for Refused {
    fn from(error: &io::Error) -> Self {
        Self { kind: error.kind(), text: error.to_string() }
    }
}

/// What is known about the kernel, the limits of this process, and the clock.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// The kernel's release, such as `6.12.9-amd64`; `None` if it could not be read.
    pub kernel_release: Option<String>,
    /// What became of setting up one plain ring.
    pub ring: Result<(), Refused>,
    /// What became of starting an executor as each shard has one.
    pub executor: Result<(), Refused>,
    /// Locked memory that this process may have, in bytes; `None` for any amount.
    pub locked_memory: Option<u64>,
    /// Open files that this process may raise its limit to; `None` for any number.
    pub open_files: Option<u64>,
    /// Memory of this host or of the control group that this process is in, whichever is less, in bytes.
    pub memory: Option<u64>,
    /// Settings of the kernel by name, those of [`super::profile::sysctl_names`] that this kernel has.
    pub sysctls: Sysctls,
    /// TCP Fast Open, tried over the loopback interface.
    pub fast_open: FastOpenTrial,
    /// Is the clock held to another one?
    pub clock: ClockState,
}

/// Settings of the kernel, by name.
#[derive(Clone, Debug, Default)]
pub struct Sysctls(BTreeMap<String, String>);

impl Sysctls {
    /// Settings by name and value.
    pub fn new(settings: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(settings.into_iter().collect())
    }

    /// The value as text, with one blank between its parts.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value of a setting that is one number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// The values of a setting that is several numbers.
    pub fn numbers(&self, name: &str) -> Option<Vec<u64>> {
        self.text(name)?.split_whitespace().map(|word| word.parse().ok()).collect()
    }

    /// Gives a setting another value.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }
}

/// What became of two connections to ourselves, the second with data in its SYN (RFC 7413).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FastOpenTrial {
    /// The data was taken with the SYN.
    Carried,
    /// The connection was made, and the data came after the handshake.
    NotCarried,
    /// A listener could not be told to take data with a SYN.
    OptionRefused(Refused),
    /// It could not be tried: why.
    Unknown(String),
}

/// Is the clock held to another one?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockState {
    /// The kernel was told so.
    Synchronized,
    /// The kernel was told nothing.
    Unsynchronized,
    /// The kernel does not say.
    Unknown,
}

/// What is known about the files and addresses that a configuration names.
#[derive(Clone, Debug)]
pub struct SiteFacts {
    /// The user that this process acts as.
    pub user: u32,
    /// The process of a server that holds the state directory.
    pub server: Option<u32>,
    /// Every address that is to be listened on.
    pub addresses: Vec<AddressFacts>,
    /// Where messages and state lie.
    pub places: Vec<PlaceFacts>,
    /// The certificates, the default one first.
    pub certificates: Vec<CertificateFacts>,
    /// The users file.
    pub users: UsersFacts,
}

/// An address that is to be listened on.
#[derive(Clone, Debug)]
pub struct AddressFacts {
    /// The flag that names it, without dashes.
    pub flag: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// What became of binding a socket to it.
    pub bind: Result<(), Refused>,
}

/// What a directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `--state-dir`.
    State,
    /// The directory of the Maildirs.
    Mail,
}

/// A directory that is written to.
#[derive(Clone, Debug)]
pub struct PlaceFacts {
    /// What it is for.
    pub role: Role,
    /// Where it is or will be.
    pub path: PathBuf,
    /// The directory that was looked at: itself, or the nearest one above it that is there.
    pub nearest: PathBuf,
    /// Owner of that directory, by number.
    pub owner: u32,
    /// Permission bits of that directory.
    pub mode: u32,
    /// The number of the device that it lies on.
    pub device: u64,
    /// Its file system; `None` if it could not be found out.
    pub mount: Option<Mount>,
    /// Room on its file system; `None` if it could not be found out.
    pub room: Option<Room>,
    /// What became of writing there.
    pub trial: Result<WriteTrial, Refused>,
}

impl PlaceFacts {
    /// Is the directory there already?
    pub fn exists(&self) -> bool {
        self.path == self.nearest
    }
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The kind, such as `ext4`.
    pub kind: String,
    /// Its options, such as `ro`; those of the mount and those of the file system.
    pub options: Vec<String>,
}

/// Room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that this process may still write.
    pub bytes_free: u64,
    /// Files that may still be made.
    pub files_free: u64,
    /// Files that there can be at all; 0 if the file system does not count them.
    pub files_total: u64,
}

/// What became of writing a file as a message is written: some data, sync, rename, sync of the directory.
#[derive(Clone, Debug)]
pub struct WriteTrial {
    /// How long each write of 4 KiB took to be on stable storage, as far as the system says.
    pub syncs: Vec<Duration>,
    /// What became of syncing the directory.
    pub directory_sync: Result<(), Refused>,
}

/// The files of one certificate.
#[derive(Clone, Debug)]
pub struct CertificateFacts {
    /// The file with the chain.
    pub file: PathBuf,
    /// Does the server make this one for itself?
    pub is_own: bool,
    /// What was found in the files.
    pub found: CertificateFound,
}

/// What was found in the files of a certificate.
#[derive(Clone, Debug)]
pub enum CertificateFound {
    /// The first start will make them.
    NotMadeYet,
    /// They can be used.
    Loaded {
        /// The certificate with its key.
        certificate: Certificate,
        /// The file with the key.
        key_file: PathBuf,
        /// Permission bits of that file.
        key_mode: u32,
    },
    /// They cannot be used.
    Refused {
        /// Why, and what to do.
        text: String,
        /// As the server would end.
        exit: Exit,
    },
}

/// The users file.
#[derive(Clone, Debug)]
pub struct UsersFacts {
    /// Where it is.
    pub file: PathBuf,
    /// What was found there.
    pub found: UsersFound,
}

/// What was found in the users file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsersFound {
    /// There is none.
    Missing,
    /// It can be read.
    Loaded {
        /// How many users are in it.
        users: usize,
        /// Its permission bits.
        mode: u32,
    },
    /// It cannot be used.
    Refused {
        /// Why, and what to do.
        text: String,
        /// The exit code that says the same.
        exit: Exit,
    },
}
