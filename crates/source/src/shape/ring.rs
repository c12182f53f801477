//! Parses the kernel's own log, as printed by dmesg(1), /dev/kmsg and a console:
//! `[  123.456789] audit: type=2501 …`.
//!
//! Programs may write to /dev/kmsg too, but never with the kernel's own facility: if a line names a
//! facility, only the kernel's is trusted.

use bstr::ByteSlice as _;

use super::stamp;
use crate::parsed_line::LineTime;

/// A message, with the time in its line.
pub(super) struct Message<'a> {
    /// The time, if it is wall clock time.
    pub(super) when: LineTime,
    pub(super) text: &'a [u8],
}

/// Parses a line of the kernel's log.
pub(super) fn message(line: &[u8]) -> Option<Message<'_>> {
    if let Some(text) = kmsg(line) {
        return Some(Message { when: LineTime::Unknown, text });
    }
    if let Some(message) = iso(line) {
        return Some(message);
    }
    let (line, has_level) = level(line)?;
    if let Some(message) = stamped(line) {
        return Some(message);
    }
    // Without times, as with `printk.time=0`: only the kernel's own form of a record is accepted.
    (has_level || line.starts_with(b"audit: type=")).then_some(())?;
    let record = line.strip_prefix(b"audit: type=")?;
    let (number, rest) = record.split_once_str(b" ")?;
    let is_kernels = stamp::number::<u16>(number).is_some() && rest.starts_with(b"audit(");
    is_kernels.then_some(Message { when: LineTime::Unknown, text: line })
}

/// The message after `[  123.456789] ` and the like.
pub(super) fn stamped(line: &[u8]) -> Option<Message<'_>> {
    let (inner, rest) = bracket(line)?;
    let (when, mut rest) = match time(inner) {
        Some(when) => (when, rest),
        // A console's name may come first.
        None => {
            let (inner, rest) = bracket(rest.strip_prefix(b" ").filter(|_| is_console(inner))?)?;
            (time(inner)?, rest)
        }
    };
    // The task or processor that printed it: `[  123.456789][  T123] `.
    let after = rest.strip_prefix(b" ").unwrap_or(rest);
    if let Some((inner, after)) = bracket(after)
        && is_caller(inner)
    {
        rest = after;
    }
    Some(Message { when, text: rest.strip_prefix(b" ")? })
}

fn bracket(line: &[u8]) -> Option<(&[u8], &[u8])> {
    // The longest content is a date with a delta.
    let head = &line[..line.len().min(64)];
    let close = head.find_byte(b']')?;
    (line.first() == Some(&b'[')).then(|| (&line[1..close], &line[close + 1..]))
}

/// Parses `  123.456789`, `Mon Sep 19 18:16:45 2022`, `Sep19 18:16` and `  +0.000012`, each with a
/// delta behind it (`<    0.000012>`) or without.
fn time(inner: &[u8]) -> Option<LineTime> {
    let inner = match inner.strip_suffix(b">").and_then(|inner| inner.rsplit_once_str(b"<")) {
        Some((b"", _)) => return Some(LineTime::Unknown),
        Some((time, _)) => time.strip_suffix(b" ")?,
        None => inner,
    };
    let text = inner.trim_ascii_start();
    if is_seconds(text.strip_prefix(b"+").unwrap_or(text)) {
        return Some(LineTime::Unknown);
    }
    stamp::whole(text).or_else(|| is_minute(text).then_some(LineTime::Unknown))
}

fn is_seconds(text: &[u8]) -> bool {
    let parts = text.split_once_str(b".");
    parts.is_some_and(|(seconds, fraction)| {
        stamp::number::<u64>(seconds).is_some() && stamp::number::<u64>(fraction).is_some()
    })
}

/// `Sep19 18:16`, which `dmesg -H` prints once a minute.
fn is_minute(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.len() <= 2 && stamp::number::<u8>(text).is_some();
    let Some((date, time)) = text.split_once_str(b" ") else { return false };
    let month = date.trim_end_with(|c| c.is_ascii_digit());
    date.len() > month.len()
        && stamp::month_of(month).is_some()
        && time.split_once_str(b":").is_some_and(|(hour, minute)| digits(hour) && digits(minute))
}

fn is_caller(inner: &[u8]) -> bool {
    let inner = inner.trim_ascii();
    matches!(inner.split_first(), Some((b'T' | b'C', number)) if stamp::number::<u32>(number).is_some())
}

/// Whether a text may be the name of a console or machine, which a collector puts before each line.
/// Anything else may be a program's text.
fn is_console(inner: &[u8]) -> bool {
    matches!(inner.len(), 1..=32)
        && inner.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/'))
}

