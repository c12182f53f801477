use super::cursor::Cursor;
use crate::field_reader::{Key, invalid_value};
use crate::pairs::Value;
use crate::read::GuestKind;
use crate::{ParseError, Reason, RecordType, UpdatePhase};

/// The pairs before a guest's name.
pub(super) struct Head<'a> {
    /// The pairs to expect behind the name.
    pub(super) shape: Result<Shape, ParseError>,
    /// The text from the name on.
    pub(super) rest: &'a [u8],
    /// Whether a container run-time may have written it.
    pub(super) may_be_foreign: bool,
}

/// The kind of a record, which determines the pairs behind the name.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    GuestStart(Reason),
    GuestStop(Reason),
    Start,
    Attach,
    Detach,
    Open,
    Close,
    Keep,
    Filter,
    Update(UpdatePhase),
    Mac,
    Seen,
    GuestGone,
}

impl<'a> Head<'a> {
    /// None if the text is not about a guest's start or stop, nor about network devices.
    pub(super) fn of(record_type: RecordType, text: &'a [u8]) -> Result<Option<Self>, ParseError> {
        let mut cursor = Cursor(text);
        let virt = cursor.pair(b"virt=");
        let guest = virt.map_or(GuestKind::Full, GuestKind::of);
        let virt = virt.is_some();
        if virt {
            cursor.0 = cursor.0.strip_prefix(b" ").unwrap_or_default();
        }
        let kind = match record_type {
            RecordType::VIRT_CONTROL => match cursor.pair(b"op=") {
                Some(op @ (b"start" | b"stop" | b"gone")) => op,
                // Cut within its first words, or written by another program.
                _ if cursor.0.is_empty() && virt => return Err(ParseError::Truncated),
                _ => return Ok(None),
            },
            RecordType::VIRT_RESOURCE => match cursor.pair(b"resrc=") {
                Some(kind @ b"net") => kind,
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        let may_be_foreign = record_type == RecordType::VIRT_CONTROL && !virt;
        let reason = cursor.pair(b" reason=");
        let is_open = record_type == RecordType::VIRT_RESOURCE && reason == Some(b"open");
        if !guest.is_relevant(is_open) {
            return Ok(None);
        }
        if record_type == RecordType::VIRT_RESOURCE
            && matches!(reason, Some(b"finding" | b"bridge-open" | b"bridge-close"))
        {
            return Ok(None);
        }
        match (reason, cursor.0.strip_prefix(b" vm=")) {
            (Some(reason), Some(rest)) => {
                Ok(Some(Self { shape: Shape::of(kind, reason), rest, may_be_foreign }))
            }
            _ if may_be_foreign => Ok(None),
            _ => Err(ParseError::Truncated),
        }
    }
}

impl Shape {
    fn of(kind: &[u8], reason: &[u8]) -> Result<Self, ParseError> {
        let refuse = || invalid_value(Key::Reason, Value::Bare(reason));
        match kind {
            b"start" => Reason::from_ascii(reason).map(Self::GuestStart).ok_or_else(refuse),
            b"stop" => Reason::from_ascii(reason).map(Self::GuestStop).ok_or_else(refuse),
            b"gone" => Reason::from_ascii(reason).map(|_| Self::GuestGone).ok_or_else(refuse),
            _ => match reason {
                b"start" => Ok(Self::Start),
                b"attach" => Ok(Self::Attach),
                b"detach" => Ok(Self::Detach),
                b"open" => Ok(Self::Open),
                b"close" => Ok(Self::Close),
                b"keep" => Ok(Self::Keep),
                b"filter" => Ok(Self::Filter),
                b"mac" => Ok(Self::Mac),
                b"updating" => Ok(Self::Update(UpdatePhase::Begin)),
                b"update" => Ok(Self::Update(UpdatePhase::End)),
                b"seen" => Ok(Self::Seen),
                _ => Err(refuse()),
            },
        }
    }

    /// Whether it names a device.
    pub(super) fn names_device(&self) -> bool {
        matches!(
            self,
            Self::Open | Self::Close | Self::Keep | Self::Filter | Self::Mac | Self::Update(_) | Self::Seen
        )
    }
}
