//! A mount namespace for one guest, in which a [`PrivateDev`] is mounted over the host's `/dev`.
//!
//! A new thread enters it and starts the guest's program there; the program stays in it, and the
//! thread ends. So this does not happen between fork and exec, where errors could not be reported.
//!
//! All mounts of the host are there with `nodev`: a node of `/dev/net/tun` in a chroot or on a disk
//! can't be opened either, nor can nodes below the new `/dev`. Mounts and unmounts of the host
//! propagate into it, and none propagates back. [`landlock`] enforces what mounts can't.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::dev::{self, PrivateDev, PrivateDevError};
use super::landlock;

const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOTHING_RUNS: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;

/// The namespace can't be set up.
#[derive(Debug, thiserror::Error)]
enum NamespaceError {
    /// The kernel refused a step.
    #[error(
        "QEMU's own /dev can't be made, for which root and Linux 5.12 are needed (--no-private-dev does without): \
         {step}"
    )]
    Step { step: String, source: Errno },
    /// The root directory is that of a chroot, whose mounts can't be told from the host's.
    #[error(
        "QEMU's own /dev can't be made, because the root directory is no mount point, as in a chroot: \
         'mount --bind DIR DIR' before chroot(8) makes it one (--no-private-dev does without)"
    )]
    NoMountPoint,
    /// An allowed device has changed.
    #[error(transparent)]
    Device(#[from] PrivateDevError),
}

fn step(step: impl Into<String>) -> impl FnOnce(Errno) -> NamespaceError {
    let step = step.into();
    move |source| NamespaceError::Step { step, source }
}

/// Calls `start` in a namespace with this `/dev`, in a new thread, which alone enters the
/// namespace.
pub(super) fn within<T: Send>(
    dev: &PrivateDev,
    start: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let entered = std::thread::Builder::new().spawn_scoped(scope, || {
            enter(dev).map_err(io::Error::other)?;
            landlock::restrict().map_err(io::Error::other)?;
            start()
        })?;
        entered.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts QEMU panicked")))
    })
}

/// A mount that is not attached yet.
struct Detached {
    /// Its path below `/dev`.
    name: PathBuf,
    mount: OwnedFd,
    directory: bool,
}

fn enter(private: &PrivateDev) -> Result<(), NamespaceError> {
    // SAFETY: the calling thread gets its own namespace, root, working directory and umask; no
    // descriptor, which others might own, is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(step("unshare(CLONE_NEWNS)"))?;
    let from_the_host = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", from_the_host).map_err(|errno| match errno {
        Errno::INVAL => NamespaceError::NoMountPoint,
        errno => step("keeping mounts from the host")(errno),
    })?;
    // The umask is this thread's own after unshare(2). The modes below must not be masked.
    rustix::process::umask(Mode::empty());

    let mut mounts = nodes(private)?;
    let everything = libc::AT_RECURSIVE.cast_unsigned();
    set_attributes(CWD, c"/", everything, NODEV, 0).map_err(step("forbidding devices elsewhere"))?;
    mounts.extend(directories(private)?);

    let tmpfs = tmpfs(&mounts).map_err(step("making a file system"))?;
    move_mount(&tmpfs, "", CWD, dev::DEV, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(step("mounting on /dev"))?;
    for Detached { name, mount, .. } in &mounts {
        move_mount(mount, "", &tmpfs, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(step(format!("mounting on /dev/{}", name.display())))?;
    }
    set_attributes(tmpfs.as_fd(), c"", EMPTY_PATH, RDONLY, 0).map_err(step("making /dev read-only"))
}

/// Clones of the host's nodes, and of its terminals, all of which are devices.
fn nodes(private: &PrivateDev) -> Result<Vec<Detached>, NamespaceError> {
    let mut clones = Vec::new();
    let mut clone = |path: &Path, node: OwnedFd, set: u64, clear: u64, directory: bool| {
        let failed = format!("taking {} over", path.display());
        let mount = open_tree(
            &node,
            "",
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH,
        )
        .map_err(step(failed.as_str()))?;
        set_attributes(mount.as_fd(), c"", EMPTY_PATH, set | NOTHING_RUNS, clear).map_err(step(failed))?;
        clones.push(Detached { name: below(path), mount, directory });
        Ok::<_, NamespaceError>(())
    };
    // Read-only, so that a QEMU of root can't change a node's mode or owner; reading and writing a
    // device is still possible.
    for (names, set, clear) in [(&dev::NODES[..], RDONLY, NODEV), (&dev::REFUSED[..], RDONLY | NODEV, 0)] {
        for name in names {
            let path = Path::new(dev::DEV).join(name);
            match rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
                Ok(node) => clone(&path, node, set, clear, false)?,
                // Nodes that the host does not have are left out.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => return Err(step(format!("looking at {}", path.display()))(errno)),
            }
        }
    }
    for path in &private.devices {
        clone(path, dev::open_node(path)?, RDONLY, NODEV, false)?;
    }
    let terminals = Path::new(dev::DEV).join(dev::PTS);
    if private.directories.contains(&terminals) {
        let node = rustix::fs::open(&terminals, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        clone(&terminals, node.map_err(step("looking at /dev/pts"))?, 0, NODEV, true)?;
    }
    Ok(clones)
}

/// Clones of the host's directories of shared memory, after they were set to `nodev`.
fn directories(private: &PrivateDev) -> Result<Vec<Detached>, NamespaceError> {
    let terminals = Path::new(dev::DEV).join(dev::PTS);
    let shared = private.directories.iter().filter(|path| **path != terminals);
    shared
        .map(|path| {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let mount = open_tree(CWD, path, flags);
            let mount = mount.map_err(step(format!("taking {} over", path.display())))?;
            Ok(Detached { name: below(path), mount, directory: true })
        })
        .collect()
}

fn below(path: &Path) -> PathBuf {
    path.strip_prefix(dev::DEV).unwrap_or(path).to_owned()
}

/// A file system with the mount points, the links and `ptmx`; not mounted yet.
fn tmpfs(mounts: &[Detached]) -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("source", "taptrail"), ("mode", "755"), ("size", "64k"), ("nr_inodes", "1k")] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    for (name, target) in dev::LINKS {
        rustix::fs::symlinkat(target, &root, name)?;
    }
    // A node and not a clone: the kernel looks for `pts` in the same directory (fs/devpts/inode.c,
    // `devpts_mntget()`), which a clone does not have.
    let ptmx = rustix::fs::makedev(5, 2);
    rustix::fs::mknodat(&root, dev::PTMX, FileType::CharacterDevice, Mode::from(0o666), ptmx)?;
    for Detached { name, directory, .. } in mounts {
        let parents = name.parent().into_iter().flat_map(Path::ancestors).collect::<Vec<_>>();
        for parent in parents.into_iter().rev().filter(|parent| !parent.as_os_str().is_empty()) {
            make_directory(root.as_fd(), parent)?;
        }
        if *directory {
            make_directory(root.as_fd(), name)?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            drop(rustix::fs::openat(&root, name, flags, Mode::from(0o400))?);
        }
    }
    Ok(root)
}

