use crate::field_reader::{FieldReader, Key, need, refused};
use crate::old_tail;
use crate::pairs::{Pairs, Value};
use crate::{
    CloseDoubt, Descriptor, Device, Event, GuestId, Outcome, ParseError, Record, RecordType, Requester,
};

/// What a text between `msg='` and `'` says, in the grammar of any of libvirt's three generations or ours.
///
/// `None` is a record that tells nothing of guests' lives or network devices: of another type, another
/// resource, or another program; see [`foreign`](crate::foreign).
///
/// # Errors
///
/// A record that should tell something but can't be believed: cut off, a pair missing, there twice, or
/// with a value that is not of its kind.
#[inline]
pub fn parse_text(record_type: RecordType, text: &[u8]) -> Result<Option<Record>, ParseError> {
    match claim(record_type, text) {
        Err(error) => retry(record_type, text, error),
        told => told,
    }
}

#[inline]
fn claim(record_type: RecordType, text: &[u8]) -> Result<Option<Record>, ParseError> {
    match record_type {
        RecordType::VIRT_CONTROL => control(text, None),
        RecordType::VIRT_RESOURCE => resource(text, None),
        _ => Ok(None),
    }
}

/// Reads the text once more, if its end is one that libaudit wrote long ago.
#[cold]
fn retry(record_type: RecordType, text: &[u8], error: ParseError) -> Result<Option<Record>, ParseError> {
    match old_tail::modernised(text) {
        Some(text) => claim(record_type, &text),
        None => Err(error),
    }
}

/// A text that is encoded as libaudit does it, where the outcome stands apart.
pub(crate) fn encoded(text: &[u8], outcome: Outcome) -> Result<Option<Record>, ParseError> {
    for pair in Pairs::new(text) {
        match pair?.key {
            b"resrc" => return resource(text, Some(outcome)),
            b"op" => return control(text, Some(outcome)),
            // What stands behind the name tells of what kind a record is not.
            b"vm" => break,
            _ => {}
        }
    }
    Ok(None)
}

fn control(text: &[u8], told: Option<Outcome>) -> Result<Option<Record>, ParseError> {
    let mut fields = FieldReader::new(text);
    let whole = fields.take_all();
    if !fields.has(Key::Virt) && !fields.names_guest() {
        return Ok(None);
    }
    whole?;
    let outcome = outcome(&fields, told)?;
    let op = need(Key::Op, fields.word(Key::Op)?)?;
    if !matches!(op, b"start" | b"stop" | b"gone") {
        return Ok(None);
    }
    let reason = fields.reason()?;
    let event = match op {
        b"start" => Event::GuestStart { reason, vm_pid: fields.pid(Key::VmPid)? },
        b"stop" => Event::GuestStop { reason, vm_pid: fields.pid(Key::VmPid)? },
        _ => Event::GuestGone { vm_pid: fields.process()? },
    };
    record(&fields, event, outcome)
}

fn resource(text: &[u8], told: Option<Outcome>) -> Result<Option<Record>, ParseError> {
    let mut fields = FieldReader::new(text);
    // Most resources are no network devices, which stands in front and spares reading the rest.
    if !fields.take(|key, value| key == Key::Resrc && value != Value::Bare(b"net"))? {
        return Ok(None);
    }
    if fields.word(Key::Reason)? == Some(b"finding") {
        return Ok(None);
    }
    let outcome = outcome(&fields, told)?;
    need(Key::Resrc, fields.get(Key::Resrc)?)?;
    let event = interface(&fields)?;
    record(&fields, event, outcome)
}

#[inline(always)]
fn interface(fields: &FieldReader<'_>) -> Result<Event, ParseError> {
    let reason = need(Key::Reason, fields.word(Key::Reason)?)?;
    let vm_pid = fields.pid(Key::VmPid)?;
    let fds = fields.number(Key::Fds)?;
    Ok(match reason {
        b"start" => Event::Start { mac: fields.mac(Key::NewNet)?, vm_pid, fds },
        b"attach" => Event::Attach { mac: fields.mac(Key::NewNet)?, vm_pid, fds },
        b"detach" => Event::Detach { mac: fields.mac(Key::OldNet)?, vm_pid, fds, forced: forced(fields)? },
        b"seen" => Event::Seen(descriptor(fields)?),
        // A manager knows what it closes itself, and by which descriptor of QEMU's it does not say.
        b"close" if fields.has(Key::VmPid) => Event::Gone(descriptor(fields)?),
        b"open" | b"close" | b"keep" | b"filter" | b"mac" => {
            let mac = fields.mac(Key::Net)?;
            let device = device(fields)?;
            let queue = fields.number(Key::Queue)?;
            match reason {
                b"open" => Event::Open { mac, device, queue },
                b"close" => Event::Close { mac, device, queue },
                b"filter" => Event::Filter { mac, device },
                b"mac" => Event::Mac { mac, device },
                _ => Event::Keep { mac, device, queue, vm_pid },
            }
        }
        other => return Err(refused(Key::Reason, Value::Bare(other))),
    })
}

