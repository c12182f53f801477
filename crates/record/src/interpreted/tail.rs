use memchr::memmem;
use uuid::Uuid;

use super::cursor::Cursor;
use super::head::Shape;
use crate::address_change::ChangeWord;
use crate::encode::{from_hex, needs_hex};
use crate::field_reader;
use crate::number::decimal;
use crate::pairs::{Value, lossy_text};
use crate::{CloseDoubt, Descriptor, Device, Event, FilterAddress, MacAddr, ParseError, Rdev, Requester};

/// The pairs behind a guest's name, up to libaudit's last ones.
pub(super) struct Tail {
    pub(super) uuid: Uuid,
    pub(super) event: Event,
    pub(super) common: CommonPairs,
}

/// The pairs that any record may have at its end.
pub(super) struct CommonPairs {
    pub(super) errno: Option<i32>,
    pub(super) last_seen: Option<u64>,
    pub(super) doubt: Option<CloseDoubt>,
    pub(super) requester: Option<Requester>,
}

const RDEV: &[u8] = b" rdev=";

impl Tail {
    /// Parses the text from the blank before `uuid=` on.
    pub(super) fn of(shape: &Shape, text: &[u8]) -> Result<Self, ParseError> {
        if shape.names_device() { Self::with_device(shape, text) } else { Self::without_device(shape, text) }
    }

    /// Whether a complete tail of this shape might begin here, while the true one begins further
    /// behind.
    ///
    /// A path may contain anything, so any beginning is complete with the true tail's end behind
    /// it.
    pub(super) fn begins(shape: &Shape, text: &[u8]) -> bool {
        if shape.names_device() {
            before_path(&mut Cursor(text)).is_some()
        } else {
            Self::without_device(shape, text).is_ok()
        }
    }

    fn without_device(shape: &Shape, text: &[u8]) -> Result<Self, ParseError> {
        let mut cursor = Cursor(text);
        let cursor = &mut cursor;
        let mut parse = || {
            let uuid = field_reader::uuid(cursor.pair(b" uuid=")?)?;
            let event = match shape {
                Shape::GuestStart(reason) => {
                    Event::GuestStart { reason: reason.clone(), vm_pid: cursor.vm_pid()? }
                }
                Shape::GuestStop(reason) => {
                    Event::GuestStop { reason: reason.clone(), vm_pid: cursor.vm_pid()? }
                }
                Shape::GuestGone => Event::GuestGone { vm_pid: cursor.vm_pid()?? },
                _ => change(shape, cursor)?,
            };
            Some(Self { uuid, event, common: common_pairs(cursor)? })
        };
        parse().ok_or(ParseError::Order)
    }

    fn with_device(shape: &Shape, text: &[u8]) -> Result<Self, ParseError> {
        let mut cursor = Cursor(text);
        let (uuid, mac) = before_path(&mut cursor).ok_or(ParseError::Order)?;
        let rest = cursor.0;
        let found = memmem::rfind(rest, RDEV).ok_or(ParseError::Order)?;
        let tail = DeviceTail::of(shape, &rest[found..]).ok_or(ParseError::Order)?;
        let mut earlier = memmem::find_iter(&rest[..found], RDEV);
        if earlier.any(|at| DeviceTail::of(shape, &rest[at..]).is_some()) {
            return Err(ParseError::Ambiguous);
        }
        let DeviceTail { rdev, dev, queue, vm_pid, fd, settings, address, common } = tail;
        let device = Device::new(lossy_text(&rest[..found]), rdev, dev.map(lossy_text));
        let event = match (shape, vm_pid, fd, mac) {
            (Shape::Seen, Some(vm_pid), Some(fd), _) => {
                Event::Seen(Descriptor { mac, device, queue, vm_pid, fd })
            }
            (Shape::Close, Some(vm_pid), Some(fd), _) => {
                Event::Gone(Descriptor { mac, device, queue, vm_pid, fd })
            }
            (Shape::Open, .., Some(mac)) => Event::Open { mac, device, queue },
            (Shape::Close, None, None, Some(mac)) => Event::Close { mac, device, queue },
            (Shape::Filter, None, None, Some(mac)) => Event::Filter { mac, device, address },
            (Shape::Mac, None, None, Some(mac)) => Event::Mac { mac, device },
            (Shape::Update(phase), None, None, Some(mac)) => {
                let settings = lossy_text(settings.ok_or(ParseError::Order)?);
                Event::Update { mac, device, phase: *phase, settings }
            }
            (Shape::Keep, .., Some(mac)) => Event::Keep { mac, device, queue, vm_pid },
            _ => return Err(ParseError::Order),
        };
        Ok(Self { uuid, event, common })
    }
}

/// Reads `uuid=U net=M path=`, up to the path.
fn before_path(cursor: &mut Cursor<'_>) -> Option<(Uuid, Option<MacAddr>)> {
    let uuid = field_reader::uuid(cursor.pair(b" uuid=")?)?;
    let mac = match cursor.pair(b" net=")? {
        b"?" => None,
        word => Some(mac(word)?),
    };
    cursor.0 = cursor.0.strip_prefix(b" path=")?;
    Some((uuid, mac))
}

