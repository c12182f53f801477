//! The initramfs, and its common parts.

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

/// The modules that it loads: for the root over 9p, the overlay on it, and the port to the host.
const MODULES: [&str; 6] = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console", "virtio_rng"];

/// Makes it for this kernel. The virtual machine's root has these directories' files instead of
/// this machine's, unless there are none; the first one's are above the others'.
pub(super) fn build(kernel: &Kept, layers: &[&Path]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["dev", "host", "memory", "root"] {
        archive.directory(directory);
    }
    add_tools(&mut archive, kernel, &TOOLS)?;
    add_modules(&mut archive, kernel, &MODULES)?;
    let agent = std::env::current_exe().context("This program's own path is not known")?;
    archive.file("agent", agent.as_os_str().as_bytes());
    archive.file("lower", &lower(layers)?);
    archive.program("init", INIT.as_bytes());
    Ok(archive.finish())
}

/// The overlay's lower layers, as init.sh gives them to overlayfs: colons are between them, and a
/// comma ends them.
fn lower(layers: &[&Path]) -> Result<Vec<u8>> {
    const HOST: &[u8] = b"/host";
    if layers.is_empty() {
        return Ok(HOST.to_owned());
    }
    let paths: Vec<_> = layers.iter().map(|layer| [HOST, layer.as_os_str().as_bytes()].concat()).collect();
    for (path, layer) in paths.iter().zip(layers) {
        let is_plain = path.iter().all(|byte| byte.is_ascii_graphic() && !b",:\\".contains(byte));
        ensure!(is_plain, "{} has a character that overlayfs would misread", layer.display());
    }
    Ok(paths.join(&b':'))
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
    fn layers_are_seen_below_host_and_without_any_the_host_is_the_only_one() {
        let (root, over) = (Path::new("/t/vm/root-sid/files"), Path::new("/t/out"));
        assert_eq!(lower(&[]).unwrap(), b"/host");
        assert_eq!(lower(&[root]).unwrap(), b"/host/t/vm/root-sid/files");
        assert_eq!(lower(&[over, root]).unwrap(), b"/host/t/out:/host/t/vm/root-sid/files");
    }

    #[test]
    fn a_path_that_overlayfs_would_take_apart_is_refused() {
        for wrong in ["/a,b", "/a:b", "/a b", "/a\\b", "/a\nb"] {
            assert!(lower(&[Path::new(wrong)]).is_err(), "{wrong}");
        }
    }
}