#[inline(always)]
fn record(fields: &FieldReader<'_>, event: Event, outcome: Outcome) -> Result<Option<Record>, ParseError> {
    if let Some(virt) = fields.get(Key::Virt)?
        && !Virt::of(virt.bytes()).tells(matches!(event, Event::Open { .. }))
    {
        return Ok(None);
    }
    let name = need(Key::Vm, fields.string(Key::Vm)?)?;
    let uuid = fields.uuid()?;
    if !fields.names_guest() {
        return Err(ParseError::Order);
    }
    let requester = match fields.number(Key::ReqUid)? {
        None => None,
        Some(uid) => Some(Requester {
            uid,
            auid: need(Key::ReqAuid, fields.number(Key::ReqAuid)?)?,
            pid: need(Key::ReqPid, fields.number(Key::ReqPid)?)?,
        }),
    };
    let errno = fields.number(Key::Errno)?;
    let last_seen = fields.time(Key::LastSeen)?;
    let doubt = match fields.word(Key::Doubt)? {
        None => None,
        Some(word) => {
            Some(CloseDoubt::from_word(word).ok_or_else(|| refused(Key::Doubt, Value::Bare(word)))?)
        }
    };
    Ok(Some(Record { guest: GuestId { name, uuid }, event, outcome, requester, errno, last_seen, doubt }))
}

/// What kind of guest `virt=` names, in libvirt's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Virt {
    /// One whose life and devices libvirt records: QEMU's, and cloud-hypervisor's on Hyper-V.
    Whole,
    /// A guest of another hypervisor: what is opened for it counts, and nothing else is known of it.
    OpensOnly,
    /// A container, which has interfaces and none of the devices.
    Container,
}

impl Virt {
    pub(crate) fn of(word: &[u8]) -> Self {
        match word {
            b"kvm" | b"qemu" | b"kqemu" | b"hvf" | b"hyperv" => Self::Whole,
            b"lxc" | b"openvz" => Self::Container,
            _ => Self::OpensOnly,
        }
    }

    /// Whether a record of such a guest tells anything.
    pub(crate) fn tells(self, is_open: bool) -> bool {
        match self {
            Self::Whole => true,
            Self::OpensOnly => is_open,
            Self::Container => false,
        }
    }
}

/// libaudit writes `res=` last, so a text without it lost its end, unless the outcome was told apart.
fn outcome(fields: &FieldReader<'_>, told: Option<Outcome>) -> Result<Outcome, ParseError> {
    let Some(word) = fields.word(Key::Res)? else { return told.ok_or(ParseError::Truncated) };
    let outcome = match word {
        b"success" => Outcome::Success,
        b"failed" => Outcome::Failed,
        _ if b"success".starts_with(word) || b"failed".starts_with(word) => {
            return Err(ParseError::Truncated);
        }
        _ => return Err(refused(Key::Res, Value::Bare(word))),
    };
    match told {
        Some(told) if told != outcome => Err(refused(Key::Res, Value::Bare(word))),
        _ => Ok(outcome),
    }
}

fn forced(fields: &FieldReader<'_>) -> Result<bool, ParseError> {
    match fields.word(Key::Forced)? {
        None | Some(b"no") => Ok(false),
        Some(b"yes") => Ok(true),
        Some(word) => Err(refused(Key::Forced, Value::Bare(word))),
    }
}

fn descriptor(fields: &FieldReader<'_>) -> Result<Descriptor, ParseError> {
    Ok(Descriptor {
        mac: fields.maybe_mac(Key::Net)?,
        device: device(fields)?,
        queue: fields.number(Key::Queue)?,
        vm_pid: fields.process()?,
        fd: need(Key::Fd, fields.number(Key::Fd)?)?,
    })
}

fn device(fields: &FieldReader<'_>) -> Result<Device, ParseError> {
    let path = need(Key::Path, fields.string(Key::Path)?)?;
    Ok(Device::new(path, fields.rdev(Key::Rdev)?, fields.string(Key::Dev)?))
}
