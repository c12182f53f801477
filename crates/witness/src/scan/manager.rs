//! The program that manages a guest, as far as it can be found: it decides whether records of the
//! guest's devices can be expected.
//!
//! libvirt's system daemons write audit records. The driver embedded in `virt-qemu-run`, and the
//! daemons of user sessions, do not. Their QEMU has no parent but the first process (libvirt
//! daemonizes it), so the file names that libvirt puts on QEMU's command line show which of them
//! started it. A process may write anything there: a manager explains a difference, and never
//! removes one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use taptrail_kernel::proc::exe;

use super::guests::{Identity, IdentitySource};
use super::program::Program;

/// Where libvirt's system daemons keep a guest's files.
const LIBVIRT_SYSTEM: &str = "/var/lib/libvirt/qemu/";
/// The end of the path of the key file that libvirt gives to each of its QEMUs.
const LIBVIRT_KEY: &str = "/master-key.aes";
/// How the name of a guest's directory begins, in libvirt's directory for guests' files.
const LIBVIRT_DOMAIN: &str = "/domain-";
/// How libvirt's directory for guests' files ends, for a user session and for an embedded driver.
const SESSION_FILES: &str = "/libvirt/qemu/lib";
const EMBEDDED_FILES: &str = "/lib/qemu";
/// The longest path that is accepted from a command line, in bytes.
const MAX_PATH_BYTES: usize = 4096;

/// The manager of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// The kind of its program.
    pub kind: ManagerKind,
    /// The pid of its process, where that is known.
    pub pid: Option<u32>,
    /// The path of its program, or the directory with its files.
    pub path: Option<PathBuf>,
    /// The user whose session it belongs to.
    pub uid: Option<u32>,
    /// Where this is known from.
    pub by: ManagerSource,
}

/// The kind of a manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ManagerKind {
    /// `taptrail run` or `taptrail adopt`: the supervisor of one guest.
    Taptrail,
    /// libvirt's system daemon, libvirtd or virtqemud.
    Libvirt,
    /// A user's own libvirtd or virtqemud (`qemu:///session`).
    LibvirtSession,
    /// virt-qemu-run, or another program that has libvirt's QEMU driver embedded.
    VirtQemuRun,
    /// Another program, which started the guest.
    Other,
    /// None: the guest is a child of the first process.
    None,
}

impl ManagerKind {
    /// The word that stands for it in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Taptrail => "taptrail",
            Self::Libvirt => "libvirt",
            Self::LibvirtSession => "libvirt-session",
            Self::VirtQemuRun => "virt-qemu-run",
            Self::Other => "other",
            Self::None => "none",
        }
    }
}

/// The source that says which manager a guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ManagerSource {
    /// The ledger has the guest, by QEMU's pid and start time.
    Ledger,
    /// libvirt's state of its guests.
    Libvirt,
    /// The command line of the guest's process, which may contain anything.
    CommandLine,
    /// The program of the guest's parent process shows it.
    Parent,
}

impl ManagerSource {
    /// The word that stands for it in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Libvirt => "libvirt",
            Self::CommandLine => "command-line",
            Self::Parent => "parent",
        }
    }
}

/// What is known of a process when its manager is looked up.
pub(super) struct Managed<'a> {
    pub(super) program: Program,
    pub(super) guest: Option<&'a Identity>,
    pub(super) arguments: &'a [OsString],
    pub(super) parent: Option<u32>,
    pub(super) uid: Option<u32>,
}

impl Managed<'_> {
    /// The manager; none if the process runs no guest, or if nothing shows its manager.
    pub(super) fn manager(&self) -> Option<Manager> {
        let found = |kind, by| Manager { kind, pid: None, path: None, uid: None, by };
        match self.guest.map(|guest| guest.by) {
            Some(IdentitySource::Ledger) => return Some(found(ManagerKind::Taptrail, ManagerSource::Ledger)),
            Some(IdentitySource::Libvirt) => {
                return Some(found(ManagerKind::Libvirt, ManagerSource::Libvirt));
            }
            _ if !matches!(self.program, Program::Qemu | Program::Hypervisor) => return None,
            _ => {}
        }
        let (kind, path) = match libvirt_files(self.arguments) {
            Some(directory) => by_files(directory)?,
            None => return self.by_parent(),
        };
        let uid = self.uid.filter(|_| kind == ManagerKind::LibvirtSession);
        Some(Manager { path: Some(path), uid, ..found(kind, ManagerSource::CommandLine) })
    }

    fn by_parent(&self) -> Option<Manager> {
        let (parent, by) = (self.parent?, ManagerSource::Parent);
        if parent <= 1 {
            return Some(Manager { kind: ManagerKind::None, pid: None, path: None, uid: None, by });
        }
        let path = exe(parent).ok();
        let name = path.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
        let (kind, uid) = match name.as_deref() {
            Some("libvirtd" | "virtqemud") if self.uid != Some(0) => (ManagerKind::LibvirtSession, self.uid),
            Some("libvirtd" | "virtqemud") => (ManagerKind::Libvirt, None),
            Some("virt-qemu-run") => (ManagerKind::VirtQemuRun, None),
            Some("taptrail") => (ManagerKind::Taptrail, None),
            _ => (ManagerKind::Other, None),
        };
        Some(Manager { kind, pid: Some(parent), path, uid, by })
    }
}

