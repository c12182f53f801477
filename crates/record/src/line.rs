use bstr::{BStr, ByteSlice as _};

use crate::number::leading;
use crate::pairs::word;
use crate::{ParseError, Record, RecordType, parse_text};

/// The time of an event, and its serial number in this boot of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Seconds since 1970, UTC.
    pub seconds: u64,
    /// Milliseconds of the second. Many records have the same time, that of a clock tick.
    pub millis: u16,
    /// Counts events from 1 at each boot, and may wrap; it identifies an event only with its boot.
    pub serial: u32,
}

/// One line of auditd's log, raw or ENRICHED, or of the kernel's own log if no auditd runs
/// (`type=2501 audit(…): …`), parsed without copying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    /// The host, if auditd writes `node=`.
    pub node: Option<&'a BStr>,
    /// The record type's name, or number, in `type=`.
    pub type_name: &'a BStr,
    /// The same as a number, if [`RecordType`] knows it.
    pub record_type: Option<RecordType>,
    /// Time and serial number.
    pub stamp: Stamp,
    /// The id of the process that sent it, as the kernel logged it.
    pub pid: Option<u32>,
    /// That process's user id.
    pub uid: Option<u32>,
    /// That process's login user id; [`u32::MAX`] when unset.
    pub auid: Option<u32>,
    /// That process's session id; [`u32::MAX`] when unset.
    pub ses: Option<u32>,
    /// That process's security label, in records with a text.
    pub subj: Option<&'a BStr>,
    /// The kernel's pairs, from behind the stamp up to the text or the line's end.
    pub pairs: &'a [u8],
    /// The text between `msg='` and `'`; none in the kernel's own records.
    pub text: Option<&'a [u8]>,
    /// The names that auditd resolved, in the ENRICHED format: `UID="root" AUID="unset"`.
    pub names: Option<&'a [u8]>,
}

/// The longest line accepted, in bytes: auditd's own limit is 8970 and the names that it adds.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// Separates the record from the names that auditd resolved for it.
const ENRICHED: u8 = 0x1D;

impl<'a> Line<'a> {
    /// Parses one line, with or without its newline.
    ///
    /// # Errors
    ///
    /// The line is too long, is no audit record, or is cut off.
    #[inline]
    pub fn parse(line: &'a [u8]) -> Result<Self, ParseError> {
        if line.len() > MAX_LINE_BYTES {
            return Err(ParseError::TooLong { len: line.len(), max: MAX_LINE_BYTES });
        }
        let (node, rest) = match line.strip_prefix(b"node=") {
            Some(rest) => {
                let (node, rest) = split(rest, b' ').ok_or(ParseError::NoType)?;
                (Some(node.as_bstr()), rest)
            }
            None => (None, line),
        };
        let rest = rest.strip_prefix(b"type=").ok_or(ParseError::NoType)?;
        let (type_name, rest) = split(rest, b' ').ok_or(ParseError::Stamp)?;
        let (stamp, rest) = stamp(rest).ok_or(ParseError::Stamp)?;
        // A record never contains 0x1D unencoded, so the first one ends it.
        let (rest, names) = match memchr::memchr(ENRICHED, rest) {
            Some(end) => (&rest[..end], Some(without_newline(&rest[end + 1..]))),
            None => (without_newline(rest), None),
        };
        let mut parsed = Self {
            node,
            type_name: type_name.as_bstr(),
            record_type: RecordType::from_name(type_name),
            stamp,
            pid: None,
            uid: None,
            auid: None,
            ses: None,
            subj: None,
            pairs: rest,
            text: None,
            names,
        };
        parsed.kernel_pairs(rest)?;
        Ok(parsed)
    }

    /// Parses the record in the line's text; see [`parse_text`].
    ///
    /// # Errors
    ///
    /// As [`parse_text`].
    #[inline]
    pub fn record(&self) -> Result<Option<Record>, ParseError> {
        match (self.record_type, self.text) {
            (Some(record_type), Some(text)) => parse_text(record_type, text),
            _ => Ok(None),
        }
    }

    fn kernel_pairs(&mut self, rest: &'a [u8]) -> Result<(), ParseError> {
        let mut at = 0;
        let mut label = None;
        while at < rest.len() {
            let here = &rest[at..];
            if here.starts_with(TEXT) && at > 0 {
                let text = &here[TEXT.len()..];
                // A guest may be named "it's": only the last ' can be the closing one.
                let close = memchr::memrchr(b'\'', text).ok_or(ParseError::Truncated)?;
                self.text = Some(&text[..close]);
                self.pairs = &rest[..at - 1];
                self.subj = label.map(|label| rest[label..at - 1].as_bstr());
                return Ok(());
            }
            let value = match here {
                // The label comes last, and AppArmor's labels have blanks: "libvirtd (enforce)".
                _ if label.is_some() => None,
                [b'p', b'i', b'd', b'=', value @ ..] => Some((&mut self.pid, value)),
                [b'u', b'i', b'd', b'=', value @ ..] => Some((&mut self.uid, value)),
                [b'a', b'u', b'i', b'd', b'=', value @ ..] => Some((&mut self.auid, value)),
                [b's', b'e', b's', b'=', value @ ..] => Some((&mut self.ses, value)),
                [b's', b'u', b'b', b'j', b'=', ..] => {
                    label = Some(at + b"subj=".len());
                    None
                }
                _ => None,
            };
            let end = match value.map(|(number, value)| (number, leading(value))) {
                Some((number, Some((value, after @ ([] | [b' ', ..]))))) => {
                    *number = u32::try_from(value).ok();
                    rest.len() - after.len()
                }
                _ => at + word(here),
            };
            at = end + 1;
        }
        Ok(())
    }
}

