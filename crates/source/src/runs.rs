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

    /// Adds an event, if it is the last one or the next. Most lines are of one of the two.
    #[inline]
    fn extend(&mut self, millis: i64, serial: u32, entered: bool) -> bool {
        if serial == self.last {
            return true;
        }
        if serial != self.last.wrapping_add(1) || !(entered || self.is_near(millis)) {
            return false;
        }
        self.last = serial;
        // A system call's record is written when it ends, so its time is only a lower bound.
        self.until = self.until.max(millis);
        if self.entered && !entered {
            (self.since, self.entered) = (millis, false);
        }
        true
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
    /// The first eight digits of the last usual stamp's time, as their values and as a number.
    hundreds: (u64, i64),
}

/// The front of a system call's record.
const SYSTEM_CALL: &[u8] = b"type=SYSCALL ";

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
        let entered = record.starts_with(SYSTEM_CALL);
        if self.runs.last_mut().is_some_and(|run| run.is_of(node) && run.extend(millis, serial, entered)) {
            return;
        }
        let (first, last, since, until) = (serial, serial, millis, millis);
        self.runs.push(Run { node: node.into(), first, last, since, until, line: number, entered });
    }

    /// Takes a line as [`Self::take`] does, if it has the usual stamp and continues the run of the
    /// line before, and returns whether it did. The line names no host, and its type is neither
    /// `DAEMON_…` nor `VIRT_…`.
    #[inline]
    pub(crate) fn take_usual(&mut self, line: &[u8]) -> bool {
        let Some((millis, serial)) = self.usual_stamp(line) else { return false };
        let entered = line.starts_with(SYSTEM_CALL);
        let continues =
            self.runs.last_mut().is_some_and(|run| run.is_of(b"") && run.extend(millis, serial, entered));
        self.others |= continues;
        continues
    }

    /// The time and serial number of a line without a host, if its stamp has the usual form and is
    /// where types of usual length let it be. Reads words of 8 and 16 bytes, and has no loop.
    #[inline]
    fn usual_stamp(&mut self, line: &[u8]) -> Option<(i64, u32)> {
        let (front, back) = line.split_first_chunk()?;
        if find_byte(*front, b'(') < 16 {
            return None;
        }
        let open = 16 + find_byte(*back.first_chunk()?, b'(');
        let (words, _) = line.get(open - 7..)?.split_first_chunk::<32>()?;
        let ([audit, hundreds, rest, _], _) = words.as_chunks::<8>() else { return None };
        if audit != b"g=audit(" {
            return None;
        }
        let values = digit_values(*hundreds);
        if values != self.hundreds.0 {
            if not_digits(values) != 0 {
                return None;
            }
            self.hundreds = (values, i64::try_from(eight_digits(values)).ok()?);
        }
        // Two digits of seconds, a point, three digits of milliseconds, a colon, and one digit more.
        let values = digit_values(*rest);
        if not_digits(values) != POINT_AND_COLON_BITS || values & POINT_AND_COLON != POINT_AND_COLON_VALUES {
            return None;
        }
        let digits = values.to_le_bytes();
        let digit = |place: usize| i64::from(digits[place]);
        let seconds = self.hundreds.1 * 100 + digit(0) * 10 + digit(1);
        let millis = seconds * 1000 + digit(3) * 100 + digit(4) * 10 + digit(5);
        Some((millis, closed_number(&line[open + 16..])?))
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

/// The place of the first such byte; 16 if there is none.
#[inline]
fn find_byte(bytes: [u8; 16], byte: u8) -> usize {
    const ONES: u128 = u128::from_le_bytes([1; 16]);
    let differences = u128::from_le_bytes(bytes) ^ u128::from_le_bytes([byte; 16]);
    // Subtraction sets the highest bit of the first zero byte, and below it of none.
    let zeros = differences.wrapping_sub(ONES) & !differences & (ONES << 7);
    zeros.trailing_zeros() as usize / 8
}

/// The values of eight digits; the first is in the lowest byte. Other characters are above 9.
#[inline]
const fn digit_values(text: [u8; 8]) -> u64 {
    u64::from_le_bytes(text) ^ u64::from_le_bytes([b'0'; 8])
}

/// The places of the point and the colon in `22.944:2`, and their values.
const POINT_AND_COLON: u64 = u64::from_le_bytes([0, 0, 0xFF, 0, 0, 0, 0xFF, 0]);
const POINT_AND_COLON_BITS: u64 = POINT_AND_COLON & u64::from_le_bytes([0x80; 8]);
const POINT_AND_COLON_VALUES: u64 = POINT_AND_COLON & digit_values(*b"00.000:0");

/// The highest bit of each byte that is above 9.
#[inline]
const fn not_digits(values: u64) -> u64 {
    const LOW_BITS: u64 = u64::from_le_bytes([0x7F; 8]);
    (((values & LOW_BITS) + u64::from_le_bytes([0x7F - 9; 8])) | values) & !LOW_BITS
}

/// The number of eight digits: of pairs, of pairs of pairs, and of all.
#[inline]
const fn eight_digits(values: u64) -> u64 {
    let pairs = (values * 10 + (values >> 8)) & 0x00FF_00FF_00FF_00FF;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_FFFF_0000_FFFF;
    (fours * 10_000 + (fours >> 32)) & 0xFFFF_FFFF
}

/// The number at the begin of a text of more than eight bytes, if `)` comes after it.
#[inline]
fn closed_number(text: &[u8]) -> Option<u32> {
    let (front, back) = text.split_first_chunk::<8>()?;
    let values = digit_values(*front);
    let count = not_digits(values).trailing_zeros() / 8;
    if count == 8 {
        let mut number = eight_digits(values);
        for byte in &back[..back.len().min(MAX_SERIAL_DIGITS - 7)] {
            match byte {
                b'0'..=b'9' => number = number * 10 + u64::from(byte - b'0'),
                b')' => return u32::try_from(number).ok(),
                _ => return None,
            }
        }
        return None;
    }
    let is_closed = count > 0 && front[count as usize] == b')';
    if is_closed { u32::try_from(eight_digits(values << (64 - 8 * count))).ok() } else { None }
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
    use proptest::prelude::*;

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

    /// The runs of two lines, and whether the second was taken as a usual one.
    fn usual_runs(first: &[u8], second: &[u8]) -> (bool, (Vec<Run>, bool)) {
        let mut runs = RunCollector::default();
        runs.take(first, 0);
        let is_usual = runs.take_usual(second);
        if !is_usual {
            runs.take(second, 1);
        }
        (is_usual, runs.finish())
    }

    fn any_runs(first: &[u8], second: &[u8]) -> (Vec<Run>, bool) {
        let mut runs = RunCollector::default();
        runs.take(first, 0);
        runs.take(second, 1);
        runs.finish()
    }

    #[test]
    fn a_usual_line_is_taken_as_any_line() {
        for (name, serial) in [
            ("X", 1_u32),
            ("CWD", 9),
            ("PATH", 99),
            ("SYSCALL", 2592),
            ("PROCTITLE", 99_999),
            ("SERVICE_START", 999_999),
            ("USER_ROLE_CHANGE", 9_999_998),
            ("SYSCALL", 9_999_999),
            ("SYSCALL", 99_999_998),
            ("SYSCALL", 99_999_999),
            ("SYSCALL", 999_999_999),
            ("SYSCALL", u32::MAX - 1),
        ] {
            let line = |millis: &str, serial: u32| {
                format!("type={name} msg=audit(17954600{millis}:{serial}): pid=1 uid=0").into_bytes()
            };
            let first = line("22.944", serial);
            for second in [line("22.944", serial), line("22.944", serial + 1), line("59.007", serial + 1)] {
                let (is_usual, runs) = usual_runs(&first, &second);
                assert!(is_usual, "{}", second.as_bstr());
                assert_eq!(runs.0.len(), 1, "{}", second.as_bstr());
                assert_eq!(runs, any_runs(&first, &second));
            }
            for second in [line("22.944", serial - 1), line("20.000", serial + 1)] {
                let (is_usual, runs) = usual_runs(&first, &second);
                assert_eq!(is_usual, name == "SYSCALL" && second == line("20.000", serial + 1));
                assert_eq!(runs, any_runs(&first, &second));
            }
        }
        let unset = &b"type=X msg=audit(1.000:5): a"[..];
        let zeros = [b"type=X msg=audit(", &[0; 8][..], b"22.944:6): pid=1 uid=0"].concat();
        assert!(!usual_runs(unset, &zeros).0);
    }

    proptest! {
        #[test]
        fn a_line_nearly_usual_is_taken_as_any_line(
            name in "[A-Z_(]{1,18}",
            places in prop::collection::vec((0..60_usize, prop_oneof![any::<u8>(), Just(b'('), Just(b')'), Just(b'0'), Just(b'9')]), 0..3),
            serial in prop_oneof![0..120_u64, 9_999_990..10_000_010_u64, 4_294_967_290..4_294_967_300_u64, any::<u64>()],
            cut in 20..90_usize,
        ) {
            let line = |serial: u64| format!("type={name} msg=audit(1795460022.944:{serial}): pid=1 uid=0 a").into_bytes();
            let (first, mut second) = (line(serial), line(serial.wrapping_add(1)));
            places.into_iter().for_each(|(place, byte)| second[place.min(40)] = byte);
            second.truncate(cut);
            prop_assume!(![&b"type=DAEMON_"[..], b"type=VIRT_", b"node="].iter().any(|front| second.starts_with(front)));
            prop_assert_eq!(usual_runs(&first, &second).1, any_runs(&first, &second), "{}", second.as_bstr());
        }
    }
}
