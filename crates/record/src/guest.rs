use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A guest: a QEMU process with a name and a uuid.
///
/// The uuid identifies the guest; a later guest may have the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GuestId {
    /// Its name: any text, which the parsers of records must not trust.
    pub name: CompactString,
    /// Its uuid (RFC 9562); in text, lower case with hyphens.
    pub uuid: Uuid,
}
