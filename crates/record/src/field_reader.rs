use std::net::Ipv4Addr;

use compact_str::CompactString;
use uuid::Uuid;

use crate::number::decimal;
use crate::pairs::{Pairs, Value, lossy_text};
use crate::{MacAddr, ParseError, Rdev, Reason};

/// The keys of the pairs that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Virt,
    Resrc,
    Op,
    Reason,
    Vm,
    Uuid,
    Net,
    OldNet,
    NewNet,
    Path,
    Rdev,
    Dev,
    Queue,
    VmPid,
    Fds,
    Fd,
    Forced,
    Settings,
    Ip,
    IpChange,
    DhcpServer,
    LeaseEnd,
    Errno,
    LastSeen,
    Doubt,
    ReqUid,
    ReqAuid,
    ReqPid,
    Res,
}

/// Their names, in that order.
pub(crate) const KEYS: [&str; 29] = [
    "virt",
    "resrc",
    "op",
    "reason",
    "vm",
    "uuid",
    "net",
    "old-net",
    "new-net",
    "path",
    "rdev",
    "dev",
    "queue",
    "vm-pid",
    "fds",
    "fd",
    "forced",
    "settings",
    "ip",
    "ip-change",
    "dhcp-server",
    "lease-end",
    "errno",
    "last-seen",
    "doubt",
    "req-uid",
    "req-auid",
    "req-pid",
    "res",
];

