use bstr::ByteSlice as _;
use compact_str::CompactString;
use taptrail_record::{Abend, Denial, Fragment, ParseError, Record, RecordType, foreign};
use taptrail_trail::{Content, GapReason};

use super::Unreadable;

/// Whether records of this type are relevant.
pub(super) fn is_relevant(record_type: RecordType) -> bool {
    matches!(record_type, RecordType::VIRT_CONTROL | RecordType::VIRT_RESOURCE | RecordType::SYSTEM_BOOT)
        || is_recording_type(record_type)
        || is_about_process(record_type)
}

/// Whether records of this type are the kernel's, about a process. They have no text.
pub(super) fn is_about_process(record_type: RecordType) -> bool {
    matches!(record_type, RecordType::AVC | RecordType::ANOM_ABEND)
}

/// The content of such a record with these pairs, if it may be about a guest.
pub(super) fn of_process(record_type: RecordType, pairs: &[u8]) -> Option<Content> {
    match record_type {
        RecordType::AVC => Denial::parse(pairs).map(Content::Denial),
        RecordType::ANOM_ABEND => Abend::parse(pairs).filter(Abend::is_hypervisor).map(Content::Abend),
        _ => None,
    }
}

/// Whether records of this type show that recording stops or resumes. They have no text.
pub(super) fn is_recording_type(record_type: RecordType) -> bool {
    record_type == RecordType::CONFIG_CHANGE || is_auditd_type(record_type)
}

/// Whether a record of this type is useless without its time.
pub(super) fn needs_time(record_type: RecordType) -> bool {
    is_relevant(record_type) && !is_recording_type(record_type)
}

/// Whether auditd itself creates records of this type, and numbers them with its own counter.
pub(super) fn is_auditd_type(record_type: RecordType) -> bool {
    matches!(record_type.number(), 1200..1300)
}

/// Whether the pairs of such a record show that recording stopped or resumed.
///
/// `op=set audit_enabled=0 old=1 auid=0 …`; older kernels wrote no `op=`, and `by auid=0`. These
/// pairs come first, before any text from outside. A change that failed (`res=0`) changed nothing.
pub(super) fn recording_change(record_type: RecordType, pairs: &[u8]) -> Option<Content> {
    match record_type {
        RecordType::DAEMON_START => return Some(Content::RecordingResumed(GapReason::AuditdStopped)),
        RecordType::DAEMON_END | RecordType::DAEMON_ABORT => {
            return Some(Content::RecordingStopped(GapReason::AuditdStopped));
        }
        RecordType::DAEMON_RESUME => return Some(Content::RecordingResumed(GapReason::Suspended)),
        RecordType::CONFIG_CHANGE => {}
        _ => return None,
    }
    let mut words = pairs.split_str(b" ").filter(|word| !word.is_empty()).peekable();
    words.next_if(|word| *word == b"op=set");
    let now = words.next()?.strip_prefix(b"audit_enabled=")?;
    let before = words.next()?.strip_prefix(b"old=")?;
    if words.any(|word| matches!(word, b"res=0" | b"res=no" | b"res=failed")) {
        return None;
    }
    match (now, before) {
        (b"0", _) => Some(Content::RecordingStopped(GapReason::AuditingOff)),
        (b"1" | b"2", b"0") => Some(Content::RecordingResumed(GapReason::AuditingOff)),
        _ => None,
    }
}

/// The content of an audit record with this text, which was parsed as `claim`.
pub(super) fn record_content(
    record_type: RecordType,
    text: &[u8],
    claim: Result<Option<Record>, ParseError>,
) -> Result<Option<Content>, Unreadable> {
    match claim {
        Ok(Some(record)) => Ok(Some(Content::Record(record))),
        Ok(None) => match Content::of_bridge_tap(record_type, text) {
            Ok(None) => Ok(foreign(record_type, text).map(|exe| Content::Foreign { exe })),
            Err(ParseError::Truncated) => Ok(truncated_record(record_type, text)),
            content => content.map_err(Into::into),
        },
        Err(ParseError::Truncated) => Ok(truncated_record(record_type, text)),
        Err(error) => Err(error.into()),
    }
}

/// The content of a truncated audit record, if it may be about a guest's network device or
/// lifecycle.
pub(super) fn truncated_record(record_type: RecordType, text: &[u8]) -> Option<Content> {
    let ours = match record_type {
        // A container run-time's record has neither.
        RecordType::VIRT_CONTROL => {
            text.starts_with(b"virt=") || b"virt=".starts_with(text) || text.contains_str(b" uuid=")
        }
        RecordType::VIRT_RESOURCE => match resource(text) {
            Some((b"net", _)) | None => true,
            Some((word, whole)) => !whole && b"net".starts_with(word),
        },
        _ => false,
    };
    ours.then(|| Content::Truncated(Fragment::of(text)))
}

/// Removes the guest's name from a truncated record whose source has no quotes around names, or
/// leaves them out.
pub(super) fn without_name(content: Content) -> Content {
    match content {
        Content::Truncated(fragment) => Content::Truncated(Fragment { name: None, ..fragment }),
        content => content,
    }
}

/// Whether a text without a record's type is about a guest's network device or lifecycle.
pub(super) fn is_about_guest(text: &[u8]) -> bool {
    match resource(text) {
        Some((word, _)) => word == b"net",
        None => text
            .split_str(b" ")
            .take_while(|word| !word.starts_with(b"vm="))
            .any(|word| word.starts_with(b"op=")),
    }
}

/// The kind of resource, and whether the word is complete. It comes before the guest's name, which
/// could imitate it.
fn resource(text: &[u8]) -> Option<(&[u8], bool)> {
    let mut words = text.split_str(b" ");
    let kind = words
        .by_ref()
        .take_while(|word| !word.starts_with(b"vm="))
        .find_map(|word| word.strip_prefix(b"resrc="))?;
    Some((kind, words.next().is_some()))
}

/// A host's name in a line; `None` if it is longer than names can be (RFC 1035, 2.3.4).
pub(crate) fn host(name: &[u8]) -> Option<CompactString> {
    matches!(name.len(), 1..=255).then(|| CompactString::from_utf8_lossy(name))
}
