//! Kernels fetched once and kept, each in a directory of its own (`root` has what stands beside
//! them):
//!
//! ```text
//! target/vm/stable/busybox              the first steps in the virtual machine
//! target/vm/stable/lib/modules/RELEASE  the kernel's modules
//! target/vm/stable/version              Debian's version of it
//! target/vm/stable/vmlinux              the kernel
//! target/vm/stable.lock                 shared by what boots it, exclusive for what replaces it
//! ```

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use super::bzimage;
use crate::apt::{self, AMD64, Apt};
use crate::kernels::{BUSYBOX, Kernel};

/// Debian's name for its newest kernel.
const PACKAGE: &str = "linux-image-amd64";

/// A kernel that is kept, for as long as this value lives.
#[derive(Debug)]
pub(super) struct Kept {
    dir: PathBuf,
    modules: PathBuf,
    _lock: File,
}

impl Kept {
    /// The kernel, as QEMU takes it.
    pub(super) fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// A shell and tools that need no libraries.
    pub(super) fn busybox(&self) -> PathBuf {
        self.dir.join("busybox")
    }

    /// The kernel's directory of modules.
    pub(super) fn modules(&self) -> &Path {
        &self.modules
    }
}

/// The kernel, fetched if it is not here or a newer one is wanted.
pub(super) fn kernel(kernel: &Kernel, update: bool) -> Result<Kept> {
    let is_wanted = |dir: &Path| update || !dir.exists();
    let (dir, lock) = keep(kernel.name, is_wanted, |cache, dir| {
        fetch(kernel, cache, dir).with_context(|| format!("Can't fetch Debian's kernel '{}'", kernel.name))
    })?;
    let modules = only_entry(&dir.join("lib/modules"))?;
    Ok(Kept { dir, modules, _lock: lock })
}

/// A directory of the cache, made first if `is_wanted` says so of its path; and the lock that keeps
/// it from being replaced. `make` gets the cache's directory and the path to put it at.
pub(super) fn keep(
    name: &str,
    is_wanted: impl Fn(&Path) -> bool,
    make: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<(PathBuf, File)> {
    let cache = directory();
    fs::create_dir_all(&cache).with_context(|| format!("Can't make {}", cache.display()))?;
    let dir = cache.join(name);
    let lock = lock_file(&cache.join(format!("{name}.lock")))?;
    flock(&lock, FlockOperation::LockShared)?;
    if is_wanted(&dir) {
        flock(&lock, FlockOperation::LockExclusive)?;
        // Another process may have made it while this one waited.
        if is_wanted(&dir) {
            make(&cache, &dir)?;
        }
        flock(&lock, FlockOperation::LockShared)?;
    }
    Ok((dir, lock))
}

/// The cache's directory, in Cargo's target directory, so that `cargo clean` removes it too.
fn directory() -> PathBuf {
    match std::env::var_os("TAPTRAIL_VM_CACHE") {
        Some(chosen) if !chosen.is_empty() => PathBuf::from(chosen),
        _ => Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target").join("vm"),
    }
}

/// Opens a lock file. That of another user can be used, too: a lock needs no write permission.
fn lock_file(path: &Path) -> Result<File> {
    File::open(path)
        .or_else(|_| File::options().append(true).create(true).open(path))
        .with_context(|| format!("Can't make {}", path.display()))
}

/// Creates the kernel's directory, completely or not at all.
fn fetch(kernel: &Kernel, cache: &Path, dir: &Path) -> Result<()> {
    // The remains of an interrupted attempt.
    let new = cache.join(format!("{}.new", kernel.name));
    remove(&new)?;
    let packages = new.join("packages");
    fs::create_dir_all(&packages)?;
    let apt = Apt::update(&new.join("apt"), AMD64, kernel.suites)?;
    let version = apt.version(PACKAGE)?;
    if fs::read_to_string(dir.join("version")).is_ok_and(|kept| kept.trim_end() == version) {
        return remove(&new);
    }
    let _ = writeln!(
        std::io::stderr(),
        "xtask: fetching Debian's kernel '{}', {version}, into {} (once, 70 to 180 MB)",
        kernel.name,
        cache.display()
    );
    apt.unpack(PACKAGE, &packages)?;
    let apt = Apt::update(&new.join("apt"), AMD64, BUSYBOX)?;
    apt.unpack("busybox-static", &packages)?;

    // Debian moves files from / to /usr from release to release.
    let busybox = either(&packages, ["usr/bin/busybox", "bin/busybox"])?;
    fs::rename(busybox, new.join("busybox"))?;
    fs::create_dir(new.join("lib"))?;
    fs::rename(either(&packages, ["usr/lib/modules", "lib/modules"])?, new.join("lib/modules"))?;
    let modules = only_entry(&new.join("lib/modules"))?;
    let release = modules.file_name().context("a directory without a name")?.to_owned();
    let mut in_boot = OsString::from("vmlinuz-");
    in_boot.push(&release);
    let image = match either(&packages.join("boot"), [&in_boot]) {
        Ok(image) => image,
        Err(_) => either(&modules, ["vmlinuz"])?,
    };
    fs::write(new.join("vmlinux"), bzimage::vmlinux(&fs::read(image)?)?)?;
    apt::run(Command::new("/sbin/depmod").arg("-b").arg(&new).arg(&release))
        .context("The package kmod is needed")?;
    fs::write(new.join("version"), version + "\n")?;
    remove(&new.join("apt"))?;
    remove(&packages)?;
    remove(dir)?;
    fs::rename(new, dir)?;
    Ok(())
}

/// The first of these files that is there.
fn either<P: AsRef<Path> + std::fmt::Debug>(
    dir: &Path,
    names: impl IntoIterator<Item = P>,
) -> Result<PathBuf> {
    let mut tried = Vec::new();
    for name in names {
        let path = dir.join(&name);
        if path.exists() {
            return Ok(path);
        }
        tried.push(name);
    }
    anyhow::bail!("Debian's packages have none of {tried:?}")
}

/// The directory's only entry.
fn only_entry(dir: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(dir).with_context(|| format!("Can't read {}", dir.display()))?;
    let first = entries.next().with_context(|| format!("{} is empty", dir.display()))??;
    anyhow::ensure!(entries.next().is_none(), "{} has more than one kernel's modules", dir.display());
    Ok(first.path())
}

pub(super) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("Can't remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_before_and_after_debians_move_to_usr() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["usr/bin/busybox", "bin/busybox"];
        let said = either(dir.path(), names).unwrap_err().to_string();
        assert!(said.contains("bin/busybox"), "{said}");
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("bin/busybox"), "").unwrap();
        assert_eq!(either(dir.path(), names).unwrap(), dir.path().join("bin/busybox"));
    }

    #[test]
    fn two_kernels_modules_in_one_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(only_entry(dir.path()).unwrap_err().to_string().contains("is empty"));
        fs::create_dir(dir.path().join("6.12")).unwrap();
        assert_eq!(only_entry(dir.path()).unwrap(), dir.path().join("6.12"));
        fs::create_dir(dir.path().join("6.13")).unwrap();
        assert!(only_entry(dir.path()).unwrap_err().to_string().contains("more than one"));
    }
}
