//! Devices that QEMU got and whose number no record has given: a watcher's record may, and soon.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use taptrail_record::MacAddr;
use uuid::Uuid;

use crate::model::entry::RecordEntry;
use crate::time::after;

/// How long after a grant a record may give the number.
const NUMBER_TIMEOUT: SignedDuration = SignedDuration::from_secs(5);

/// An interface that got a device without a number, and when.
#[derive(Debug)]
pub(crate) struct UnnumberedGrant {
    pub(crate) host: Arc<str>,
    pub(crate) guest: Uuid,
    pub(crate) mac: MacAddr,
    at: Timestamp,
}

impl UnnumberedGrant {
    pub(crate) fn new(entry: &RecordEntry<'_>, mac: MacAddr) -> Self {
        Self { host: Arc::clone(&entry.host), guest: entry.record.guest.uuid, mac, at: entry.time }
    }

    /// Until when a record may give the number.
    pub(crate) fn deadline(&self) -> Timestamp {
        after(self.at, NUMBER_TIMEOUT)
    }
}