/// libvirt's directory for guests' files, as a libvirt QEMU's command line names it.
fn libvirt_files(arguments: &[OsString]) -> Option<&str> {
    let key = arguments.iter().filter_map(|argument| argument.to_str()).find_map(|argument| {
        let end = argument.find(LIBVIRT_KEY)?;
        let begin = argument[..end].rfind(['"', '=']).map_or(0, |at| at + 1);
        Some(&argument[begin..end])
    })?;
    let (directory, domain) = key.rsplit_once(LIBVIRT_DOMAIN)?;
    (key.len() <= MAX_PATH_BYTES && directory.starts_with('/') && !domain.contains('/')).then_some(directory)
}

/// Which of libvirt's drivers keeps its guests' files in this directory.
fn by_files(directory: &str) -> Option<(ManagerKind, PathBuf)> {
    if directory.len() + 1 >= LIBVIRT_SYSTEM.len() && format!("{directory}/").starts_with(LIBVIRT_SYSTEM) {
        return Some((ManagerKind::Libvirt, PathBuf::from(directory)));
    }
    if let Some(home) = directory.strip_suffix(SESSION_FILES) {
        return Some((ManagerKind::LibvirtSession, PathBuf::from(home)));
    }
    let root = directory.strip_suffix(EMBEDDED_FILES)?;
    Some((ManagerKind::VirtQemuRun, PathBuf::from(root)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(arguments: &[&str], parent: u32, uid: u32) -> Option<Manager> {
        let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        let (program, parent, uid) = (Program::Qemu, Some(parent), Some(uid));
        Managed { program, guest: None, arguments: &arguments, parent, uid }.manager()
    }

    fn by_key(file: &str) -> (&'static str, Option<PathBuf>, Option<u32>) {
        let secret = format!(r#"{{"qom-type":"secret","id":"masterKey0","format":"raw","file":"{file}"}}"#);
        let found = manager(&["qemu", "-object", &secret], 1, 1000).unwrap();
        assert!(found.by == ManagerSource::CommandLine || found.kind == ManagerKind::None);
        (found.kind.as_str(), found.path, found.uid)
    }

    #[test]
    fn the_files_that_libvirt_names_show_which_of_its_drivers_started_a_qemu() {
        let path = |path: &str| Some(PathBuf::from(path));
        for (file, expected) in [
            (
                "/var/lib/libvirt/qemu/domain-3-web1/master-key.aes",
                ("libvirt", path("/var/lib/libvirt/qemu"), None),
            ),
            (
                "/home/a/.config/libvirt/qemu/lib/domain-1-x/master-key.aes",
                ("libvirt-session", path("/home/a/.config"), Some(1000)),
            ),
            (
                "/tmp/virt-qemu-run-LXXCZ3/lib/qemu/domain-1-vqr1/master-key.aes",
                ("virt-qemu-run", path("/tmp/virt-qemu-run-LXXCZ3"), None),
            ),
            ("lib/qemu/domain-1-vqr1/master-key.aes", ("none", None, None)),
            ("/tmp/x/lib/qemu/master-key.aes", ("none", None, None)),
        ] {
            assert_eq!(by_key(file), expected, "{file}");
        }
        let old = "secret,id=masterKey0,format=raw,file=/r/lib/qemu/domain-1-a/master-key.aes";
        assert_eq!(manager(&["-object", old], 1, 0).unwrap().kind, ManagerKind::VirtQemuRun);
        let long = format!("/{}/lib/qemu/domain-1-a/master-key.aes", "x".repeat(MAX_PATH_BYTES));
        assert_eq!(by_key(&long).0, "none");
    }

    #[test]
    fn a_qemu_without_such_files_is_its_parents() {
        let own = std::process::id();
        let found = manager(&["qemu"], own, 0).unwrap();
        assert_eq!((found.kind, found.pid, found.by), (ManagerKind::Other, Some(own), ManagerSource::Parent));
        assert_eq!(found.path, std::env::current_exe().ok());
        assert_eq!(manager(&["qemu"], 1, 0).unwrap().kind, ManagerKind::None);
        let other =
            Managed { program: Program::Vpn, guest: None, arguments: &[], parent: Some(own), uid: None };
        assert_eq!(other.manager(), None);
    }
}
