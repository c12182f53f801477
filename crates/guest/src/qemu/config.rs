//! QEMU's configuration files, as `-readconfig` names them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::fields::Fields;

/// The longest file that is read, in bytes. QEMU's examples have a few KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The longest line, in bytes: QEMU reads 1023 at a time and takes the next for a new line.
const MAX_LINE_BYTES: usize = 1022;

/// A configuration file that QEMU may read, but taptrail won't.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("The file can't be read")]
    Read(#[from] io::Error),
    /// A pipe or a device: QEMU could not read it again.
    #[error("The file is not a regular file")]
    NotAFile,
    /// It is too long to be a configuration.
    #[error("The file has more than {MAX_FILE_BYTES} bytes")]
    TooLong,
    /// A line that QEMU would not read as one.
    #[error("Line {0} has more than {MAX_LINE_BYTES} bytes, or a NUL")]
    Line(usize),
}

/// A section: `[netdev "n0"]` and its `name = "value"` lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    /// Which line, counted from 1.
    pub(super) line: usize,
    /// `netdev`, `machine`, …
    pub(super) group: String,
    /// With `id` first when its head has one.
    pub(super) fields: Fields,
}

/// Reads a configuration file's sections.
pub(super) fn read(path: &Path) -> Result<Vec<Section>, ConfigError> {
    // Checked before it is opened, as opening a pipe would wait for its writer.
    if !path.metadata()?.is_file() {
        return Err(ConfigError::NotAFile);
    }
    let mut text = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::TooLong);
    }
    parse(&text)
}

/// Takes whatever QEMU's own reader takes (`qemu_config_foreach()`, its util/qemu-config.c), and a
/// little more: lines that mean nothing to either are for QEMU to refuse.
fn parse(text: &[u8]) -> Result<Vec<Section>, ConfigError> {
    let mut sections: Vec<Section> = Vec::new();
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        if line.len() > MAX_LINE_BYTES || line.contains(&0) {
            return Err(ConfigError::Line(index + 1));
        }
        let line = String::from_utf8_lossy(line);
        if let Some(head) = line.strip_prefix('[') {
            let head = head.trim_start();
            let end = head.find(|c: char| c.is_whitespace() || matches!(c, ']' | '"')).unwrap_or(head.len());
            let (group, rest) = head.split_at(end);
            let mut fields = Fields::default();
            if let Some(id) = quoted(rest) {
                fields.push("id", id);
            }
            sections.push(Section { line: index + 1, group: group.to_owned(), fields });
        } else if let Some(section) = sections.last_mut()
            && let Some((name, value)) = assignment(&line)
        {
            section.fields.push(name, value);
        }
    }
    Ok(sections)
}

fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let end = line.find(|c: char| c.is_whitespace() || c == '=')?;
    let (name, rest) = line.split_at(end);
    let value = quoted(rest.trim_start().strip_prefix('=')?)?;
    (!name.is_empty() && !name.starts_with('#')).then_some((name, value))
}

/// The text between the first two quotes.
fn quoted(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('"')?;
    Some(rest.split_once('"')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_read_as_qemu_reads_them() {
        // Each of these has QEMU 7.2 open a tap.
        for text in [
            "[netdev \"n0\"]\n  type = \"tap\"\n",
            "# n0 = \"x\"\n\n[netdev \"n0\"]\ntype=\"tap\"",
            "[ netdev \"n0\"]\r\n type   =  \"tap\"\r\n",
            "[netdev \"n0\"\n type = \"tap\" junk",
            "[netdev \"n0\"] junk\n\ttype = \"tap\"",
        ] {
            let sections = parse(text.as_bytes()).unwrap();
            let [section] = sections.as_slice() else { panic!("{text:?}: {sections:?}") };
            assert_eq!(section.group, "netdev", "{text:?}");
            assert_eq!(section.fields.get("type"), Some("tap"), "{text:?}");
            assert_eq!(section.fields.get("id"), Some("n0"), "{text:?}");
        }
        let sections = parse(b"[machine]\n type = \"q35\"\n[net]\n type = \"\"\n").unwrap();
        assert_eq!((sections[0].line, sections[1].line), (1, 3));
        assert_eq!(sections[1].fields.get("type"), Some(""));
    }

    #[test]
    fn what_is_not_a_plain_file_of_plain_lines_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("config");
        assert!(matches!(read(&path), Err(ConfigError::Read(_))));
        assert!(matches!(read(place.path()), Err(ConfigError::NotAFile)));
        assert!(matches!(read(Path::new("/dev/zero")), Err(ConfigError::NotAFile)));
        std::fs::write(&path, "#".repeat(2000)).unwrap();
        assert!(matches!(read(&path), Err(ConfigError::Line(1))));
        std::fs::write(&path, "\n\0\n").unwrap();
        assert!(matches!(read(&path), Err(ConfigError::Line(2))));
        std::fs::write(&path, "\n".repeat((1 << 20) + 1)).unwrap();
        assert!(matches!(read(&path), Err(ConfigError::TooLong)));
    }
}
