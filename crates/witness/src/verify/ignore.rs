use std::collections::HashSet;
use std::fmt::Display;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use taptrail_kernel::proc::{deleted_path, exe_file};

use crate::scan::Holder;

/// Programs and processes that are known to hold devices of their own without a record, such as a
/// VPN's.
///
/// A process runs such a program if its executable is the same file (device and inode). If an
/// update has replaced the file, the path counts, but only in our mount namespace: in another one a
/// path may be anything.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    paths: HashSet<PathBuf>,
    /// The device and inode of each program that exists.
    files: HashSet<(u64, u64)>,
    mounts: Option<u64>,
    pids: HashSet<u32>,
}

impl Ignore {
    /// Ignores these programs and processes. A program that does not exist now is known by its path
    /// only.
    pub fn of(paths: &[PathBuf], pids: &[u32]) -> Self {
        let file = |path: &PathBuf| fs::metadata(path).ok().map(|about| (about.dev(), about.ino()));
        // The kernel shows paths with symbolic links resolved.
        let real = |path: &PathBuf| fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        Self {
            files: paths.iter().filter_map(file).collect(),
            paths: paths.iter().map(real).collect(),
            mounts: mounts(&"self").ok(),
            pids: pids.iter().copied().collect(),
        }
    }

    /// Whether this process is ignored by its pid.
    pub(super) fn has_pid(&self, pid: u32) -> bool {
        self.pids.contains(&pid)
    }

    /// Whether a process is ignored, by its pid or its program.
    pub(super) fn has(&self, holder: &Holder) -> bool {
        if self.pids.contains(&holder.process.pid) {
            return true;
        }
        if self.paths.is_empty() {
            return false;
        }
        let pid = holder.process.pid;
        let same = exe_file(pid).is_ok_and(|file| self.files.contains(&file));
        let shown = || {
            let exe = holder.exe.as_ref()?;
            let exe = deleted_path(exe).unwrap_or(exe);
            Some(self.mounts.is_some() && mounts(&pid).ok() == self.mounts && self.paths.contains(exe))
        };
        same || shown().unwrap_or(false)
    }
}

/// The inode of a process's mount namespace.
fn mounts(pid: &dyn Display) -> io::Result<u64> {
    Ok(fs::metadata(format!("/proc/{pid}/ns/mnt"))?.ino())
}
