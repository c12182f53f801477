//! What a log says of its own losses, as stretches of time.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_trail::{Content, Gap, GapReason};

/// Since when nothing was recorded of each host, and why.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    stopped: HashMap<Arc<str>, (GapReason, Timestamp)>,
}

impl Losses {
    /// Takes what a line says of `host` at `time`. What is told instead: nothing, the same, or first that a
    /// stretch is missing.
    ///
    /// `is_whole` says whether the log has all numbers of the kernel's: then a pause of auditd lost nothing.
    /// `last` is when the host was told of before.
    pub(crate) fn take(
        &mut self,
        host: &Arc<str>,
        time: Timestamp,
        content: &Content,
        is_whole: bool,
        last: Option<Timestamp>,
    ) -> Told {
        match content {
            Content::RecordingStopped(why) => {
                self.stopped.entry(Arc::clone(host)).or_insert((*why, time));
                Told::Nothing
            }
            Content::RecordingResumed(why) => {
                let since = match self.stopped.remove(host) {
                    Some((_, since)) => Some(since),
                    // Its end was not written: it crashed, or its host did.
                    None => last,
                };
                match since {
                    Some(since) if !(is_whole && shows_in_numbers(*why)) => {
                        Told::Only(Gap { since: Some(since), serials: None, why: *why })
                    }
                    _ => Told::Nothing,
                }
            }
            Content::Boot => {
                // What was not recorded while the host was down did not happen, but it was off before.
                match self.stopped.remove(host) {
                    Some((why @ GapReason::AuditingOff, since)) => {
                        Told::After(Gap { since: Some(since), serials: None, why })
                    }
                    _ => Told::Same,
                }
            }
            _ => match self.stopped.remove(host) {
                // It goes on without a word.
                Some((why, since)) if !(is_whole && shows_in_numbers(why)) => {
                    Told::After(Gap { since: Some(since), serials: None, why })
                }
                _ => Told::Same,
            },
        }
    }

    /// Whether nothing is recorded of a host, as far as its log says.
    pub(crate) fn is_stopped(&self, host: &Arc<str>) -> bool {
        self.stopped.contains_key(host)
    }

    /// A host whose auditing was off as the log ended, and what is missing since; each is given once.
    pub(crate) fn rest(&mut self) -> Option<(Arc<str>, Gap)> {
        let off = |(_, (why, _)): &(&Arc<str>, &(GapReason, Timestamp))| *why == GapReason::AuditingOff;
        let host = Arc::clone(self.stopped.iter().find(off)?.0);
        let (why, since) = self.stopped.remove(&host)?;
        Some((host, Gap { since: Some(since), serials: None, why }))
    }
}

/// What to tell.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing.
    Nothing,
    /// What the line says.
    Same,
    /// That a stretch is missing, up to this line.
    Only(Gap),
    /// The same, and then what the line says.
    After(Gap),
}

/// Whether the kernel numbers what is lost so: what it is not to record, it does not number.
fn shows_in_numbers(why: GapReason) -> bool {
    why != GapReason::AuditingOff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(losses: &mut Losses, second: i64, content: &Content, is_whole: bool) -> Told {
        let time = Timestamp::from_second(second).unwrap();
        losses.take(&"h".into(), time, content, is_whole, Some(Timestamp::UNIX_EPOCH))
    }

    fn gap(since: i64, why: GapReason) -> Gap {
        Gap { since: Timestamp::from_second(since).ok(), serials: None, why }
    }

    #[test]
    fn what_is_off_and_on_again_is_a_gap() {
        let mut losses = Losses::default();
        let (off, on) = (GapReason::AuditingOff, GapReason::AuditingOff);
        assert_eq!(told(&mut losses, 5, &Content::RecordingStopped(off), true), Told::Nothing);
        assert_eq!(told(&mut losses, 9, &Content::RecordingResumed(on), true), Told::Only(gap(5, off)));
        assert_eq!(told(&mut losses, 10, &Content::Boot, true), Told::Same);
    }

    #[test]
    fn a_pause_of_auditd_loses_nothing_where_no_number_is_missing() {
        let mut losses = Losses::default();
        let why = GapReason::AuditdStopped;
        for (is_whole, expect) in [(true, Told::Nothing), (false, Told::Only(gap(5, why)))] {
            told(&mut losses, 5, &Content::RecordingStopped(why), is_whole);
            assert_eq!(told(&mut losses, 9, &Content::RecordingResumed(why), is_whole), expect);
        }
        assert_eq!(told(&mut losses, 9, &Content::RecordingResumed(why), false), Told::Only(gap(0, why)));
    }

    #[test]
    fn what_goes_on_without_a_word_was_off_until_then() {
        let mut losses = Losses::default();
        told(&mut losses, 5, &Content::RecordingStopped(GapReason::Suspended), false);
        let record = Content::Foreign { exe: "x".into() };
        assert_eq!(told(&mut losses, 9, &record, false), Told::After(gap(5, GapReason::Suspended)));
    }
}
