use std::io;

/// Why audit records can't be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The kernel has no NETLINK_AUDIT family: built without it, or booted with `audit=0`.
    #[error(
        "The kernel has no audit subsystem: boot one built with CONFIG_AUDIT and without 'audit=0', or go on without kernel audit"
    )]
    Unsupported,
    /// `AUDIT_GET` is kept for CAP_AUDIT_CONTROL in the initial user and pid namespaces.
    #[error(
        "The audit status can't be read: CAP_AUDIT_CONTROL in the initial user and pid namespaces is needed"
    )]
    StatusRefused,
    /// The kernel multicasts records only in the initial network namespace, to processes with
    /// CAP_AUDIT_READ.
    #[error(
        "The kernel's audit broadcast can't be heard here: CAP_AUDIT_READ is needed, and a way into the initial network namespace (run in it, or with CAP_SYS_ADMIN in the initial pid namespace)"
    )]
    MulticastUnavailable,
    /// The socket failed.
    #[error("The audit socket failed")]
    Io(#[source] io::Error),
}

/// Why one record is not, or not provably, in the kernel's audit log.
///
/// The kernel acknowledges most of these with success (kernel/audit.c, `audit_receive_msg()` and
/// `audit_log_start()`); the status and the multicast show which of them it is.
#[derive(Debug, thiserror::Error)]
pub enum NotLogged {
    /// `audit_enabled` is 0: the kernel acknowledges and drops every record.
    #[error("Auditing is off in the kernel: turn it on with 'auditctl -e 1' or boot with 'audit=1'")]
    Disabled,
    /// The kernel answered EPERM: the process has no CAP_AUDIT_WRITE.
    #[error("The kernel refused the record: CAP_AUDIT_WRITE is missing")]
    NoCapability,
    /// ECONNREFUSED: the kernel takes records from the initial user namespace only.
    #[error("The kernel takes no audit records from this user namespace: run in the initial user namespace")]
    UserNamespace,
    /// Acknowledged, nothing lost, yet never seen in the log: an `exclude` or `user` rule dropped
    /// it.
    #[error(
        "An audit rule filters records of type {kind}: look for it with 'auditctl -l' and remove it with 'auditctl -d'"
    )]
    Filtered {
        /// The record's type.
        kind: u16,
    },
    /// The kernel lost records meanwhile, and this one was not seen in the log.
    #[error(
        "The kernel lost {lost} audit records meanwhile: raise the backlog limit ('auditctl -b') or the rate limit ('auditctl -r'), and see that auditd keeps up"
    )]
    Backlog {
        /// By how much the kernel's `lost` counter grew.
        lost: u32,
    },
    /// Acknowledged but not seen in the log, and the status with the cause can't be read.
    #[error(
        "The kernel acknowledged the record of type {kind} but it never showed in the log: auditing may be off, or a rule may filter it; with CAP_AUDIT_CONTROL the cause can be found"
    )]
    Unseen {
        /// The record's type.
        kind: u16,
    },
    /// No audit subsystem, or one that doesn't know records of this type.
    #[error("The kernel's audit subsystem takes no records of type {kind}")]
    Unsupported {
        /// The record's type.
        kind: u16,
    },
    /// The kernel would cut the text (`AUDIT_MESSAGE_TEXT_MAX`), and its `res=` with it.
    #[error("The record is {length} bytes long, more than the {max} that the kernel keeps: shorten its names or paths", max = super::MAX_TEXT_BYTES)]
    TooLong {
        /// The text's length in bytes.
        length: usize,
    },
    /// An empty text, or one with a NUL, at which the kernel would cut it.
    #[error("The record's text is empty or holds a NUL byte")]
    Malformed,
    /// The socket failed.
    #[error("The audit socket failed")]
    Io(#[source] io::Error),
}
