//! The archive that the kernel begins with.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result};

use super::cache::Kept;
use super::cpio::Archive;
use super::modules;

const INIT: &str = include_str!("init.sh");

/// busybox's programs that `init.sh` uses.
const TOOLS: [&str; 8] = ["sh", "cat", "insmod", "mkdir", "mount", "switch_root", "umount", "echo"];

/// Makes it for this kernel.
pub(super) fn build(kernel: &Kept) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "host", "memory", "modules", "root"] {
        archive.directory(directory);
    }
    let busybox = kernel.busybox();
    let busybox = fs::read(&busybox).with_context(|| format!("Can't read {}", busybox.display()))?;
    archive.program("bin/busybox", &busybox);
    for tool in TOOLS {
        archive.link(&format!("bin/{tool}"), "busybox");
    }
    let mut order = String::new();
    for (name, module) in modules::first(kernel.modules())? {
        order += &format!("{name}\n");
        archive.file(&format!("modules/{name}"), &module);
    }
    archive.file("modules/order", order.as_bytes());
    let agent = std::env::current_exe().context("This program's own path is not known")?;
    archive.file("agent", agent.as_os_str().as_bytes());
    archive.program("init", INIT.as_bytes());
    Ok(archive.finish())
}
