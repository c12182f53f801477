//! What QEMU got and no record tells the number of: a watcher's record may still, and soon.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use taptrail_record::MacAddr;
use uuid::Uuid;

use crate::entry::Claim;

/// How long after a grant a number may still be told.
const TOLD_WITHIN: SignedDuration = SignedDuration::from_secs(5);

/// Which interface has a device without its number, and since when.
#[derive(Debug)]
pub(crate) struct Unnumbered {
    pub(crate) host: Arc<str>,
    pub(crate) guest: Uuid,
    pub(crate) mac: MacAddr,
    at: Timestamp,
}

impl Unnumbered {
    pub(crate) fn new(entry: &Claim<'_>, mac: MacAddr) -> Self {
        Self { host: Arc::clone(&entry.host), guest: entry.record.guest.uuid, mac, at: entry.time }
    }

    pub(crate) fn is_overdue(&self, now: Timestamp) -> bool {
        now.duration_since(self.at) > TOLD_WITHIN
    }
}
