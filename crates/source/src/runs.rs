//! Collects the kernel's serial numbers in an audit log as runs without a gap, of at most a minute.
//!
//! The kernel numbers its audit events one by one from each boot. A complete log gives one run per
//! minute; missing numbers are between two runs.

use bstr::ByteSlice as _;

/// Maximum duration of a run, in milliseconds.
const MAX_RUN_MS: i64 = 60_000;

/// A clock that is set back by more begins another run, in milliseconds.
pub(crate) const CLOCK_JUMP_MS: i64 = 2000;

/// Events with consecutive serial numbers within a minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// The host that the lines name.
    pub(crate) node: Box<[u8]>,
    /// Serial numbers of the first and the last event.
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// Times of the first and the last event, in milliseconds since 1970. A system call's time is
    /// its entry, which may be long before its record: `since` is taken from another event, if
    /// there is one.
    pub(crate) since: i64,
    pub(crate) until: i64,
    /// Line of the first event in its piece, from 0.
    pub(crate) line: u64,
    /// Whether `since` is the time of a system call's entry.
    pub(crate) entered: bool,
}

impl Run {
    /// Numbers of a host that is not named, at one time.
    pub(crate) fn of(first: u32, last: u32, since: i64) -> Self {
        Self { node: Box::default(), first, last, since, until: since, line: 0, entered: false }
    }

    /// Whether an event at this time may belong to the run: within a minute, and without a jump of
    /// the clock.
    fn is_near(&self, millis: i64) -> bool {
        self.entered || (millis - self.until >= -CLOCK_JUMP_MS && millis - self.since <= MAX_RUN_MS)
    }

    /// Whether its lines name this host.
    #[inline]
    fn is_of(&self, node: &[u8]) -> bool {
        // Most logs name none, and a call for each line to compare nothing with nothing shows.
        self.node.len() == node.len() && (node.is_empty() || *self.node == *node)
    }
}

/// Collects the runs in a piece, line by line.
#[derive(Debug, Default)]
pub(crate) struct RunCollector {
    runs: Vec<Run>,
    /// Whether there are lines of other types than `VIRT_…`.
    others: bool,
}

/// Bytes in which a line's stamp is searched, after a host's name and a type.
const STAMP_SEARCH_BYTES: usize = 400;

impl RunCollector {
    /// Takes a raw audit line, which begins with `type=` or `node=`.
    #[inline]
    pub(crate) fn take(&mut self, line: &[u8], number: u64) {
        let head = &line[..line.len().min(STAMP_SEARCH_BYTES)];
        let (node, record) = match head.strip_prefix(b"node=") {
            Some(rest) => match rest.split_once_str(b" ") {
                Some((node, record)) => (node, record),
                None => return,
            },
            None => (&b""[..], head),
        };
        // auditd numbers its own records with its own counter.
        if record.starts_with(b"type=DAEMON_") {
            return;
        }
        self.others |= !record.starts_with(b"type=VIRT_");
        let Some((millis, serial)) = stamp(record).and_then(moment) else { return };
        let entered = record.starts_with(b"type=SYSCALL ");
        if let Some(run) = self.runs.last_mut()
            && run.is_of(node)
        {
            // Most lines belong to the same event as the line before, or to the next one.
            if serial == run.last {
                return;
            }
            if serial == run.last.wrapping_add(1) && (entered || run.is_near(millis)) {
                run.last = serial;
                // A system call's record is written when it ends, so its time is only a lower
                // bound.
                run.until = run.until.max(millis);
                if run.entered && !entered {
                    (run.since, run.entered) = (millis, false);
                }
                return;
            }
        }
        let (first, last, since, until) = (serial, serial, millis, millis);
        self.runs.push(Run { node: node.into(), first, last, since, until, line: number, entered });
    }

    /// The runs, in the order of their lines, and whether there are lines of other types than
    /// `VIRT_…`.
    pub(crate) fn finish(self) -> (Vec<Run>, bool) {
        (self.runs, self.others)
    }
}

/// The text after `msg=audit(` in `… msg=audit(1795460022.944:2592): …`.
#[inline]
fn stamp(record: &[u8]) -> Option<&[u8]> {
    let open = memchr::memchr(b'(', record)?;
    record[..open].ends_with(b"audit").then(|| &record[open + 1..])
}

/// The time in milliseconds since 1970 and the serial number in `1795460022.944:2592)`.
#[inline]
fn moment(stamp: &[u8]) -> Option<(i64, u32)> {
    usual_moment(stamp).or_else(|| any_moment(stamp))
}

/// As [`moment`], if the seconds have ten digits, as from 2001 to 2286, and the milliseconds three.
///
/// Each line of an audit log passes here. The places of these digits are fixed, so that the compiler
/// needs no loop for them.
#[inline]
fn usual_moment(stamp: &[u8]) -> Option<(i64, u32)> {
    let (head, rest) = stamp.split_first_chunk::<15>()?;
    let mut places = head.iter();
    let mut number = |digits: usize| {
        places.by_ref().take(digits).fold((0_i64, true), |(number, are_digits), byte| {
            (number * 10 + i64::from(byte.wrapping_sub(b'0')), are_digits & byte.is_ascii_digit())
        })
    };
    let ((seconds, true), (_, _), (millis, true)) = (number(10), number(1), number(3)) else { return None };
    if head[10] != b'.' || head[14] != b':' {
        return None;
    }
    let mut serial = 0_u64;
    for (digits, byte) in rest.iter().take(MAX_SERIAL_DIGITS + 1).enumerate() {
        if !byte.is_ascii_digit() {
            let is_end = *byte == b')' && digits > 0;
            return if is_end { Some((seconds * 1000 + millis, u32::try_from(serial).ok()?)) } else { None };
        }
        serial = serial * 10 + u64::from(byte - b'0');
    }
    None
}

