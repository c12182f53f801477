use std::borrow::Cow;

/// A relevant field of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Net,
    NewNet,
    OldNet,
    Path,
    Rdev,
    Resource,
    Uuid,
    Virt,
    Function,
    Message,
    Identifier,
    AuditId,
    AuditType,
    Boot,
    Program,
    Host,
    Machine,
    Pid,
    SourceTime,
    Transport,
    Uid,
    /// The last one.
    Time,
}

impl Field {
    pub(super) const COUNT: usize = Self::Time as usize + 1;

    pub(super) fn named(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"AUDIT_FIELD_NET" => Self::Net,
            b"AUDIT_FIELD_NEW_NET" => Self::NewNet,
            b"AUDIT_FIELD_OLD_NET" => Self::OldNet,
            b"AUDIT_FIELD_PATH" => Self::Path,
            b"AUDIT_FIELD_RDEV" => Self::Rdev,
            b"AUDIT_FIELD_RESRC" => Self::Resource,
            b"AUDIT_FIELD_UUID" => Self::Uuid,
            b"AUDIT_FIELD_VIRT" => Self::Virt,
            b"CODE_FUNC" => Self::Function,
            b"MESSAGE" => Self::Message,
            b"SYSLOG_IDENTIFIER" => Self::Identifier,
            b"_AUDIT_ID" => Self::AuditId,
            b"_AUDIT_TYPE" => Self::AuditType,
            b"_BOOT_ID" => Self::Boot,
            b"_COMM" => Self::Program,
            b"_HOSTNAME" => Self::Host,
            b"_MACHINE_ID" => Self::Machine,
            b"_PID" => Self::Pid,
            b"_SOURCE_REALTIME_TIMESTAMP" => Self::SourceTime,
            b"_TRANSPORT" => Self::Transport,
            b"_UID" => Self::Uid,
            b"__REALTIME_TIMESTAMP" => Self::Time,
            _ => return None,
        })
    }
}

/// The value of a field in an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Value<'a> {
    #[default]
    Absent,
    One(Cow<'a, [u8]>),
    /// The field exists, but its value was too long to be printed.
    Withheld,
    /// The field occurs more than once, or its value has the wrong type.
    Several,
}
