//! The last pairs as libaudit wrote them before version 2.2.
//!
//! ```text
//! …: exe="/usr/sbin/libvirtd" hostname=? addr=? terminal=? res=success          before 2.2
//! …: exe="/usr/sbin/libvirtd" (hostname=?, addr=?, terminal=? res=success)      before 2.0
//! ```

use memchr::memmem::rfind;

const EXE: &[u8] = b": exe=";

/// The text with the last pairs as libaudit writes them now; none if they are not in an old form.
///
/// libaudit's own pairs come last, so the last `: exe=` is libaudit's. Callers use it only for a
/// text that they can't parse otherwise.
pub(crate) fn with_current_tail(text: &[u8]) -> Option<Vec<u8>> {
    let at = rfind(text, EXE)?;
    let (claim, end) = (&text[..at], &text[at + 1..]);
    let mut current = Vec::with_capacity(text.len());
    current.extend_from_slice(claim);
    let Some(open) = rfind(end, b" (hostname=") else {
        current.extend_from_slice(end);
        return Some(current);
    };
    current.extend_from_slice(&end[..=open]);
    let words = &end[open + 2..];
    let words = words.strip_suffix(b")").unwrap_or(words);
    for (index, word) in words.split(|&byte| byte == b' ').enumerate() {
        if index > 0 {
            current.push(b' ');
        }
        current.extend_from_slice(word.strip_suffix(b",").unwrap_or(word));
    }
    Some(current)
}

#[cfg(test)]
mod tests {
    use crate::{Outcome, ParseError, RecordType, parse_interpreted, parse_text};

    const UUID: &str = "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e";

    /// Records of libvirt of 2011, raw and interpreted.
    fn texts() -> [(RecordType, String, String); 4] {
        let net = "net='52:54:00:00:00:01'";
        let change = "old-net='?' new-net='52:54:00:00:00:01'";
        [
            (
                RecordType::VIRT_RESOURCE,
                "resrc=net reason=open",
                format!("{net} path=\"/dev/net/tun\" rdev=0A:C8"),
            ),
            (RecordType::VIRT_RESOURCE, "resrc=net reason=start", change.to_owned()),
            (RecordType::VIRT_CONTROL, "op=start reason=booted", String::new()),
            (RecordType::VIRT_CONTROL, "virt=kvm op=stop reason=shutdown", "vm-pid=0".to_owned()),
        ]
        .map(|(record_type, head, tail)| {
            let raw = format!("{head} vm=\"w\" uuid={UUID} {tail}").trim_end().to_owned();
            let plain = raw.replace("\"w\"", "w").replace("\"/dev/net/tun\"", "/dev/net/tun");
            (record_type, raw, plain)
        })
    }

    #[test]
    fn the_old_ends_change_nothing() {
        for (record_type, raw, plain) in texts() {
            for res in ["success", "failed"] {
                let new = format!(" exe=\"/x\" hostname=? addr=? terminal=? res={res}");
                let current = parse_text(record_type, format!("{raw}{new}").as_bytes()).unwrap().unwrap();
                assert_eq!(current.outcome == Outcome::Success, res == "success");
                for old in [
                    format!(": exe=\"/x\" hostname=? addr=? terminal=? res={res}"),
                    format!(": exe=\"/x\" (hostname=?, addr=?, terminal=? res={res})"),
                    format!(": exe=\"/x\" (hostname=h, addr=10.0.0.1, terminal=pts/0 res={res})"),
                ] {
                    let read = parse_text(record_type, format!("{raw}{old}").as_bytes());
                    assert_eq!(read.unwrap().unwrap(), current, "{raw}{old}");
                    let old = old.replace("\"/x\"", "/x");
                    let read = parse_interpreted(record_type, format!("{plain}{old}").as_bytes());
                    assert_eq!(read.unwrap().unwrap(), current, "{plain}{old}");
                }
            }
        }
    }

    #[test]
    fn a_text_cut_within_an_old_end_is_cut() {
        for (record_type, raw, _) in texts() {
            let text = format!("{raw}: exe=\"/x\" (hostname=?, addr=?, terminal=? res=success)");
            for end in raw.len() + ": exe=".len()..text.len() - 1 {
                let read = parse_text(record_type, &text.as_bytes()[..end]);
                assert_eq!(read, Err(ParseError::Truncated), "{}", &text[..end]);
            }
        }
    }
}
