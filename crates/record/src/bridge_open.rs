use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::bridge_fields::{Fields, is_one, pair};
use crate::encode::push_string;
use crate::field_reader::uuid;
use crate::pairs::lossy_text;
use crate::{Device, MAX_TEXT_BYTES, Outcome, ParseError, RecordType, Requester, TooLong};

/// The beginning of each text.
const HEAD: &str = "virt=kvm resrc=net reason=bridge-open";

/// A request to `taptrail-bridge-helper` for a tap on a bridge, and the helper's answer.
///
/// The helper does not know for which guest or which interface the tap is, so the record has no
/// `vm=`, `uuid=` or `net=`, and is no part of a guest's trail:
/// [`parse_text`](crate::parse_text) returns none. It accounts for the open(2) that the kernel may
/// have recorded.
///
/// ```
/// use taptrail_record::{BridgeOpen, Device, Outcome, Rdev, Requester, RecordType, parse_text};
/// use std::path::Path;
///
/// let open = BridgeOpen {
///     bridge: "br0".into(),
///     device: Some(Device::new("/dev/net/tun", Some(Rdev::TUN), Some("tap0".into()))),
///     refusal: None,
///     errno: None,
///     requester: Requester { uid: 1000, auid: 1000, pid: 4711 },
///     start_time: Some(778_899),
///     claimed_name: Some("web1".into()),
///     claimed_uuid: None,
///     netns: Some(4_026_531_840),
///     ifindex: None,
///     outcome: Outcome::Success,
/// };
/// let text = open.text(Path::new("/usr/libexec/taptrail-bridge-helper"))?;
/// assert_eq!(
///     text,
///     "virt=kvm resrc=net reason=bridge-open bridge=\"br0\" path=\"/dev/net/tun\" rdev=0A:C8 \
///      dev=\"tap0\" req-uid=1000 req-auid=1000 req-pid=4711 req-start=778899 \
///      claimed-vm=\"web1\" netns=4026531840 exe=\"/usr/libexec/taptrail-bridge-helper\" \
///      hostname=? addr=? terminal=? res=success"
/// );
/// assert_eq!(BridgeOpen::parse(BridgeOpen::RECORD_TYPE, text.as_bytes())?, Some(open));
/// assert_eq!(parse_text(RecordType::VIRT_RESOURCE, text.as_bytes())?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BridgeOpen {
    /// The name of the bridge, as requested.
    pub bridge: CompactString,
    /// The tap, once the tun device was opened or tried to be opened.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::stored::maybe_device"
    )]
    pub device: Option<Device>,
    /// Why the caller got no tap: one bare word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<CompactString>,
    /// The error number behind it, if a system call failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// The caller: the helper's real user, its login user, and its parent process, which is QEMU or
    /// a shell of it.
    pub requester: Requester,
    /// The parent's start time, in clock ticks since boot; none if it had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<u64>,
    /// The guest's name on that process's command line, which the process can change at will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_name: Option<CompactString>,
    /// The guest's uuid there, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_uuid: Option<Uuid>,
    /// The inode of the network namespace with the bridge and the tap (`/proc/PID/ns/net`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<u64>,
    /// The tap's ifindex there, if a watcher wrote the record: it found the tap in the helper, and
    /// will record the close, which the helper itself can't see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// Whether the tap may be passed to the caller.
    pub outcome: Outcome,
}

impl BridgeOpen {
    /// The record type for the kernel's audit.
    pub const RECORD_TYPE: RecordType = RecordType::VIRT_RESOURCE;

    /// The name of the tap, if it came to an open(2).
    pub fn dev(&self) -> Option<&CompactString> {
        self.device.as_ref()?.dev.as_ref()
    }

    /// Whether another record is of a tap with this name and caller.
    pub fn is_same_tap(&self, other: &Self) -> bool {
        self.is_tap_of(other.dev(), &other.requester, other.start_time)
    }

    /// A caller's pid may be another process's later; with the start time it is not.
    pub(crate) fn is_tap_of(
        &self,
        dev: Option<&CompactString>,
        caller: &Requester,
        start_time: Option<u64>,
    ) -> bool {
        self.dev() == dev
            && self.requester.pid == caller.pid
            && self.requester.uid == caller.uid
            && self.start_time == start_time
    }

