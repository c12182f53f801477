//! The raw network devices that a process holds, read from `/proc` without the project's own code.

use std::os::unix::fs::MetadataExt;

/// One descriptor of a raw network device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Descriptor {
    pub(crate) fd: i32,
    /// The target of `/proc/PID/fd/N`.
    pub(crate) link: String,
    /// `MAJOR:MINOR`, as audit records have it.
    pub(crate) rdev: String,
    /// The interface that a tun's `fdinfo` names.
    pub(crate) iff: Option<String>,
}

/// All descriptors of tun, macvtap and vhost-net that the process holds, sorted by number.
pub(crate) fn descriptors(pid: u32) -> Vec<Descriptor> {
    let mut seen: Vec<Descriptor> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("a running process")
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let fd: i32 = entry.file_name().to_str()?.parse().ok()?;
            let link = std::fs::read_link(entry.path()).ok()?.to_str()?.to_owned();
            let rdev = std::fs::metadata(entry.path()).ok()?.rdev();
            let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
            let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
            let iff = info.lines().find_map(|line| line.strip_prefix("iff:\t")).map(str::to_owned);
            let raw = iff.is_some() || link.starts_with("/dev/tap") || link.starts_with("/dev/vhost");
            raw.then(|| Descriptor { fd, link, rdev: format!("{major:02X}:{minor:02X}"), iff })
        })
        .collect();
    seen.sort();
    seen
}
