use compact_str::CompactString;
use uuid::Uuid;

use crate::{Device, MacAddr};

/// What is left to read of a record that can't be believed: it lost its end, or never reached the
/// audit. It names things and claims nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// The guest's name.
    pub name: Option<CompactString>,
    /// The guest's uuid.
    pub uuid: Option<Uuid>,
    /// The interface.
    pub mac: Option<MacAddr>,
    /// The device.
    pub device: Option<Device>,
}
