use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A guest: a QEMU process's name and uuid.
///
/// The uuid identifies it for its life; a name may come back with another uuid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GuestId {
    /// What its owner calls it. Any text: a record's grammar must not trust it.
    pub name: CompactString,
    /// RFC 9562, lower case with hyphens in text.
    pub uuid: Uuid,
}