/// Digits of the highest serial number.
const MAX_SERIAL_DIGITS: usize = 10;

#[cold]
fn any_moment(stamp: &[u8]) -> Option<(i64, u32)> {
    let (seconds, rest) = digits(stamp)?;
    let (millis, rest) = digits(rest.strip_prefix(b".")?)?;
    let (serial, rest) = digits(rest.strip_prefix(b":")?)?;
    rest.strip_prefix(b")")?;
    if millis > 999 {
        return None;
    }
    let time = i64::try_from(seconds).ok()?.checked_mul(1000)?.checked_add(i64::try_from(millis).ok()?)?;
    Some((time, u32::try_from(serial).ok()?))
}

fn digits(text: &[u8]) -> Option<(u64, &[u8])> {
    let end = text.iter().take(MAX_DIGITS + 1).position(|byte| !byte.is_ascii_digit())?;
    let number = text[..end].iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    (end > 0).then(|| (number, &text[end..]))
}

/// Audit writes no longer numbers, and this many digits can't overflow.
const MAX_DIGITS: usize = 18;

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(lines: &[&str]) -> Vec<(u32, u32, i64, i64, u64)> {
        let mut runs = RunCollector::default();
        (0..).zip(lines).for_each(|(number, line)| runs.take(line.as_bytes(), number));
        runs.finish().0.iter().map(|run| (run.first, run.last, run.since, run.until, run.line)).collect()
    }

    #[test]
    fn lines_of_one_event_and_events_in_order_are_one_run() {
        let lines = [
            "type=SYSCALL msg=audit(1.000:5): arch=c000003e",
            "type=PATH msg=audit(1.000:5): item=0",
            "type=VIRT_CONTROL msg=audit(7.500:6): pid=1 msg='x'",
            "type=DAEMON_START msg=audit(7.600:9999): op=start",
            "no record",
            "type=X msg=audit(7.700:7): a",
        ];
        assert_eq!(runs(&lines), [(5, 7, 7500, 7700, 0)], "a system call has the time of its entry");
    }

    #[test]
    fn system_calls_alone_go_on_in_time() {
        let lines = ["type=SYSCALL msg=audit(1.000:5): a", "type=PATH msg=audit(1.000:5): a"];
        let more = ["type=SYSCALL msg=audit(31.000:6): a", "type=PROCTITLE msg=audit(31.000:6): a"];
        assert_eq!(runs(&[lines, more].concat()), [(5, 6, 1000, 31_000, 0)]);
    }

    #[test]
    fn a_number_that_is_missing_or_another_host_begins_a_run() {
        let lines = [
            "node=a type=X msg=audit(1.000:5): a",
            "node=b type=X msg=audit(1.000:6): a",
            "node=b type=X msg=audit(2.000:8): a",
            "type=X msg=audit(3.000:9): a",
        ];
        let expect =
            [(5, 5, 1000, 1000, 0), (6, 6, 1000, 1000, 1), (8, 8, 2000, 2000, 2), (9, 9, 3000, 3000, 3)];
        assert_eq!(runs(&lines), expect);
    }

    #[test]
    fn lines_without_a_valid_stamp_are_ignored() {
        for line in [
            "type=X",
            "type=X msg=audit(",
            "type=X msg=audit(1.1234:5): a",
            "type=X msg=audit(1.000:4294967296): a",
            "type=X msg=audit(99999999999999999999.000:5): a",
            "type=X msg=audit(08/05/2014 17:01:05.891:6471) : a",
            "type=X msg=audit(1795460022.944:)",
            "type=X msg=audit(1795460022.944:5",
            "type=X msg=audit(1795460022.944:12345678901)",
            "type=X msg=audit(1795460022.944:4294967296)",
            "type=X msg=audit(17954600x2.944:5)",
            "type=X msg=audit(1795460022.9x4:5)",
            "node=a",
        ] {
            assert_eq!(runs(&[line]), [], "{line}");
        }
    }

    #[test]
    fn the_usual_form_of_a_time_is_read_as_any_form() {
        for stamp in [
            "1795460022.944:2592): a",
            "1000000000.000:1)",
            "9999999999.999:4294967295)",
            "0000000001.001:0000000001)",
        ] {
            let moment = usual_moment(stamp.as_bytes());
            assert!(moment.is_some() && moment == any_moment(stamp.as_bytes()), "{stamp}: {moment:?}");
        }
        for (stamp, moment) in [
            ("1.5:7)", Some((1005, 7))),
            ("17954600220.944:7)", Some((17_954_600_220_944, 7))),
            ("1795460022.044:00000000007)", Some((1_795_460_022_044, 7))),
        ] {
            assert_eq!(usual_moment(stamp.as_bytes()), None, "{stamp}");
            assert_eq!(super::moment(stamp.as_bytes()), moment, "{stamp}");
        }
    }
}
