//! The archive that the kernel begins with, and what of it each such archive needs.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result};

use super::cache::Kept;
use super::cpio::Archive;
use super::modules;

const INIT: &str = include_str!("init.sh");

/// busybox's programs that `init.sh` uses.
const TOOLS: [&str; 8] = ["sh", "cat", "insmod", "mkdir", "mount", "switch_root", "umount", "echo"];

/// What it loads: the root over 9p, the overlay on it, and the port to the host.
const MODULES: [&str; 6] = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console", "virtio_rng"];

/// Makes it for this kernel.
pub(super) fn build(kernel: &Kept) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["dev", "host", "memory", "root"] {
        archive.directory(directory);
    }
    add_tools(&mut archive, kernel, &TOOLS)?;
    add_modules(&mut archive, kernel, &MODULES)?;
    let agent = std::env::current_exe().context("This program's own path is not known")?;
    archive.file("agent", agent.as_os_str().as_bytes());
    archive.program("init", INIT.as_bytes());
    Ok(archive.finish())
}

/// Puts busybox into `/bin`, under these programs' names.
pub(super) fn add_tools(archive: &mut Archive, kernel: &Kept, tools: &[&str]) -> Result<()> {
    let busybox = kernel.busybox();
    let busybox = fs::read(&busybox).with_context(|| format!("Can't read {}", busybox.display()))?;
    archive.directory("bin");
    archive.program("bin/busybox", &busybox);
    for tool in tools {
        archive.link(&format!("bin/{tool}"), "busybox");
    }
    Ok(())
}

/// Puts modules into `/modules`, and into `/modules/order` their names in the order to load them.
pub(super) fn add_modules(archive: &mut Archive, kernel: &Kept, names: &[&str]) -> Result<()> {
    archive.directory("modules");
    let mut order = String::new();
    for (name, module) in modules::with_needs(names, kernel.modules())? {
        order += &format!("{name}\n");
        archive.file(&format!("modules/{name}"), &module);
    }
    archive.file("modules/order", order.as_bytes());
    Ok(())
}
