//! The trail, read again when its files have changed.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

use taptrail_guest::Dirs;
use taptrail_report::Stats;
use taptrail_witness::verify::{ExpectedState, ExpectedStateReader, Interest, RecordHosts};

use crate::cli::Verify;
use crate::output::Failure;
use crate::queries::ReadSummary;
use crate::reading::{self, InputFingerprint, Read, Wanted};

/// The trail as it was last read.
pub(super) struct Trail<'a> {
    arguments: &'a Verify,
    dirs: &'a Dirs,
    hosts: RecordHosts,
    /// The fingerprint of its files, and the part that was kept.
    read: Option<(InputFingerprint, Interest)>,
    expected: ExpectedState,
    summary: Option<ReadSummary>,
}

impl<'a> Trail<'a> {
    pub(super) fn new(arguments: &'a Verify, dirs: &'a Dirs) -> Result<Self, Failure> {
        let own = arguments.sources.files.is_empty();
        let hosts = match &arguments.host {
            Some(name) => RecordHosts::Named(name.clone()),
            None if own => RecordHosts::Named(reading::this_host(&arguments.sources)?),
            None => RecordHosts::Any,
        };
        Ok(Self { arguments, dirs, hosts, read: None, expected: ExpectedState::default(), summary: None })
    }

    pub(super) fn expected(&self) -> &ExpectedState {
        &self.expected
    }

    /// Reads the trail, unless its files are unchanged and the part of interest was kept.
    pub(super) fn read(&mut self, interest: &Interest) -> Result<(), Failure> {
        let sources = &self.arguments.sources;
        // Taken before reading: what is written meanwhile is read the next time.
        let fingerprint = InputFingerprint::of(sources, self.dirs);
        match &self.read {
            // Standard input can be read only once.
            Some(_) if sources.files.iter().any(|file| file.as_os_str() == "-") => return Ok(()),
            Some((before, kept)) if *before == fingerprint && kept.covers(interest) => return Ok(()),
            _ => {}
        }
        let begun = Instant::now();
        let mut reader = ExpectedStateReader::new(self.hosts.clone(), interest.clone());
        let mut entries = 0;
        let Read { outcome, ledgers } =
            reading::entries(sources, self.dirs, Wanted::default(), &mut |entry| {
                entries += 1;
                reader.feed(entry);
                ControlFlow::Continue(())
            })?;
        ledgers.iter().for_each(|ledger| reader.in_hand(&ledger.steps));
        self.expected = reader.finish(jiff::Timestamp::now());
        let stats = Stats { input: outcome.input.clone(), entries, foreign: 0, elapsed: begun.elapsed() };
        self.summary = Some(ReadSummary::of(outcome, stats));
        self.read = Some((fingerprint, interest.clone()));
        Ok(())
    }

    /// Whether the host of its records is not known: then it can't be compared with this host.
    pub(super) fn is_refused(&self) -> bool {
        self.summary.as_ref().is_some_and(ReadSummary::is_refused)
    }

    /// Prints what could not be read; returns the exit code of reading.
    pub(super) fn print_warnings(&self, stats: bool) -> ExitCode {
        self.summary.as_ref().map_or(ExitCode::SUCCESS, |summary| summary.print_warnings(stats))
    }
}
