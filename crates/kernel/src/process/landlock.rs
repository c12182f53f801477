//! Landlock restrictions of QEMU that mounts can't enforce, as far as the kernel supports them.
//!
//! - **Reopening its own descriptors** through `/proc/self/fd/N`, which opens the node wherever it
//!   is. From Linux 6.10 such a device accepts no ioctl(2), without which a tun descriptor is no
//!   tap and a vhost-net transfers nothing.
//! - **Other processes**: QEMU can inspect and trace only its own children; from 6.12, it can
//!   signal only those.

use landlock::{
    AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};

use super::dev::DEV;

/// The restrictions can't be set.
#[derive(Debug, thiserror::Error)]
pub(super) enum LandlockError {
    #[error("Landlock's rules for QEMU can't be set, though the kernel has Landlock")]
    Ruleset(#[from] RulesetError),
    #[error("A path of Landlock's rules for QEMU can't be opened")]
    Path(#[from] PathFdError),
}

/// Restricts the calling thread, and the processes that it starts. Its `/dev` must be the private
/// one already.
pub(super) fn restrict() -> Result<(), LandlockError> {
    // Without support for this right (before 5.19), Landlock forbids moving files between
    // directories.
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let ruleset = match ruleset.handle_access(AccessFs::Refer) {
        Ok(ruleset) => ruleset.set_compatibility(CompatLevel::BestEffort),
        Err(reason) => {
            tracing::debug!(%reason, "the kernel's Landlock is not used");
            return Ok(());
        }
    };
    ruleset
        .handle_access(AccessFs::IoctlDev)?
        .scope(Scope::Signal)?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new("/")?, AccessFs::Refer))?
        .add_rule(PathBeneath::new(PathFd::new(DEV)?, AccessFs::IoctlDev))?
        .restrict_self()?;
    Ok(())
}

/// The version of the kernel's Landlock (`LANDLOCK_CREATE_RULESET_VERSION`,
/// landlock_create_ruleset(2)); 0 where it has none, or it is off.
pub fn landlock_version() -> u32 {
    // SAFETY: with this flag the kernel reads no memory of ours.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, 1) };
    u32::try_from(version).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::io;
    use std::os::fd::{AsFd, AsRawFd};
    use std::process::Command;

    use super::super::dev::PrivateDev;
    use super::super::namespace::within;
    use super::landlock_version as version;

    fn inside<T: Send>(look: impl FnOnce() -> T + Send) -> T {
        within(&PrivateDev::new([]).unwrap(), || Ok(look())).unwrap()
    }

    fn read_and_write(path: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    /// `TUNGETFEATURES`, which any open tun descriptor answers.
    fn tun_features(tun: &File) -> io::Result<u32> {
        const TUNGETFEATURES: libc::Ioctl = 0x8004_54cf;
        let mut features = 0;
        // SAFETY: the kernel writes one number into a live one.
        let answered = unsafe { libc::ioctl(tun.as_raw_fd(), TUNGETFEATURES, &raw mut features) };
        if answered == 0 { Ok(features) } else { Err(io::Error::last_os_error()) }
    }

    // Shows 5.29.
    #[test]
    fn a_descriptor_that_was_given_works_and_opened_again_is_of_no_use() {
        let tun = read_and_write("/dev/net/tun").unwrap();
        let again = format!("/proc/thread-self/fd/{}", tun.as_fd().as_raw_fd());
        let (given, opened) = inside(|| (tun_features(&tun), tun_features(&read_and_write(&again).unwrap())));
        assert!(given.is_ok(), "{given:?}");
        if version() >= 5 {
            assert_eq!(opened.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        } else {
            assert!(opened.is_ok(), "a kernel before 6.10 can't forbid it");
        }
    }

    // Shows 5.29.
    #[test]
    fn others_can_neither_be_looked_into_nor_signalled() {
        let mut other = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let descriptor = format!("/proc/{}/fd/0", other.id());
        assert!(fs::read_link(&descriptor).is_ok());
        let pid = libc::pid_t::try_from(other.id()).unwrap();
        let (looked, signalled) = inside(|| {
            // SAFETY: only numbers; signal 0 asks whether one may be sent.
            (fs::read_link(&descriptor), unsafe { libc::kill(pid, 0) })
        });
        if version() >= 2 {
            assert_eq!(looked.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        }
        assert_eq!(signalled, if version() >= 6 { -1 } else { 0 });
        other.kill().unwrap();
        other.wait().unwrap();
    }

    // Shows 5.29.
    #[test]
    fn files_may_be_moved_as_ever() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("a"), place.path().join("b"));
        for directory in [&from, &to] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(from.join("file"), "").unwrap();
        inside(|| fs::rename(from.join("file"), to.join("file"))).unwrap();
    }
}
