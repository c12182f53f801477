use std::sync::Arc;

use jiff::Timestamp;
use taptrail_record::Record;
use taptrail_trail::{Content, Entry, Finding, Trail};

/// The findings of a guest's trail, as its records come: those that `taptrail findings` would list.
#[derive(Debug)]
pub(super) struct Findings {
    trail: Trail,
    here: Arc<str>,
    line: u64,
}

impl Findings {
    /// Of a guest without records.
    pub(super) fn new() -> Self {
        // One host and one source: their names are not used.
        Self { trail: Trail::new(), here: "".into(), line: 0 }
    }

    /// The findings that the next record leads to.
    pub(super) fn of(&mut self, time: Timestamp, record: &Record) -> Vec<Finding> {
        self.line += 1;
        self.trail.feed(&Entry {
            host: Arc::clone(&self.here),
            time,
            serial: None,
            writer: None,
            credentials: None,
            source: Arc::clone(&self.here),
            line: self.line,
            content: Content::Record(record.clone()),
            text: None,
            copies: Vec::new(),
            unauthenticated: false,
        });
        // Holdings are not needed here.
        self.trail.drain_ended().for_each(drop);
        self.trail.drain_findings().collect()
    }
}

#[cfg(test)]
mod tests {
    use taptrail_record::{Device, Event, GuestId, Outcome, Rdev};
    use taptrail_trail::FindingKind;

    use super::*;

    // Shows 5.31.
    #[test]
    fn a_failed_open_leads_to_a_finding_with_its_record() {
        let guest = GuestId { name: "web1".into(), uuid: uuid::Uuid::nil() };
        let device = Device::new("/dev/net/tun", Some(Rdev::TUN), None);
        let event = Event::Open { mac: "52:54:00:00:00:01".parse().unwrap(), device, queue: Some(0) };
        let mut findings = Findings::new();
        let good = Record::success(guest, event);
        assert_eq!(findings.of(Timestamp::now(), &good), []);
        let failed = Record { outcome: Outcome::Failed, ..good };
        let kinds: Vec<_> = findings.of(Timestamp::now(), &failed).iter().map(|found| found.kind).collect();
        assert!(kinds.contains(&FindingKind::OpenFailed), "{kinds:?}");
    }
}
