//! The file of qhlo-id secrets, of any bytes.
//!
//! Promises: a damaged file changes nothing of what the server knows, and the next start sets it aside as a whole and goes
//! on; a file that is taken is taken again, and ids that it issues are known afterwards.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use onetrip::proto::qhlo_id::{Binding, Point, QhloId, Subject};
use onetrip::runtime::qhlo_secrets::{QHLO_SECRETS_FILE, QhloSecrets};
use onetrip::time::Now;

const NOW: Now = Now::simulated_ms(0);
const ROTATION: Duration = Duration::from_secs(30 * 86_400);

/// See the [module](self).
pub fn check(data: &[u8]) {
    let directory = Directory::new();
    let (mut secrets, _) = QhloSecrets::open(&directory.0, ROTATION, NOW).unwrap();
    let before = id(&secrets);
    let path = directory.0.join(QHLO_SECRETS_FILE);
    fs::write(&path, data).unwrap();
    match secrets.reload(NOW) {
        Ok(()) => {
            let after = id(&secrets);
            let (again, warning) = QhloSecrets::open(&directory.0, ROTATION, NOW).unwrap();
            assert!(warning.is_none() && is_known(&again, &after), "a file that was taken was not taken again");
        }
        Err(error) => {
            assert!(!error.to_string().contains('\n'));
            assert!(is_known(&secrets, &before), "a damaged file has changed what is known");
            let (_, warning) = QhloSecrets::open(&directory.0, ROTATION, NOW).unwrap();
            assert!(warning.is_some());
            assert!(QhloSecrets::open(&directory.0, ROTATION, NOW).unwrap().1.is_none());
        }
    }
}

fn subject() -> Subject<'static> {
    let address = IpAddr::from([192, 0, 2, 1]);
    Subject { point: Point::Connect, list_digest: &[0; 32], server: address, client: address }
}

fn id(secrets: &QhloSecrets) -> QhloId {
    secrets.ids(Binding::Address).issue(&subject())
}

fn is_known(secrets: &QhloSecrets, id: &QhloId) -> bool {
    secrets.ids(Binding::Address).matches(&subject(), id.as_bytes())
}

/// A state directory in memory, where there is such a place; gone when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = root.join(format!("onetrip-fuzz-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
