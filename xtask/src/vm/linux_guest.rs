//! A whole Linux system for the guests of tests, in one archive: it uses its NICs and lets go of
//! them. What it does is in `linux_guest.sh`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::cache::{self, Kept};
use super::cpio::Archive;
use super::initramfs;
use crate::cli::LinuxGuestArguments;
use crate::kernels;

const INIT: &str = include_str!("linux_guest.sh");

/// busybox's programs that it uses, some by way of `acpid`; the last are for its shell.
const TOOLS: [&str; 15] = [
    "sh",
    "acpid",
    "echo",
    "insmod",
    "ip",
    "mkdir",
    "mount",
    "poweroff",
    "rm",
    "run-parts",
    "sleep",
    "arping",
    "ping",
    "true",
    "udhcpc",
];

/// The NICs, and the power button as an input device. Hot-plugging is built into Debian's kernels.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_net", "button", "evdev"];

/// What acpid does when the power button is pressed. There is nothing to save.
const POWER_BUTTON: (&str, &str) = ("etc/acpi/PWRF/00000080", "#!/bin/sh\nexec poweroff -f\n");

/// Writes the system's files.
pub(crate) fn write(arguments: &LinuxGuestArguments) -> Result<ExitCode> {
    let kernel = kernels::named(&arguments.kernel).context("No kernel of this name")?;
    let kernel = cache::kernel(kernel, false)?;
    let dir = &arguments.dir;
    fs::create_dir_all(dir).with_context(|| format!("Can't make {}", dir.display()))?;
    take(&kernel.vmlinux(), &dir.join("vmlinux"))?;
    let initramfs = dir.join("initramfs");
    fs::write(&initramfs, archive(&kernel)?)
        .with_context(|| format!("Can't write {}", initramfs.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// The initramfs, which is also the final root file system.
fn archive(kernel: &Kept) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["dev", "nics", "proc", "sys", "etc", "etc/acpi", "etc/acpi/PWRF"] {
        archive.directory(directory);
    }
    initramfs::add_tools(&mut archive, kernel, &TOOLS)?;
    initramfs::add_modules(&mut archive, kernel, &MODULES)?;
    let (name, script) = POWER_BUTTON;
    archive.program(name, script.as_bytes());
    archive.program("init", INIT.as_bytes());
    Ok(archive.finish())
}

/// Has the file at another place too: the very one, so that it stays when the cache takes a newer
/// kernel, or a copy where that is another file system.
fn take(from: &Path, to: &Path) -> Result<()> {
    match fs::remove_file(to) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop)),
    }
    .with_context(|| format!("Can't write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for kernel in ["old", "new"] {
            let _ = fs::remove_file(&from);
            fs::write(&from, kernel).unwrap();
            take(&from, &to).unwrap();
            assert_eq!(fs::read_to_string(&to).unwrap(), kernel);
        }
    }
}
