//! Directories that are written to: whose they are, what they lie on, how much room there is, and whether a sync holds.

use std::io::ErrorKind;
use std::time::Duration;

use super::facts::{Mount, PlaceFacts, Refused, Role, Room, WriteTrial};
use super::{Finding, Remedy};
use crate::config::Config;
use crate::exit::Exit;
use crate::relay::SyncPolicy;

/// Every directory, and each file system once.
pub(super) fn judge(places: &[PlaceFacts], config: &Config, user: u32) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, place) in places.iter().enumerate() {
        findings.push(access(place, user));
        findings.extend(privacy(place));
        if places[..index].iter().all(|earlier| earlier.device != place.device) {
            findings.extend(judge_file_system(place, config));
        }
    }
    findings
}

fn judge_file_system(place: &PlaceFacts, config: &Config) -> Vec<Finding> {
    let mut findings: Vec<Finding> = place.room.map(|room| judge_room(place, room, config)).into_iter().collect();
    findings.extend(place.mount.as_ref().map(|mount| file_system(place, mount, config)));
    if let (Ok(trial), SyncPolicy::Commit) = (&place.trial, config.sync) {
        findings.push(sync(place, trial));
    }
    findings
}

impl Role {
    fn subject(self) -> &'static str {
        match self {
            Self::State => "state directory",
            Self::Mail => "mail directory",
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::State => "--state-dir",
            Self::Mail => "--deliver maildir:DIR",
        }
    }
}

fn access(place: &PlaceFacts, user: u32) -> Finding {
    let subject = place.role.subject();
    let (path, nearest) = (place.path.display(), place.nearest.display());
    match &place.trial {
        Err(refused) => cannot_write(place, refused),
        Ok(_) if !place.exists() => {
            Finding::ok(subject, format!("{path} will be made on the first start; {nearest} can be written"))
        }
        Ok(_) if place.owner != user => Finding::note(
            subject,
            format!(
                "{path} belongs to user {}, and this check runs as user {user}: what it may do, the server may not",
                place.owner
            ),
            Remedy::command(format!("setpriv --reuid {} --clear-groups onetrip check …", place.owner)),
        ),
        Ok(_) => Finding::ok(subject, format!("{path} can be written")),
    }
}

fn cannot_write(place: &PlaceFacts, refused: &Refused) -> Finding {
    let (subject, flag, nearest) = (place.role.subject(), place.role.flag(), place.nearest.display());
    let what = format!("nothing can be written in {nearest}: {}", refused.text);
    let (exit, remedy) = match refused.kind {
        ErrorKind::PermissionDenied => (
            Exit::NoPermission,
            Remedy::words(format!("chown it to the user that the server runs as, or name another with {flag}")),
        ),
        ErrorKind::ReadOnlyFilesystem => (
            Exit::CannotCreate,
            Remedy::words(format!("ReadWritePaths= or StateDirectory= in the unit, or name another with {flag}")),
        ),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            (Exit::Io, Remedy::command(format!("df -h {nearest}; df -i {nearest}")))
        }
        ErrorKind::NotADirectory => (
            Exit::CannotCreate,
            Remedy::words(format!("move the file out of the way, or name another directory with {flag}")),
        ),
        _ => (Exit::Io, Remedy::words(format!("check the file system, or name another directory with {flag}"))),
    };
    Finding::failure(subject, exit, what, remedy)
}

fn privacy(place: &PlaceFacts) -> Option<Finding> {
    if !place.exists() || place.trial.is_err() || place.role != Role::State {
        return None;
    }
    let path = place.path.display();
    let remedy = Remedy::command(format!("chmod 700 {path}"));
    if place.mode & OTHERS_WRITE != 0 {
        let what = format!("every user of this host may replace secrets and users in {path} (mode {:o})", place.mode);
        return Some(Finding::failure(place.role.subject(), Exit::Config, what, remedy));
    }
    let what = format!("other users of this host may look into {path} (mode {:o})", place.mode);
    (place.mode & OTHERS_ANY != 0).then(|| Finding::warning(place.role.subject(), what, remedy))
}

