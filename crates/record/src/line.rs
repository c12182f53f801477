use bstr::{BStr, ByteSlice as _};

use crate::number::decimal;
use crate::{ParseError, Record, RecordType, parse_text};

/// When an event happened, and its number in this boot of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Seconds since 1970, UTC.
    pub seconds: u64,
    /// Thousandths of a second. Many records share one clock tick.
    pub millis: u16,
    /// Counts events from boot, and may wrap; alone it names none.
    pub serial: u32,
}

/// One line of auditd's log, raw or ENRICHED, taken apart without copying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    /// The host, where auditd writes `node=`.
    pub node: Option<&'a BStr>,
    /// The name in `type=`.
    pub type_name: &'a BStr,
    /// Its number, if it is one that [`RecordType`] knows.
    pub record_type: Option<RecordType>,
    /// Time and serial.
    pub stamp: Stamp,
    /// The process that sent it, as the kernel saw it.
    pub pid: Option<u32>,
    /// That process's user.
    pub uid: Option<u32>,
    /// That process's login user; [`u32::MAX`] when unset.
    pub auid: Option<u32>,
    /// That process's session; [`u32::MAX`] when unset.
    pub ses: Option<u32>,
    /// That process's security label, in records with a text.
    pub subj: Option<&'a BStr>,
    /// The text between `msg='` and `'`; none in the kernel's own records.
    pub text: Option<&'a [u8]>,
}

/// The longest line taken: auditd's own limit is 8970 bytes and the names that it adds.
const MAX_LINE: usize = 16 * 1024;

/// Stands between the record and the names that auditd resolved for it.
const ENRICHED: u8 = 0x1D;

impl<'a> Line<'a> {
    /// Takes one line apart, with or without its newline.
    ///
    /// # Errors
    ///
    /// The line is too long, is no audit record, or is cut off.
    pub fn parse(line: &'a [u8]) -> Result<Self, ParseError> {
        if line.len() > MAX_LINE {
            return Err(ParseError::TooLong { len: line.len(), max: MAX_LINE });
        }
        let line = line.trim_end_with(|c| matches!(c, '\n' | '\r'));
        let (node, rest) = match line.strip_prefix(b"node=") {
            Some(rest) => {
                let (node, rest) = rest.split_once_str(b" ").ok_or(ParseError::NoType)?;
                (Some(node.as_bstr()), rest)
            }
            None => (None, line),
        };
        let rest = rest.strip_prefix(b"type=").ok_or(ParseError::NoType)?;
        let (type_name, rest) = rest.split_once_str(b" ").ok_or(ParseError::Stamp)?;
        let (stamp, rest) = stamp(rest)?;
        // Nothing in a record can hold 0x1D unencoded, so the first one ends it.
        let rest = rest.find_byte(ENRICHED).map_or(rest, |end| &rest[..end]);

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
            text: None,
        };
        parsed.kernel_pairs(rest)?;
        Ok(parsed)
    }

    /// What the line says of a guest; see [`parse_text`].
    ///
    /// # Errors
    ///
    /// As [`parse_text`].
    pub fn record(&self) -> Result<Option<Record>, ParseError> {
        match (self.record_type, self.text) {
            (Some(record_type), Some(text)) => parse_text(record_type, text),
            _ => Ok(None),
        }
    }

    fn kernel_pairs(&mut self, rest: &'a [u8]) -> Result<(), ParseError> {
        let mut head = rest;
        if let Some((before, text)) = rest.split_once_str(b" msg='") {
            // A guest may be named "it's": only the last ' can be the one that closes.
            let close = text.rfind_byte(b'\'').ok_or(ParseError::Truncated)?;
            self.text = Some(&text[..close]);
            // The label comes last, and AppArmor's have blanks: "libvirtd (enforce)".
            let (pairs, subj) = before.split_once_str(b" subj=").unzip();
            self.subj = subj.map(BStr::new);
            head = pairs.unwrap_or(before);
        }
        for word in head.split_str(b" ") {
            match word.split_once_str(b"=") {
                Some((b"pid", value)) => self.pid = decimal(value),
                Some((b"uid", value)) => self.uid = decimal(value),
                Some((b"auid", value)) => self.auid = decimal(value),
                Some((b"ses", value)) => self.ses = decimal(value),
                _ => {}
            }
        }
        Ok(())
    }
}

fn stamp(rest: &[u8]) -> Result<(Stamp, &[u8]), ParseError> {
    let parse = || {
        let (inner, rest) = rest.strip_prefix(b"msg=audit(")?.split_once_str(b"):")?;
        let (time, serial) = inner.split_once_str(b":")?;
        let (seconds, millis) = time.split_once_str(b".")?;
        if millis.len() != 3 {
            return None;
        }
        let stamp = Stamp { seconds: decimal(seconds)?, millis: decimal(millis)?, serial: decimal(serial)? };
        Some((stamp, rest))
    };
    parse().ok_or(ParseError::Stamp)
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
    }

    #[test]
    fn the_kernels_own_records_have_no_text() {
        let line =
            parse("type=SYSCALL msg=audit(1.000:7): arch=c000003e pid=9 key=(null)\x1dARCH=x86_64").unwrap();
        assert_eq!((line.record_type, line.pid, line.text), (None, Some(9), None));
        assert_eq!(line.record(), Ok(None));
    }

    #[test]
    fn what_is_no_record_or_cut_is_told_apart() {
        let head = "type=VIRT_CONTROL msg=audit(1.000:7): pid=1 ";
        for (line, error) in [
            ("", ParseError::NoType),
            ("May 12 12:48:00 host audit[3]: VIRT_RESOURCE pid=3", ParseError::NoType),
            ("type=VIRT_CONTROL", ParseError::Stamp),
            ("type=VIRT_CONTROL msg=audit(08/05/2014 17:01:05.891:6471) : pid=1", ParseError::Stamp),
            ("type=VIRT_CONTROL msg=audit(1.5:7): pid=1", ParseError::Stamp),
            ("type=VIRT_CONTROL msg=audit(1.000:4294967296): pid=1", ParseError::Stamp),
            (&format!("{head} msg='virt=kvm op=start"), ParseError::Truncated),
        ] {
            assert_eq!(parse(line), Err(error), "{line}");
        }
        // Cut within a name that holds the very quote which would close the text.
        let cut = format!("{head}msg='virt=kvm op=stop reason=destroyed vm=\"x'res=success");
        assert_eq!(parse(&cut).unwrap().record(), Err(ParseError::Truncated));
        assert!(matches!(Line::parse(&[b'a'; 20_000]), Err(ParseError::TooLong { len: 20_000, .. })));
    }
}
