//! Turns a log's messages about lost records into gaps.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_trail::{Content, Gap, GapReason};

/// For each host, when recording stopped, and why.
#[derive(Debug, Default)]
pub(crate) struct LossTracker {
    stopped: HashMap<Arc<str>, (GapReason, Timestamp)>,
}

impl LossTracker {
    /// Takes a line's content for `host` at `time`. Returns what to emit for it.
    ///
    /// `has_all_serials`: the log has all of the kernel's serial numbers; then a pause of auditd
    /// lost nothing that does not show in them. `last`: time of the host's entry before.
    pub(crate) fn observe(
        &mut self,
        host: &Arc<str>,
        time: Timestamp,
        content: &Content,
        has_all_serials: bool,
        last: Option<Timestamp>,
    ) -> Emission {
        match content {
            Content::RecordingStopped(why) => {
                self.stopped.entry(Arc::clone(host)).or_insert((*why, time));
                Emission::Nothing
            }
            Content::RecordingResumed(why) => {
                let since = match self.stopped.remove(host) {
                    Some((_, since)) => Some(since),
                    // There is no record of the stop: auditd or the host crashed.
                    None => last,
                };
                match since {
                    Some(since) if !(has_all_serials && shows_in_numbers(*why)) => {
                        Emission::Gap(Gap { since: Some(since), serials: None, why: *why })
                    }
                    _ => Emission::Nothing,
                }
            }
            Content::Boot => {
                // Nothing happened while the host was down, but auditing was off before.
                match self.stopped.remove(host) {
                    Some((why @ GapReason::AuditingOff, since)) => {
                        Emission::GapThenEntry(Gap { since: Some(since), serials: None, why })
                    }
                    _ => Emission::Entry,
                }
            }
            _ => match self.stopped.remove(host) {
                // Recording resumed without a message.
                Some((why, since)) if !(has_all_serials && shows_in_numbers(why)) => {
                    Emission::GapThenEntry(Gap { since: Some(since), serials: None, why })
                }
                _ => Emission::Entry,
            },
        }
    }

    /// Whether recording is stopped for a host, as far as its log shows.
    pub(crate) fn is_stopped(&self, host: &Arc<str>) -> bool {
        self.stopped.contains_key(host)
    }

    /// Removes and returns a host whose auditing was off when the log ended, with the gap.
    pub(crate) fn take_open_gap(&mut self) -> Option<(Arc<str>, Gap)> {
        let off = |(_, (why, _)): &(&Arc<str>, &(GapReason, Timestamp))| *why == GapReason::AuditingOff;
        let host = Arc::clone(self.stopped.iter().find(off)?.0);
        let (why, since) = self.stopped.remove(&host)?;
        Some((host, Gap { since: Some(since), serials: None, why }))
    }
}

/// What to emit for a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Emission {
    /// Nothing is emitted.
    Nothing,
    /// The line's entry.
    Entry,
    /// A gap up to this line.
    Gap(Gap),
    /// A gap up to this line, then the line's entry.
    GapThenEntry(Gap),
}

/// Whether events lost for this reason have serial numbers. The kernel does not number events while
/// auditing is off.
fn shows_in_numbers(why: GapReason) -> bool {
    why != GapReason::AuditingOff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe_at(
        losses: &mut LossTracker,
        second: i64,
        content: &Content,
        has_all_serials: bool,
    ) -> Emission {
        let time = Timestamp::from_second(second).unwrap();
        losses.observe(&"h".into(), time, content, has_all_serials, Some(Timestamp::UNIX_EPOCH))
    }

    fn gap(since: i64, why: GapReason) -> Gap {
        Gap { since: Timestamp::from_second(since).ok(), serials: None, why }
    }

    #[test]
    fn auditing_off_and_on_again_is_a_gap() {
        let mut losses = LossTracker::default();
        let (off, on) = (GapReason::AuditingOff, GapReason::AuditingOff);
        assert_eq!(observe_at(&mut losses, 5, &Content::RecordingStopped(off), true), Emission::Nothing);
        assert_eq!(
            observe_at(&mut losses, 9, &Content::RecordingResumed(on), true),
            Emission::Gap(gap(5, off))
        );
        assert_eq!(observe_at(&mut losses, 10, &Content::Boot, true), Emission::Entry);
    }

    #[test]
    fn a_pause_of_auditd_loses_nothing_where_no_number_is_missing() {
        let mut losses = LossTracker::default();
        let why = GapReason::AuditdStopped;
        for (has_all_serials, expect) in [(true, Emission::Nothing), (false, Emission::Gap(gap(5, why)))] {
            observe_at(&mut losses, 5, &Content::RecordingStopped(why), has_all_serials);
            assert_eq!(observe_at(&mut losses, 9, &Content::RecordingResumed(why), has_all_serials), expect);
        }
        assert_eq!(
            observe_at(&mut losses, 9, &Content::RecordingResumed(why), false),
            Emission::Gap(gap(0, why))
        );
    }

    #[test]
    fn recording_that_resumes_without_a_message_was_off_until_then() {
        let mut losses = LossTracker::default();
        observe_at(&mut losses, 5, &Content::RecordingStopped(GapReason::Suspended), false);
        let record = Content::Foreign { exe: "x".into() };
        assert_eq!(
            observe_at(&mut losses, 9, &record, false),
            Emission::GapThenEntry(gap(5, GapReason::Suspended))
        );
    }
}
