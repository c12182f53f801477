//! Standard error. If journald reads it, each line gets a prefix `<N>` with its priority
//! (sd-daemon(3)), so that `journalctl -p warning` finds our warnings.

use std::env;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{LazyLock, Mutex};

use rustix::fs::fstat;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::log;
use crate::qemu_output::{OutputReader, escape_controls, follow, output_path};

/// Whether standard error goes to journald, line by line.
pub(crate) fn is_journal() -> bool {
    static JOURNAL: LazyLock<bool> =
        LazyLock::new(|| env::var("JOURNAL_STREAM").is_ok_and(|name| is_named(io::stderr(), &name)));
    *JOURNAL
}

/// Whether it is the stream that JOURNAL_STREAM names by device and inode (systemd.exec(5)). A
/// parent may have passed that variable on, and redirected standard error.
fn is_named(stream: impl AsFd, name: &str) -> bool {
    fstat(stream).is_ok_and(|stat| name == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Writes an error.
pub(crate) fn write_error(text: &str) -> io::Result<()> {
    Line { priority: Level::ERROR.into() }.write_all(format!("{text}\n").as_bytes())
}

/// Writes a line of output of a QEMU that was started in the background.
fn write_qemu_line(text: &str) -> io::Result<()> {
    Line { priority: Level::INFO.into() }.write_all(format!("{text}\n").as_bytes())
}

/// Forwards to standard error the output of a QEMU that was started in the background, when this
/// process adopts it in the foreground.
pub(crate) fn forward_qemu_output(dir: &Path) -> io::Result<()> {
    let output = match OutputReader::of(&output_path(dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        output => &*Box::leak(Box::new(Mutex::new(output?))),
    };
    follow(output, |line| {
        // There is no other place to report an error of this.
        let _ = write_qemu_line(&escape_controls(line));
    })
}

/// Writes log messages to standard error; in the background, to the guest's log.
pub(crate) struct Log;

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { priority: Level::INFO.into() }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line { priority: (*metadata.level()).into() }
    }
}

/// A writer of lines of one priority.
pub(crate) struct Line {
    priority: Priority,
}

impl Write for Line {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if let Some(log) = log::current() {
            log.write_own(text, self.priority.is_grave());
            return Ok(text.len());
        }
        let mut stderr = io::stderr().lock();
        if is_journal() {
            stderr.write_all(&self.priority.before_each_line(text))?;
        } else {
            stderr.write_all(text)?;
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A priority of syslog(3): 3 error, 4 warning, 6 informational, 7 debug.
#[derive(Clone, Copy)]
struct Priority(u8);

impl From<Level> for Priority {
    fn from(level: Level) -> Self {
        Self(match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        })
    }
}

impl Priority {
    /// Whether it is a warning or an error.
    fn is_grave(self) -> bool {
        self.0 <= 4
    }

    fn before_each_line(self, text: &[u8]) -> Vec<u8> {
        let line = |line: &[u8]| [format!("<{}>", self.0).as_bytes(), line].concat();
        text.split_inclusive(|byte| *byte == b'\n').flat_map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    // Shows 12.13.
    #[test]
    fn each_line_has_its_priority() {
        let warning = Priority::from(Level::WARN);
        assert_eq!(warning.before_each_line(b"first\n  second\n"), b"<4>first\n<4>  second\n");
        assert_eq!(warning.before_each_line(b""), b"");
    }

    // Shows 12.13.
    #[test]
    fn only_the_stream_that_is_named_is_journalds() {
        let (stream, other) = UnixStream::pair().unwrap();
        let stat = fstat(&stream).unwrap();
        let name = format!("{}:{}", stat.st_dev, stat.st_ino);
        assert!(is_named(&stream, &name));
        assert!(!is_named(&other, &name));
        assert!(!is_named(&stream, ""));
    }
}
