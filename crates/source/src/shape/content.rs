use bstr::ByteSlice as _;
use compact_str::CompactString;
use taptrail_record::{Fragment, ParseError, Record, RecordType, foreign};
use taptrail_trail::{Content, GapReason};

use super::Unreadable;

/// Whether a record of this type can tell anything.
pub(super) fn tells(record_type: RecordType) -> bool {
    matches!(record_type, RecordType::VIRT_CONTROL | RecordType::VIRT_RESOURCE | RecordType::SYSTEM_BOOT)
        || is_of_recording(record_type)
}

/// Whether a record of this type tells whether records are written at all. It has no text.
pub(super) fn is_of_recording(record_type: RecordType) -> bool {
    record_type == RecordType::CONFIG_CHANGE || is_daemons(record_type)
}

/// Whether a record of this type tells nothing unless it is known when it was written.
pub(super) fn is_dated(record_type: RecordType) -> bool {
    tells(record_type) && !is_of_recording(record_type)
}

/// Whether auditd makes up records of this type itself, and numbers them with a counter of its own.
pub(super) fn is_daemons(record_type: RecordType) -> bool {
    matches!(record_type.number(), 1200..1300)
}

/// What the pairs of such a record say: recording stopped, or it goes on.
///
/// `op=set audit_enabled=0 old=1 auid=0 …`; older kernels wrote no `op=` and `by auid=0`. They stand in
/// front, where nobody else's words are. A change that failed (`res=0`) changed nothing.
pub(super) fn of_recording(record_type: RecordType, pairs: &[u8]) -> Option<Content> {
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

/// What an audit record's text tells, once it was read as `claim`.
pub(super) fn of_record(
    record_type: RecordType,
    text: &[u8],
    claim: Result<Option<Record>, ParseError>,
) -> Result<Option<Content>, Unreadable> {
    match claim {
        Ok(Some(record)) => Ok(Some(Content::Record(record))),
        Ok(None) => Ok(foreign(record_type, text).map(|exe| Content::Foreign { exe })),
        Err(ParseError::Truncated) => Ok(of_cut(record_type, text)),
        Err(error) => Err(error.into()),
    }
}

/// What is left of an audit record that lost its end.
pub(super) fn of_cut(record_type: RecordType, text: &[u8]) -> Option<Content> {
    let ours = match record_type {
        // A container run-time's has neither.
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

/// Where a name has no quotes, or was left out, what is left of it tells nothing.
pub(super) fn nameless(content: Content) -> Content {
    match content {
        Content::Truncated(fragment) => Content::Truncated(Fragment { name: None, ..fragment }),
        content => content,
    }
}

/// Whether a text without a record's type is about a guest's network device or its life.
pub(super) fn concerns(text: &[u8]) -> bool {
    match resource(text) {
        Some((word, _)) => word == b"net",
        None => text
            .split_str(b" ")
            .take_while(|word| !word.starts_with(b"vm="))
            .any(|word| word.starts_with(b"op=")),
    }
}

/// The kind of resource, and whether that word has its end. It stands before the guest's name, which
/// could imitate it.
fn resource(text: &[u8]) -> Option<(&[u8], bool)> {
    let mut words = text.split_str(b" ");
    let kind = words
        .by_ref()
        .take_while(|word| !word.starts_with(b"vm="))
        .find_map(|word| word.strip_prefix(b"resrc="))?;
    Some((kind, words.next().is_some()))
}

/// A host's name as a line gives it. No longer one is a name (RFC 1035, 2.3.4).
pub(crate) fn host(name: &[u8]) -> Option<CompactString> {
    matches!(name.len(), 1..=255).then(|| CompactString::from_utf8_lossy(name))
}
