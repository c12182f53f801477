//! The trail, read again when there is more of it.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

use taptrail_guest::Dirs;
use taptrail_report::Stats;
use taptrail_witness::verify::{ExpectedState, ExpectedStateReader, Hosts, Interest};

use crate::cli::Verify;
use crate::output::Failure;
use crate::questions::Whole;
use crate::reading::{self, Extent, Read};

/// A trail as far as it was read.
pub(super) struct Trail<'a> {
    arguments: &'a Verify,
    dirs: &'a Dirs,
    hosts: Hosts,
    /// What there was of it, and what of it was kept.
    read: Option<(Extent, Interest)>,
    told: ExpectedState,
    whole: Option<Whole>,
}

impl<'a> Trail<'a> {
    pub(super) fn new(arguments: &'a Verify, dirs: &'a Dirs) -> Result<Self, Failure> {
        let own = arguments.sources.files.is_empty();
        let hosts = match &arguments.host {
            Some(name) => Hosts::Named(name.clone()),
            None if own => Hosts::Named(reading::this_host(&arguments.sources)?),
            None => Hosts::Any,
        };
        Ok(Self { arguments, dirs, hosts, read: None, told: ExpectedState::default(), whole: None })
    }

    pub(super) fn told(&self) -> &ExpectedState {
        &self.told
    }

    /// Reads it, unless nothing has come since, and what is of interest was kept.
    pub(super) fn read(&mut self, interest: &Interest) -> Result<(), Failure> {
        let sources = &self.arguments.sources;
        // Taken before it is read: what comes meanwhile is read again.
        let extent = Extent::of(sources, self.dirs);
        match &self.read {
            // Standard input is read but once.
            Some(_) if sources.files.iter().any(|file| file.as_os_str() == "-") => return Ok(()),
            Some((before, kept)) if *before == extent && kept.covers(interest) => return Ok(()),
            _ => {}
        }
        let begun = Instant::now();
        let mut reader = ExpectedStateReader::new(self.hosts.clone(), interest.clone());
        let mut entries = 0;
        let Read { outcome, in_hand } = reading::entries(sources, self.dirs, &mut |entry| {
            entries += 1;
            reader.feed(entry);
            ControlFlow::Continue(())
        })?;
        in_hand.iter().for_each(|steps| reader.in_hand(steps));
        self.told = reader.finish(jiff::Timestamp::now());
        let stats = Stats { input: outcome.input.clone(), entries, foreign: 0, elapsed: begun.elapsed() };
        self.whole = Some(Whole::of(outcome, stats));
        self.read = Some((extent, interest.clone()));
        Ok(())
    }

    /// Whether it is not known whose records it has: then it can't be held against anything.
    pub(super) fn is_refused(&self) -> bool {
        self.whole.as_ref().is_some_and(Whole::is_refused)
    }

    /// Says what of it could not be read; the exit code is that of the reading.
    pub(super) fn say(&self, stats: bool) -> ExitCode {
        self.whole.as_ref().map_or(ExitCode::SUCCESS, |whole| whole.say(stats))
    }
}
