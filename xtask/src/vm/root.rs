//! Root file systems of other Debian releases, made once and kept beside the kernels:
//!
//! ```text
//! target/vm/root-SUITE/files      the root file system
//! target/vm/root-SUITE/made-from  the archives and packages that it was made from
//! target/vm/root-SUITE.lock       shared by what boots it, exclusive for what replaces it
//! ```
//!
//! The packages are unpacked and not installed: none of their scripts runs, and root is not needed.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::cache;
use crate::apt::{AMD64, Apt};
use crate::suites::Suite;

/// A root file system that is kept, for as long as this value lives.
#[derive(Debug)]
pub(super) struct Root {
    files: PathBuf,
    _lock: File,
}

impl Root {
    /// Its directory on this machine.
    pub(super) fn files(&self) -> &Path {
        &self.files
    }
}

/// The suite's root file system, made if it is not here or was made from other packages.
pub(super) fn of(suite: &Suite) -> Result<Root> {
    let is_wanted =
        |dir: &Path| fs::read_to_string(dir.join("made-from")).map_or(true, |kept| kept != made_from(suite));
    let (dir, lock) = cache::keep(&format!("root-{}", suite.name), is_wanted, |cache, dir| {
        make(suite, cache, dir)
            .with_context(|| format!("Can't make the root file system of Debian's '{}'", suite.name))
    })?;
    Ok(Root { files: dir.join("files"), _lock: lock })
}

fn made_from(suite: &Suite) -> String {
    format!("archives: {}\npackages: {}\n", suite.archives.join(" "), suite.packages().join(" "))
}

/// Creates the suite's directory, completely or not at all.
fn make(suite: &Suite, cache: &Path, dir: &Path) -> Result<()> {
    let _ = writeln!(
        std::io::stderr(),
        "xtask: making a root file system of Debian's '{}' in {} (once, 60 to 100 MB to fetch, 250 to 400 MB to keep)",
        suite.name,
        cache.display()
    );
    // The remains of an interrupted attempt.
    let new = cache.join(format!("root-{}.new", suite.name));
    cache::remove(&new)?;
    let files = new.join("files");
    link_directories(&files)?;
    let apt = Apt::update(&new.join("apt"), AMD64, suite.archives)?;
    apt.unpack_system(&suite.packages(), &files)?;
    configure(&files)?;
    cache::remove(&new.join("apt"))?;
    fs::write(new.join("made-from"), made_from(suite))?;
    cache::remove(dir)?;
    fs::rename(new, dir)?;
    Ok(())
}

/// Links to directories, each with its target. Not every release has them in a package, and some
/// packages name files by the paths from before. The targets are relative, so that a package is
/// unpacked into this root and nowhere else.
const LINKS: [(&str, &str); 6] = [
    ("bin", "usr/bin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("sbin", "usr/sbin"),
    ("var/lock", "../run/lock"),
    ("var/run", "../run"),
];

fn link_directories(files: &Path) -> Result<()> {
    for directory in ["run/lock", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "var"] {
        fs::create_dir_all(files.join(directory))?;
    }
    for (link, target) in LINKS {
        symlink(target, files.join(link))?;
    }
    Ok(())
}

/// Programs that Debian's alternatives link, each with the one that it is on nftables.
const ALTERNATIVES: [(&str, &str); 3] =
    [("ebtables", "ebtables-nft"), ("iptables", "iptables-nft"), ("ip6tables", "ip6tables-nft")];

/// Performs the parts of the packages' scripts that libvirt, QEMU and auditd need.
fn configure(files: &Path) -> Result<()> {
    for (link, _) in LINKS {
        let found = fs::symlink_metadata(files.join(link))?;
        ensure!(found.is_symlink(), "A package replaced the link /{link} by a directory");
    }
    for name in ["passwd", "group"] {
        let master = files.join(format!("usr/share/base-passwd/{name}.master"));
        fs::copy(&master, files.join("etc").join(name))
            .with_context(|| format!("Can't copy {}", master.display()))?;
    }
    fs::write(files.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    for (name, target) in ALTERNATIVES {
        symlink(target, files.join("usr/sbin").join(name)).with_context(|| format!("Can't link {name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suites::SUITES;

    #[test]
    fn a_changed_line_of_the_table_makes_another_root() {
        let texts: Vec<_> = SUITES.iter().map(made_from).collect();
        for (number, text) in texts.iter().enumerate() {
            assert!(!texts[..number].contains(text), "{text}");
        }
    }

    #[test]
    fn unpacked_packages_get_users_hosts_and_links_but_no_second_bin() {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("files");
        link_directories(&files).unwrap();
        let masters = files.join("usr/share/base-passwd");
        fs::create_dir_all(&masters).unwrap();
        fs::create_dir_all(files.join("etc")).unwrap();
        for name in ["passwd", "group"] {
            fs::write(masters.join(format!("{name}.master")), "root:\n").unwrap();
        }
        configure(&files).unwrap();
        assert_eq!(fs::read_to_string(files.join("etc/passwd")).unwrap(), "root:\n");
        assert_eq!(fs::read_link(files.join("sbin/ebtables")).unwrap(), Path::new("ebtables-nft"));

        fs::remove_file(files.join("bin")).unwrap();
        fs::create_dir(files.join("bin")).unwrap();
        assert!(configure(&files).unwrap_err().to_string().contains("/bin"));
    }
}
