//! A trail that is read again whenever its files have changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use taptrail_guest::Dirs;
use taptrail_report::{Filter, Selected};
use taptrail_source::FileIdentity;
use taptrail_trail::Report;

use crate::cli::Sources;
use crate::output::Failure;
use crate::queries::{Answer, TrailReader};
use crate::reading::InputFingerprint;

/// How often files are checked for changes.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Reading takes at most this part of the time: a large log is not read all the time.
const READING_SHARE: u32 = 4;

/// The trail of some sources, as it is now.
pub(crate) struct LiveTrail<'a> {
    sources: &'a Sources,
    dirs: &'a Dirs,
    filter: Filter,
    fingerprint: Option<InputFingerprint>,
    /// Files are not read before this time.
    next: Option<Instant>,
}

/// A trail at one time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// Its holdings and findings, oldest first.
    pub(crate) report: Report,
    /// How long reading took.
    pub(crate) took: Duration,
    /// The identity of each input's file.
    pub(crate) identities: HashMap<Arc<str>, FileIdentity>,
}

impl<'a> LiveTrail<'a> {
    pub(crate) fn new(sources: &'a Sources, dirs: &'a Dirs, filter: Filter) -> Self {
        Self { sources, dirs, filter, fingerprint: None, next: None }
    }

    /// Reads the trail, if its files have changed since it was read last and that is not too short
    /// ago.
    ///
    /// # Errors
    ///
    /// Nothing can be read.
    pub(crate) fn refresh(&mut self) -> Result<Option<Snapshot>, Failure> {
        if self.next.is_some_and(|next| Instant::now() < next) {
            return Ok(None);
        }
        // Taken before reading: what is written meanwhile is read the next time.
        let fingerprint = InputFingerprint::of(self.sources, self.dirs);
        if self.fingerprint.as_ref() == Some(&fingerprint) {
            self.next = Some(Instant::now() + CHECK_INTERVAL);
            return Ok(None);
        }
        let begun = Instant::now();
        let mut selected = Selected::new(self.filter.clone());
        let answer = TrailReader::new(&mut selected).read_logs(self.sources, self.dirs)?;
        let (input, identities) = match answer {
            Answer::Complete(summary) => match summary.failure() {
                Some(failure) => return Err(failure),
                None => (summary.input(), summary.identities().clone()),
            },
            // `Selected` writes nothing while it reads, so this does not happen.
            Answer::Interrupted => return Ok(None),
        };
        let report = selected.finish(input);
        let took = begun.elapsed();
        self.fingerprint = Some(fingerprint);
        self.next = Some(Instant::now() + CHECK_INTERVAL.max(took * (READING_SHARE - 1)));
        Ok(Some(Snapshot { report, took, identities }))
    }
}
