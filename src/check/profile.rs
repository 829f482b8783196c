//! Profiles: what the kernel and the limits of the process should be for a small machine, a large one, and a site whose
//! clients are far away.
//!
//! This table is where the values live. The files under `tuning/sysctl.d/` are made from it; what each setting does, and
//! what it was measured to do, is in `tuning/README.md`, and a test holds the two against each other.

use std::fmt;
use std::fmt::Write as _;

use super::facts::HostFacts;
use super::{Finding, Remedy, kernel, network};

/// A kind of site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// A virtual machine of one or two cores and about 1 GiB.
    Small,
    /// Many cores, many thousands of connections at once.
    Large,
    /// Clients with long round trips and poor paths.
    SlowLink,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 3] = [Self::Small, Self::Large, Self::SlowLink];

    /// The name, as `--profile` takes it and files bear it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Large => "large",
            Self::SlowLink => "slow-link",
        }
    }

    /// The profile of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// Open files that the server should be allowed.
    pub const fn open_files(self) -> u64 {
        match self {
            Self::Small | Self::SlowLink => 65_536,
            Self::Large => 1_048_576,
        }
    }

    /// Bytes that the server should be allowed to lock.
    pub const fn locked_memory_bytes(self) -> u64 {
        match self {
            Self::Small | Self::SlowLink => 8 << 20,
            Self::Large => 64 << 20,
        }
    }

    /// What a host lacks for this profile.
    pub(super) fn judge(self, host: &HostFacts) -> Vec<Finding> {
        let mut findings: Vec<Finding> = SETTINGS.iter().filter_map(|setting| setting.judge(self, host)).collect();
        findings.push(self.judge_limit("open files", "LimitNOFILE", host.open_files, self.open_files()));
        let locked = self.locked_memory_bytes();
        findings.push(self.judge_limit("locked memory", "LimitMEMLOCK", host.locked_memory, locked));
        findings
    }

    fn judge_limit(self, what: &str, directive: &str, allowed: Option<u64>, wanted: u64) -> Finding {
        let subject = format!("profile {}", self.name());
        match allowed {
            Some(allowed) if allowed < wanted => {
                let remedy = Remedy::words(format!("{directive}={wanted} in the unit"));
                Finding::warning(&subject, format!("{what}: {allowed}, wanted: {wanted}"), remedy)
            }
            _ => Finding::ok(&subject, format!("{what}: at least {wanted}")),
        }
    }

    /// The sysctl.d file of this profile.
    pub fn sysctl_file(self) -> String {
        let mut file = format!(
            "# What the profile \"{0}\" of onetrip asks of the kernel. tuning/README.md says what each setting does and how to undo it.\n\
             # Made from src/check/profile.rs: change that, then run `ONETRIP_BLESS=1 cargo test --lib check::profile`.\n\
             #\n\
             # A value that is higher here already should stay: `onetrip check --profile {0}` tells.\n",
            self.name()
        );
        for (setting, wanted) in SETTINGS.iter().filter_map(|setting| Some((setting, setting.wanted(self)?))) {
            // The minus: no error if this kernel does not have the setting.
            let _ = write!(file, "\n# {}\n-{} = {wanted}\n", setting.why, setting.name);
        }
        file
    }
}

/// One setting of the kernel and what each profile wants of it.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The name as `sysctl` knows it.
    pub name: &'static str,
    /// What it is good for, in a line.
    pub why: &'static str,
    small: Option<Wanted>,
    large: Option<Wanted>,
    slow_link: Option<Wanted>,
}

/// What a value should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This number or a higher one.
    AtLeast(u64),
    /// Of a setting that is three numbers, these or higher ones.
    EachAtLeast([u64; 3]),
    /// These bits, and others as they are.
    Bits(u64),
    /// This number.
    Exactly(u64),
}

impl Setting {
    /// What a profile wants of it, if anything.
    pub const fn wanted(&self, profile: Profile) -> Option<Wanted> {
        match profile {
            Profile::Small => self.small,
            Profile::Large => self.large,
            Profile::SlowLink => self.slow_link,
        }
    }

    /// Nothing is said of a setting that this kernel does not have.
    fn judge(&self, profile: Profile, host: &HostFacts) -> Option<Finding> {
        let wanted = self.wanted(profile)?;
        let (text, values) = (host.sysctls.text(self.name)?, host.sysctls.numbers(self.name)?);
        let subject = format!("profile {}", profile.name());
        let mended: Vec<u64> = values.iter().enumerate().map(|(index, value)| wanted.mend(index, *value)).collect();
        if mended == values {
            return Some(Finding::ok(&subject, format!("{} is {text}", self.name)));
        }
        let mended: Vec<String> = mended.iter().map(u64::to_string).collect();
        let what = format!("{} is {text}, wanted: {} ({})", self.name, wanted.in_words(), self.why);
        Some(Finding::warning(&subject, what, Remedy::sysctl(self.name, mended.join(" "))))
    }
}

