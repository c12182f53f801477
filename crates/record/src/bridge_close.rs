use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::bridge_fields::{Fields, is_one, pair};
use crate::encode::push_string;
use crate::field_reader::time;
use crate::{BridgeOpen, MAX_TEXT_BYTES, Outcome, ParseError, RecordType, Requester, TooLong};

/// The beginning of each text.
const HEAD: &str = "virt=kvm resrc=net reason=bridge-close";

/// The kernel shows that no process holds a tap any more that `taptrail-bridge-helper` passed: the
/// tap is gone, or nothing is attached to it. `taptrail watch` writes it.
///
/// ```
/// use taptrail_record::{BridgeClose, RecordType, Requester};
/// use std::path::Path;
///
/// let close = BridgeClose {
///     bridge: "br0".into(),
///     dev: "tap0".into(),
///     requester: Requester { uid: 1000, auid: 1000, pid: 4711 },
///     start_time: Some(778_899),
///     last_seen: None,
/// };
/// let text = close.text(Path::new("/usr/bin/taptrail"))?;
/// assert_eq!(
///     text,
///     "virt=kvm resrc=net reason=bridge-close bridge=\"br0\" dev=\"tap0\" req-uid=1000 \
///      req-auid=1000 req-pid=4711 req-start=778899 exe=\"/usr/bin/taptrail\" \
///      hostname=? addr=? terminal=? res=success"
/// );
/// assert_eq!(BridgeClose::parse(RecordType::VIRT_RESOURCE, text.as_bytes())?, Some(close));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BridgeClose {
    /// The bridge that the tap was a port of when it was passed.
    pub bridge: CompactString,
    /// The tap.
    pub dev: CompactString,
    /// The caller of the helper, as in the record of the open.
    pub requester: Requester,
    /// The caller's start time, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<u64>,
    /// If nobody watched when the tap was closed: when it was last seen open, in milliseconds since
    /// 1970. The close was between then and the record's time.
    #[serde(default, rename = "last_seen_ms", skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<u64>,
}

impl BridgeClose {
    /// The record type for the kernel's audit.
    pub const RECORD_TYPE: RecordType = RecordType::VIRT_RESOURCE;

    /// The text between `msg='` and `'`, as written by the program `exe`.
    ///
    /// # Errors
    ///
    /// As [`Record::text`](crate::Record::text).
    pub fn text(&self, exe: &Path) -> Result<String, TooLong> {
        let mut text = HEAD.to_owned();
        push_string(&mut text, "bridge", self.bridge.as_bytes());
        push_string(&mut text, "dev", self.dev.as_bytes());
        pair(&mut text, "req-uid", Some(self.requester.uid));
        pair(&mut text, "req-auid", Some(self.requester.auid));
        pair(&mut text, "req-pid", Some(self.requester.pid));
        pair(&mut text, "req-start", self.start_time);
        let last_seen = self.last_seen.map(|time| format!("{}.{:03}", time / 1000, time % 1000));
        pair(&mut text, "last-seen", last_seen);
        push_string(&mut text, "exe", exe.as_os_str().as_bytes());
        text.push_str(" hostname=? addr=? terminal=?");
        pair(&mut text, "res", Some(Outcome::Success.as_str()));
        if text.len() > MAX_TEXT_BYTES {
            return Err(TooLong { guest: String::new(), len: text.len() });
        }
        Ok(text)
    }

    /// Parses such a text; `None` if the record is another one.
    ///
    /// # Errors
    ///
    /// It is one, and cut off, or a pair is missing, duplicate, or has an invalid value.
    pub fn parse(record_type: RecordType, text: &[u8]) -> Result<Option<Self>, ParseError> {
        if !is_one(HEAD, record_type, text) {
            return Ok(None);
        }
        let fields = Fields::read(text)?;
        if fields.outcome()? == Outcome::Failed {
            return Err(ParseError::value(b"res", b"failed"));
        }
        let last_seen = match fields.bare("last-seen")? {
            None => None,
            Some(word) => Some(time(word).ok_or_else(|| ParseError::value(b"last-seen", word))?),
        };
        Ok(Some(Self {
            bridge: fields.string("bridge")?.ok_or(ParseError::Missing { key: "bridge" })?,
            dev: fields.string("dev")?.ok_or(ParseError::Missing { key: "dev" })?,
            requester: fields.requester()?,
            start_time: fields.number("req-start")?,
            last_seen,
        }))
    }

    /// Whether it is the end of the tap that a record of an open is about.
    pub fn is_of(&self, open: &BridgeOpen) -> bool {
        open.is_tap_of(Some(&self.dev), &self.requester, self.start_time)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXE: &str = "/usr/bin/taptrail";

    fn close() -> BridgeClose {
        BridgeClose {
            bridge: "br0".into(),
            dev: "tap0".into(),
            requester: Requester { uid: 1000, auid: Requester::UNSET, pid: 7 },
            start_time: Some(42),
            last_seen: Some(1_795_000_000_017),
        }
    }

    fn parse(text: &str) -> Result<Option<BridgeClose>, ParseError> {
        BridgeClose::parse(RecordType::VIRT_RESOURCE, text.as_bytes())
    }

    #[test]
    fn a_text_that_was_cut_says_nothing() {
        let text = close().text(EXE.as_ref()).unwrap();
        for cut in HEAD.len()..text.len() {
            assert_eq!(parse(&text[..cut]), Err(ParseError::Truncated), "{}", &text[..cut]);
        }
        assert_eq!(parse(&text), Ok(Some(close())));
        // Neither is taken for the other.
        assert_eq!(BridgeOpen::parse(RecordType::VIRT_RESOURCE, text.as_bytes()), Ok(None));
        assert_eq!(parse(&text.replace("bridge-close", "bridge-open")), Ok(None));
    }

    #[test]
    fn invalid_values_are_refused() {
        let text = close().text(EXE.as_ref()).unwrap();
        for (from, to) in [
            ("req-uid=1000", "req-uid=\"1000\""),
            ("req-pid=7 ", ""),
            ("dev=\"tap0\"", "dev=tap0"),
            ("dev=\"tap0\"", ""),
            ("last-seen=1795000000.017", "last-seen=x"),
            ("res=success", "res=failed"),
        ] {
            assert!(text.contains(from), "{from}");
            assert!(parse(&text.replace(from, to)).is_err(), "{to}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            bridge in "\\PC{0,15}",
            dev in "\\PC{1,15}",
            ids in any::<(u32, u32, u32)>(),
            start_time in proptest::option::of(any::<u64>()),
            last_seen in proptest::option::of(0..4_102_444_800_000_u64),
        ) {
            let requester = Requester { uid: ids.0, auid: ids.1, pid: ids.2 };
            let close = BridgeClose {
                bridge: bridge.into(), dev: dev.into(), requester, start_time, last_seen,
            };
            let text = close.text(EXE.as_ref()).unwrap();
            prop_assert_eq!(parse(&text), Ok(Some(close)));
            prop_assert_eq!(crate::parse_text(RecordType::VIRT_RESOURCE, text.as_bytes()), Ok(None));
        }

        #[test]
        fn no_text_makes_it_panic(tail in ".{0,200}") {
            let _ = parse(&format!("{HEAD} {tail}"));
        }
    }
}
