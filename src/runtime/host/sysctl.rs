//! Settings of the kernel, read from and written to `/proc/sys`.

use std::fs;
use std::path::PathBuf;

use crate::check::facts::Sysctls;
use crate::check::profile::sysctl_names;
use crate::check::{Applied, Change};

/// All settings that are judged, as far as this kernel has them and lets us read them.
pub(super) fn read_all() -> Sysctls {
    Sysctls::new(sysctl_names().into_iter().filter_map(|name| Some((name.to_owned(), read(name)?))))
}

/// The value of one setting, with one blank between its parts.
pub(super) fn read(name: &str) -> Option<String> {
    let text = fs::read_to_string(path(name)).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Sets one setting until the next boot.
pub(super) fn set(change: Change) -> Applied {
    let before = read(&change.name);
    let refused = fs::write(path(&change.name), &change.value).err().map(|error| error.to_string());
    Applied { change, before, refused }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name.replace('.', "/"))
}

#[cfg(test)]
mod tests {
    use super::{path, read, read_all, set};
    use crate::check::Change;

    #[test]
    fn every_kernel_has_the_settings_that_matter_most() {
        let sysctls = read_all();
        assert!(sysctls.number("net.core.somaxconn").is_some());
        assert_eq!(sysctls.numbers("net.ipv4.ip_local_port_range").unwrap().len(), 2);
        assert_eq!(path("net.core.somaxconn").to_str(), Some("/proc/sys/net/core/somaxconn"));
    }

    #[test]
    fn a_setting_that_cannot_be_set_says_why() {
        let applied = set(Change { name: "kernel.no_such_setting".to_owned(), value: "1".to_owned() });
        assert!(applied.refused.is_some() && applied.before.is_none());
        assert_eq!(read("kernel.no_such_setting"), None);
    }
}
