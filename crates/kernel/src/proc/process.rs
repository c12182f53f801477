//! A process's program, arguments, status and threads.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, makedev};
use rustix::thread::CapabilitySet;

use super::same_table;

/// The processes of the calling process's pid namespace, in the order of their pids. Some may have
/// ended.
///
/// # Errors
///
/// /proc can't be read.
pub fn processes() -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    pids.sort_unstable();
    Ok(pids)
}

/// The program that a process runs (`/proc/PID/exe`, proc(5)); ends in ` (deleted)` if its file was
/// deleted.
///
/// # Errors
///
/// ENOENT if the process has ended or is a kernel thread, EACCES without permission to inspect it.
pub fn exe(pid: u32) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe"))
}

/// The path that a link of `/proc/PID` (`exe`, `fd/N`) had before its file was deleted; `None` if
/// the file was not deleted. The kernel appends ` (deleted)` (`d_path()` in fs/d_path.c), so a file
/// whose name ends like that can't be told from a deleted one.
pub fn deleted_path(link: &Path) -> Option<&Path> {
    let path = link.as_os_str().as_bytes().strip_suffix(b" (deleted)")?;
    Some(Path::new(OsStr::from_bytes(path)))
}

/// Device and inode of the file that a process runs, in any mount namespace. Contacts no file
/// server.
///
/// # Errors
///
/// As [`exe`].
pub fn exe_file(pid: u32) -> io::Result<(u64, u64)> {
    let link = format!("/proc/{pid}/exe");
    let about = rustix::fs::statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::INO)?;
    Ok((makedev(about.stx_dev_major, about.stx_dev_minor), about.stx_ino))
}

/// The first `most` bytes of a process's arguments, which the process may have changed.
///
/// # Errors
///
/// ENOENT or ESRCH if the process has ended.
pub fn command_line(pid: u32, most: u64) -> io::Result<Vec<OsString>> {
    // Most are shorter, so that one read(2) is enough: all processes of the host are scanned.
    let mut bytes = Vec::with_capacity(4096);
    File::open(format!("/proc/{pid}/cmdline"))?.take(most).read_to_end(&mut bytes)?;
    bytes.pop_if(|last| *last == 0);
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(bytes.split(|byte| *byte == 0).map(|argument| OsString::from_vec(argument.to_vec())).collect())
}

/// The fields of `/proc/PID/status` (proc(5)) that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStatus {
    /// Its parent's pid.
    pub parent: u32,
    /// Its effective user id.
    pub uid: u32,
    /// Its effective and supplementary group ids.
    pub groups: Vec<u32>,
    /// Its pids in pid namespaces below the calling process's, the innermost last; empty if it is
    /// in the same one.
    pub within: Vec<u32>,
}

impl ProcessStatus {
    /// The status of a process, or of a thread.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn of(pid: u32) -> io::Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let numbers = |name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_ascii_whitespace().filter_map(|number| number.parse().ok())
        };
        let (parent, uid) = (numbers("PPid:").next(), numbers("Uid:").nth(1));
        let groups = numbers("Gid:").skip(1).take(1).chain(numbers("Groups:")).collect();
        // A kernel without pid namespaces has no such line.
        let within = numbers("NStgid:").skip(1).collect();
        let (parent, uid) = parent.zip(uid).ok_or_else(|| super::malformed("status"))?;
        Ok(Self { parent, uid, groups, within })
    }
}

/// Whether a process has this effective capability in the calling process's user namespace. In one
/// of its own, any user has all of them.
///
/// # Errors
///
/// It has ended, or may not be inspected.
pub fn has_capability(pid: u32, capability: CapabilitySet) -> io::Result<bool> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let effective = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|word| u64::from_str_radix(word.trim(), 16).ok());
    let effective = effective.ok_or_else(|| super::malformed("status"))?;
    let namespace = |of: &str| std::fs::metadata(format!("/proc/{of}/ns/user")).map(|file| file.ino());
    let is_ours = namespace("self")? == namespace(&pid.to_string())?;
    Ok(is_ours && effective & capability.bits() == capability.bits())
}