impl Wanted {
    /// What one of the numbers of a setting should be: as wanted, and nearest to the one that is there.
    fn mend(self, index: usize, value: u64) -> u64 {
        match self {
            Self::AtLeast(least) => value.max(least),
            Self::EachAtLeast(least) => value.max(least.get(index).copied().unwrap_or_default()),
            Self::Bits(bits) => value | bits,
            Self::Exactly(exactly) => exactly,
        }
    }

    fn in_words(self) -> String {
        match self {
            Self::AtLeast(_) | Self::EachAtLeast(_) => format!("{self} or more"),
            Self::Bits(bits) => format!("the bits of {bits} besides"),
            Self::Exactly(exactly) => exactly.to_string(),
        }
    }
}

impl fmt::Display for Wanted {
    /// The value for a kernel of which nothing is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(value) | Self::Bits(value) | Self::Exactly(value) => write!(f, "{value}"),
            Self::EachAtLeast([least, default, most]) => write!(f, "{least} {default} {most}"),
        }
    }
}

/// Every setting that any profile wants.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "net.ipv4.tcp_fastopen",
        why: "a returning client's first flight travels in its SYN, which saves a round trip",
        small: Some(Wanted::Bits(3)),
        large: Some(Wanted::Bits(3)),
        slow_link: Some(Wanted::Bits(3)),
    },
    Setting {
        name: "net.ipv4.tcp_syncookies",
        why: "a flood of forged SYNs does not shut clients out, and Fast Open stays possible",
        small: Some(Wanted::Exactly(1)),
        large: Some(Wanted::Exactly(1)),
        slow_link: Some(Wanted::Exactly(1)),
    },
    Setting {
        name: "net.core.somaxconn",
        why: "so many connections of a listener may wait in a burst; --backlog is cut to it",
        small: Some(Wanted::AtLeast(4_096)),
        large: Some(Wanted::AtLeast(65_535)),
        slow_link: Some(Wanted::AtLeast(4_096)),
    },
    Setting {
        name: "net.ipv4.tcp_migrate_req",
        why: "connections that wait at a listener which closes go to another one on the same port",
        small: Some(Wanted::Exactly(1)),
        large: Some(Wanted::Exactly(1)),
        slow_link: Some(Wanted::Exactly(1)),
    },
    Setting {
        name: "net.ipv4.tcp_mtu_probing",
        why: "a path that swallows large packets without a word does not hold a handshake up for good",
        small: Some(Wanted::AtLeast(1)),
        large: Some(Wanted::AtLeast(1)),
        slow_link: Some(Wanted::AtLeast(1)),
    },
    Setting {
        name: "net.ipv4.tcp_rmem",
        why: "a large message from far away is held up less until the kernel has learned how much to let in at once",
        small: None,
        large: None,
        slow_link: Some(Wanted::EachAtLeast([4_096, 1_048_576, 6_291_456])),
    },
    Setting {
        name: "net.netfilter.nf_conntrack_max",
        why: "a firewall that follows connections has room for all of them",
        small: None,
        large: Some(Wanted::AtLeast(1_048_576)),
        slow_link: None,
    },
    Setting {
        name: "fs.nr_open",
        why: "the limit on open files of one process can be raised far enough",
        small: None,
        large: Some(Wanted::AtLeast(1_048_576)),
        slow_link: None,
    },
];