/// The key before a text.
const TEXT: &[u8] = b"msg='";

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let found = text.iter().position(|&byte| byte == at)?;
    Some((&text[..found], &text[found + 1..]))
}

fn without_newline(mut line: &[u8]) -> &[u8] {
    while let [rest @ .., b'\n' | b'\r'] = line {
        line = rest;
    }
    line
}

/// Parses `msg=audit(SECONDS.MILLIS:SERIAL):`; the kernel's own log has no `msg=`.
fn stamp(rest: &[u8]) -> Option<(Stamp, &[u8])> {
    let rest = rest.strip_prefix(b"msg=").unwrap_or(rest).strip_prefix(b"audit(")?;
    let (seconds, rest) = leading(rest)?;
    let fraction = rest.strip_prefix(b".")?;
    let (millis, rest) = leading(fraction)?;
    // Three digits are milliseconds.
    if fraction.len() != rest.len() + 3 {
        return None;
    }
    let (serial, rest) = leading(rest.strip_prefix(b":")?)?;
    let (millis, serial) = (u16::try_from(millis).ok()?, u32::try_from(serial).ok()?);
    Some((Stamp { seconds, millis, serial }, rest.strip_prefix(b"):")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Line<'_>, ParseError> {
        Line::parse(line.as_bytes())
    }

    #[test]
    fn an_enriched_line_gives_up_all_its_parts() {
        let line = "node=h1 type=UNKNOWN[2501] msg=audit(1795463754.611:5): pid=167 uid=0 auid=4294967295 \
                    ses=3 subj=libvirtd (enforce) msg='vm=\"it's\" res=success'\x1dUID=\"o'x\" AUID=\"unset\"\n";
        let line = parse(line).unwrap();
        assert_eq!(line.node.unwrap(), "h1");
        assert_eq!(line.type_name, "UNKNOWN[2501]");
        assert_eq!(line.record_type, Some(RecordType::VIRT_RESOURCE));
        assert_eq!(line.stamp, Stamp { seconds: 1_795_463_754, millis: 611, serial: 5 });
        assert_eq!((line.pid, line.uid, line.auid, line.ses), (Some(167), Some(0), Some(u32::MAX), Some(3)));
        assert_eq!(line.subj.unwrap(), "libvirtd (enforce)");
        assert_eq!(line.text, Some(b"vm=\"it's\" res=success".as_slice()));
        assert_eq!(line.pairs.as_bstr(), " pid=167 uid=0 auid=4294967295 ses=3 subj=libvirtd (enforce)");
        assert_eq!(line.names.unwrap().as_bstr(), "UID=\"o'x\" AUID=\"unset\"");
    }

    #[test]
    fn the_kernel_alone_writes_a_number_and_no_msg() {
        let line = parse("type=2501 audit(1506321923.246:470): pid=1182 msg='a=b'\r\n").unwrap();
        assert_eq!(line.record_type, Some(RecordType::VIRT_RESOURCE));
        assert_eq!((line.stamp.seconds, line.stamp.serial, line.pid), (1_506_321_923, 470, Some(1182)));
        assert_eq!((line.text, line.names), (Some(b"a=b".as_slice()), None));
    }

    #[test]
    fn a_label_with_blanks_claims_nothing() {
        let line =
            parse("type=VIRT_CONTROL msg=audit(1.000:7): user pid=1 subj=a pid=2 (b) msg='x'").unwrap();
        assert_eq!((line.pid, line.subj.unwrap().as_bytes()), (Some(1), b"a pid=2 (b)".as_slice()));
    }

    #[test]
    fn the_kernels_own_records_have_no_text() {
        let line =
            parse("type=SYSCALL msg=audit(1.000:7): arch=c000003e pid=9 key=(null)\x1dARCH=x86_64").unwrap();
        assert_eq!((line.record_type, line.pid, line.text), (Some(RecordType::SYSCALL), Some(9), None));
        assert_eq!(line.record(), Ok(None));
    }

    #[test]
    fn lines_that_are_no_record_and_cut_lines_have_different_errors() {
        let head = "type=VIRT_CONTROL msg=audit(1.000:7): pid=1 ";
        for (line, error) in [
            ("", ParseError::NoType),
            ("May 12 12:48:00 host audit[3]: VIRT_RESOURCE pid=3", ParseError::NoType),
            ("type=VIRT_CONTROL", ParseError::Stamp),
            ("type=VIRT_CONTROL msg=audit(08/05/2014 17:01:05.891:6471) : pid=1", ParseError::Stamp),
            ("type=VIRT_CONTROL msg=audit(1.5:7): pid=1", ParseError::Stamp),
            ("type=VIRT_CONTROL msg=audit(1.000:7) pid=1", ParseError::Stamp),
            ("type=VIRT_CONTROL msg=audit(1.000:4294967296): pid=1", ParseError::Stamp),
            (&format!("{head} msg='virt=kvm op=start"), ParseError::Truncated),
        ] {
            assert_eq!(parse(line), Err(error), "{line}");
        }
        // Cut within a name that contains the quote that would close the text.
        let cut = format!("{head}msg='virt=kvm op=stop reason=destroyed vm=\"x'res=success");
        assert_eq!(parse(&cut).unwrap().record(), Err(ParseError::Truncated));
        assert!(matches!(Line::parse(&[b'a'; 20_000]), Err(ParseError::TooLong { len: 20_000, .. })));
    }
}