/// The threads of a process with different descriptor tables: the first is the process itself,
/// others have their own table (clone(2) without `CLONE_FILES`, or unshare(2)).
///
/// If the kernel may not compare them, all are assumed to share one table.
///
/// # Errors
///
/// ENOENT if the process has ended.
pub fn descriptor_tables(pid: u32) -> io::Result<Vec<u32>> {
    let threads = format!("/proc/{pid}/task");
    // Its links are `.`, `..` and the threads (fs/proc/base.c, `proc_task_getattr()`).
    if std::fs::metadata(&threads)?.nlink() <= 3 {
        return Ok(vec![pid]);
    }
    let mut tables = vec![pid];
    for thread in std::fs::read_dir(threads)? {
        let Some(thread) = thread?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if thread != pid && !tables.iter().any(|table| same_table(*table, thread).unwrap_or(true)) {
            tables.push(thread);
        }
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_listed_with_its_program_arguments_and_parent() {
        let mut shell = Command::new("/bin/sh");
        let mut child = shell.args(["-c", "read line", ""]).stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        assert!(processes().unwrap().contains(&pid));
        // The arguments come last of an exec, which may not be over yet.
        while command_line(pid, 1).unwrap().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(exe(pid).unwrap(), std::fs::canonicalize("/bin/sh").unwrap());
        let file = std::fs::metadata("/bin/sh").unwrap();
        assert_eq!(exe_file(pid).unwrap(), (file.dev(), file.ino()));
        assert_eq!(command_line(pid, 4096).unwrap(), ["/bin/sh", "-c", "read line", ""]);
        assert_eq!(command_line(pid, 7).unwrap(), ["/bin/sh"]);
        assert_eq!(ProcessStatus::of(pid).unwrap().parent, std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(exe(pid).is_err() && command_line(pid, 9).is_err() && ProcessStatus::of(pid).is_err());
    }

    // Shows 14.16.
    #[test]
    fn a_process_in_a_container_has_another_number_there() {
        assert_eq!(ProcessStatus::of(std::process::id()).unwrap().within, [0; 0]);
        let mut container = Command::new("/usr/bin/unshare");
        // It ends with its input, at the latest when this test does.
        container.args(["--pid", "--fork", "/bin/cat"]);
        let mut container =
            container.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let children = format!("/proc/{pid}/task/{pid}/children", pid = container.id());
        let child: u32 = loop {
            match std::fs::read_to_string(&children).unwrap().trim().parse() {
                Ok(child) => break child,
                Err(_) => std::thread::yield_now(),
            }
        };
        assert_eq!(ProcessStatus::of(child).unwrap().within, [1]);
        container.kill().unwrap();
        container.wait().unwrap();
    }

    #[test]
    fn a_thread_may_have_descriptors_of_its_own() {
        let pid = std::process::id();
        let (own, theirs) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            own.send(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()).unwrap();
            let _ = wait.recv();
            // SAFETY: this thread's own copies of the descriptors are closed by its end alone.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FILES) }.unwrap();
            own.send(0).unwrap();
            let _ = wait.recv();
        });
        let id = theirs.recv().unwrap();
        let tables = descriptor_tables(pid).unwrap();
        assert!(tables.starts_with(&[pid]) && !tables.contains(&id), "{tables:?}");
        done.send(()).unwrap();
        theirs.recv().unwrap();
        assert!(descriptor_tables(pid).unwrap().contains(&id));
        drop(done);
        thread.join().unwrap();
        // The kernel wakes who waits for a thread's end a moment before it takes the thread off its
        // list.
        while descriptor_tables(pid).unwrap().contains(&id) {
            std::thread::yield_now();
        }
        assert!(descriptor_tables(u32::MAX).is_err());
    }
}
