use bstr::ByteSlice as _;
use compact_str::CompactString;
use taptrail_record::{Fragment, ParseError, Record, RecordType, foreign};
use taptrail_trail::Content;

use super::Unreadable;

/// Whether a record of this type can tell anything.
pub(super) fn tells(record_type: RecordType) -> bool {
    matches!(record_type, RecordType::VIRT_CONTROL | RecordType::VIRT_RESOURCE | RecordType::SYSTEM_BOOT)
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
pub(super) fn host(name: &[u8]) -> Option<CompactString> {
    matches!(name.len(), 1..=255).then(|| CompactString::from_utf8_lossy(name))
}
