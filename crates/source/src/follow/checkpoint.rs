//! A position in a log as text, stored across restarts.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use taptrail_record::Stamp;

use super::serials::{MAX_MISSING_RANGES, SerialRange, SerialTracker};

/// A position in a log: the last line that was reported, and how to find it again.
///
/// A file is identified by its device and inode, and accepted only if its first bytes and the line
/// before the position are unchanged: an inode may have been reused. If the file has been replaced,
/// its copy or compressed copy is found by the same bytes; without one, the position is found by
/// the last line's time and serial number.
///
/// Formatted as one line of text, of at most [`Checkpoint::MAX_BYTES`] bytes:
///
/// ```
/// # use taptrail_source::follow::Checkpoint;
/// let text = "follow 1 file dev=2049 ino=131 at=4096 line=17 head=1024:89abcdef01234567 \
///             last=210:0123456789abcdef stamp=1795460022.944:2592 newest=2592";
/// let checkpoint: Checkpoint = text.parse()?;
/// assert_eq!(checkpoint.to_string(), text);
/// # Ok::<(), taptrail_source::follow::InvalidCheckpoint>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// Position in a file; `None` for a source that is not stored (a pipe, the kernel's broadcast).
    pub(super) file: Option<FilePosition>,
    /// The last line reported, if any.
    pub(super) last: Option<LastLine>,
    /// The kernel's stamp of the last reported line that has one.
    pub(super) stamp: Option<Stamp>,
    /// The highest serial number reported.
    pub(super) newest: Option<u32>,
    /// Ranges of serial numbers that were missing.
    pub(super) missing: Vec<SerialRange>,
    /// Whether auditd's last record said that it ends.
    pub(super) daemon_ended: bool,
}

/// A position in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FilePosition {
    pub(super) id: FileId,
    /// Bytes and lines reported from it.
    pub(super) at: u64,
    pub(super) line: u64,
    /// Digest of its first bytes.
    pub(super) head: Digest,
}

/// Device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    pub(super) dev: u64,
    pub(super) ino: u64,
}

/// The last line reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastLine {
    /// Digest of its bytes with the newline, or of the last [`Digest::MAX_BYTES`] bytes.
    pub(super) digest: Digest,
    /// Time and serial number, for an audit record.
    pub(super) stamp: Option<Stamp>,
}

/// Length and hash (FNV-1a, 64 bits) of some bytes. It distinguishes logs; it is no protection from
/// a forger, who could write to the log anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) len: u32,
    pub(super) hash: u64,
}

impl Digest {
    /// Maximum bytes that are hashed.
    pub(super) const MAX_BYTES: usize = 1024;

    /// Digest of the first bytes.
    pub(super) fn of_head(bytes: &[u8]) -> Self {
        Self::of(&bytes[..bytes.len().min(Self::MAX_BYTES)])
    }

    /// Digest of the last bytes.
    pub(super) fn of_tail(bytes: &[u8]) -> Self {
        Self::of(&bytes[bytes.len().saturating_sub(Self::MAX_BYTES)..])
    }

    fn of(bytes: &[u8]) -> Self {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        let hash = bytes.iter().fold(0xCBF2_9CE4_8422_2325, step);
        Self { len: u32::try_from(bytes.len()).unwrap_or(u32::MAX), hash }
    }

    pub(super) fn len(self) -> usize {
        self.len as usize
    }
}

impl Checkpoint {
    /// Maximum length of the text, in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// Time of the last reported event, for a log with serial numbers.
    pub fn time(&self) -> Option<Timestamp> {
        self.stamp.and_then(timestamp)
    }

    pub(super) fn serials(&self) -> SerialTracker {
        SerialTracker::from(self.newest, self.missing.iter().copied())
    }
}

/// The time of a stamp.
pub(super) fn timestamp(stamp: Stamp) -> Option<Timestamp> {
    Timestamp::new(i64::try_from(stamp.seconds).ok()?, i32::from(stamp.millis) * 1_000_000).ok()
}

/// Times of one boot's events are out of order by at most this. A boot takes longer.
const EVENT_TIME_SKEW: SignedDuration = SignedDuration::from_secs(5);

/// Whether `one` is after `other`: by their serial numbers, unless a boot may be between them.
pub(super) fn is_after(one: Stamp, other: Stamp) -> bool {
    match (timestamp(one), timestamp(other)) {
        (Some(at), Some(before)) if at.duration_since(before).abs() <= EVENT_TIME_SKEW => {
            (1..u32::MAX / 2).contains(&one.serial.wrapping_sub(other.serial))
        }
        _ => one > other,
    }
}

