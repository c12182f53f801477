//! The modules that go into a boot archive, in the order to load them.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// A module's file name, without compression's ending, and what is in it.
pub(super) type Module = (String, Vec<u8>);

/// Reads the named modules, and what they need, from a kernel's directory of modules.
pub(super) fn with_needs(names: &[&str], dir: &Path) -> Result<Vec<Module>> {
    let list = |name: &str| {
        fs::read_to_string(dir.join(name)).with_context(|| format!("Can't read {}/{name}", dir.display()))
    };
    let order = order(names, &list("modules.dep")?, &list("modules.builtin")?)?;
    order.iter().map(|path| read(&dir.join(path))).collect()
}

/// The paths of the named modules and of what they need, each behind what it needs.
///
/// depmod(8) lists everything that a module needs, directly or not, so that it can be loaded from
/// the last to the first (kmod's own order).
fn order(names: &[&str], dependencies: &str, builtin: &str) -> Result<Vec<String>> {
    let needs: HashMap<String, (&str, &str)> = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needs)| (name(path), (path, needs)))
        .collect();
    let mut order: Vec<String> = Vec::new();
    for wanted in names {
        match needs.get(*wanted) {
            Some((path, needs)) => {
                for path in needs.split_whitespace().rev().chain([*path]) {
                    if !order.iter().any(|before| before == path) {
                        order.push(path.to_owned());
                    }
                }
            }
            None if builtin.lines().any(|path| name(path) == *wanted) => {}
            None => bail!("The kernel has no module {wanted}"),
        }
    }
    Ok(order)
}

/// The name of the module in this file.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

fn read(path: &Path) -> Result<Module> {
    let packed = fs::read(path).with_context(|| format!("Can't read {}", path.display()))?;
    let mut module = Vec::new();
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => liblzma::read::XzDecoder::new(&*packed).read_to_end(&mut module).map(drop),
        Some("zst") => zstd::stream::copy_decode(&*packed, &mut module),
        Some("gz") => flate2::read::GzDecoder::new(&*packed).read_to_end(&mut module).map(drop),
        _ => {
            module = packed;
            Ok(())
        }
    }
    .with_context(|| format!("{} is damaged", path.display()))?;
    Ok((format!("{}.ko", name(&path.to_string_lossy())), module))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/fs/netfs/netfs.ko.xz:
kernel/net/9p/9pnet.ko.xz: kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/drivers/char/hw_random/virtio-rng.ko:
";

    #[test]
    fn each_module_comes_once_and_behind_what_it_needs() {
        assert_eq!(
            order(&["9pnet_virtio", "9p", "virtio_rng"], DEP, "").unwrap(),
            [
                "kernel/fs/netfs/netfs.ko.xz",
                "kernel/net/9p/9pnet.ko.xz",
                "kernel/net/9p/9pnet_virtio.ko.xz",
                "kernel/fs/9p/9p.ko.xz",
                "kernel/drivers/char/hw_random/virtio-rng.ko",
            ]
        );
    }

    #[test]
    fn what_is_built_in_needs_no_file_and_what_is_nowhere_is_named() {
        let builtin = "kernel/drivers/char/virtio_console.ko\n";
        assert_eq!(order(&["virtio_console"], DEP, builtin).unwrap(), Vec::<String>::new());
        assert_eq!(
            order(&["overlay"], DEP, builtin).unwrap_err().to_string(),
            "The kernel has no module overlay"
        );
    }

    #[test]
    fn a_compressed_module_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a-b.ko.zst");
        fs::write(&path, zstd::encode_all(&b"module"[..], 1).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), ("a_b.ko".to_owned(), b"module".to_vec()));
    }
}
