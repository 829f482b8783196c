//! Directories, tried by writing a small file as a message is written and removing it again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, Instant};

use super::MODE_BITS;
use crate::check::facts::{Mount, PlaceFacts, Refused, Role, Room, WriteTrial};
use crate::runtime::atomic_file::PRIVATE_FILE_MODE;

/// What can be found out about a directory, or about the nearest one above it that is there.
pub(super) fn place(role: Role, path: &Path) -> PlaceFacts {
    let nearest = nearest_there(path);
    let metadata = fs::metadata(&nearest);
    PlaceFacts {
        role,
        path: path.to_owned(),
        owner: metadata.as_ref().map_or(0, MetadataExt::uid),
        device: metadata.as_ref().map_or(0, MetadataExt::dev),
        mode: metadata.map_or(0, |metadata| metadata.mode() & MODE_BITS),
        mount: mount(&nearest),
        room: room(&nearest),
        trial: try_to_write(&nearest).map_err(|error| Refused::from(&error)),
        nearest,
    }
}

/// The path itself, or the nearest directory above it that is there.
fn nearest_there(path: &Path) -> PathBuf {
    let above = path.ancestors().find(|above| above.exists());
    match above {
        Some(above) if !above.as_os_str().is_empty() => above.to_owned(),
        _ => PathBuf::from("."),
    }
}

// ── Writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Writes, syncs, renames, and syncs the directory, as a message is delivered; then removes the file.
fn try_to_write(directory: &Path) -> io::Result<WriteTrial> {
    let unfinished = directory.join(format!(".onetrip-check-{}.new", process::id()));
    let finished = unfinished.with_extension("");
    let syncs = write_and_sync(&unfinished);
    let renamed = fs::rename(&unfinished, &finished);
    let directory_sync = File::open(directory).and_then(|directory| directory.sync_all());
    // Whatever went wrong, nothing is left behind; what went wrong first is told.
    let _ = fs::remove_file(&unfinished);
    let _ = fs::remove_file(&finished);
    let syncs = syncs?;
    renamed?;
    Ok(WriteTrial { syncs, directory_sync: directory_sync.map_err(|error| Refused::from(&error)) })
}

fn write_and_sync(path: &Path) -> io::Result<Vec<Duration>> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE_MODE).open(path)?;
    let mut syncs = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&[b'x'; WRITE_BYTES])?;
        let start = Instant::now();
        file.sync_data()?;
        syncs.push(start.elapsed());
    }
    file.sync_all()?;
    Ok(syncs)
}

fn room(directory: &Path) -> Option<Room> {
    let status = rustix::fs::statvfs(directory).ok()?;
    Some(Room {
        bytes_free: status.f_bavail.saturating_mul(status.f_frsize),
        files_free: status.f_favail,
        files_total: status.f_files,
    })
}

// ── Mounts ──────────────────────────────────────────────────────────────────────────────────────────────────────────

fn mount(directory: &Path) -> Option<Mount> {
    let directory = directory.canonicalize().ok()?;
    mount_of(&directory, &fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// The mount that a path lies on: the longest that it begins with, and of several on one point the last.
fn mount_of(path: &Path, mountinfo: &str) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(parse_mount);
    let over = mounts.filter(|(point, _)| path.starts_with(point));
    over.max_by_key(|(point, _)| point.components().count()).map(|(_, mount)| mount)
}

/// One line of `/proc/self/mountinfo`: where, and what.
fn parse_mount(line: &str) -> Option<(PathBuf, Mount)> {
    let (mounted, system) = line.split_once(" - ")?;
    let mut mounted = mounted.split(' ').skip(4);
    let (point, options) = (mounted.next()?, mounted.next()?);
    let mut system = system.split(' ');
    let (kind, more_options) = (system.next()?, system.nth(1).unwrap_or_default());
    let options = options.split(',').chain(more_options.split(',')).map(str::to_owned).collect();
    Some((PathBuf::from(unescaped(point)), Mount { kind: kind.to_owned(), options }))
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescaped(point: &str) -> String {
    let named = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    named.into_iter().fold(point.to_owned(), |text, (code, letter)| text.replace(code, letter))
}

// ── Lock ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// The process that holds a lock on this file. The lock itself is not tried: that could turn away a server that starts.
pub(super) fn holder_of_lock(lock: &Path) -> Option<u32> {
    let metadata = fs::metadata(lock).ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    holder_in(&locks, metadata.ino(), (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev())))
}

/// A line such as `1: FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF`: process, device, inode.
fn holder_in(locks: &str, inode: u64, (major, minor): (u32, u32)) -> Option<u32> {
    let wanted = format!("{major:02x}:{minor:02x}:{inode}");
    // An arrow marks a process that only waits for a lock.
    locks.lines().filter(|line| !line.contains("->")).find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "FLOCK").skip(3);
        let (process, file) = (words.next()?, words.next()?);
        (file == wanted).then(|| process.parse().ok()).flatten()
    })
}