impl Key {
    #[inline]
    fn of(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"virt" => Self::Virt,
            b"resrc" => Self::Resrc,
            b"op" => Self::Op,
            b"reason" => Self::Reason,
            b"vm" => Self::Vm,
            b"uuid" => Self::Uuid,
            b"net" => Self::Net,
            b"old-net" => Self::OldNet,
            b"new-net" => Self::NewNet,
            b"path" => Self::Path,
            b"rdev" => Self::Rdev,
            b"dev" => Self::Dev,
            b"queue" => Self::Queue,
            b"vm-pid" => Self::VmPid,
            b"fds" => Self::Fds,
            b"fd" => Self::Fd,
            b"forced" => Self::Forced,
            b"settings" => Self::Settings,
            b"ip" => Self::Ip,
            b"ip-change" => Self::IpChange,
            b"dhcp-server" => Self::DhcpServer,
            b"lease-end" => Self::LeaseEnd,
            b"errno" => Self::Errno,
            b"last-seen" => Self::LastSeen,
            b"doubt" => Self::Doubt,
            b"req-uid" => Self::ReqUid,
            b"req-auid" => Self::ReqAuid,
            b"req-pid" => Self::ReqPid,
            b"res" => Self::Res,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        KEYS[self as usize]
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// The values of a record's known keys.
pub(crate) struct FieldReader<'a> {
    text: &'a [u8],
    /// Start and end of each value in `text`, without its quotes.
    spans: [(u16, u16); KEYS.len()],
    seen: u32,
    twice: u32,
    quoted: u32,
    nested: u32,
    named: bool,
}

impl<'a> FieldReader<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, spans: [(0, 0); KEYS.len()], seen: 0, twice: 0, quoted: 0, nested: 0, named: false }
    }

    /// Reads pairs up to the end, or to the first for which `stop` is true; pairs before an error
    /// are kept. Returns whether it read all.
    #[inline]
    pub(crate) fn read_until(&mut self, stop: impl Fn(Key, Value<'a>) -> bool) -> Result<bool, ParseError> {
        let mut name_end = usize::MAX - 1;
        for pair in Pairs::new(self.text) {
            let pair = pair?;
            let Some(key) = Key::of(pair.key) else { continue };
            if stop(key, pair.value) {
                return Ok(false);
            }
            match key {
                Key::Vm => name_end = pair.end,
                Key::Uuid if pair.start == name_end + 1 => self.named = true,
                _ => {}
            }
            let bit = key.bit();
            self.twice |= self.seen & bit;
            self.seen |= bit;
            let quotes = match pair.value {
                Value::Bare(_) => 0,
                Value::Quoted(_) => {
                    self.quoted |= bit;
                    1
                }
                Value::Nested(_) => {
                    self.nested |= bit;
                    1
                }
            };
            let (Ok(start), Ok(end)) = (
                u16::try_from(pair.end - quotes - pair.value.bytes().len()),
                u16::try_from(pair.end - quotes),
            ) else {
                return Err(ParseError::TooLong { len: self.text.len(), max: usize::from(u16::MAX) });
            };
            self.spans[key as usize] = (start, end);
        }
        Ok(true)
    }

    /// Reads all pairs.
    pub(crate) fn read_all(&mut self) -> Result<(), ParseError> {
        self.read_until(|_, _| false).map(|_| ())
    }

    /// Whether the text has the pair.
    pub(crate) fn has(&self, key: Key) -> bool {
        self.seen & key.bit() != 0
    }

    /// Whether the guest is named as guest managers do: `vm=` and, one blank behind it, `uuid=`. A
    /// `uuid=` elsewhere may be anything: a container run-time logs its container's command line.
    pub(crate) fn names_guest(&self) -> bool {
        self.named
    }

    /// The value of a pair that may occur at most once.
    #[inline]
    pub(crate) fn get(&self, key: Key) -> Result<Option<Value<'a>>, ParseError> {
        if self.seen & key.bit() == 0 {
            return Ok(None);
        }
        if self.twice & key.bit() != 0 {
            return Err(ParseError::Duplicate { key: key.name() });
        }
        let (start, end) = self.spans[key as usize];
        let value = &self.text[usize::from(start)..usize::from(end)];
        Ok(Some(if self.quoted & key.bit() != 0 {
            Value::Quoted(value)
        } else if self.nested & key.bit() != 0 {
            Value::Nested(value)
        } else {
            Value::Bare(value)
        }))
    }

    /// A string field: quoted, or else hex. Invalid UTF-8 is replaced, so that a name can always be
    /// shown; the uuid identifies the guest.
    pub(crate) fn string(&self, key: Key) -> Result<Option<CompactString>, ParseError> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        match value.string() {
            // Only the oldest libvirt nested quotes, and it did not write `virt=`.
            Some(_) if matches!(value, Value::Nested(_)) && self.has(Key::Virt) => {
                Err(invalid_value(key, value))
            }
            Some(bytes) => Ok(Some(lossy_text(&bytes))),
            None => Err(invalid_value(key, value)),
        }
    }

    /// A bare word.
    pub(crate) fn word(&self, key: Key) -> Result<Option<&'a [u8]>, ParseError> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::Bare(word)) => Ok(Some(word)),
            Some(value) => Err(invalid_value(key, value)),
        }
    }

    /// A bare word that must be present and valid.
    fn parsed<T>(&self, key: Key, parse: impl Fn(&[u8]) -> Option<T>) -> Result<T, ParseError> {
        let word = required(key, self.word(key)?)?;
        parse(word).ok_or_else(|| invalid_value(key, Value::Bare(word)))
    }

    /// An unsigned decimal number.
    pub(crate) fn number<T: TryFrom<u64>>(&self, key: Key) -> Result<Option<T>, ParseError> {
        match self.word(key)? {
            None => Ok(None),
            Some(word) => decimal(word).map(Some).ok_or_else(|| invalid_value(key, Value::Bare(word))),
        }
    }

    /// A time as `SECONDS.mmm`, in milliseconds since 1970.
    pub(crate) fn time(&self, key: Key) -> Result<Option<u64>, ParseError> {
        match self.word(key)? {
            None => Ok(None),
            Some(word) => time(word).map(Some).ok_or_else(|| invalid_value(key, Value::Bare(word))),
        }
    }

    /// An IPv4 address.
    pub(crate) fn ipv4(&self, key: Key) -> Result<Option<Ipv4Addr>, ParseError> {
        match self.word(key)? {
            None => Ok(None),
            Some(word) => ipv4(word).map(Some).ok_or_else(|| invalid_value(key, Value::Bare(word))),
        }
    }

    /// A process id; libvirt's 0 and -1 mean none.
    pub(crate) fn pid(&self, key: Key) -> Result<Option<u32>, ParseError> {
        match self.word(key)? {
            Some(b"-1") => Ok(None),
            _ => Ok(self.number::<u32>(key)?.filter(|&pid| pid != 0)),
        }
    }

    /// A process id that must be present.
    pub(crate) fn process(&self) -> Result<u32, ParseError> {
        required(Key::VmPid, self.pid(Key::VmPid)?)
    }

    /// A device number, or `?`.
    pub(crate) fn rdev(&self, key: Key) -> Result<Option<Rdev>, ParseError> {
        match self.word(key)? {
            None | Some(b"?") => Ok(None),
            Some(word) => {
                Rdev::from_ascii(word).map(Some).ok_or_else(|| invalid_value(key, Value::Bare(word)))
            }
        }
    }

    pub(crate) fn uuid(&self) -> Result<Uuid, ParseError> {
        self.parsed(Key::Uuid, uuid)
    }

    pub(crate) fn reason(&self) -> Result<Reason, ParseError> {
        self.parsed(Key::Reason, Reason::from_ascii)
    }

    /// The address of the interface that a descriptor serves, or `?`.
    pub(crate) fn maybe_mac(&self, key: Key) -> Result<Option<MacAddr>, ParseError> {
        match self.get(key)? {
            Some(Value::Bare(b"?" | b"'?'") | Value::Quoted(b"?") | Value::Nested(b"?")) => Ok(None),
            _ => self.mac(key).map(Some),
        }
    }

    /// An interface's address, in the quotes of any generation of libvirt.
    pub(crate) fn mac(&self, key: Key) -> Result<MacAddr, ParseError> {
        let value = required(key, self.get(key)?)?;
        mac(value).ok_or_else(|| invalid_value(key, value))
    }
}