fn judge_room(place: &PlaceFacts, room: Room, config: &Config) -> Finding {
    let subject = format!("room of the {}", place.role.subject());
    let nearest = place.nearest.display();
    let free = room.bytes_free >> 20;
    let needed = config.max_message_size.saturating_mul(2);
    if room.bytes_free < needed {
        let what = format!("{free} MiB are free, not enough for two messages of --max-message-size");
        return Finding::failure(&subject, Exit::Io, what, Remedy::command(format!("df -h {nearest}")));
    }
    if room.files_total > 0 && room.files_free < FILES_FREE_MIN {
        let what = format!("{} more files can be made, and each message is one", room.files_free);
        return Finding::warning(&subject, what, Remedy::command(format!("df -i {nearest}")));
    }
    if room.bytes_free < BYTES_FREE_MIN {
        let what = format!("{free} MiB are free, which fills in a bad night");
        return Finding::warning(&subject, what, Remedy::command(format!("df -h {nearest}")));
    }
    let files = if room.files_total > 0 { format!(" and {} files", room.files_free) } else { String::new() };
    Finding::ok(&subject, format!("{free} MiB{files} are free"))
}

fn file_system(place: &PlaceFacts, mount: &Mount, config: &Config) -> Finding {
    let subject = format!("file system of the {}", place.role.subject());
    let kind = mount.kind.as_str();
    let move_it = Remedy::words(format!("name a directory on a local disk with {}", place.role.flag()));
    if matches!(kind, "tmpfs" | "ramfs" | "rootfs") {
        let what = format!("{kind} is memory: what was acknowledged is gone when this host stops");
        return match config.sync {
            SyncPolicy::Commit => Finding::failure(&subject, Exit::Config, what, move_it),
            SyncPolicy::None | SyncPolicy::Through => Finding::warning(&subject, what, move_it),
        };
    }
    if matches!(kind, "overlay" | "aufs" | "squashfs") {
        let what = format!("{kind} is a container's own layer, which is gone with the container");
        return Finding::warning(&subject, what, Remedy::words("mount a volume there"));
    }
    if NETWORK.iter().any(|network| kind.starts_with(network)) {
        let what = format!(
            "{kind} lies behind a network or another program: each commit waits for it, locks may not hold, and whether a \
             sync reaches a disk is up to the other side"
        );
        return Finding::warning(&subject, what, move_it);
    }
    if let Some(option) = mount.options.iter().find(|option| NO_FLUSH.contains(&option.as_str())) {
        let what =
            format!("{kind} is mounted with {option}: a sync does not reach the disk, and a loss of power loses mail");
        return Finding::warning(&subject, what, Remedy::words("mount it without that option"));
    }
    Finding::ok(&subject, kind)
}

fn sync(place: &PlaceFacts, trial: &WriteTrial) -> Finding {
    let subject = format!("sync in the {}", place.role.subject());
    if let Err(refused) = &trial.directory_sync {
        let what =
            format!("a directory cannot be synced ({}): a new message may lose its name in a crash", refused.text);
        let remedy = Remedy::words(format!("name a directory on a local disk with {}", place.role.flag()));
        return Finding::failure(&subject, Exit::Io, what, remedy);
    }
    let mut sorted = trial.syncs.clone();
    sorted.sort();
    let (Some(slowest), Some(median)) = (sorted.last(), sorted.get(sorted.len() / 2)) else {
        return Finding::note(&subject, "nothing was measured", None);
    };
    let measured = format!(
        "4 KiB are stable after {} µs (median of {}; slowest {} µs)",
        median.as_micros(),
        sorted.len(),
        slowest.as_micros()
    );
    if *median > SYNC_SLOW {
        let what = format!("{measured}: each submission waits that long for its 250");
        let remedy = Remedy::words("a disk with a protected write cache, or fewer others on this one");
        return Finding::warning(&subject, what, remedy);
    }
    if *median < SYNC_TOO_FAST {
        let what = format!(
            "{measured}: faster than most disks, so make sure that the disk or the hypervisor does not keep it in memory"
        );
        return Finding::note(&subject, what, None);
    }
    Finding::ok(&subject, measured)
}

/// The permission bits of users who are neither the owner nor in the group.
const OTHERS_ANY: u32 = 0o007;

/// The permission to replace files, of the same.
const OTHERS_WRITE: u32 = 0o002;

/// Less free than this fills before anybody looks.
const BYTES_FREE_MIN: u64 = 1 << 30;

/// Fewer files than this fill before anybody looks.
const FILES_FREE_MIN: u64 = 100_000;

/// A sync that takes longer than a worn rotating disk needs is trouble.
const SYNC_SLOW: Duration = Duration::from_millis(40);

/// Under this no disk without a protected cache has flushed anything.
const SYNC_TOO_FAST: Duration = Duration::from_micros(50);

/// Kinds of file systems that are somewhere else; each stands for all that begin with it.
const NETWORK: [&str; 9] = ["nfs", "cifs", "smb", "9p", "fuse", "ceph", "glusterfs", "virtiofs", "afs"];

/// Mount options that keep a sync from reaching the disk.
const NO_FLUSH: [&str; 3] = ["nobarrier", "barrier=0", "nosync"];
