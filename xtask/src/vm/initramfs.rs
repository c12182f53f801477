//! The archive that the kernel begins with, and what of it each such archive needs.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::cache::Kept;
use super::cpio::Archive;
use super::modules;

const INIT: &str = include_str!("init.sh");

/// busybox's programs that `init.sh` uses.
const TOOLS: [&str; 8] = ["sh", "cat", "insmod", "mkdir", "mount", "switch_root", "umount", "echo"];

/// What it loads: the root over 9p, the overlay on it, and the port to the host.
const MODULES: [&str; 6] = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console", "virtio_rng"];

/// Makes it for this kernel, and for a root file system in this directory instead of this machine's own.
pub(super) fn build(kernel: &Kept, root: Option<&Path>) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["dev", "host", "memory", "root"] {
        archive.directory(directory);
    }
    add_tools(&mut archive, kernel, &TOOLS)?;
    add_modules(&mut archive, kernel, &MODULES)?;
    let agent = std::env::current_exe().context("This program's own path is not known")?;
    archive.file("agent", agent.as_os_str().as_bytes());
    archive.file("other-root", other_root(root)?);
    archive.program("init", INIT.as_bytes());
    Ok(archive.finish())
}

/// The other root's path, or nothing. init.sh gives it to overlayfs, whose options have commas and colons between them.
fn other_root(root: Option<&Path>) -> Result<&[u8]> {
    let path = root.map(|root| root.as_os_str().as_bytes()).unwrap_or_default();
    let is_plain = path.iter().all(|byte| byte.is_ascii_graphic() && !b",:\\".contains(byte));
    ensure!(is_plain, "The cache's path has a character that an overlay's options can't have");
    Ok(path)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_overlayfs_would_take_apart_is_refused() {
        assert_eq!(other_root(None).unwrap(), b"");
        assert_eq!(other_root(Some(Path::new("/t/vm/root-sid/files"))).unwrap(), b"/t/vm/root-sid/files");
        for wrong in ["/a,b", "/a:b", "/a b", "/a\\b", "/a\nb"] {
            assert!(other_root(Some(Path::new(wrong))).is_err(), "{wrong}");
        }
    }
}
