use crate::address_change::ChangeWord;
use crate::field_reader::{FieldReader, Key, invalid_value, required};
use crate::old_tail;
use crate::pairs::{Pairs, Value};
use crate::{
    CloseDoubt, Descriptor, Device, Event, FilterAddress, GuestId, Outcome, ParseError, Record, RecordType,
    Requester, UpdatePhase,
};

/// Parses the text between `msg='` and `'`, in the grammar of any of libvirt's three generations or
/// ours.
///
/// `None` if the record is not about a guest's start or stop, nor about network devices: it is of
/// another type, another resource, or another program; see [`foreign`](crate::foreign).
///
/// # Errors
///
/// The record is about a guest or a network device, but invalid: it is cut off, or a pair is
/// missing, duplicate, or has an invalid value.
#[inline]
pub fn parse_text(record_type: RecordType, text: &[u8]) -> Result<Option<Record>, ParseError> {
    match parse(record_type, text) {
        Err(error) => parse_old_tail(record_type, text, error),
        parsed => parsed,
    }
}

#[inline]
fn parse(record_type: RecordType, text: &[u8]) -> Result<Option<Record>, ParseError> {
    match record_type {
        RecordType::VIRT_CONTROL => control(text, None),
        RecordType::VIRT_RESOURCE => resource(text, None),
        _ => Ok(None),
    }
}

/// Parses the text again, if its last pairs are in a form that libaudit wrote before version 2.2.
#[cold]
fn parse_old_tail(
    record_type: RecordType,
    text: &[u8],
    error: ParseError,
) -> Result<Option<Record>, ParseError> {
    match old_tail::with_current_tail(text) {
        Some(text) => parse(record_type, &text),
        None => Err(error),
    }
}

/// Parses a text that is encoded as libaudit does it, and whose outcome is known from elsewhere.
pub(crate) fn encoded(text: &[u8], outcome: Outcome) -> Result<Option<Record>, ParseError> {
    for pair in Pairs::new(text) {
        match pair?.key {
            b"resrc" => return resource(text, Some(outcome)),
            b"op" => return control(text, Some(outcome)),
            // The record's kind always stands before the name.
            b"vm" => break,
            _ => {}
        }
    }
    Ok(None)
}

fn control(text: &[u8], known_outcome: Option<Outcome>) -> Result<Option<Record>, ParseError> {
    let mut fields = FieldReader::new(text);
    let parsed = fields.read_all();
    if !fields.has(Key::Virt) && !fields.names_guest() {
        return Ok(None);
    }
    parsed?;
    let outcome = outcome(&fields, known_outcome)?;
    let op = required(Key::Op, fields.word(Key::Op)?)?;
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

fn resource(text: &[u8], known_outcome: Option<Outcome>) -> Result<Option<Record>, ParseError> {
    let mut fields = FieldReader::new(text);
    // Most resources are not network devices; that pair comes first, so the rest need not be read.
    if !fields.read_until(|key, value| key == Key::Resrc && value != Value::Bare(b"net"))? {
        return Ok(None);
    }
    if matches!(fields.word(Key::Reason)?, Some(b"finding" | b"bridge-open" | b"bridge-close")) {
        return Ok(None);
    }
    let outcome = outcome(&fields, known_outcome)?;
    required(Key::Resrc, fields.get(Key::Resrc)?)?;
    let event = interface(&fields)?;
    record(&fields, event, outcome)
}

#[inline(always)]
fn interface(fields: &FieldReader<'_>) -> Result<Event, ParseError> {
    let reason = required(Key::Reason, fields.word(Key::Reason)?)?;
    let vm_pid = fields.pid(Key::VmPid)?;
    let fds = fields.number(Key::Fds)?;
    Ok(match reason {
        b"start" => Event::Start { mac: fields.mac(Key::NewNet)?, vm_pid, fds },
        b"attach" => Event::Attach { mac: fields.mac(Key::NewNet)?, vm_pid, fds },
        b"detach" => Event::Detach { mac: fields.mac(Key::OldNet)?, vm_pid, fds, forced: forced(fields)? },
        b"seen" => Event::Seen(descriptor(fields)?),
        // Only a watcher's record of a close names QEMU's process and descriptor.
        b"close" if fields.has(Key::VmPid) => Event::Gone(descriptor(fields)?),
        b"open" | b"close" | b"keep" | b"filter" | b"mac" | b"updating" | b"update" => {
            let mac = fields.mac(Key::Net)?;
            let device = device(fields)?;
            let queue = fields.number(Key::Queue)?;
            match reason {
                b"open" => Event::Open { mac, device, queue },
                b"close" => Event::Close { mac, device, queue },
                b"filter" => Event::Filter { mac, device, address: address(fields)? },
                b"mac" => Event::Mac { mac, device },
                b"updating" | b"update" => {
                    let phase = if reason == b"update" { UpdatePhase::End } else { UpdatePhase::Begin };
                    let settings = required(Key::Settings, fields.string(Key::Settings)?)?;
                    Event::Update { mac, device, phase, settings }
                }
                _ => Event::Keep { mac, device, queue, vm_pid },
            }
        }
        other => return Err(invalid_value(Key::Reason, Value::Bare(other))),
    })
}

/// The address that changed a filter, if one did.
fn address(fields: &FieldReader<'_>) -> Result<Option<FilterAddress>, ParseError> {
    let invalid = |word| invalid_value(Key::IpChange, Value::Bare(word));
    let word = fields.word(Key::IpChange)?;
    let change = word.map(|word| ChangeWord::from_word(word).ok_or_else(|| invalid(word))).transpose()?;
    let (ip, server) = (fields.ipv4(Key::Ip)?, fields.ipv4(Key::DhcpServer)?);
    let until = fields.time(Key::LeaseEnd)?;
    FilterAddress::of(ip, change, server, until).ok_or_else(|| invalid(word.unwrap_or_default()))
}

#[inline(always)]
fn record(fields: &FieldReader<'_>, event: Event, outcome: Outcome) -> Result<Option<Record>, ParseError> {
    if let Some(virt) = fields.get(Key::Virt)?
        && !GuestKind::of(virt.bytes()).is_relevant(matches!(event, Event::Open { .. }))
    {
        return Ok(None);
    }
    let name = required(Key::Vm, fields.string(Key::Vm)?)?;
    let uuid = fields.uuid()?;
    if !fields.names_guest() {
        return Err(ParseError::Order);
    }
    let requester = match fields.number(Key::ReqUid)? {
        None => None,
        Some(uid) => Some(Requester {
            uid,
            auid: required(Key::ReqAuid, fields.number(Key::ReqAuid)?)?,
            pid: required(Key::ReqPid, fields.number(Key::ReqPid)?)?,
        }),
    };
    let errno = fields.number(Key::Errno)?;
    let last_seen = fields.time(Key::LastSeen)?;
    let doubt = match fields.word(Key::Doubt)? {
        None => None,
        Some(word) => {
            Some(CloseDoubt::from_word(word).ok_or_else(|| invalid_value(Key::Doubt, Value::Bare(word)))?)
        }
    };
    Ok(Some(Record { guest: GuestId { name, uuid }, event, outcome, requester, errno, last_seen, doubt }))
}

/// The kind of guest, from libvirt's words in `virt=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuestKind {
    /// A guest whose lifecycle and devices libvirt records: QEMU's, and cloud-hypervisor's on
    /// Hyper-V.
    Full,
    /// A guest of another hypervisor: only the opens for it are used.
    OpensOnly,
    /// A container, which has interfaces and no raw network devices.
    Container,
}

