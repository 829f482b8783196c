//! Exit codes, as sysexits.h defines them, so that service managers and scripts can tell a mistake from a mishap.
//!
//! It ends nothing itself: whoever fails names the code, and `main` returns it.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything went well (0).
    Success,
    /// The command line is wrong (64, EX_USAGE).
    Usage,
    /// A file or the standard input holds something that cannot be used (65, EX_DATAERR).
    Data,
    /// A file that should be read is not there (66, EX_NOINPUT).
    NoInput,
    /// There is no such user (67, EX_NOUSER).
    NoUser,
    /// The kernel or a service does not offer what is needed (69, EX_UNAVAILABLE).
    Unavailable,
    /// onetrip itself is broken (70, EX_SOFTWARE).
    Software,
    /// The system refused something every program may ask for (71, EX_OSERR).
    System,
    /// A file or directory cannot be made (73, EX_CANTCREAT).
    CannotCreate,
    /// Reading or writing failed (74, EX_IOERR).
    Io,
    /// It may work later (75, EX_TEMPFAIL).
    Temporary,
    /// The process lacks a permission (77, EX_NOPERM).
    NoPermission,
    /// The configuration is wrong (78, EX_CONFIG).
    Config,
}

impl Exit {
    /// Every way to end, in the order of the codes.
    pub const ALL: [Self; 13] = [
        Self::Success,
        Self::Usage,
        Self::Data,
        Self::NoInput,
        Self::NoUser,
        Self::Unavailable,
        Self::Software,
        Self::System,
        Self::CannotCreate,
        Self::Io,
        Self::Temporary,
        Self::NoPermission,
        Self::Config,
    ];

    /// The code that the parent process sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Usage => 64,
            Self::Data => 65,
            Self::NoInput => 66,
            Self::NoUser => 67,
            Self::Unavailable => 69,
            Self::Software => 70,
            Self::System => 71,
            Self::CannotCreate => 73,
            Self::Io => 74,
            Self::Temporary => 75,
            Self::NoPermission => 77,
            Self::Config => 78,
        }
    }

    /// The exit of this code. A code that sysexits.h does not know is our own mistake.
    pub fn of_code(code: u8) -> Self {
        Self::ALL.into_iter().find(|exit| exit.code() == code).unwrap_or(Self::Software)
    }

    /// What the code means, for the manual.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Success => "everything went well",
            Self::Usage => "the command line is wrong",
            Self::Data => "a file or the standard input holds something that cannot be used",
            Self::NoInput => "a file that should be read is not there",
            Self::NoUser => "there is no such user",
            Self::Unavailable => "the kernel or a service does not offer what is needed",
            Self::Software => "onetrip itself is broken: please report it",
            Self::System => "the system refused something every program may ask for",
            Self::CannotCreate => "a file or directory cannot be made",
            Self::Io => "reading or writing failed",
            Self::Temporary => "it may work later",
            Self::NoPermission => "the process lacks a permission",
            Self::Config => "the configuration is wrong",
        }
    }

    /// The code for a file that could not be opened or read.
    pub fn of_read_error(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::NoInput,
            std::io::ErrorKind::PermissionDenied => Self::NoPermission,
            std::io::ErrorKind::InvalidData => Self::Data,
            _ => Self::Io,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;

    #[test]
    fn the_list_of_exits_is_in_the_order_of_their_codes_and_names_none_twice() {
        assert!(Exit::ALL.windows(2).all(|pair| pair[0].code() < pair[1].code()));
    }

    #[test]
    fn every_exit_is_found_by_its_code_and_an_unknown_code_is_our_mistake() {
        for exit in Exit::ALL {
            assert_eq!(Exit::of_code(exit.code()), exit);
        }
        assert_eq!(Exit::of_code(1), Exit::Software);
    }

    #[test]
    fn a_file_that_cannot_be_read_says_why_in_its_exit() {
        let exit = |kind| Exit::of_read_error(&std::io::Error::from(kind));
        assert_eq!(exit(std::io::ErrorKind::NotFound), Exit::NoInput);
        assert_eq!(exit(std::io::ErrorKind::PermissionDenied), Exit::NoPermission);
        assert_eq!(exit(std::io::ErrorKind::InvalidData), Exit::Data);
        assert_eq!(exit(std::io::ErrorKind::IsADirectory), Exit::Io);
    }
}
