//! A world for the bridge helper: an ACL and a tun device of its own, and both helpers as an
//! administrator installs them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::{CommandResult, EMPTY, World};

/// nobody, without groups.
pub(crate) const USER: u32 = 65_534;
pub(crate) const CONF: &str = "/etc/qemu/bridge.conf";
pub(crate) const UUID: &str = "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e";

/// linux/capability.h.
pub(crate) const NET_ADMIN: u32 = 12;
pub(crate) const AUDIT_WRITE: u32 = 29;
pub(crate) const AUDIT_CONTROL: u32 = 30;

/// A world with an ACL and a tun device of its own, and with copies of both helpers that have the
/// rights of an installation.
pub(crate) struct Lab {
    pub(crate) world: World,
    /// Ours, with the documented file capabilities.
    pub(crate) ours: PathBuf,
    /// Debian's, setuid root, as its administrator may install it.
    pub(crate) theirs: PathBuf,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let world = World::new();
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        fs::set_permissions(world.path(""), PermissionsExt::from_mode(0o755)).unwrap();
        let dir = world.path("mnt");
        fs::create_dir(&dir).unwrap();
        mount("tmpfs", &dir, "tmpfs", MountFlags::empty(), None).unwrap();
        let tun = dir.join("tun");
        mknodat(CWD, &tun, FileType::CharacterDevice, Mode::empty(), makedev(10, 200)).unwrap();
        fs::set_permissions(&tun, PermissionsExt::from_mode(0o666)).unwrap();
        mount_bind(&tun, "/dev/net/tun").unwrap();
        // An /etc of this test, with what programs read there.
        let kept = ["passwd", "group", "nsswitch.conf", "ld.so.cache", "localtime"];
        let kept = kept.map(|name| Path::new("/etc").join(name)).map(|path| (fs::read(&path).ok(), path));
        mount("tmpfs", "/etc", "tmpfs", MountFlags::empty(), None).unwrap();
        for (text, path) in kept {
            text.into_iter().for_each(|text| fs::write(&path, text).unwrap());
        }
        fs::set_permissions("/etc", PermissionsExt::from_mode(0o755)).unwrap();
        fs::create_dir("/etc/qemu").unwrap();
        let (ours, theirs) = (dir.join("taptrail-bridge-helper"), dir.join("qemu-bridge-helper"));
        let lab = Self { world, ours, theirs };
        lab.copy(&built(), &lab.ours, 0o755);
        lab.grant(&lab.ours, &[NET_ADMIN, AUDIT_WRITE]);
        lab.copy(Path::new("/usr/lib/qemu/qemu-bridge-helper"), &lab.theirs, 0o4755);
        lab.acl(b"allow br0\n");
        lab
    }

    fn copy(&self, from: &Path, to: &Path, mode: u32) {
        fs::copy(from, to).unwrap();
        fs::set_permissions(to, PermissionsExt::from_mode(mode)).unwrap();
    }

    /// Another copy of ours with these capabilities, or setuid root.
    pub(crate) fn helper_with(&self, name: &str, capabilities: &[u32], mode: u32) -> PathBuf {
        let path = self.world.path("mnt").join(name);
        self.copy(&built(), &path, mode);
        if !capabilities.is_empty() {
            self.grant(&path, capabilities);
        }
        path
    }

    /// As setcap(8) does with `+ep`: `struct vfs_cap_data`, linux/capability.h.
    fn grant(&self, path: &Path, capabilities: &[u32]) {
        let bits = capabilities.iter().fold(0_u64, |bits, number| bits | 1 << number);
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap();
        let words = [0x0200_0001, half(bits), 0, half(bits >> 32), 0];
        let value: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        setxattr(path, "security.capability", &value, XattrFlags::empty()).unwrap();
    }

    pub(crate) fn ledger(&self) -> String {
        self.world.state().join("ledger.sqlite").display().to_string()
    }

    pub(crate) fn acl(&self, text: &[u8]) {
        self.file(CONF, text);
    }

    pub(crate) fn file(&self, path: &str, text: &[u8]) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    }

    /// Asks a helper as QEMU does, as an unprivileged user.
    pub(crate) fn ask(&self, helper: &Path, bridge: &[u8]) -> Answer {
        self.ask_with(helper, bridge, |_| ())
    }

    pub(crate) fn ask_with(&self, helper: &Path, bridge: &[u8], change: impl FnOnce(&mut Command)) -> Answer {
        let (ours, theirs) = UnixStream::pair().unwrap();
        fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
        let name = OsString::from([b"--br=", bridge].concat().as_os());
        let mut command = as_user(helper);
        command.arg("--use-vnet").arg(format!("--fd={}", theirs.as_raw_fd())).arg(name);
        change(&mut command);
        let result = CommandResult::from(command.output().unwrap());
        drop(theirs);
        let answer = Answer { device: receive(&ours), code: result.code(), stderr: result.stderr };
        assert_eq!(answer.code == 0, answer.device.is_some(), "QEMU takes 0 for an answer: {answer:?}");
        answer
    }

    /// Asks ours with these arguments; `FD` stands for the descriptor's number.
    pub(crate) fn ask_over(&self, fd: impl AsFd, arguments: &[&str]) -> CommandResult {
        fcntl_setfd(fd.as_fd(), FdFlags::empty()).unwrap();
        let number = fd.as_fd().as_raw_fd().to_string();
        let mut command = as_user(&self.ours);
        command.args(arguments.iter().map(|argument| argument.replace("FD", &number)));
        let result = CommandResult::from(command.output().unwrap());
        fcntl_setfd(fd.as_fd(), FdFlags::CLOEXEC).unwrap();
        result
    }

    /// Starts a QEMU with these options as an unprivileged user.
    pub(crate) fn qemu(&self, options: &[&str]) -> Child {
        let mut command = as_user(Path::new("/usr/bin/qemu-system-x86_64"));
        command.args(&EMPTY[1..]).args(["-name", "guest=web1,debug-threads=on", "-uuid", UUID]).args(options);
        command.stderr(Stdio::piped()).spawn().unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // So that the world's directory can be removed.
        let _ = unmount(self.world.path("mnt"), UnmountFlags::DETACH);
    }
}

