//! What QEMU got and no record tells the number of: a watcher's record may still, and soon.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use taptrail_record::MacAddr;
use uuid::Uuid;

use crate::model::entry::RecordEntry;
use crate::time::after;

/// How long after a grant a number may still be told.
const NUMBER_TIMEOUT: SignedDuration = SignedDuration::from_secs(5);

/// Which interface has a device without its number, and since when.
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

    /// Until when it may still be told.
    pub(crate) fn deadline(&self) -> Timestamp {
        after(self.at, NUMBER_TIMEOUT)
    }
}