/// The line after the level that `dmesg -r` and `-x` print, and whether there was one; `None` if
/// the level shows that a program wrote the line.
fn level(line: &[u8]) -> Option<(&[u8], bool)> {
    if let Some((number, rest)) = line.strip_prefix(b"<").and_then(|rest| rest.split_once_str(b">")) {
        return is_kernel(number).then_some((rest, true));
    }
    // `kern  :notice: `
    let Some((facility, rest)) = line.split_once_str(b":") else { return Some((line, false)) };
    if facility.len() > 8 || facility.first().is_none_or(|byte| !byte.is_ascii_lowercase()) {
        return Some((line, false));
    }
    match rest.split_once_str(b": ") {
        Some((level, rest)) if stamp::is_severity(level.trim_ascii_end()) => {
            (facility.trim_ascii_end() == b"kern").then_some((rest, true))
        }
        _ => Some((line, false)),
    }
}

/// Whether a priority has the kernel's facility, which is 0.
fn is_kernel(number: &[u8]) -> bool {
    stamp::number::<u32>(number).is_some_and(|number| number < 8)
}

/// `5,1234,71692026,-;audit: …`: the priority, a sequence number, microseconds and a flag; newer
/// kernels may add more (Documentation/ABI/testing/dev-kmsg).
fn kmsg(line: &[u8]) -> Option<&[u8]> {
    let head = &line[..line.len().min(128)];
    let end = head.find_byte(b';')?;
    let mut fields = line[..end].split(|&byte| byte == b',');
    let is_kernel = is_kernel(fields.next()?);
    stamp::number::<u64>(fields.next()?)?;
    stamp::number::<u64>(fields.next()?)?;
    fields.next().filter(|flag| flag.len() == 1)?;
    is_kernel.then(|| &line[end + 1..])
}

/// `2022-09-19T18:16:45,645184+00:00 audit: …` (`dmesg --time-format iso`). Only dmesg writes a
/// comma before the fraction.
fn iso(line: &[u8]) -> Option<Message<'_>> {
    let (line, _) = level(line)?;
    if line.get(19) != Some(&b',') {
        return None;
    }
    let (when @ LineTime::Exact(_), rest) = stamp::iso(line)? else { return None };
    Some(Message { when, text: rest.strip_prefix(b" ")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<(String, String)> {
        let Message { when, text } = message(line.as_bytes())?;
        let when = match when {
            LineTime::Exact(moment) => moment.to_string(),
            LineTime::Civil(civil) => civil.to_string(),
            _ => String::new(),
        };
        Some((when, text.to_str_lossy().into_owned()))
    }

    #[test]
    fn the_message_is_found_behind_what_every_tool_puts_before_it() {
        for (front, when) in [
            ("[  123.456789] ", ""),
            ("[   71.6][  T123] ", ""),
            ("[   71.6] [    C0] ", ""),
            ("[    0.000000][    T0] ", ""),
            ("[Mon Sep 19 18:16:45 2022] ", "2022-09-19T18:16:45"),
            ("[Mo Sep 19 18:16:45 2022] ", "2022-09-19T18:16:45"),
            ("[lun. sept. 19 18:16:45 2022] ", "2022-09-19T18:16:45"),
            ("[Mon Sep 19 18:16:45 2022 <    0.000012>] ", "2022-09-19T18:16:45"),
            ("[   71.692026 <    0.000012>] ", ""),
            ("[<    0.000012>] ", ""),
            ("[Sep19 18:16] ", ""),
            ("[  +0.000012] ", ""),
            ("<5>[71.692026] ", ""),
            ("<5>", ""),
            ("", ""),
            ("kern  :notice: [   71.6] ", ""),
            ("kern  :warn  : [Mon Sep 19 18:16:45 2022] ", "2022-09-19T18:16:45"),
            ("5,1234,71692026,-;", ""),
            ("5,1234,71692026,-,caller=T123;", ""),
            ("2022-09-19T18:16:45,645184+02:00 ", "2022-09-19T16:16:45.645184Z"),
            ("kern  :notice: 2022-09-19T18:16:45,645184+02:00 ", "2022-09-19T16:16:45.645184Z"),
            ("[console] [   71.6] ", ""),
            ("[vm-1.example/ttyS0] [   71.6][   T1] ", ""),
        ] {
            let text = "audit: type=2501 audit(1.000:1): x";
            assert_eq!(
                parsed(&format!("{front}{text}")),
                Some((when.to_owned(), text.to_owned())),
                "{front}"
            );
        }
    }

    #[test]
    fn what_a_program_says_is_no_message_of_the_kernels() {
        for front in [
            "<13>[71.692026] ",
            "13,1234,71692026,-;",
            "user  :notice: [   71.6] ",
            "daemon:info  : [   71.6] ",
            "sshd[7]: [   71.6] ",
            "[sshd: x] [   71.6] ",
            "[x] ",
            "[x][   71.6] ",
            "[   71.6]",
            "[71] ",
            "2022-09-19T18:16:45.645184+00:00 ",
            "2022-09-19T18:16:45,645184 ",
            "x ",
        ] {
            assert_eq!(parsed(&format!("{front}audit: type=2501 audit(1.000:1): x")), None, "{front}");
        }
        for line in
            ["<5>audit: x", "audit: type=VIRT_RESOURCE msg=audit(1.000:1): x", "audit: type=2501 msg=x"]
        {
            assert_eq!(parsed(line), None, "{line}");
        }
    }
}
