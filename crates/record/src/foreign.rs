use bstr::ByteSlice as _;
use compact_str::CompactString;

use crate::RecordType;
use crate::encode::from_hex;
use crate::field_reader::{FieldReader, Key};
use crate::pairs::lossy_text;

/// The program that wrote a `VIRT_CONTROL` record about no guest: container run-times write them
/// too.
///
/// Container run-times have no uuids; a guest manager writes `virt=`, or `uuid=` right behind
/// `vm=`. For records of which [`parse_text`](crate::parse_text) or
/// [`parse_interpreted`](crate::parse_interpreted) returned none. The program is empty if the
/// record does not name it.
///
/// ```
/// use taptrail_record::{RecordType, foreign};
///
/// let text = "op=resize vm=centos:7 exe=sleep  exe=\"/usr/bin/dockerd\" hostname=? addr=? terminal=? res=success";
/// assert_eq!(foreign(RecordType::VIRT_CONTROL, text.as_bytes()).unwrap(), "/usr/bin/dockerd");
/// ```
pub fn foreign(record_type: RecordType, text: &[u8]) -> Option<CompactString> {
    if record_type != RecordType::VIRT_CONTROL {
        return None;
    }
    let mut fields = FieldReader::new(text);
    // A container's command line may have unbalanced quotes.
    let _ = fields.read_all();
    if fields.has(Key::Virt) || fields.names_guest() {
        return None;
    }
    Some(exe(text))
}

/// The value of the last `exe=`, which libaudit wrote, up to the next pair of libaudit's.
fn exe(text: &[u8]) -> CompactString {
    let Some(at) = text.rfind(b" exe=") else { return CompactString::default() };
    let value = &text[at + b" exe=".len()..];
    if let Some(quoted) = value.strip_prefix(b"\"") {
        return lossy_text(quoted.split_once_str(b"\"").map_or(quoted, |(exe, _)| exe));
    }
    let value = value.split_once_str(b" hostname=").map_or(value, |(exe, _)| exe);
    match from_hex(value) {
        Some(exe) => lossy_text(&exe),
        None => lossy_text(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(text: &str) -> Option<CompactString> {
        foreign(RecordType::VIRT_CONTROL, text.as_bytes())
    }

    #[test]
    fn a_containers_command_line_makes_no_guest_of_it() {
        let tail = "hostname=? addr=? terminal=? res=success";
        for command in ["sleep", "sh -c \"", "vm uuid=2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e", "a exe=b"] {
            let text =
                format!("op=start reason=api vm=1234 user=o exe={command}  exe=\"/usr/bin/dockerd\" {tail}");
            assert_eq!(control(&text).unwrap(), "/usr/bin/dockerd", "{command}");
            assert_eq!(crate::parse_text(RecordType::VIRT_CONTROL, text.as_bytes()), Ok(None), "{command}");
        }
        assert_eq!(
            control("op=start exe=/usr/bin/docker d hostname=? res=success").unwrap(),
            "/usr/bin/docker d"
        );
        assert_eq!(control("op=start exe=2F6120 hostname=?").unwrap(), "/a ");
        assert_eq!(control("").unwrap(), "");
    }

    #[test]
    fn what_a_guest_manager_writes_is_not_foreign() {
        assert_eq!(control("virt=lxc op=init vm=\"c\" uuid=0 vm-pid=3 init-pid=4"), None);
        assert_eq!(control("op=start reason=booted vm=\"c\" uuid=0"), None);
        assert_eq!(foreign(RecordType::VIRT_RESOURCE, b"resrc=net"), None);
    }
}
