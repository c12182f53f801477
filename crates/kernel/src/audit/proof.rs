//! The state of each record of a batch, and the decision whether it was logged.

use std::io;

use rustix::io::Errno;
use taptrail_record::LogProof;

use super::{AuditStatus, MAX_TEXT_BYTES, NotLogged};

/// When the kernel logged a record, on the real-time clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogTime {
    /// Seconds since 1970, UTC.
    pub seconds: u64,
    /// Milliseconds within the second.
    pub millis: u16,
}

impl LogTime {
    /// Milliseconds since 1970, UTC; `None` if they are too many.
    pub fn as_millisecond(self) -> Option<i64> {
        i64::try_from(self.seconds).ok()?.checked_mul(1000)?.checked_add(i64::from(self.millis))
    }
}

/// A record that the kernel accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggedRecord {
    /// The kernel's serial number, if it was read back.
    pub serial: Option<u32>,
    /// The kernel's time, if it was read back.
    pub time: Option<LogTime>,
    /// The proof that it was logged.
    pub proof: LogProof,
}

/// One record of a batch.
#[derive(Debug)]
pub(super) struct Pending<'r> {
    pub(super) kind: u16,
    pub(super) text: &'r str,
    pub(super) sequence: u32,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// Not sent, or not acknowledged yet.
    Waiting,
    /// Acknowledged with success, which does not prove that it was logged.
    Accepted,
    Done(Result<LoggedRecord, NotLogged>),
}

impl<'r> Pending<'r> {
    pub(super) fn new(kind: u16, text: &'r str) -> Self {
        let state = if text.len() > MAX_TEXT_BYTES {
            State::Done(Err(NotLogged::TooLong { length: text.len() }))
        } else if text.is_empty() || text.as_bytes().contains(&0) {
            State::Done(Err(NotLogged::Malformed))
        } else {
            State::Waiting
        };
        Self { kind, text, sequence: 0, state }
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    pub(super) fn is_accepted(&self) -> bool {
        matches!(self.state, State::Accepted)
    }

    pub(super) fn is_read_back(&self) -> bool {
        matches!(&self.state, State::Done(Ok(LoggedRecord { proof: LogProof::ReadBack, .. })))
    }

    pub(super) fn fail(&mut self, why: NotLogged) {
        self.state = State::Done(Err(why));
    }

    pub(super) fn acknowledge(&mut self, answer: Result<(), Errno>) {
        match answer {
            Ok(()) => self.state = State::Accepted,
            Err(errno) => self.fail(match errno {
                Errno::PERM => NotLogged::NoCapability,
                Errno::CONNREFUSED => NotLogged::UserNamespace,
                Errno::INVAL | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT => {
                    NotLogged::Unsupported { kind: self.kind }
                }
                errno => NotLogged::Io(errno.into()),
            }),
        }
    }

    pub(super) fn read_back(&mut self, serial: u32, time: LogTime) {
        self.state = State::Done(Ok(LoggedRecord {
            serial: Some(serial),
            time: Some(time),
            proof: LogProof::ReadBack,
        }));
    }

    pub(super) fn outcome(self) -> Result<LoggedRecord, NotLogged> {
        match self.state {
            State::Done(outcome) => outcome,
            State::Waiting | State::Accepted => Err(NotLogged::Io(io::ErrorKind::TimedOut.into())),
        }
    }
}

/// The evidence for a record that was acknowledged and not read back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence {
    /// The status before the record was sent, if it may be read.
    pub(super) before: Option<AuditStatus>,
    /// The status after it should have been logged.
    pub(super) after: Option<AuditStatus>,
    /// Whether the multicast would have had the record, had it been logged.
    pub(super) listening: bool,
}

impl Evidence {
    pub(super) fn judge(&self, kind: u16) -> Result<LogProof, NotLogged> {
        let Some(after) = self.after else {
            return if self.listening { Err(NotLogged::Unseen { kind }) } else { Ok(LogProof::AckOnly) };
        };
        if !after.enabled {
            return Err(NotLogged::Disabled);
        }
        // The counter wraps as any u32.
        let lost = self.before.map_or(0, |before| after.lost.wrapping_sub(before.lost));
        if lost > 0 {
            return Err(NotLogged::Backlog { lost });
        }
        // While records wait in the backlog, this may be one of them: late, not filtered.
        if self.listening && after.backlog == 0 {
            return Err(NotLogged::Filtered { kind });
        }
        Ok(LogProof::Counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: AuditStatus = AuditStatus {
        enabled: true,
        locked: false,
        daemon: Some(1),
        rate_limit: 0,
        backlog_limit: 64,
        backlog: 0,
        lost: 7,
    };

    fn judge(
        before: Option<AuditStatus>,
        after: Option<AuditStatus>,
        listening: bool,
    ) -> Result<LogProof, String> {
        Evidence { before, after, listening }
            .judge(2501)
            .map_err(|error| format!("{error:?}").split([' ', '(']).next().unwrap_or_default().to_owned())
    }

    #[test]
    fn counters_prove_what_cannot_be_heard() {
        assert_eq!(judge(Some(ON), Some(ON), false), Ok(LogProof::Counters));
    }

    #[test]
    fn what_should_have_been_heard_and_was_not_is_filtered() {
        assert_eq!(judge(Some(ON), Some(ON), true), Err("Filtered".to_owned()));
    }

    #[test]
    fn a_record_still_in_the_backlog_is_late_and_not_filtered() {
        let busy = AuditStatus { backlog: 3, ..ON };
        assert_eq!(judge(Some(ON), Some(busy), true), Ok(LogProof::Counters));
    }

    #[test]
    fn a_loss_is_named_with_its_size_even_when_the_counter_wraps() {
        let before = AuditStatus { lost: u32::MAX, ..ON };
        let after = AuditStatus { lost: 1, ..ON };
        for listening in [false, true] {
            let verdict = Evidence { before: Some(before), after: Some(after), listening }.judge(2501);
            assert!(matches!(verdict, Err(NotLogged::Backlog { lost: 2 })), "{verdict:?}");
        }
    }

    #[test]
    fn auditing_turned_off_meanwhile_is_the_first_cause_named() {
        let off = AuditStatus { enabled: false, lost: 9, ..ON };
        assert_eq!(judge(Some(ON), Some(off), true), Err("Disabled".to_owned()));
    }

    #[test]
    fn without_status_and_broadcast_there_is_the_acknowledgement_only() {
        assert_eq!(judge(None, None, false), Ok(LogProof::AckOnly));
        assert!(!LogProof::AckOnly.is_proven());
        assert_eq!(judge(None, None, true), Err("Unseen".to_owned()));
    }

    // Shows 3.16.
    #[test]
    fn texts_that_the_kernel_would_cut_are_never_sent() {
        let long = "x".repeat(MAX_TEXT_BYTES + 1);
        assert!(matches!(Pending::new(2501, &long).outcome(), Err(NotLogged::TooLong { length: 8561 })));
        assert!(matches!(Pending::new(2501, "a\0b").outcome(), Err(NotLogged::Malformed)));
        assert!(matches!(Pending::new(2501, "").outcome(), Err(NotLogged::Malformed)));
        assert!(Pending::new(2501, &long[1..]).is_waiting());
    }
}
