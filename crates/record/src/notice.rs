use std::path::Path;

use crate::{Device, GuestId, MacAddr, RecordType, TooLong};

/// Something about a guest that is worth a look, for who reads the kernel's audit and nothing else.
///
/// It claims nothing of a device, so no trail is made of it: [`parse_text`](crate::parse_text) passes it over.
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
    /// Whom it is about.
    pub guest: &'a GuestId,
    /// Which interface, when it is about one.
    pub mac: Option<MacAddr>,
    /// Which device, when it is about one.
    pub device: Option<&'a Device>,
    /// The kind of finding: one bare word.
    pub finding: &'a str,
}

impl Notice<'_> {
    /// The type under which it goes to the kernel.
    pub const RECORD_TYPE: RecordType = RecordType::VIRT_RESOURCE;

    /// The text between `msg='` and `'`, which `exe` writes.
    ///
    /// # Errors
    ///
    /// As those of [`Record::text`](crate::Record::text).
    pub fn text(&self, exe: &Path) -> Result<String, TooLong> {
        crate::write::notice(self, exe)
    }
}