fn make_directory(root: BorrowedFd<'_>, name: &Path) -> Result<(), Errno> {
    match rustix::fs::mkdirat(root, name, Mode::from(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH.cast_unsigned();

/// mount_setattr(2), which rustix lacks.
fn set_attributes(at: BorrowedFd<'_>, path: &CStr, flags: u32, set: u64, clear: u64) -> Result<(), Errno> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    // SAFETY: the path ends with a NUL, and the kernel reads exactly the bytes of the live
    // structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// What `open_node` sees in a namespace that allows these devices.
    fn inside<T: Send>(devices: &[&str], open_node: impl FnOnce() -> T + Send) -> T {
        let dev = PrivateDev::new(devices.iter().map(PathBuf::from)).unwrap();
        within(&dev, || Ok(open_node())).unwrap()
    }

    fn open(path: &str) -> Result<File, io::ErrorKind> {
        OpenOptions::new().read(true).write(true).open(path).map_err(|error| error.kind())
    }

    // Shows 5.24.
    #[test]
    fn only_what_is_meant_for_it_can_be_opened() {
        let seen = inside(&["/dev/kmsg"], || {
            [
                "/dev/null",
                "/dev/zero",
                "/dev/urandom",
                "/dev/ptmx",
                "/dev/kmsg",
                "/dev/net/tun",
                "/dev/tty",
                "/dev/loop0",
            ]
            .map(|path| open(path).err())
        });
        let (denied, missing) = (Some(io::ErrorKind::PermissionDenied), Some(io::ErrorKind::NotFound));
        assert_eq!(seen, [None, None, None, None, None, denied, missing, missing]);
        // Here all is as before.
        assert!(Path::new("/dev/tty").exists() && open("/dev/net/tun").is_ok());
    }

    // Shows 5.26.
    #[test]
    fn a_node_elsewhere_cannot_be_opened() {
        let place = tempfile::tempdir().unwrap();
        let node = place.path().join("tun");
        let tun = rustix::fs::makedev(10, 200);
        rustix::fs::mknodat(CWD, &node, FileType::CharacterDevice, Mode::from(0o666), tun).unwrap();
        let node = node.to_str().unwrap();
        assert!(open(node).is_ok());
        assert_eq!(inside(&[], || open(node)).unwrap_err(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn nothing_of_dev_can_be_changed() {
        let seen = inside(&[], || {
            let made = File::create("/dev/new").err();
            let mode = std::os::unix::fs::chown("/dev/null", Some(1), None).err();
            [made, mode].map(|error| error.map(|error| error.kind()))
        });
        assert_eq!(seen, [Some(io::ErrorKind::ReadOnlyFilesystem); 2]);
    }

    #[test]
    fn the_hosts_shared_memory_is_there_and_a_pseudo_terminal_can_be_made() {
        let on_host = std::fs::metadata("/dev/shm").unwrap();
        let (shm, terminal) = inside(&[], || {
            let master = open("/dev/ptmx").unwrap();
            let mut name = [0_u8; 64];
            // SAFETY: a live descriptor, and a buffer of the length given.
            let made = unsafe {
                (
                    libc::unlockpt(master.as_raw_fd()),
                    libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr().cast(), 64),
                )
            };
            let name = CStr::from_bytes_until_nul(&name).unwrap().to_str().unwrap();
            (std::fs::metadata("/dev/shm").unwrap(), made == (0, 0) && open(name).is_ok())
        });
        assert_eq!((shm.dev(), shm.ino()), (on_host.dev(), on_host.ino()));
        assert!(terminal);
    }

    #[test]
    fn a_device_that_went_away_is_named() {
        let dev = PrivateDev { devices: vec!["/dev/gone".into()], directories: Vec::new() };
        let error = within(&dev, || Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "Device '/dev/gone' can't be allowed");
    }
}