    /// The text between `msg='` and `'`, as written by the program `exe`.
    ///
    /// # Errors
    ///
    /// As [`Record::text`](crate::Record::text).
    pub fn text(&self, exe: &Path) -> Result<String, TooLong> {
        let mut text = HEAD.to_owned();
        push_string(&mut text, "bridge", self.bridge.as_bytes());
        if let Some(device) = &self.device {
            push_string(&mut text, "path", device.path.as_bytes());
            match device.rdev {
                Some(rdev) => pair(&mut text, "rdev", Some(rdev)),
                None => pair(&mut text, "rdev", Some("?")),
            }
            if let Some(dev) = &device.dev {
                push_string(&mut text, "dev", dev.as_bytes());
            }
        }
        pair(&mut text, "refusal", self.refusal.as_ref());
        pair(&mut text, "errno", self.errno);
        pair(&mut text, "req-uid", Some(self.requester.uid));
        pair(&mut text, "req-auid", Some(self.requester.auid));
        pair(&mut text, "req-pid", Some(self.requester.pid));
        pair(&mut text, "req-start", self.start_time);
        if let Some(name) = &self.claimed_name {
            push_string(&mut text, "claimed-vm", name.as_bytes());
        }
        pair(&mut text, "claimed-uuid", self.claimed_uuid);
        pair(&mut text, "netns", self.netns);
        pair(&mut text, "ifindex", self.ifindex);
        push_string(&mut text, "exe", exe.as_os_str().as_bytes());
        text.push_str(" hostname=? addr=? terminal=?");
        pair(&mut text, "res", Some(self.outcome.as_str()));
        if text.len() > MAX_TEXT_BYTES {
            let guest = self.claimed_name.as_deref().unwrap_or_default();
            return Err(TooLong { guest: guest.chars().take(64).collect(), len: text.len() });
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
        let outcome = fields.outcome()?;
        let device = match fields.string("path")? {
            None => None,
            Some(path) => Some(Device::new(path, fields.rdev()?, fields.string("dev")?)),
        };
        let requester = fields.requester()?;
        let claimed_uuid = match fields.bare("claimed-uuid")? {
            None => None,
            Some(word) => Some(uuid(word).ok_or_else(|| ParseError::value(b"claimed-uuid", word))?),
        };
        Ok(Some(Self {
            bridge: fields.string("bridge")?.ok_or(ParseError::Missing { key: "bridge" })?,
            device,
            refusal: fields.bare("refusal")?.map(lossy_text),
            errno: fields.number("errno")?,
            requester,
            start_time: fields.number("req-start")?,
            claimed_name: fields.string("claimed-vm")?,
            claimed_uuid,
            netns: fields.number("netns")?,
            ifindex: fields.number("ifindex")?,
            outcome,
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Rdev;

    const EXE: &str = "/usr/libexec/taptrail-bridge-helper";

    fn refused() -> BridgeOpen {
        BridgeOpen {
            bridge: "br9".into(),
            device: None,
            refusal: Some("acl".into()),
            errno: None,
            requester: Requester { uid: 1000, auid: Requester::UNSET, pid: 7 },
            start_time: None,
            claimed_name: None,
            claimed_uuid: None,
            netns: None,
            ifindex: None,
            outcome: Outcome::Failed,
        }
    }

    fn parse(text: &str) -> Result<Option<BridgeOpen>, ParseError> {
        BridgeOpen::parse(RecordType::VIRT_RESOURCE, text.as_bytes())
    }

    #[test]
    fn a_text_that_was_cut_says_nothing() {
        let text = refused().text(EXE.as_ref()).unwrap();
        for cut in HEAD.len()..text.len() {
            assert_eq!(parse(&text[..cut]), Err(ParseError::Truncated), "{}", &text[..cut]);
        }
        assert_eq!(parse(&text), Ok(Some(refused())));
        assert_eq!(parse(&HEAD[..HEAD.len() - 1]), Ok(None));
        assert_eq!(parse(&format!("{HEAD}s res=success")), Ok(None));
        assert_eq!(BridgeOpen::parse(RecordType::VIRT_CONTROL, text.as_bytes()), Ok(None));
    }

    #[test]
    fn a_claim_can_not_imitate_another_pair() {
        let name = "x\" res=success bridge=\"br0";
        let open = BridgeOpen { claimed_name: Some(name.into()), ..refused() };
        let text = open.text(EXE.as_ref()).unwrap();
        assert_eq!(parse(&text), Ok(Some(open)));
        assert!(matches!(
            parse(&text.replace(" res=failed", " res=failed res=failed")),
            Err(ParseError::Duplicate { key: "res" })
        ));
    }

    #[test]
    fn invalid_values_are_refused() {
        let text = refused().text(EXE.as_ref()).unwrap();
        for (from, to) in [
            ("req-uid=1000", "req-uid=\"1000\""),
            ("req-uid=1000", "req-uid=-1"),
            ("req-pid=7 ", ""),
            ("bridge=\"br9\"", "bridge=br9"),
            ("bridge=\"br9\"", ""),
            ("refusal=acl", "claimed-uuid=7"),
            ("refusal=acl", "netns=x"),
            ("refusal=acl", "ifindex=-1"),
            ("res=failed", "res=maybe"),
        ] {
            assert!(text.contains(from));
            assert!(parse(&text.replace(from, to)).is_err(), "{to}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            bridge in "\\PC{0,15}",
            name in proptest::option::of(".{0,80}"),
            uuid in proptest::option::of(any::<u128>()),
            dev in proptest::option::of("[a-z]{1,15}"),
            errno in proptest::option::of(0..200_i32),
            ids in any::<(u32, u32, u32)>(),
            start_time in proptest::option::of(any::<u64>()),
            netns in proptest::option::of(any::<u64>()),
            ifindex in proptest::option::of(any::<u32>()),
            success in any::<bool>(),
        ) {
            let open = BridgeOpen {
                bridge: bridge.into(),
                device: dev.map(|dev| Device::new("/dev/net/tun", Some(Rdev::TUN), Some(dev.into()))),
                refusal: (!success).then(|| "device".into()),
                errno,
                requester: Requester { uid: ids.0, auid: ids.1, pid: ids.2 },
                start_time,
                claimed_name: name.map(Into::into),
                claimed_uuid: uuid.map(Uuid::from_u128),
                netns,
                ifindex,
                outcome: if success { Outcome::Success } else { Outcome::Failed },
            };
            let text = open.text(EXE.as_ref()).unwrap();
            prop_assert_eq!(parse(&text), Ok(Some(open)));
            prop_assert_eq!(crate::parse_text(RecordType::VIRT_RESOURCE, text.as_bytes()), Ok(None));
            prop_assert_eq!(crate::parse_resource(RecordType::VIRT_RESOURCE, text.as_bytes()), Ok(None));
        }

        #[test]
        fn no_text_makes_it_panic(tail in ".{0,200}") {
            let _ = parse(&format!("{HEAD} {tail}"));
        }
    }
}
