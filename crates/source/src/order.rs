//! Detects whether dates like 08/05/2014 put the day first, by all dates of a log.

use std::io::{self, Read};

use memchr::memmem;

/// Bytes searched at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// The text before a date.
const STAMP: &[u8] = b"audit(";

/// Length of the longest text examined after it: `25/11/`.
const MAX_DATE_BYTES: usize = 6;

/// What one date shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// Whether the day is first.
    DayFirst(bool),
    /// The date is valid both ways.
    Either,
}

/// Whether a log's first date is ambiguous.
pub(crate) fn is_open(head: &[u8]) -> bool {
    dates(head).next() == Some(Shown::Either)
}

/// Whether the day is first, by the first date that is not ambiguous; `None` if there is none.
///
/// # Errors
///
/// The bytes can't be read.
pub(crate) fn day_first(mut bytes: impl Read) -> io::Result<Option<bool>> {
    let (mut buffer, mut kept) = (vec![0; CHUNK_BYTES], 0);
    loop {
        let read = match bytes.read(&mut buffer[kept..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let filled = &buffer[..kept + read];
        let shown = dates(filled).find_map(|shown| match shown {
            Shown::DayFirst(day_first) => Some(day_first),
            Shown::Either => None,
        });
        if read == 0 || shown.is_some() {
            return Ok(shown);
        }
        // A date may be split here.
        let from = filled.len().saturating_sub(STAMP.len() + MAX_DATE_BYTES);
        let end = filled.len();
        buffer.copy_within(from..end, 0);
        kept = end - from;
    }
}

fn dates(bytes: &[u8]) -> impl Iterator<Item = Shown> {
    memmem::find_iter(bytes, STAMP).filter_map(|at| date(&bytes[at + STAMP.len()..]))
}

/// Parses `08/05/`.
fn date(text: &[u8]) -> Option<Shown> {
    let (first, rest) = part(text)?;
    let (second, _) = part(rest)?;
    match (first, second) {
        (13..=31, 1..=12) => Some(Shown::DayFirst(true)),
        (1..=12, 13..=31) => Some(Shown::DayFirst(false)),
        (1..=12, 1..=12) => Some(Shown::Either),
        _ => None,
    }
}

/// A number of one or two digits, and the text after the slash behind it.
fn part(text: &[u8]) -> Option<(u8, &[u8])> {
    match text {
        [a @ b'0'..=b'9', b'/', rest @ ..] => Some((a - b'0', rest)),
        [a @ b'0'..=b'9', b @ b'0'..=b'9', b'/', rest @ ..] => Some(((a - b'0') * 10 + b - b'0', rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_date_that_shows_it_decides() {
        let line = |date: &str| format!("type=CWD msg=audit({date}/14 17:01:05.891:1) : cwd=/\n");
        let open = line("08/05").repeat(10_000);
        assert!(is_open(open.as_bytes()));
        assert_eq!(day_first(open.as_bytes()).unwrap(), None);
        for (date, first) in [("25/11", Some(true)), ("11/25", Some(false)), ("5/8", None), ("25/25", None)] {
            // At all positions relative to a chunk's end.
            for shift in 0..20 {
                let log = format!("{}{open}{}", "x".repeat(shift * 7), line(date));
                assert_eq!(day_first(log.as_bytes()).unwrap(), first, "{date}");
            }
        }
        for head in ["", "audit(", "audit(1795459763.120:1918)", "audit(25/11/14", "audit(2014-05-08"] {
            assert!(!is_open(head.as_bytes()), "{head}");
        }
        assert!(is_open(b"audit(08/05/"));
    }
}
