use std::path::Path;

use crate::{Device, GuestId, MacAddr, RecordType, TooLong};

/// A finding about a guest, for programs that read the kernel's audit and nothing else.
///
/// It claims nothing of a device and is not part of a trail: [`parse_text`](crate::parse_text)
/// returns none.
///
/// ```
/// # use taptrail_record::{GuestId, Notice, RecordType, parse_text};
/// # use std::path::Path;
/// let guest = GuestId { name: "web1".into(), uuid: "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e".parse()? };
/// let mac = Some("52:54:00:12:34:56".parse()?);
/// let notice = Notice { guest: &guest, mac, device: None, finding: "held-after-release" };
/// let text = notice.text(Path::new("/usr/bin/taptrail"))?;
/// assert_eq!(
///     text,
///     "virt=kvm resrc=net reason=finding vm=\"web1\" uuid=2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e \
///      net=52:54:00:12:34:56 finding=held-after-release \
///      exe=\"/usr/bin/taptrail\" hostname=? addr=? terminal=? res=success"
/// );
/// assert_eq!(parse_text(Notice::RECORD_TYPE, text.as_bytes()), Ok(None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice<'a> {
    /// The guest.
    pub guest: &'a GuestId,
    /// The interface, if it is about one.
    pub mac: Option<MacAddr>,
    /// The device, if it is about one.
    pub device: Option<&'a Device>,
    /// The kind of finding: one bare word.
    pub finding: &'a str,
}

impl Notice<'_> {
    /// The record type for the kernel's audit.
    pub const RECORD_TYPE: RecordType = RecordType::VIRT_RESOURCE;

    /// The text between `msg='` and `'`, as written by the program `exe`.
    ///
    /// # Errors
    ///
    /// As [`Record::text`](crate::Record::text).
    pub fn text(&self, exe: &Path) -> Result<String, TooLong> {
        crate::write::notice(self, exe)
    }
}
