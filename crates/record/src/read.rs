use crate::pairs::{Claims, Pairs, Value};
use crate::{Device, Event, GuestId, MacAddr, Outcome, ParseError, Record, RecordType, Requester};

/// What a text between `msg='` and `'` says, in the grammar of libvirt's third generation and ours.
///
/// `None` is a record that tells nothing of guests' lives or network devices: of another type, another
/// resource, or another program (container run-times write `VIRT_CONTROL` without `virt=`).
///
/// # Errors
///
/// A record that should tell something but can't be believed: cut off, a pair missing, there twice, or
/// with a value that is not of its kind.
pub fn parse_text(record_type: RecordType, text: &[u8]) -> Result<Option<Record>, ParseError> {
    match record_type {
        RecordType::VIRT_CONTROL => control(text),
        RecordType::VIRT_RESOURCE => resource(text),
        _ => Ok(None),
    }
}

fn control(text: &[u8]) -> Result<Option<Record>, ParseError> {
    let claims = Claims::read(text)?;
    if claims.get("virt")?.is_none() {
        return Ok(None);
    }
    let outcome = outcome(&claims)?;
    let start = match need("op", claims.word("op")?)? {
        b"start" => true,
        b"stop" => false,
        _ => return Ok(None),
    };
    let reason = need("reason", claims.parsed("reason")?)?;
    let vm_pid = claims.pid("vm-pid")?;
    let event =
        if start { Event::GuestStart { reason, vm_pid } } else { Event::GuestStop { reason, vm_pid } };
    record(&claims, event, outcome).map(Some)
}

fn resource(text: &[u8]) -> Result<Option<Record>, ParseError> {
    // Most resources are no network devices: a look at the front spares reading the rest.
    for pair in Pairs::new(text) {
        let pair = pair?;
        if pair.key == b"resrc" {
            if pair.value != Value::Bare(b"net") {
                return Ok(None);
            }
            break;
        }
    }
    let claims = Claims::read(text)?;
    let outcome = outcome(&claims)?;
    need("virt", claims.get("virt")?)?;
    need("resrc", claims.get("resrc")?)?;
    let reason = need("reason", claims.word("reason")?)?;
    let vm_pid = claims.pid("vm-pid")?;
    let fds = claims.number("fds")?;
    let event = match reason {
        b"start" => Event::Start { mac: mac(&claims, "new-net")?, vm_pid, fds },
        b"attach" => Event::Attach { mac: mac(&claims, "new-net")?, vm_pid, fds },
        b"detach" => Event::Detach { mac: mac(&claims, "old-net")?, vm_pid, fds, forced: forced(&claims)? },
        b"open" | b"close" | b"keep" => {
            let mac = need("net", claims.parsed("net")?)?;
            let device = device(&claims)?;
            let queue = claims.number("queue")?;
            match reason {
                b"open" => Event::Open { mac, device, queue },
                b"close" => Event::Close { mac, device, queue },
                _ => Event::Keep { mac, device, queue, vm_pid },
            }
        }
        other => return Err(ParseError::value(b"reason", other)),
    };
    record(&claims, event, outcome).map(Some)
}

fn record(claims: &Claims<'_>, event: Event, outcome: Outcome) -> Result<Record, ParseError> {
    let name = need("vm", claims.string("vm")?)?;
    let uuid = need("uuid", claims.parsed("uuid")?)?;
    let requester = match claims.number("req-uid")? {
        None => None,
        Some(uid) => Some(Requester {
            uid,
            auid: need("req-auid", claims.number("req-auid")?)?,
            pid: need("req-pid", claims.number("req-pid")?)?,
        }),
    };
    let errno = claims.number("errno")?;
    Ok(Record { guest: GuestId { name, uuid }, event, outcome, requester, errno })
}

fn need<T>(key: &'static str, value: Option<T>) -> Result<T, ParseError> {
    value.ok_or(ParseError::Missing { key })
}

/// libaudit writes `res=` last, so a text without it lost its end.
fn outcome(claims: &Claims<'_>) -> Result<Outcome, ParseError> {
    match claims.word("res")? {
        Some(b"success") => Ok(Outcome::Success),
        Some(b"failed") => Ok(Outcome::Failed),
        Some(word) if b"success".starts_with(word) || b"failed".starts_with(word) => {
            Err(ParseError::Truncated)
        }
        Some(word) => Err(ParseError::value(b"res", word)),
        None => Err(ParseError::Truncated),
    }
}

fn mac(claims: &Claims<'_>, key: &'static str) -> Result<MacAddr, ParseError> {
    need(key, claims.quoted(key)?)
}

fn forced(claims: &Claims<'_>) -> Result<bool, ParseError> {
    match claims.word("forced")? {
        None | Some(b"no") => Ok(false),
        Some(b"yes") => Ok(true),
        Some(word) => Err(ParseError::value(b"forced", word)),
    }
}

fn device(claims: &Claims<'_>) -> Result<Device, ParseError> {
    let path = need("path", claims.string("path")?)?;
    Ok(Device::new(path, claims.rdev("rdev")?, claims.string("dev")?))
}