pub(crate) fn required<T>(key: Key, value: Option<T>) -> Result<T, ParseError> {
    value.ok_or(ParseError::Missing { key: key.name() })
}

#[cold]
pub(crate) fn invalid_value(key: Key, value: Value<'_>) -> ParseError {
    ParseError::value(key.name().as_bytes(), value.bytes())
}

/// As [`invalid_value`], for a value that another program decoded.
#[cold]
pub(crate) fn invalid_field(key: &str, value: &str) -> ParseError {
    ParseError::value(key.as_bytes(), value.as_bytes())
}

/// `SECONDS.mmm` as milliseconds.
pub(crate) fn time(word: &[u8]) -> Option<u64> {
    let (seconds, millis) = word.split_at_checked(word.len().checked_sub(4)?)?;
    let [b'.', millis @ ..] = millis else { return None };
    decimal::<u64>(seconds)?.checked_mul(1000)?.checked_add(decimal(millis)?)
}

/// An IPv4 address, as it is written everywhere.
pub(crate) fn ipv4(word: &[u8]) -> Option<Ipv4Addr> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// A uuid as RFC 9562 writes it; no other spelling has 36 characters.
pub(crate) fn uuid(text: &[u8]) -> Option<Uuid> {
    if text.len() != 36 {
        return None;
    }
    Uuid::try_parse_ascii(text).ok()
}

/// `"52:54:…"`, `'52:54:…'` or bare: libvirt has written all three.
pub(crate) fn mac(value: Value<'_>) -> Option<MacAddr> {
    let text = match value {
        Value::Bare([b'\'', inner @ .., b'\'']) => inner,
        value => value.bytes(),
    };
    MacAddr::from_ascii(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_known_by_its_name() {
        for (index, name) in KEYS.iter().enumerate() {
            let key = Key::of(name.as_bytes()).unwrap();
            assert_eq!((key as usize, key.name()), (index, *name));
        }
        assert_eq!(Key::of(b"exe"), None);
    }

    #[test]
    fn a_time_has_three_digits_behind_its_seconds() {
        assert_eq!(time(b"1795470890.309"), Some(1_795_470_890_309));
        assert_eq!(time(b"0.000"), Some(0));
        for text in ["", ".", "1", ".123", "1.12", "1.1234", "-1.000", "1.-12", "18446744073709551615.000"] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_guest_is_named_where_the_uuid_follows_its_name() {
        for (text, named) in [
            ("vm=\"w\" uuid=1", true),
            ("virt=kvm vm=41 uuid=1 x=y", true),
            ("vm=\"w\"  uuid=1", false),
            ("vm=w exe=sh -c uuid=1", false),
            ("uuid=1 vm=\"w\"", false),
            ("uuid=1", false),
        ] {
            let mut fields = FieldReader::new(text.as_bytes());
            fields.read_all().unwrap();
            assert_eq!(fields.names_guest(), named, "{text}");
        }
    }
}
