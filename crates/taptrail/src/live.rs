//! A trail that is read again whenever its files have changed.

use std::io;
use std::time::{Duration, Instant};

use taptrail_guest::Dirs;
use taptrail_report::{Filter, TrailConsumer, sort_by_time};
use taptrail_trail::{Finding, Holding, Report};

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
        let mut collected = Collected { filter: &self.filter, report: Report::default() };
        let answer = TrailReader::new(&mut collected).read(self.sources, self.dirs)?;
        let mut report = collected.report;
        if let Answer::Complete(summary) = answer {
            if let Some(failure) = summary.failure() {
                return Err(failure);
            }
            report.input = summary.input();
        }
        sort_by_time(&mut report);
        let took = begun.elapsed();
        self.fingerprint = Some(fingerprint);
        self.next = Some(Instant::now() + CHECK_INTERVAL.max(took * (READING_SHARE - 1)));
        Ok(Some(Snapshot { report, took }))
    }
}

struct Collected<'a> {
    filter: &'a Filter,
    report: Report,
}

impl TrailConsumer for Collected<'_> {
    fn holding(&mut self, holding: Holding) -> io::Result<()> {
        if self.filter.matches_holding(&holding) {
            self.report.holdings.push(holding);
        }
        Ok(())
    }

    fn finding(&mut self, finding: Finding) -> io::Result<()> {
        if self.filter.matches_finding(&finding) {
            self.report.findings.push(finding);
        }
        Ok(())
    }
}
