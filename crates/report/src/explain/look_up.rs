//! The commands of other programs that show a record: ausearch(8), sqlite3(1).

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use taptrail_record::is_visible;
use taptrail_trail::Proof;

use super::evidence::{CitedSources, SourceKind};
use crate::findings::location;

/// How to look a record up: by a command where its source is an audit log or a ledger, else by its
/// line.
pub(super) fn look_up(proof: &Proof, evidence: CitedSources<'_>) -> String {
    let command = match (evidence.kind)(&proof.source) {
        SourceKind::AuditLog => proof.serial.and_then(|serial| ausearch(&proof.source, serial, proof.time)),
        SourceKind::Ledger => sqlite3(&proof.source, proof.line),
        SourceKind::Other => None,
    };
    command.unwrap_or_else(|| location(proof).to_string())
}

/// The text of a ledger's row.
fn sqlite3(ledger: &str, row: u64) -> Option<String> {
    Some(format!("sqlite3 -readonly {} 'SELECT text FROM record WHERE id = {row}'", quoted(ledger)?))
}

/// A serial number is of one boot only: the second narrows it. ausearch(8) takes dates as the
/// locale writes them, and times in the zone of TZ: the command names both.
fn ausearch(source: &str, serial: u32, time: Timestamp) -> Option<String> {
    let (file, time) = (quoted(source)?, time.to_zoned_datetime(TimeZone::UTC));
    let second = time.strftime("%m/%d/%y %H:%M:%S");
    let mut text = String::new();
    write!(text, "TZ=UTC LC_ALL=C ausearch -if {file} -ts {second} -te {second} -a {serial}").ok()?;
    Some(text)
}

/// A path as one word of a shell; none if it has characters that are not shown as they are.
fn quoted(path: &str) -> Option<String> {
    if !path.chars().all(is_visible) {
        return None;
    }
    // A path that begins with '-' would be an option.
    let dashed = if path.starts_with('-') { "./" } else { "" };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%,=".contains(&byte);
    if path.bytes().all(plain) && !path.is_empty() {
        return Some(format!("{dashed}{path}"));
    }
    Some(format!("'{dashed}{}'", path.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_safe_to_paste() {
        let time = "2026-11-23T18:53:49.984Z".parse().unwrap();
        let command = |source| ausearch(source, 2594, time);
        let of = |file: &str| {
            Some(format!(
                "TZ=UTC LC_ALL=C ausearch -if {file} -ts 11/23/26 18:53:49 -te 11/23/26 18:53:49 -a 2594"
            ))
        };
        assert_eq!(command("/var/log/audit/audit.log.1"), of("/var/log/audit/audit.log.1"));
        assert_eq!(command("a b.log"), of("'a b.log'"));
        assert_eq!(command("it's;reboot.log"), of(r"'it'\''s;reboot.log'"));
        assert_eq!(command("$(reboot).log"), of("'$(reboot).log'"));
        assert_eq!(command("-if"), of("./-if"));
        assert_eq!(command("- x"), of("'./- x'"));
        for source in ["a\nb", "a\u{202e}b", "a\x1b[2Jb"] {
            assert_eq!(command(source), None, "{source:?}");
            assert_eq!(sqlite3(source, 7), None, "{source:?}");
        }
        let row = |ledger| sqlite3(ledger, 7).unwrap();
        assert_eq!(row("l.sqlite"), "sqlite3 -readonly l.sqlite 'SELECT text FROM record WHERE id = 7'");
        assert_eq!(row("-a b"), "sqlite3 -readonly './-a b' 'SELECT text FROM record WHERE id = 7'");
    }
}
