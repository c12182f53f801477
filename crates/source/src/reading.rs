//! Reads all inputs in one order.

use std::num::NonZero;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::collector::Collector;
use crate::hosts::Hosts;
use crate::merge::Merge;
use crate::ordered_entry::EntrySink;
use crate::parsed_line::Clock;
use crate::scan::Scanning;
use crate::{Input, NoteKind, ReadOutcome};

/// Options of [`read`].
pub struct ReadOptions<'a> {
    /// The hosts of lines that name none.
    pub hosts: Hosts,
    /// The time zone of times that name none.
    pub zone: TimeZone,
    /// No line is later than this: it limits the year of times without one.
    pub now: Timestamp,
    /// Number of threads that read a log.
    pub threads: NonZero<usize>,
    /// Whether the inputs are selections of record types: then a serial number that is not there
    /// belongs to another record, and shows no loss.
    pub extract: bool,
    /// Whether records of guests' other resources than network devices are read, too
    /// ([`Content::Resource`](taptrail_trail::Content::Resource)): there are many. Those of the
    /// host's PCI devices are read always: these may be network cards.
    pub resources: bool,
    /// Whether each entry keeps the line or row that it was read from
    /// ([`Entry::text`](taptrail_trail::Entry::text)). Rows of [`Input::Rows`] bring theirs.
    pub keep_text: bool,
    /// Called from time to time, often in large inputs.
    pub progress: Box<dyn FnMut(Progress<'_>) + 'a>,
}

/// How far reading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Bytes read, as stored.
    pub bytes: u64,
    /// All bytes; 0 if that is not known.
    pub total: u64,
    /// Lines or rows read.
    pub lines: u64,
    /// The input that was read last.
    pub input: &'a str,
}

impl Default for ReadOptions<'_> {
    /// An unknown host (`?`), this system's zone, clock and cores, and no progress reports.
    fn default() -> Self {
        Self {
            hosts: Hosts::default(),
            zone: TimeZone::system(),
            now: Timestamp::now(),
            threads: std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
            extract: false,
            resources: false,
            keep_text: false,
            progress: Box::new(|_| {}),
        }
    }
}

/// Reads all inputs and passes each event once to `sink`, in order of time; the events of a single
/// input in the order of its lines, as far as those are in order.
///
/// An input that can't be read is named in the outcome, and the others are read. If records can't
/// be assigned to hosts, reading stops and `refused` is set: the entries passed to `sink` must not
/// be used then.
pub fn read(inputs: Vec<Input>, options: ReadOptions<'_>, sink: &mut EntrySink<'_>) -> ReadOutcome {
    let has_directory_hosts = options.hosts.has_directory_hosts();
    let mut collector = Collector::new(&options.hosts, options.extract, options.progress);
    for input in &inputs {
        if let Input::Opened(file) = input {
            for copy in &file.packed_copies {
                collector.note(&Arc::from(copy.display().to_string()), NoteKind::PackedCopy);
            }
        }
    }
    let clock = Clock::new(options.zone, options.now);
    let ReadOptions { threads, resources, keep_text, .. } = options;
    let scanning = Scanning { threads, resources, keep_text };
    let mut merge = Merge::new(inputs, &options.hosts, scanning, &clock, &mut collector);
    // If `sink` broke off, it knows why.
    let _ = merge.run(&mut collector, sink);
    collector.finish(has_directory_hosts)
}
