use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::field_reader::{FieldReader, Key, required};
use crate::pairs::{Pairs, Value, lossy_text};
use crate::read::{GuestKind, outcome};
use crate::{GuestId, Outcome, ParseError, RecordType};

/// A guest got, gave up or was refused another resource than a network device: a disk, memory, a
/// processor, a host device … Or it got a security label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResourceChange {
    /// The guest.
    pub guest: GuestId,
    /// The kind of resource, in libvirt's word: `disk`, `mem`, `vcpu`, `cgroup`, `dev`, `rng`,
    /// `chardev`, `tpm`, `shmem`, `fs` …; `label` for a security label.
    pub resource: CompactString,
    /// Why: `start`, `attach`, `detach`, `update`, `deny`, `allow` …; a label's model.
    pub reason: CompactString,
    /// Whether it succeeded.
    pub outcome: Outcome,
    /// What it was before, if the record says that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<CompactString>,
    /// What it is now, if the record says that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<CompactString>,
    /// The other pairs of the record, in its order: `bus=usb device=001.002`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<(CompactString, CompactString)>,
}

impl ResourceChange {
    /// The address of the host's PCI device that it is about, if it is about one: `0000:65:00.1`.
    pub fn host_pci(&self) -> Option<&str> {
        let value = |name: &str| self.details.iter().find(|(key, _)| key == name).map(|(_, value)| &**value);
        (self.resource == "dev" && value("bus") == Some("pci")).then(|| value("device")).flatten()
    }
}

/// The pairs whose values are strings, and in hex where quotes can't hold them. Other bare values are
/// words or numbers, whatever they look like.
const STRINGS: [&[u8]; 13] = [
    b"old-disk",
    b"new-disk",
    b"old-rng",
    b"new-rng",
    b"old-fs",
    b"new-fs",
    b"old-chardev",
    b"new-chardev",
    b"device",
    b"path",
    b"cgroup",
    b"shmem",
    b"source",
];

/// Parses the text between `msg='` and `'` of a record about another resource than a network device.
///
/// `None` if it is about a network device, a guest's start or stop, a container, or no guest; see
/// [`parse_text`](crate::parse_text).
///
/// ```
/// use taptrail_record::{RecordType, parse_resource};
///
/// let text = "virt=kvm resrc=disk reason=attach vm=\"w\" uuid=2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e old-disk=\"?\" \
///             new-disk=\"/srv/w.qcow2\" exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=success";
/// let change = parse_resource(RecordType::VIRT_RESOURCE, text.as_bytes())?.ok_or("a disk")?;
/// assert_eq!((&*change.resource, &*change.reason), ("disk", "attach"));
/// assert_eq!((change.old, change.new.as_deref()), (None, Some("/srv/w.qcow2")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// The record is about such a resource, but invalid: it is cut off, or a pair is missing or has an
/// invalid value.
pub fn parse_resource(record_type: RecordType, text: &[u8]) -> Result<Option<ResourceChange>, ParseError> {
    let is_label = record_type == RecordType::VIRT_MACHINE_ID;
    if !is_label && record_type != RecordType::VIRT_RESOURCE {
        return Ok(None);
    }
    let mut fields = FieldReader::new(text);
    if !fields.read_until(|key, value| key == Key::Resrc && value == Value::Bare(b"net"))? {
        return Ok(None);
    }
    // A record that is cut off may be cut within the word that says whose it is.
    let outcome = outcome(&fields, None)?;
    if fields.word(Key::Virt)?.is_some_and(|virt| !GuestKind::of(virt).is_relevant(false)) {
        return Ok(None);
    }
    let name = required(Key::Vm, fields.string(Key::Vm)?)?;
    let uuid = fields.uuid()?;
    if !fields.names_guest() {
        return Err(ParseError::Order);
    }
    let word = |key| fields.word(key).map(|word| word.map(lossy_text));
    let (resource, mut reason) = if is_label {
        (CompactString::const_new("label"), CompactString::default())
    } else {
        (required(Key::Resrc, word(Key::Resrc)?)?, required(Key::Reason, word(Key::Reason)?)?)
    };
    let (mut old, mut new, mut details) = (None, None, Vec::new());
    for pair in Pairs::new(text) {
        let pair = pair?;
        let value = || shown(pair.key, pair.value);
        match pair.key {
            b"virt" | b"resrc" | b"op" | b"reason" | b"vm" | b"uuid" => {}
            // libaudit's own pairs.
            b"exe" => break,
            b"model" if is_label => reason = value().unwrap_or_default(),
            key if key.starts_with(b"old-") => old = old.or_else(value),
            key if key.starts_with(b"new-") => new = new.or_else(value),
            key => details.extend(value().map(|value| (lossy_text(key), value))),
        }
    }
    Ok(Some(ResourceChange { guest: GuestId { name, uuid }, resource, reason, outcome, old, new, details }))
}