/// A handful: enough for a median, few enough to be done at once on a slow disk.
const SYNCS: usize = 9;

/// A small message.
const WRITE_BYTES: usize = 4_096;

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::io::ErrorKind;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process;

    use super::{SYNCS, holder_in, holder_of_lock, mount_of, nearest_there, place};
    use crate::check::facts::Role;
    use crate::runtime::state_directory::StateDirectory;

    #[test]
    fn a_directory_is_tried_and_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o750)).unwrap();
        let facts = place(Role::State, directory.path());
        assert_eq!(facts.trial.as_ref().unwrap().syncs.len(), SYNCS);
        assert!(facts.exists() && facts.mode == 0o750);
        assert!(facts.room.unwrap().bytes_free > 0);
        assert!(!facts.mount.unwrap().kind.is_empty());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_judged_by_the_one_above_and_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        let facts = place(Role::State, &path);
        assert_eq!(facts.nearest, directory.path());
        assert!(!facts.exists() && facts.trial.is_ok() && !path.exists());
        assert_eq!(nearest_there(Path::new("no-such-directory/here")), Path::new("."));
    }

    #[test]
    fn a_file_in_the_way_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(place(Role::State, &file).trial.unwrap_err().kind, ErrorKind::NotADirectory);
        assert_eq!(fs::read(&file).unwrap(), b"");
    }

    #[test]
    fn a_path_lies_on_the_longest_mount_that_it_begins_with_and_there_on_the_last() {
        let mountinfo = "\
            21 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
            22 21 0:5 / /srv/my\\040mail rw,nosuid - tmpfs none rw,size=4k\n\
            23 21 0:6 / /srv rw shared:1 master:2 - xfs /dev/vdb rw,nobarrier\n\
            24 21 0:7 / /srv ro - nfs4 host:/x rw\n";
        let kind = |path: &str| mount_of(Path::new(path), mountinfo).unwrap().kind;
        assert_eq!(kind("/var"), "ext4");
        assert_eq!(kind("/srv/other"), "nfs4");
        assert_eq!(kind("/srv/my mail/box"), "tmpfs");
        assert_eq!(kind("/srvother"), "ext4");
        assert_eq!(mount_of(Path::new("/srv/a"), mountinfo).unwrap().options, ["ro", "rw"]);
    }

    #[test]
    fn the_process_that_holds_the_lock_is_found_and_only_while_it_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        let lock = state.file("lock");
        assert_eq!(holder_of_lock(&lock), Some(process::id()));
        drop(state);
        assert_eq!(holder_of_lock(&lock), None);
    }

    #[test]
    fn only_a_lock_on_the_same_file_of_the_same_device_counts() {
        let locks = "1: POSIX  ADVISORY  WRITE 1 fe:01:7 0 EOF\n2: FLOCK  ADVISORY  WRITE 22 fe:01:7 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 33 fe:01:9 0 EOF\n";
        assert_eq!(holder_in(locks, 7, (0xfe, 1)), Some(22));
        assert_eq!(holder_in(locks, 7, (0xfe, 2)), None);
        assert_eq!(holder_in(locks, 9, (0xfe, 1)), None);
    }
}
