//! The file systems, links and modules of a Linux system.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, mount, mount_bind};

/// Type, place and options of each file system, in this order.
const MOUNTS: [(&str, &str, &std::ffi::CStr); 8] = [
    ("proc", "/proc", c""),
    ("sysfs", "/sys", c""),
    ("cgroup2", "/sys/fs/cgroup", c""),
    ("devtmpfs", "/dev", c"mode=0755"),
    ("devpts", "/dev/pts", c"mode=0620,ptmxmode=0666,gid=5"),
    ("tmpfs", "/dev/shm", c"mode=1777"),
    ("tmpfs", "/run", c"mode=0755"),
    ("tmpfs", "/run/lock", c"mode=1777"),
];

/// The links that udev would create.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Modules whose device nodes must exist before they are opened. The kernel requests all others
/// itself.
const MODULES: [&str; 3] = ["tun", "vhost_net", "macvtap"];

/// Mounts the file systems that are the virtual machine's own.
pub(super) fn mount_all() -> Result<()> {
    for (kind, place, options) in MOUNTS {
        fs::create_dir_all(place).with_context(|| format!("Can't make {place}"))?;
        mount(kind, place, kind, MountFlags::empty(), options)
            .with_context(|| format!("Can't mount {place}"))?;
    }
    for (target, link) in LINKS {
        symlink(target, link).with_context(|| format!("Can't make {link}"))?;
    }
    Ok(())
}

/// Puts the kernel's modules where modprobe looks for them, and loads some.
pub(super) fn take_modules(dir: &Path) -> Result<()> {
    let release = dir.file_name().context("The modules have no kernel's name")?;
    let place = Path::new("/lib/modules").join(release);
    fs::create_dir_all(&place).with_context(|| format!("Can't make {}", place.display()))?;
    mount_bind(dir, &place).with_context(|| format!("Can't mount {}", place.display()))?;
    let done = Command::new("/sbin/modprobe").arg("-a").args(MODULES).status();
    let done = done.context("Can't run /sbin/modprobe: the package kmod is needed")?;
    ensure!(done.success(), "Can't load the modules {MODULES:?}");
    Ok(())
}
