//! Writes the records into the kernel's audit.

use std::path::PathBuf;

use rustix::thread::CapabilitySet;
use taptrail_kernel::audit::{Audit, AuditError, NotLogged, VIRT_RESOURCE};
use taptrail_record::{BridgeOpen, TooLong};

/// Why a record can't be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// The kernel's audit can't be reached.
    #[error("The request can't be recorded, so it is refused")]
    Audit(#[from] AuditError),
    /// The kernel did not take the record, or lost it.
    #[error("The request can't be recorded, so it is refused")]
    NotLogged(#[from] NotLogged),
    /// The record would be cut.
    #[error("The request can't be recorded, so it is refused")]
    TooLong(#[from] TooLong),
}

/// The kernel's audit.
#[derive(Debug)]
pub(crate) struct AuditLog {
    /// None if this kernel has no auditing.
    audit: Option<Audit>,
    exe: PathBuf,
}

impl AuditLog {
    /// Connects with these capabilities of the process.
    pub(crate) fn open(capabilities: CapabilitySet) -> Result<Self, AuditError> {
        // Without the kernel's status, a record that is not heard looks like auditing that is off.
        let both = CapabilitySet::AUDIT_CONTROL | CapabilitySet::AUDIT_READ;
        let audit = if capabilities.contains(both) { Audit::open() } else { Audit::with_readlog(None) };
        let audit = match audit {
            Ok(audit) => Some(audit),
            Err(AuditError::Unsupported) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { audit, exe: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("?")) })
    }

    /// Writes a record. Where auditing is off, and that can be known, there is nothing to write.
    pub(crate) fn write(&mut self, record: &BridgeOpen) -> Result<(), RecordError> {
        let Some(audit) = &mut self.audit else { return Ok(()) };
        let text = record.text(&self.exe)?;
        match audit.log(VIRT_RESOURCE, &text) {
            Ok(_) | Err(NotLogged::Disabled) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