/// Whether a stamp is later than the current time.
pub(super) fn is_in_future(stamp: Stamp) -> bool {
    timestamp(stamp).is_none_or(|at| at.duration_since(Timestamp::now()) > EVENT_TIME_SKEW)
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file {
            Some(FilePosition { id: FileId { dev, ino }, at, line, head }) => {
                write!(f, "follow 1 file dev={dev} ino={ino} at={at} line={line} head={head}")?;
            }
            None => write!(f, "follow 1 heard")?,
        }
        if let Some(LastLine { digest, stamp }) = self.last {
            write!(f, " last={digest}")?;
            match stamp {
                Some(stamp) if self.stamp == Some(stamp) => {}
                Some(stamp) => write!(f, " of={}", StampText(stamp))?,
                None => write!(f, " of=-")?,
            }
        }
        if let Some(stamp) = self.stamp {
            write!(f, " stamp={}", StampText(stamp))?;
        }
        if let Some(newest) = self.newest {
            write!(f, " newest={newest}")?;
        }
        for (number, (first, last)) in self.missing.iter().enumerate() {
            f.write_str(if number == 0 { " missing=" } else { "," })?;
            write!(f, "{first}-{last}")?;
        }
        f.write_str(if self.daemon_ended { " daemon=ended" } else { "" })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:016x}", self.len, self.hash)
    }
}

struct StampText(Stamp);

impl fmt::Display for StampText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stamp { seconds, millis, serial } = self.0;
        write!(f, "{seconds}.{millis:03}:{serial}")
    }
}

/// The text is not a checkpoint of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Checkpoint can't be read: {text:?}")]
pub struct InvalidCheckpoint {
    /// The text, cut to a checkpoint's maximum length.
    pub text: String,
}

impl FromStr for Checkpoint {
    type Err = InvalidCheckpoint;

    fn from_str(text: &str) -> Result<Self, InvalidCheckpoint> {
        let read = if text.len() <= Self::MAX_BYTES { parse(text) } else { None };
        read.ok_or_else(|| InvalidCheckpoint { text: text.chars().take(Self::MAX_BYTES).collect() })
    }
}

fn parse(text: &str) -> Option<Checkpoint> {
    let (kind, mut rest) = match text.strip_prefix("follow 1 ")?.split_once(' ') {
        Some(split) => split,
        None => (text.strip_prefix("follow 1 ")?, ""),
    };
    // Each checkpoint has exactly one text, so the order of keys is fixed.
    let mut value = |key: &str| -> Option<&str> {
        let (found, value) = rest.split_once(' ').unwrap_or((rest, "")).0.split_once('=')?;
        (found == key).then(|| rest = rest.split_once(' ').map_or("", |(_, rest)| rest))?;
        Some(value)
    };
    let file = match kind {
        "file" => Some(FilePosition {
            id: FileId { dev: number(value("dev")?)?, ino: number(value("ino")?)? },
            at: number(value("at")?)?,
            line: number(value("line")?)?,
            head: digest(value("head")?)?,
        }),
        "heard" => None,
        _ => return None,
    };
    let last = value("last");
    let of = value("of");
    let stamp = value("stamp").map(|text| stamp(text).ok_or(()));
    let stamp = stamp.transpose().ok()?;
    let last = match (last, of) {
        (None, None) => None,
        (None, Some(_)) => return None,
        (Some(last), of) => {
            let own = match of {
                None => stamp,
                Some("-") => None,
                Some(of) => Some(self::stamp(of)?),
            };
            Some(LastLine { digest: digest(last)?, stamp: own })
        }
    };
    let newest = value("newest").map(|text| number(text).ok_or(())).transpose().ok()?;
    let missing =
        value("missing").map_or(Some(Vec::new()), |text| text.split(',').map(serial_range).collect())?;
    let daemon_ended = match value("daemon") {
        None => false,
        Some("ended") => true,
        Some(_) => return None,
    };
    let whole = rest.is_empty() && missing.len() <= MAX_MISSING_RANGES;
    let read = Checkpoint { file, last, stamp, newest, missing, daemon_ended };
    (whole && read.to_string() == text).then_some(read)
}

