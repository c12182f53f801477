//! All inputs, told in one order.

use std::collections::HashMap;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::sync::Arc;

use compact_str::CompactString;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use taptrail_trail::{Entry, Unreadable};

use crate::found::Clock;
use crate::merge::Merge;
use crate::{About, Input, Note, Outcome, SourceError};

/// The host of lines that name none, where nobody says whose they are.
const UNKNOWN: &str = "?";

/// How to read.
pub struct Options<'a> {
    /// The host of lines that name none.
    pub host: Arc<str>,
    /// The zone of times that name none.
    pub zone: TimeZone,
    /// The time that no line is after: what has no year is of the last one that fits.
    pub now: Timestamp,
    /// How many threads read a log.
    pub threads: NonZero<usize>,
    /// Told now and then how many bytes were read of how many there are (0 where that is not known).
    pub progress: Box<dyn FnMut(u64, u64) + 'a>,
}

impl Default for Options<'_> {
    /// A host unknown (`?`), this system's zone, clock and cores, and nobody told.
    fn default() -> Self {
        Self {
            host: UNKNOWN.into(),
            zone: TimeZone::system(),
            now: Timestamp::now(),
            threads: std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
            progress: Box::new(|_, _| {}),
        }
    }
}

/// The state of reading.
pub(crate) struct Reading<'a> {
    pub(crate) input: taptrail_trail::Input,
    unreadable: Vec<Unreadable>,
    notes: Vec<Note>,
    pub(crate) failed: Vec<SourceError>,
    hosts: HashMap<CompactString, Arc<str>>,
    /// The inputs with lines that name no host.
    pub(crate) unnamed: Vec<Arc<str>>,
    /// The host of lines that name none.
    pub(crate) own: Arc<str>,
    pub(crate) total: u64,
    progress: Box<dyn FnMut(u64, u64) + 'a>,
}

impl Reading<'_> {
    pub(crate) fn unreadable(&mut self, line: Unreadable) {
        self.input.unreadable += 1;
        if self.unreadable.len() < Outcome::KEPT {
            self.unreadable.push(line);
        }
    }

    pub(crate) fn note(&mut self, source: &Arc<str>, about: About) {
        let same = |note: &Note| {
            note.source == *source && std::mem::discriminant(&note.about) == std::mem::discriminant(&about)
        };
        if !self.notes.iter().any(same) {
            self.notes.push(Note { source: Arc::clone(source), about });
        }
    }

    /// So many bytes more were read.
    pub(crate) fn read_on(&mut self, bytes: u64) {
        self.input.bytes += bytes;
        (self.progress)(self.input.bytes, self.total);
    }

    /// The one name of a host: entries share it.
    pub(crate) fn host(&mut self, name: &CompactString) -> Arc<str> {
        let own = &self.own;
        let named = || if is_same(name, own) { Arc::clone(own) } else { Arc::from(name.as_str()) };
        Arc::clone(self.hosts.entry(name.clone()).or_insert_with(named))
    }
}

/// Whether two names are of one host: auditd may write `web1.example.org` where syslog writes `web1`.
pub(crate) fn is_same(a: &str, b: &str) -> bool {
    let (long, short) = if a.len() > b.len() { (a, b) } else { (b, a) };
    long.strip_prefix(short).is_some_and(|domain| domain.is_empty() || domain.starts_with('.'))
}

/// Takes entries, one at a time, until it breaks off.
pub type Take<'a> = dyn FnMut(&Entry) -> ControlFlow<()> + 'a;

/// Reads all inputs and gives each event once to `take`, in the order of their times; of one input in
/// the order of its lines.
///
/// An input that can't be read is named in the outcome, and the others are told.
pub fn read(inputs: Vec<Input>, options: Options<'_>, take: &mut Take<'_>) -> Outcome {
    let mut reading = Reading {
        input: taptrail_trail::Input::default(),
        unreadable: Vec::new(),
        notes: Vec::new(),
        failed: Vec::new(),
        hosts: HashMap::new(),
        unnamed: Vec::new(),
        own: Arc::clone(&options.host),
        total: 0,
        progress: options.progress,
    };
    let clock = Clock::new(options.zone, options.now);
    let mut merge = Merge::new(inputs, options.threads, &clock, &mut reading);
    // Whoever breaks off knows why.
    let _ = merge.run(&mut reading, take);
    if *reading.own == *UNKNOWN && reading.hosts.values().any(|host| *host != reading.own) {
        for source in std::mem::take(&mut reading.unnamed) {
            reading.note(&source, About::HostUnknown);
        }
    }
    Outcome {
        input: reading.input,
        unreadable: reading.unreadable,
        notes: reading.notes,
        failed: reading.failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_name_may_have_its_domain() {
        for (a, b, same) in [
            ("web1", "web1", true),
            ("web1", "web1.example.org", true),
            ("web1.example.org", "web1", true),
            ("web1", "web10", false),
            ("web1.example.org", "web1.example.com", false),
            ("?", "web1", false),
        ] {
            assert_eq!(is_same(a, b), same, "{a} {b}");
        }
    }
}
