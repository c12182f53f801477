//! Records in a guest manager's own log.

use memchr::memmem::{find, rfind};

use crate::encode::{from_hex, needs_hex};
use crate::pairs::word;
use crate::read::encoded;
use crate::{Outcome, ParseError, Record, RecordType, parse_interpreted};

/// Parses a record's text in a guest manager's own log (libvirt's with `audit_logging=1`, from
/// behind `success=yes` to the line's end). The log has the outcome outside of the text.
///
/// ```
/// use taptrail_record::{Event, Outcome, parse_claim};
///
/// let text = "virt=kvm op=stop reason=shutdown vm=\"w\" uuid=2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e vm-pid=0";
/// let record = parse_claim(text.as_bytes(), Outcome::Success)?.ok_or("a guest's end")?;
/// assert!(matches!(record.event, Event::GuestStop { vm_pid: None, .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A libvirt that was built without libaudit encodes nothing: its `vm=CAFE` is a guest named CAFE,
/// which other builds would write in quotes. Such a text is parsed by the position of its pairs, as
/// [`parse_interpreted`] does.
///
/// # Errors
///
/// As [`parse_text`](crate::parse_text), but a cut behind the last quote is not detected. A `res=`
/// that contradicts `outcome` is an invalid value.
pub fn parse_claim(text: &[u8], outcome: Outcome) -> Result<Option<Record>, ParseError> {
    if is_encoded(text) { encoded(text, outcome) } else { plain(text, outcome) }
}

/// Parses a text whose values are not encoded.
fn plain(text: &[u8], outcome: Outcome) -> Result<Option<Record>, ParseError> {
    let head = &text[..find(text, VM).unwrap_or(text.len())];
    let has = |key: &[u8]| head.split(|&byte| byte == b' ').any(|word| word.starts_with(key));
    let record_type = match (has(b"resrc="), has(b"op=")) {
        (true, _) => RecordType::VIRT_RESOURCE,
        (_, true) => RecordType::VIRT_CONTROL,
        _ => return Ok(None),
    };
    let end = format!(" exe=? hostname=? addr=? terminal=? res={}", outcome.as_str());
    parse_interpreted(record_type, &[text, end.as_bytes()].concat())
}

const VM: &[u8] = b" vm=";

/// Whether the values of a text are encoded as libaudit does it: strings in quotes, or in hex where
/// they contain bytes that quotes can't hold.
fn is_encoded(text: &[u8]) -> bool {
    let Some(at) = find(text, VM) else { return true };
    let name = &text[at + VM.len()..];
    // Without a uuid neither parser accepts the text.
    let (false, Some(uuid)) = (matches!(name.first(), Some(b'"' | b'\'')), rfind(name, b" uuid=")) else {
        return true;
    };
    let (name, mut rest) = (&name[..uuid], &name[uuid + 1..]);
    rest = &rest[word(rest)..];
    let value = |key: &[u8]| find(rest, key).map(|at| &rest[at + key.len()..]);
    if let Some(path) = value(b" path=") {
        return path.starts_with(b"\"") || is_hex(&path[..word(path)]);
    }
    if let Some(mac) = value(b" old-net=") {
        return matches!(mac.first(), Some(b'"' | b'\''));
    }
    // libaudit's own pairs.
    if value(b" exe=").is_some_and(|exe| exe.starts_with(b"\"")) {
        return true;
    }
    // The text has no other value that libaudit would have quoted.
    from_hex(name).is_some_and(|name| needs_hex(&name) && is_text(&name))
}

/// Whether a value is the hex that libaudit writes for bytes that quotes can't hold.
fn is_hex(value: &[u8]) -> bool {
    from_hex(value).is_some_and(|bytes| needs_hex(&bytes))
}

/// Whether decoded bytes look like a guest's name. Other values that look like hex may or may not
/// have been encoded: they are taken literally, and the uuid identifies the guest.
fn is_text(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let letters = text.chars().filter(|c| c.is_alphanumeric()).count();
    letters >= 4 && letters * 2 >= text.chars().count() && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Event;

    const UUID: &str = "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e";

    fn name(text: &str) -> Result<String, ParseError> {
        let record = parse_claim(text.as_bytes(), Outcome::Success)?.unwrap();
        assert_eq!(record.guest.uuid.to_string(), UUID);
        Ok(record.guest.name.into())
    }

    fn open(name_: &str, path: &str) -> Result<String, ParseError> {
        name(&format!(
            "virt=kvm resrc=net reason=open vm={name_} uuid={UUID} net=52:54:00:00:00:01 path={path} rdev=0A:C8"
        ))
    }

    #[test]
    fn a_name_that_looks_like_hex_is_one_where_nothing_is_encoded() {
        let start = |name_: &str, macs: &str| {
            name(&format!("virt=kvm resrc=net reason=start vm={name_} uuid={UUID} {macs}"))
        };
        let life = |name_: &str| {
            name(&format!("virt=kvm op=start reason=booted vm={name_} uuid={UUID} vm-pid=4711"))
        };
        for plain in ["CAFE", "web1", "4142", "web server 1", "x=y", "2022"] {
            assert_eq!(open(plain, "/dev/net/tun").unwrap(), plain);
            assert_eq!(start(plain, "old-net=? new-net=52:54:00:00:00:01").unwrap(), plain);
            assert_eq!(life(plain).unwrap(), plain);
        }
        let hex = "776562207365727665722031";
        assert_eq!(open(hex, "\"/dev/net/tun\"").unwrap(), "web server 1");
        assert_eq!(open(hex, "2F6465762F20").unwrap(), "web server 1");
        assert_eq!(start(hex, "old-net=\"?\" new-net=\"52:54:00:00:00:01\"").unwrap(), "web server 1");
        assert_eq!(life(hex).unwrap(), "web server 1");
        assert_eq!(open(hex, "/dev/net/tun").unwrap(), hex);
        assert_eq!(open("\"CAFE\"", "\"/dev/net/tun\"").unwrap(), "CAFE");
        assert_eq!(open("web1", "BEEF").unwrap_err().to_string(), "Record has an invalid 'vm=web1'");
        assert_eq!(open("web1", "macvtap0").unwrap(), "web1");
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let imitation = format!("x uuid={UUID} net=52:54:00:00:00:02 path=/a");
        assert_eq!(open(&imitation, "/dev/net/tun"), Err(ParseError::Ambiguous));
    }

    #[test]
    fn other_resources_and_outcomes_are_as_ever() {
        let mem = format!("virt=kvm resrc=mem reason=start vm=w uuid={UUID} old-mem=0 new-mem=1");
        assert_eq!(parse_claim(mem.as_bytes(), Outcome::Success), Ok(None));
        let stop = format!("virt=kvm op=stop reason=shutdown vm=w x uuid={UUID} vm-pid=0");
        let record = parse_claim(stop.as_bytes(), Outcome::Failed).unwrap().unwrap();
        assert_eq!(record.outcome, Outcome::Failed);
        assert!(matches!(record.event, Event::GuestStop { vm_pid: None, .. }));
        assert_eq!(parse_claim(b"virt=kvm vm=w uuid=x", Outcome::Success), Ok(None));
    }
}