trait AsOs {
    fn as_os(&self) -> &OsStr;
}

impl AsOs for Vec<u8> {
    fn as_os(&self) -> &OsStr {
        OsStr::from_bytes(self)
    }
}

/// The helper that this build has: `examples/bridge_helper.rs`.
fn built() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_taptrail")).parent().unwrap().join("examples/bridge_helper")
}

pub(crate) fn as_user(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.uid(USER).gid(USER).current_dir("/").stdin(Stdio::null());
    command
}

/// What a helper answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) device: Option<OwnedFd>,
    pub(crate) code: i32,
    pub(crate) stderr: String,
}

impl Answer {
    /// Asserts that it passed a tap, and returns its name.
    #[track_caller]
    pub(crate) fn tap(&self) -> String {
        let device = self.device.as_ref().unwrap_or_else(|| panic!("no device: {}", self.stderr));
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", device.as_raw_fd())).unwrap();
        info.lines().find_map(|line| line.strip_prefix("iff:")).expect("a tap").trim().to_owned()
    }

    /// Asserts that it passed nothing, and why.
    #[track_caller]
    pub(crate) fn refused(&self, says: &str) {
        assert!(self.device.is_none() && self.code == 1, "{self:?}");
        assert!(self.stderr.contains(says), "'{says}' is not in: {}", self.stderr);
    }
}

/// The descriptor that was sent over a socket, with one byte of zero.
pub(crate) fn receive(socket: &UnixStream) -> Option<OwnedFd> {
    let mut byte = [7];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received =
        recvmsg(socket, &mut [std::io::IoSliceMut::new(&mut byte)], &mut ancillary, flags).unwrap();
    let mut devices: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!((received.bytes, byte[0]), if devices.is_empty() { (0, 7) } else { (1, 0) });
    assert!(devices.len() <= 1);
    devices.pop()
}
