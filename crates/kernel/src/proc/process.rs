//! What a process says of itself, and what the kernel says of it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// The processes of our pid namespace, in the order of their numbers. Some may be gone by now.
///
/// # Errors
/// When /proc can't be read.
pub fn processes() -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    pids.sort_unstable();
    Ok(pids)
}

/// The program that a process runs (`/proc/PID/exe`, proc(5)); ends in ` (deleted)` when its file is gone.
///
/// # Errors
/// ENOENT when the process is gone or a thread of the kernel's, EACCES without the right to look into it.
pub fn exe(pid: u32) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe"))
}

/// The arguments of a process as it shows them now, which it may have changed; of them the first `most`
/// bytes.
///
/// # Errors
/// ENOENT or ESRCH when the process is gone.
pub fn command_line(pid: u32, most: u64) -> io::Result<Vec<OsString>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/cmdline"))?.take(most).read_to_end(&mut bytes)?;
    bytes.pop_if(|last| *last == 0);
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(bytes.split(|byte| *byte == 0).map(|argument| OsString::from_vec(argument.to_vec())).collect())
}

/// The process that a process is a child of (field 4 of `/proc/PID/stat`, proc(5)).
///
/// # Errors
/// When the process is gone.
pub fn parent(pid: u32) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = text.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent.and_then(|pid| pid.trim().parse().ok()).ok_or_else(|| super::malformed("status"))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_listed_with_its_program_arguments_and_parent() {
        let mut child = Command::new("/bin/sleep").args(["60", ""]).stdin(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        assert!(processes().unwrap().contains(&pid));
        // The arguments come last of an exec, which may not be over yet.
        while command_line(pid, 1).unwrap().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(exe(pid).unwrap(), std::fs::canonicalize("/bin/sleep").unwrap());
        assert_eq!(command_line(pid, 4096).unwrap(), ["/bin/sleep", "60", ""]);
        assert_eq!(command_line(pid, 7).unwrap(), ["/bin/sl"]);
        assert_eq!(parent(pid).unwrap(), std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(exe(pid).is_err() && command_line(pid, 9).is_err() && parent(pid).is_err());
    }
}
