//! The ACL: `/etc/qemu/bridge.conf`, and the files that it includes.
//!
//! ```text
//! # which bridges may be used
//! allow br0
//! deny br1
//! include /etc/qemu/alice.conf
//! ```
//!
//! A line is `allow NAME`, `deny NAME` or `include FILE`, where `all` stands for every bridge. A
//! bridge is refused if any line denies it, whatever the order, and if no line allows it. The
//! argument is the whole rest of the line without the blanks around it. Empty lines, and those that
//! begin with `#`, are ignored.
//!
//! A file that is not there, that the caller has no permission to read, or that is damaged, is an error
//! as the main file and is ignored as an included one, except for its rules before the damage: so an
//! administrator gives users rules of their own, in files that only they can read. What could be a
//! means of the caller to change the rules is always an error: a file that others than root can write
//! to, an include with a relative path, files beyond the limits, and any other failure to read one.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

/// The main file.
pub const ACL_FILE: &str = "/etc/qemu/bridge.conf";

/// The longest name of a bridge, in bytes (`IFNAMSIZ`, linux/if.h, without its NUL).
pub const MAX_NAME_BYTES: usize = 15;
/// The size of one file, in bytes.
pub const MAX_FILE_BYTES: u64 = 256 << 10;
/// How deep files may include others.
pub const MAX_INCLUDE_DEPTH: u32 = 8;
/// How many files may be included.
pub const MAX_INCLUDES: u32 = 64;

/// The rules of all files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl {
    rules: Vec<Rule>,
}

/// One line that allows or denies.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// The bridge; every bridge if none.
    bridge: Option<Vec<u8>>,
}

/// Why an ACL can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AclError {
    /// The file can't be opened or read.
    #[error("The ACL {} can't be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is a directory, a device or the like.
    #[error("The ACL {} is not a regular file", .path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// Others than root can write to the file.
    #[error(
        "The ACL {} can be changed by others than root: 'chown root' and 'chmod go-w' are needed",
        .path.display()
    )]
    Writable {
        /// The file.
        path: PathBuf,
    },
    /// The file is too large.
    #[error("The ACL {} is larger than {MAX_FILE_BYTES} bytes", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file includes too many others, or itself.
    #[error(
        "{}:{line}: more than {MAX_INCLUDES} files are included, or more than {MAX_INCLUDE_DEPTH} deep",
        .path.display()
    )]
    TooManyIncludes {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
    },
    /// The path of an included file is relative: to a directory that the caller chooses.
    #[error("{}:{line}: the path of an included file must begin with '/'", .path.display())]
    RelativeInclude {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
    },
    /// A line is none of the grammar.
    #[error("{}:{line}: {reason}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: LineError,
    },
}

impl AclError {
    /// Whether it is ignored in an included file. Not what the caller can cause by limits, as too few
    /// descriptors or too little memory: a denial would be left out.
    fn is_ignored_in_include(&self) -> bool {
        match self {
            Self::Read { source, .. } => {
                let errno = Errno::from_io_error(source);
                matches!(errno, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS))
            }
            Self::NotRegular { .. } | Self::Line { .. } => true,
            _ => false,
        }
    }
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// There is no blank, so no argument.
    #[error("a line is 'allow NAME', 'deny NAME' or 'include FILE'")]
    NoArgument,
    /// The first word is none of the three.
    #[error("the first word is none of 'allow', 'deny' and 'include'")]
    UnknownWord,
    /// No bridge can have this name.
    #[error("a bridge's name has {MAX_NAME_BYTES} bytes at most")]
    LongName,
    /// There is a NUL byte.
    #[error("the line contains a NUL byte")]
    Nul,
}

/// What one line says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Statement<'a> {
    Rule(Rule),
    Include(&'a Path),
}

impl Acl {
    /// Reads the file, and those that it includes.
    ///
    /// # Errors
    ///
    /// The file can't be used, or a file that it includes could be a means to change the rules.
    pub fn read(path: &Path) -> Result<Self, AclError> {
        let mut reader = Reader { acl: Self::default(), includes: 0 };
        reader.read(path, 0)?;
        Ok(reader.acl)
    }

    /// Parses a file that includes no others: includes are skipped.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read) does for the text of a file.
    pub fn parse(text: &[u8]) -> Result<Self, AclError> {
        let mut acl = Self::default();
        for (line, text) in lines(text) {
            let path = || PathBuf::from(ACL_FILE);
            match statement(text).map_err(|reason| AclError::Line { path: path(), line, reason })? {
                Some(Statement::Rule(rule)) => acl.rules.push(rule),
                Some(Statement::Include(_)) | None => {}
            }
        }
        Ok(acl)
    }

