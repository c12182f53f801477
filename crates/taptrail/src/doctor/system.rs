//! The host's files as the checks read them, and programs that they run.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;

/// The largest file that is read: a kernel's configuration has some 300 KiB, its list of modules
/// some 1 MiB.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// How long a program may run, and how much of its output is read.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_OUTPUT_BYTES: u64 = 1 << 20;

/// The host's files. Tests have a directory in the place of `/`.
#[derive(Debug)]
pub(super) struct System {
    root: PathBuf,
}

impl System {
    /// This host.
    pub(super) fn host() -> Self {
        Self { root: PathBuf::from("/") }
    }

    #[cfg(test)]
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The place of an absolute path.
    pub(super) fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let path = absolute.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file's text.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        read_text(File::open(self.path(path))?)
    }

    /// The text of a gzip file.
    pub(super) fn read_gzip(&self, path: impl AsRef<Path>) -> io::Result<String> {
        read_text(GzDecoder::new(File::open(self.path(path))?))
    }

    /// Whether the kernel has a function of this name (/proc/kallsyms); None if that can't be read.
    pub(super) fn has_symbol(&self, name: &str) -> Option<bool> {
        let symbols = BufReader::new(File::open(self.path("/proc/kallsyms")).ok()?);
        let mut any = false;
        for line in symbols.lines() {
            any = true;
            // Address, type, name, and of a module's its name.
            if line.ok()?.split_ascii_whitespace().nth(2) == Some(name) {
                return Some(true);
            }
        }
        any.then_some(false)
    }

    /// Whether something is at this path; an error if that can't be seen.
    pub(super) fn exists(&self, path: impl AsRef<Path>) -> io::Result<bool> {
        match fs::symlink_metadata(self.path(path)) {
            Ok(_) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The first of these paths with a file that can be executed.
    pub(super) fn program<P: AsRef<Path>>(&self, paths: impl IntoIterator<Item = P>) -> Option<PathBuf> {
        use std::os::unix::fs::PermissionsExt as _;
        let is_program = |path: &PathBuf| {
            fs::metadata(self.path(path))
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        };
        paths.into_iter().map(|path| path.as_ref().to_owned()).find(is_program)
    }
}

/// Whether an error means that nothing is at a path.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn read_text(file: impl io::Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Runs a program of this host by its absolute path, with an empty environment, for at most 5 s;
/// returns its status and what it printed.
pub(super) fn run(program: &Path, arguments: &[&str]) -> io::Result<(ExitStatus, String)> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (said, output) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        // Not joined: a child of the program may keep the pipe open.
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stdout.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes);
            let _ = said.send(bytes);
        });
    }
    let end = Instant::now() + PROGRAM_TIMEOUT;
    let bytes = output.recv_timeout(PROGRAM_TIMEOUT);
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not end within 5 s"));
            }
        }
    };
    let bytes = bytes.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "its output did not end"))?;
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_run_with_a_limit_and_an_empty_environment() {
        let (status, said) = run(Path::new("/bin/sh"), &["-c", "echo \"$HOME:$LC_ALL\"; exit 3"]).unwrap();
        assert_eq!((status.code(), said.as_str()), (Some(3), ":C\n"));
        let begun = Instant::now();
        let error = run(Path::new("/bin/sh"), &["-c", "exec sleep 60"]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(30));
        assert!(run(Path::new("/no/such/program"), &[]).is_err());
    }

    #[test]
    fn a_file_is_looked_for_below_the_root() {
        let root = tempfile::tempdir().unwrap();
        let system = System::at(root.path());
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/hostname"), "h1\n").unwrap();
        assert_eq!(system.read("/etc/hostname").unwrap(), "h1\n");
        assert!(system.exists("/etc/hostname").unwrap() && !system.exists("/etc/hostname/x").unwrap());
        assert_eq!(system.program(["/etc/hostname", "/etc/other"]), None, "it can't be executed");
        assert_eq!(system.has_symbol("tun_init"), None);
        fs::create_dir(root.path().join("proc")).unwrap();
        fs::write(root.path().join("proc/kallsyms"), "0000 T tun_init\t[tun]\n0000 t __tun_init\n").unwrap();
        assert_eq!((system.has_symbol("tun_init"), system.has_symbol("tun")), (Some(true), Some(false)));
    }
}