impl GuestKind {
    pub(crate) fn of(word: &[u8]) -> Self {
        match word {
            b"kvm" | b"qemu" | b"kqemu" | b"hvf" | b"hyperv" => Self::Full,
            b"lxc" | b"openvz" => Self::Container,
            _ => Self::OpensOnly,
        }
    }

    /// Whether a record of such a guest is used.
    pub(crate) fn is_relevant(self, is_open: bool) -> bool {
        match self {
            Self::Full => true,
            Self::OpensOnly => is_open,
            Self::Container => false,
        }
    }
}

/// libaudit writes `res=` last, so a text without it lost its end, unless the outcome is known from
/// elsewhere.
pub(crate) fn outcome(
    fields: &FieldReader<'_>,
    known_outcome: Option<Outcome>,
) -> Result<Outcome, ParseError> {
    let Some(word) = fields.word(Key::Res)? else { return known_outcome.ok_or(ParseError::Truncated) };
    let outcome = match word {
        b"success" => Outcome::Success,
        b"failed" => Outcome::Failed,
        _ if b"success".starts_with(word) || b"failed".starts_with(word) => {
            return Err(ParseError::Truncated);
        }
        _ => return Err(invalid_value(Key::Res, Value::Bare(word))),
    };
    match known_outcome {
        Some(known) if known != outcome => Err(invalid_value(Key::Res, Value::Bare(word))),
        _ => Ok(outcome),
    }
}

fn forced(fields: &FieldReader<'_>) -> Result<bool, ParseError> {
    match fields.word(Key::Forced)? {
        None | Some(b"no") => Ok(false),
        Some(b"yes") => Ok(true),
        Some(word) => Err(invalid_value(Key::Forced, Value::Bare(word))),
    }
}

fn descriptor(fields: &FieldReader<'_>) -> Result<Descriptor, ParseError> {
    Ok(Descriptor {
        mac: fields.maybe_mac(Key::Net)?,
        device: device(fields)?,
        queue: fields.number(Key::Queue)?,
        vm_pid: fields.process()?,
        fd: required(Key::Fd, fields.number(Key::Fd)?)?,
    })
}

fn device(fields: &FieldReader<'_>) -> Result<Device, ParseError> {
    let path = required(Key::Path, fields.string(Key::Path)?)?;
    Ok(Device::new(path, fields.rdev(Key::Rdev)?, fields.string(Key::Dev)?))
}