/// Every setting of the kernel that is judged, each once.
pub fn sysctl_names() -> Vec<&'static str> {
    let mut names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
    names.extend(kernel::SYSCTLS);
    names.extend(network::SYSCTLS);
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::{Profile, SETTINGS, Wanted};
    use crate::check::Level;
    use crate::check::descriptors;
    use crate::check::tests::{config_of_file, good_host};

    fn tuning(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tuning").join(name)
    }

    fn read(name: &str) -> String {
        fs::read_to_string(tuning(name)).unwrap_or_else(|error| panic!("tuning/{name}: {error}"))
    }

    #[test]
    fn the_sysctl_files_are_made_from_the_table() {
        for profile in Profile::ALL {
            let name = format!("sysctl.d/60-onetrip-{}.conf", profile.name());
            if std::env::var_os("ONETRIP_BLESS").is_some() {
                fs::write(tuning(&name), profile.sysctl_file()).unwrap();
            }
            assert!(
                fs::read_to_string(tuning(&name)).unwrap_or_default() == profile.sysctl_file(),
                "tuning/{name} is out of date: run `ONETRIP_BLESS=1 cargo test --lib check::profile`"
            );
        }
    }

    #[test]
    fn the_page_on_tuning_has_a_section_for_each_setting_with_the_value_of_each_profile() {
        let page = read("README.md");
        for setting in SETTINGS {
            let values =
                Profile::ALL.map(|profile| setting.wanted(profile).map_or("-".to_owned(), |it| it.to_string()));
            let row = format!("| `{}` | {} |", setting.name, values.join(" | "));
            assert!(page.contains(&row), "tuning/README.md has no row that begins {row}");
            assert!(page.contains(&format!("### `{}`", setting.name)), "no section on {}", setting.name);
        }
        for profile in Profile::ALL {
            let row =
                format!("| `{}` | {} | {} |", profile.name(), profile.open_files(), profile.locked_memory_bytes());
            assert!(page.contains(&row), "tuning/README.md has no row that begins {row}");
        }
    }

    #[test]
    fn the_configuration_of_each_profile_fits_the_kernel_and_the_limits_of_the_profile() {
        for profile in Profile::ALL {
            let name = format!("{}.toml", profile.name());
            let config = config_of_file(&read(&name), 64);
            let somaxconn = SETTINGS.iter().find(|setting| setting.name == "net.core.somaxconn").unwrap();
            let Some(Wanted::AtLeast(least)) = somaxconn.wanted(profile) else { panic!("somaxconn is wanted") };
            assert!(u64::from(config.backlog) <= least, "{name}: --backlog is cut by the kernel");
            // A small machine has two cores; on a large one descriptors must last for 16 shards at least.
            let cores = if profile == Profile::Large { 16 } else { 2 };
            let config = config_of_file(&read(&name), cores);
            assert!(descriptors::needed(&config) <= profile.open_files(), "{name} needs more open files");
        }
    }

    #[test]
    fn the_unit_allows_what_the_largest_profile_wants() {
        let unit = read("onetrip.service");
        assert!(unit.contains(&format!("\nLimitNOFILE={}\n", Profile::Large.open_files())), "{unit}");
        assert!(unit.contains(&format!("\nLimitMEMLOCK={}\n", Profile::Large.locked_memory_bytes())), "{unit}");
    }

    #[test]
    fn a_host_that_has_more_than_is_wanted_is_left_alone() {
        let mut host = good_host();
        host.sysctls.set("net.core.somaxconn", "1000000");
        host.sysctls.set("net.ipv4.tcp_fastopen", "1027");
        assert!(Profile::Large.judge(&host).iter().all(|finding| finding.level == Level::Ok));
    }

    #[test]
    fn of_a_setting_that_is_three_numbers_only_the_low_ones_are_raised() {
        let mut host = good_host();
        host.sysctls.set("net.ipv4.tcp_rmem", "8192 131072 67108864");
        let findings = Profile::SlowLink.judge(&host);
        let change = findings.iter().find_map(|finding| finding.remedy.as_ref()?.change()).unwrap();
        assert_eq!(change.to_string(), "sysctl -w 'net.ipv4.tcp_rmem=8192 1048576 67108864'");
    }

    #[test]
    fn bits_that_others_have_set_stay_set() {
        let mut host = good_host();
        host.sysctls.set("net.ipv4.tcp_fastopen", "1025");
        let findings = Profile::Small.judge(&host);
        let change = findings.iter().find_map(|finding| finding.remedy.as_ref()?.change()).unwrap();
        assert_eq!((change.name.as_str(), change.value.as_str()), ("net.ipv4.tcp_fastopen", "1027"));
    }

    #[test]
    fn a_setting_that_this_kernel_does_not_have_is_not_asked_for() {
        let host = good_host();
        assert!(host.sysctls.number("net.netfilter.nf_conntrack_max").is_none());
        assert!(Profile::Large.judge(&host).iter().all(|finding| !finding.what.contains("conntrack")));
    }

    #[test]
    fn a_limit_that_is_too_low_is_told_with_the_line_for_the_unit() {
        let mut host = good_host();
        host.open_files = Some(1_024);
        let findings = Profile::Small.judge(&host);
        let [finding] = findings.iter().filter(|finding| finding.level != Level::Ok).collect::<Vec<_>>()[..] else {
            panic!("{findings:?}")
        };
        assert_eq!(finding.remedy.as_ref().unwrap().to_string(), "LimitNOFILE=65536 in the unit");
    }

    #[test]
    fn each_profile_is_found_by_its_name() {
        assert!(Profile::ALL.into_iter().all(|profile| Profile::of_name(profile.name()) == Some(profile)));
        assert_eq!(Profile::of_name("huge"), None);
    }
}
