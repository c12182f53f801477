//! Who can read or run a file: by its mode, and by those of the directories above it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::getxattr;

use super::system::System;

/// What is to be done with a file; the bit of others in its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Read = 0o4,
    Run = 0o1,
}

/// Who can do it, of the users that are not root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    Everyone,
    /// Members of these groups, by their numbers, and whom access control lists name.
    Named {
        groups: Vec<u32>,
        lists: Vec<PathBuf>,
    },
    /// None: this one is closed to them, and has that mode.
    Nobody {
        path: PathBuf,
        mode: u32,
    },
}

impl Reach {
    /// Of an absolute path. Symbolic links are followed within the host's files.
    pub(super) fn of(system: &System, path: &Path, need: Need) -> io::Result<Self> {
        let root = fs::canonicalize(system.path("/"))?;
        let real = fs::canonicalize(system.path(path))?;
        let mut above: Vec<_> = real.ancestors().take_while(|part| part.starts_with(&root)).collect();
        above.reverse();
        let (mut groups, mut lists) = (Vec::new(), Vec::new());
        for part in above {
            let need = if part == real { need } else { Need::Run } as u32;
            let file = fs::metadata(part)?;
            let mode = file.mode() & 0o7777;
            let shown = || Path::new("/").join(part.strip_prefix(&root).unwrap_or(part));
            if mode & need != 0 {
                continue;
            }
            // With a list, the group's bits are the most that it gives (acl(5)).
            if getxattr(part, "system.posix_acl_access", &mut [0; 0][..]).is_ok_and(|bytes| bytes > 0) {
                lists.push(shown());
            } else if mode & need << 3 != 0 && file.gid() != 0 {
                groups.push(file.gid());
            } else {
                return Ok(Self::Nobody { path: shown(), mode });
            }
        }
        groups.dedup();
        if groups.is_empty() && lists.is_empty() {
            Ok(Self::Everyone)
        } else {
            Ok(Self::Named { groups, lists })
        }
    }

    /// The end of a sentence about a file that can be used, if it is not for everyone.
    pub(super) fn restriction(&self, system: &System) -> String {
        let Self::Named { groups, lists } = self else { return String::new() };
        let names = groups.iter().map(|gid| format!("the group {}", group_name(system, *gid)));
        let lists = lists.iter().map(|path| format!("whom getfacl {} names", path.display()));
        format!(", for {} alone", names.chain(lists).collect::<Vec<_>>().join(" and "))
    }
}

/// A group's name in /etc/group, or its number.
fn group_name(system: &System, gid: u32) -> String {
    let text = system.read("/etc/group").unwrap_or_default();
    let name = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| gid.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_as_open_as_the_directories_above_it() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("etc/qemu/bridge.conf");
        let directory = file.parent().unwrap();
        fs::create_dir_all(directory).unwrap();
        fs::write(&file, "allow br0\n").unwrap();
        let system = System::at(root.path());
        let set = |path: &Path, mode: u32| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let reach = |need| Reach::of(&system, Path::new("/etc/qemu/bridge.conf"), need).unwrap();
        for path in [root.path(), &root.path().join("etc"), directory] {
            set(path, 0o755);
        }
        set(&file, 0o644);
        assert_eq!(reach(Need::Read), Reach::Everyone);
        assert_eq!(reach(Need::Run), Reach::Nobody { path: "/etc/qemu/bridge.conf".into(), mode: 0o644 });
        set(&file, 0o600);
        assert_eq!(reach(Need::Read), Reach::Nobody { path: "/etc/qemu/bridge.conf".into(), mode: 0o600 });
        set(directory, 0o744);
        assert_eq!(reach(Need::Read), Reach::Nobody { path: "/etc/qemu".into(), mode: 0o744 });
    }

    #[test]
    fn a_group_has_its_name_where_there_is_one() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/group"), "root:x:0:\nbroken\nkvm:x:36:alice\n").unwrap();
        let system = System::at(root.path());
        let of =
            |groups: &[u32]| Reach::Named { groups: groups.to_vec(), lists: vec![] }.restriction(&system);
        assert_eq!(of(&[36]), ", for the group kvm alone");
        assert_eq!(of(&[36, 77]), ", for the group kvm and the group 77 alone");
    }
}