    /// Whether the bridge may be used.
    pub fn allows(&self, bridge: &[u8]) -> bool {
        let says = |allow: bool| {
            self.rules.iter().any(|rule| {
                rule.allow == allow && rule.bridge.as_ref().is_none_or(|name| name.as_slice() == bridge)
            })
        };
        says(true) && !says(false)
    }
}

/// The state of reading several files.
struct Reader {
    acl: Acl,
    includes: u32,
}

impl Reader {
    fn read(&mut self, path: &Path, depth: u32) -> Result<(), AclError> {
        let text = read_file(path)?;
        for (line, text) in lines(&text) {
            let path = || path.to_owned();
            match statement(text).map_err(|reason| AclError::Line { path: path(), line, reason })? {
                None => {}
                Some(Statement::Rule(rule)) => self.acl.rules.push(rule),
                Some(Statement::Include(included)) => {
                    if !included.is_absolute() {
                        return Err(AclError::RelativeInclude { path: path(), line });
                    }
                    self.includes += 1;
                    if self.includes > MAX_INCLUDES || depth >= MAX_INCLUDE_DEPTH {
                        return Err(AclError::TooManyIncludes { path: path(), line });
                    }
                    match self.read(included, depth + 1) {
                        Err(error) if !error.is_ignored_in_include() => return Err(error),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }
}

/// Reads a regular file that root alone can write to.
fn read_file(path: &Path) -> Result<Vec<u8>, AclError> {
    let failed = |source| AclError::Read { path: path.to_owned(), source };
    // Without NONBLOCK, a fifo would make the helper wait.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| failed(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(AclError::NotRegular { path: path.to_owned() });
    }
    if stat.st_uid != 0 || stat.st_mode & 0o022 != 0 {
        return Err(AclError::Writable { path: path.to_owned() });
    }
    let mut text = Vec::new();
    File::from(file).take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
        return Err(AclError::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}

/// The lines with their numbers, from 1.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    text.split(|byte| *byte == b'\n').enumerate().map(|(index, line)| (index + 1, line))
}

/// What a line says; none if it is empty or a comment.
fn statement(line: &[u8]) -> Result<Option<Statement<'_>>, LineError> {
    // The blanks of qemu-bridge-helper: the vertical tab is none.
    let line = line.trim_ascii_start();
    if line.is_empty() || line.starts_with(b"#") {
        return Ok(None);
    }
    if line.contains(&0) {
        return Err(LineError::Nul);
    }
    // A tab separates only if there is no space, as there.
    let blank = |blank: u8| line.iter().position(|byte| *byte == blank);
    let end = blank(b' ').or_else(|| blank(b'\t')).ok_or(LineError::NoArgument)?;
    let argument = line[end..].trim_ascii();
    let allow = match &line[..end] {
        b"allow" => true,
        b"deny" => false,
        b"include" => return Ok(Some(Statement::Include(Path::new(OsStr::from_bytes(argument))))),
        _ => return Err(LineError::UnknownWord),
    };
    if argument.len() > MAX_NAME_BYTES {
        return Err(LineError::LongName);
    }
    let bridge = (argument != b"all").then(|| argument.to_vec());
    Ok(Some(Statement::Rule(Rule { allow, bridge })))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use proptest::prelude::*;

    use super::*;

    fn allows(text: &str, bridge: &str) -> Option<bool> {
        Acl::parse(text.as_bytes()).ok().map(|acl| acl.allows(bridge.as_bytes()))
    }

    #[test]
    fn a_denial_wins_and_nothing_is_allowed_by_itself() {
        for (text, verdict) in [
            ("", false),
            ("allow br0", true),
            ("allow br1\n", false),
            ("allow all\n", true),
            ("deny br0\nallow all\n", false),
            ("allow all\ndeny br0\n", false),
            ("deny all\nallow br0\n", false),
            ("allow all\ndeny br1\n", true),
            ("allow BR0\n", false),
            ("allow br0 # mine\n", false),
            ("# allow br0\n", false),
            ("  # x\n\t allow \t br0 \r\n", true),
        ] {
            assert_eq!(allows(text, "br0"), Some(verdict), "{text:?}");
        }
    }

    #[test]
    fn a_damaged_line_is_named() {
        for (text, line, reason) in [
            ("allow br0\nallow", 2, LineError::NoArgument),
            ("Allow br0\n", 1, LineError::UnknownWord),
            ("\n\nallow abcdefghijklmnop\n", 3, LineError::LongName),
            ("allow br0\0junk\n", 1, LineError::Nul),
        ] {
            match Acl::parse(text.as_bytes()) {
                Err(AclError::Line { line: found, reason: why, .. }) => {
                    assert_eq!((found, why), (line, reason))
                }
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }

    /// The two bugs of qemu-bridge-helper.
    #[test]
    fn the_end_of_a_long_comment_is_no_rule_and_a_nul_hides_nothing() {
        let comment = format!("#{}allow br0\n", "x".repeat(4094));
        assert_eq!(allows(&comment, "br0"), Some(false));
        assert_eq!(allows("allow br0\0\n", "br0"), None);
        assert_eq!(allows("# \0\nallow br0\n", "br0"), Some(true));
    }

    fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    #[test]
    fn included_files_count_until_their_damage() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        file(dir.path(), "a", "allow br1\nnonsense\nallow br2\n");
        fs::create_dir(dir.path().join("dir")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("fifo"), Mode::RUSR).unwrap();
        let all = ["a", "missing", "dir", "fifo"].map(|name| format!("include {}\n", at(name))).concat();
        let acl = Acl::read(&file(dir.path(), "main", &format!("{all}allow br0\n"))).unwrap();
        assert_eq!(["br0", "br1", "br2"].map(|name| acl.allows(name.as_bytes())), [true, true, false]);
        assert!(matches!(Acl::read(&dir.path().join("missing")), Err(AclError::Read { .. })));
        assert!(matches!(Acl::read(dir.path()), Err(AclError::NotRegular { .. })));
        assert!(matches!(Acl::read(&dir.path().join("fifo")), Err(AclError::NotRegular { .. })));
    }

    #[test]
    fn a_file_that_others_can_write_to_is_refused_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let inner = file(dir.path(), "inner", "allow br0\n");
        let main = file(dir.path(), "main", &format!("include {}\n", inner.display()));
        let link = dir.path().join("link");
        symlink(&inner, &link).unwrap();
        assert!(Acl::read(&main).unwrap().allows(b"br0"));
        for (mode, owner, good) in
            [(0o640, 0, true), (0o600, 0, true), (0o664, 0, false), (0o646, 0, false), (0o644, 65534, false)]
        {
            fs::set_permissions(&inner, fs::Permissions::from_mode(mode)).unwrap();
            chown(&inner, Some(owner), None).unwrap();
            for path in [&inner, &main, &link] {
                let read = Acl::read(path);
                assert_eq!(read.is_ok(), good, "{mode:o} {owner} {}", path.display());
                assert!(
                    good || matches!(read, Err(AclError::Writable { path }) if path == inner || path == link)
                );
            }
        }
    }

    #[test]
    fn includes_are_bounded_and_absolute() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("loop");
        file(dir.path(), "loop", &format!("allow br0\ninclude {}\n", own.display()));
        assert!(matches!(Acl::read(&own), Err(AclError::TooManyIncludes { line: 2, .. })));
        let many = "include /missing\n".repeat(65);
        let many = file(dir.path(), "many", &many);
        assert!(matches!(Acl::read(&many), Err(AclError::TooManyIncludes { line: 65, .. })));
        let relative = file(dir.path(), "relative", "include a.conf\n");
        assert!(matches!(Acl::read(&relative), Err(AclError::RelativeInclude { line: 1, .. })));
        let large = file(dir.path(), "large", &"#\n".repeat(200 << 10));
        assert!(matches!(Acl::read(&large), Err(AclError::TooLarge { .. })));
    }

    fn line() -> impl Strategy<Value = String> {
        prop_oneof![
            6 => "(allow|deny) [ \t]{0,2}(br[0-3]|all)[ \t\r]{0,2}",
            1 => "#[ -~]{0,20}",
            1 => "[ \t]{0,3}",
            1 => "include /nosuch/[a-z]{1,5}",
        ]
    }

    proptest! {
        #[test]
        fn the_order_of_lines_does_not_matter(
            lines in proptest::collection::vec(line(), 0..8).prop_shuffle(),
            bridge in "br[0-4]",
        ) {
            let allows = |lines: &[String]| Acl::parse(lines.join("\n").as_bytes()).unwrap().allows(bridge.as_bytes());
            let verdict = allows(&lines);
            let reversed: Vec<_> = lines.iter().rev().cloned().collect();
            prop_assert_eq!(allows(&reversed), verdict);
            // A further denial never allows, a further permission never denies.
            let with = |line: &str| allows(&[lines.clone(), vec![line.to_owned()]].concat());
            prop_assert!(!with("deny all"));
            prop_assert!(!verdict || with("allow all"));
            // Neither may depend on a line that names no bridge.
            prop_assert_eq!(with("# deny all"), verdict);
        }

        #[test]
        fn any_bytes_are_rules_or_an_error(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(acl) = Acl::parse(&text) {
                let named = text.windows(5).any(|part| part == b"allow");
                prop_assert!(named || !acl.allows(b"br0"));
            }
        }
    }
}