/// The pairs behind a path.
struct DeviceTail<'a> {
    rdev: Option<Rdev>,
    dev: Option<&'a [u8]>,
    queue: Option<u32>,
    vm_pid: Option<u32>,
    fd: Option<u32>,
    settings: Option<&'a [u8]>,
    address: Option<FilterAddress>,
    common: CommonPairs,
}

impl<'a> DeviceTail<'a> {
    fn of(shape: &Shape, text: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor(text);
        let rdev = match cursor.pair(RDEV)? {
            b"?" => None,
            word => Some(Rdev::from_ascii(word)?),
        };
        let dev = own_string(&mut cursor, b" dev=")?;
        let queue = cursor.number(b" queue=")?;
        let vm_pid = if matches!(shape, Shape::Open) { None } else { cursor.vm_pid()? };
        let fd = if matches!(shape, Shape::Seen | Shape::Close) { cursor.number(b" fd=")? } else { None };
        let settings =
            if matches!(shape, Shape::Update(_)) { own_string(&mut cursor, b" settings=")? } else { None };
        let address = if matches!(shape, Shape::Filter) { address(&mut cursor)? } else { None };
        Some(Self { rdev, dev, queue, vm_pid, fd, settings, address, common: common_pairs(&mut cursor)? })
    }
}

/// The string of a key that `ausearch` does not know, if there is one; `None` if it can't be read.
fn own_string<'a>(cursor: &mut Cursor<'a>, key: &[u8]) -> Option<Option<&'a [u8]>> {
    match cursor.pair(key) {
        None => Some(None),
        // `ausearch` does not remove the quotes.
        Some([b'"', name @ .., b'"']) => Some(Some(name)),
        // Other programs may: then hex can't be distinguished from a name that looks like it.
        Some(word) if from_hex(word).is_some_and(|bytes| needs_hex(&bytes)) => None,
        Some(word) => Some(Some(word)),
    }
}

/// The address that changed a filter, if one did.
fn address(cursor: &mut Cursor<'_>) -> Option<Option<FilterAddress>> {
    let Some(ip) = cursor.pair(b" ip=") else { return Some(None) };
    let change = ChangeWord::from_word(cursor.pair(b" ip-change=")?)?;
    let server = match cursor.pair(b" dhcp-server=") {
        None => None,
        Some(word) => Some(field_reader::ipv4(word)?),
    };
    FilterAddress::of(Some(field_reader::ipv4(ip)?), Some(change), server, cursor.time(b" lease-end=")?)
}

fn change(shape: &Shape, cursor: &mut Cursor<'_>) -> Option<Event> {
    let old = maybe_mac(cursor.pair(b" old-net=")?)?;
    let new = maybe_mac(cursor.pair(b" new-net=")?)?;
    let vm_pid = cursor.vm_pid()?;
    let fds = cursor.number(b" fds=")?;
    Some(match shape {
        Shape::Start => Event::Start { mac: new?, vm_pid, fds },
        Shape::Attach => Event::Attach { mac: new?, vm_pid, fds },
        _ => {
            let forced = match cursor.pair(b" forced=") {
                None | Some(b"no") => false,
                Some(b"yes") => true,
                Some(_) => return None,
            };
            Event::Detach { mac: old?, vm_pid, fds, forced }
        }
    })
}

/// The last pairs, and the program behind them, which must be present.
fn common_pairs(cursor: &mut Cursor<'_>) -> Option<CommonPairs> {
    let errno = cursor.number(b" errno=")?;
    let last_seen = cursor.time(b" last-seen=")?;
    let doubt = match cursor.pair(b" doubt=") {
        None => None,
        Some(word) => Some(CloseDoubt::from_word(word)?),
    };
    let requester = match cursor.pair(b" req-uid=") {
        None => None,
        Some(uid) => {
            let (uid, auid) = (user(uid), user(cursor.pair(b" req-auid=")?));
            let pid = decimal(cursor.pair(b" req-pid=")?)?;
            uid.zip(auid).map(|(uid, auid)| Requester { uid, auid, pid })
        }
    };
    let exe = cursor.0.strip_prefix(b" exe=")?;
    (!exe.is_empty()).then_some(CommonPairs { errno, last_seen, doubt, requester })
}

/// A user id as a number, or as one of the two names that are the same everywhere.
fn user(word: &[u8]) -> Option<u32> {
    match word {
        b"root" => Some(0),
        b"unset" => Some(Requester::UNSET),
        _ => decimal(word),
    }
}

fn mac(word: &[u8]) -> Option<MacAddr> {
    field_reader::mac(Value::Bare(word))
}

/// An address, or `?` for none, in whatever quotes.
fn maybe_mac(word: &[u8]) -> Option<Option<MacAddr>> {
    match word {
        b"?" | b"'?'" => Some(None),
        word => mac(word).map(Some),
    }
}