/// A decimal number: digits only.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn digest(text: &str) -> Option<Digest> {
    let (len, hash) = text.split_once(':')?;
    let len = number(len).filter(|len: &u32| *len as usize <= Digest::MAX_BYTES)?;
    let hex = hash.len() == 16 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    Some(Digest { len, hash: u64::from_str_radix(hash, 16).ok().filter(|_| hex)? })
}

fn stamp(text: &str) -> Option<Stamp> {
    let (time, serial) = text.split_once(':')?;
    let (seconds, millis) = time.split_once('.')?;
    let millis = number(millis).filter(|_| millis.len() == 3)?;
    Some(Stamp { seconds: number(seconds)?, millis, serial: number(serial)? })
}

fn serial_range(text: &str) -> Option<SerialRange> {
    let (first, last) = text.split_once('-')?;
    Some((number(first)?, number(last)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamps() -> impl Strategy<Value = Stamp> {
        (any::<u64>(), 0..1000_u16, any::<u32>()).prop_map(|(seconds, millis, serial)| Stamp {
            seconds,
            millis,
            serial,
        })
    }

    fn digests() -> impl Strategy<Value = Digest> {
        (0..=1024_u32, any::<u64>()).prop_map(|(len, hash)| Digest { len, hash })
    }

    prop_compose! {
        fn positions()(dev: u64, ino: u64, at: u64, line: u64, head in digests()) -> FilePosition {
            FilePosition { id: FileId { dev, ino }, at, line, head }
        }
    }

    prop_compose! {
        fn checkpoints()(
            file in prop::option::of(positions()),
            last in prop::option::of((digests(), prop::option::of(stamps()))),
            stamp in prop::option::of(stamps()),
            newest: Option<u32>,
            missing in prop::collection::vec(any::<SerialRange>(), 0..=MAX_MISSING_RANGES),
            daemon_ended: bool,
        ) -> Checkpoint {
            // If the last line has a stamp, the checkpoint has one too.
            let last = last.map(|(digest, own)| LastLine { digest, stamp: own.filter(|_| stamp.is_some()) });
            Checkpoint { file, last, stamp, newest, missing, daemon_ended }
        }
    }

    proptest! {
        // Shows 13.24.
        #[test]
        fn what_is_written_reads_back(checkpoint in checkpoints()) {
            let text = checkpoint.to_string();
            prop_assert!(text.len() <= Checkpoint::MAX_BYTES, "{}", text.len());
            prop_assert_eq!(text.parse(), Ok(checkpoint));
        }
    }

    #[test]
    fn events_are_in_the_order_of_their_numbers_unless_a_boot_is_between() {
        let stamp = |seconds, millis, serial| Stamp { seconds, millis, serial };
        for (one, other, after) in [
            (stamp(10, 5, 8), stamp(10, 5, 7), true),
            (stamp(10, 5, 7), stamp(10, 5, 7), false),
            (stamp(10, 0, 8), stamp(10, 5, 7), true),
            (stamp(10, 9, 6), stamp(10, 5, 7), false),
            (stamp(10, 5, 1), stamp(10, 5, u32::MAX), true),
            (stamp(30, 0, 1), stamp(10, 5, 7), true),
            (stamp(10, 0, 9000), stamp(30, 5, 1), false),
        ] {
            assert_eq!(is_after(one, other), after, "{one:?} {other:?}");
        }
    }

    // Shows 13.24.
    #[test]
    fn invalid_texts_are_refused() {
        for text in [
            "",
            "follow",
            "follow 1 ",
            "follow 2 heard",
            "follow 1 heard ",
            "follow 1 heard newest=+1",
            "follow 1 heard newest=1 newest=2",
            "follow 1 heard of=-",
            "follow 1 heard stamp=1.5:7",
            "follow 1 heard daemon=here",
            "follow 1 file dev=1 ino=2 at=3 line=4",
            "follow 1 file dev=1 ino=2 at=3 line=4 head=2000:0000000000000000",
            "follow 1 file ino=2 dev=1 at=3 line=4 head=0:cbf29ce484222325",
            &format!("follow 1 heard{}", " ".repeat(2000)),
        ] {
            let error = text.parse::<Checkpoint>().unwrap_err();
            assert!(error.to_string().starts_with("Checkpoint can't be read") && error.text.len() <= 1024);
        }
        assert_eq!("follow 1 heard".parse(), Ok(Checkpoint::default()));
    }
}