/// A value as text; none for `?`.
fn shown(key: &[u8], value: Value<'_>) -> Option<CompactString> {
    match value {
        Value::Bare(b"?") | Value::Quoted(b"?") => None,
        Value::Bare(_) if STRINGS.contains(&key) => {
            Some(value.string().map_or_else(|| lossy_text(value.bytes()), |bytes| lossy_text(&bytes)))
        }
        value => Some(lossy_text(value.bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: &str = "vm=\"w\" uuid=2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e";
    const TAIL: &str = "exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=success";

    fn parse(text: &str) -> Result<Option<String>, ParseError> {
        let parsed = parse_resource(RecordType::VIRT_RESOURCE, text.as_bytes())?;
        Ok(parsed.map(|change| {
            let details = change.details.iter().map(|(key, value)| format!(" {key}={value}"));
            let value = |value: Option<CompactString>| value.unwrap_or_else(|| "-".into());
            let (old, new) = (value(change.old), value(change.new));
            format!("{} {} {old} {new}{}", change.resource, change.reason, details.collect::<String>())
        }))
    }

    // As libvirt writes them (src/conf/domain_audit.c).
    #[test]
    fn each_kind_of_resource_has_its_pairs() {
        for (text, expected) in [
            ("resrc=mem reason=start # old-mem=0 new-mem=196608", "mem start 0 196608"),
            ("resrc=vcpu reason=update # old-vcpu=1 new-vcpu=2", "vcpu update 1 2"),
            ("resrc=disk reason=detach # old-disk=2F6120 new-disk=\"?\"", "disk detach /a  -"),
            ("resrc=disk reason=start # old-disk=\"?\" new-disk=\"2F6120\"", "disk start - 2F6120"),
            ("resrc=rng reason=start # old-rng=\"?\" new-rng=\"/dev/urandom\"", "rng start - /dev/urandom"),
            (
                "resrc=dev reason=start # bus=usb device=555342207265646972646576",
                "dev start - - bus=usb device=USB redirdev",
            ),
            (
                "resrc=cgroup reason=allow # cgroup=\"/a\" class=path path=\"/dev/kvm\" rdev=0A:E8 acl=rw",
                "cgroup allow - - cgroup=/a class=path path=/dev/kvm rdev=0A:E8 acl=rw",
            ),
            (
                "resrc=dev reason=attach # bus=pci device=\"0000:65:00.1\"",
                "dev attach - - bus=pci device=0000:65:00.1",
            ),
            ("resrc=tpm reason=start # device=\"/dev/tpm0\"", "tpm start - - device=/dev/tpm0"),
            ("resrc=shmem reason=start # size=4194304 shmem=\"s\"", "shmem start - - size=4194304 shmem=s"),
        ] {
            let text = format!("virt=kvm {} {TAIL}", text.replace('#', GUEST));
            assert_eq!(parse(&text).unwrap().as_deref(), Some(expected), "{text}");
        }
        let label = format!("virt=kvm {GUEST} vm-ctx=+64055:+64055 img-ctx=+64055:+64055 model=dac {TAIL}");
        let label = parse_resource(RecordType::VIRT_MACHINE_ID, label.as_bytes()).unwrap().unwrap();
        assert_eq!((&*label.resource, &*label.reason, label.details.len()), ("label", "dac", 2));
    }

    #[test]
    fn a_hosts_pci_device_has_its_address() {
        for (text, address) in [
            ("resrc=dev reason=start # bus=pci device=\"0000:65:00.1\"", Some("0000:65:00.1")),
            ("resrc=dev reason=start # bus=pci device=?", None),
            ("resrc=dev reason=start # bus=usb device=\"001.002\"", None),
            ("resrc=tpm reason=start # bus=pci device=\"0000:65:00.1\"", None),
        ] {
            let text = format!("virt=kvm {} {TAIL}", text.replace('#', GUEST));
            let change = parse_resource(RecordType::VIRT_RESOURCE, text.as_bytes()).unwrap().unwrap();
            assert_eq!(change.host_pci(), address, "{text}");
        }
    }

    #[test]
    fn what_is_no_resource_of_a_guest_is_none_and_what_is_cut_is_an_error() {
        for none in [
            format!("virt=kvm resrc=net reason=start {GUEST} old-net=? new-net=? {TAIL}"),
            format!("virt=lxc resrc=mem reason=start {GUEST} old-mem=0 new-mem=1 {TAIL}"),
        ] {
            assert_eq!(parse(&none), Ok(None), "{none}");
        }
        let whole = format!("virt=kvm resrc=mem reason=start {GUEST} old-mem=0 new-mem=1 {TAIL}");
        assert!(parse(&whole).unwrap().is_some());
        for cut in 0..whole.len() {
            // Only the last word tells whether the record is whole.
            assert!(parse(&whole[..cut]).is_err(), "{}", &whole[..cut]);
        }
        let other = parse_resource(RecordType::VIRT_CONTROL, whole.as_bytes());
        assert_eq!(other, Ok(None));
    }
}
