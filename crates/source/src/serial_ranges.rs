//! The first and the last serial number of each host in each input, by which two pieces of one log
//! that are read separately can be seen to follow each other.

use std::sync::Arc;

use taptrail_trail::{InputFile, MAX_FIRST_SERIAL, shows_boot};

use crate::runs::Run;

/// A number below the last one is from another boot if it is later by more than this, in
/// milliseconds: the lines of one boot are less out of order.
const REORDER_WINDOW_MS: i64 = 5000;

/// The kernel's serial numbers of one host in one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialRange {
    /// The input's path.
    pub source: Arc<str>,
    /// The host.
    pub host: Arc<str>,
    /// The lowest number of the boot in which the input begins.
    pub first: u32,
    /// The highest number of the boot in which the input ends. It may be below `first`, if the host
    /// booted between.
    pub last: u32,
    /// Whether these are the numbers of all events that the input has, of whatever kind: it is a
    /// raw audit log. Then a piece that begins with the number after `last`, or with a number up to
    /// it (the lines where a log is rotated may be out of order), has lost nothing between the two;
    /// and one that begins with a higher number lacks those between. What is missing within the
    /// input is among the gaps of its [`Coverage`](taptrail_trail::Coverage).
    ///
    /// Otherwise they are the numbers of guests' records alone: the input is a journal, another
    /// program's log, or a selection of records. The numbers between two pieces are those of other
    /// events, or of lost records: which, is not known.
    pub all_events: bool,
}

/// Collects the ranges by input and index of the host in it.
#[derive(Debug, Default)]
pub(crate) struct SerialRanges(Vec<Vec<Option<Range>>>);

#[derive(Debug, Clone, Copy)]
struct Range {
    first: u32,
    last: u32,
    /// The latest time, in milliseconds since 1970.
    until: i64,
    /// Whether no number has shown another boot than the first.
    is_first_boot: bool,
    all_events: bool,
}

impl SerialRanges {
    /// Adds numbers of an input, in the order of its lines. `span`: the index of their host in the
    /// input.
    pub(crate) fn add(&mut self, input: u32, span: usize, run: &Run, all_events: bool) {
        let input = input as usize;
        if self.0.len() <= input {
            self.0.resize(input + 1, Vec::new());
        }
        let spans = &mut self.0[input];
        if spans.len() <= span {
            spans.resize(span + 1, None);
        }
        match &mut spans[span] {
            Some(range) => range.add(run, all_events),
            none => {
                let Run { first, last, until, .. } = *run;
                *none = Some(Range { first, last, until, is_first_boot: true, all_events });
            }
        }
    }

    /// The ranges of all inputs; with `extract`, the inputs are selections of records.
    pub(crate) fn build(&self, files: &[InputFile], extract: bool) -> Vec<SerialRange> {
        let mut all = Vec::new();
        for (file, spans) in files.iter().zip(&self.0) {
            for (host, range) in file.hosts.iter().zip(spans) {
                let Some(Range { first, last, all_events, .. }) = *range else { continue };
                let (source, host) = (Arc::clone(&file.path), Arc::clone(&host.host));
                all.push(SerialRange { source, host, first, last, all_events: all_events && !extract });
            }
        }
        all
    }
}

impl Range {
    fn add(&mut self, run: &Run, all_events: bool) {
        self.all_events |= all_events;
        let is_later = run.since > self.until.saturating_add(REORDER_WINDOW_MS);
        if run.first < self.last && (is_later || shows_boot(self.last, run.first)) {
            (self.last, self.is_first_boot) = (run.last, false);
        } else {
            self.last = self.last.max(run.last);
            // The first lines of another boot may be late, too: their numbers are low.
            if self.is_first_boot && (run.first > MAX_FIRST_SERIAL || self.first <= MAX_FIRST_SERIAL) {
                self.first = self.first.min(run.first);
            }
        }
        self.until = self.until.max(run.until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first and the last of numbers with their times in seconds.
    fn range(numbers: &[(u32, i64)]) -> (u32, u32) {
        let mut ranges = SerialRanges::default();
        for (number, second) in numbers {
            ranges.add(0, 0, &Run::of(*number, *number, second * 1000), true);
        }
        let range = ranges.0[0][0].unwrap();
        (range.first, range.last)
    }

    #[test]
    fn lines_out_of_order_are_within_the_range() {
        assert_eq!(range(&[(901, 0)]), (901, 901));
        assert_eq!(range(&[(901, 0), (900, 0), (903, 1), (902, 1)]), (900, 903));
        assert_eq!(range(&[(900, 0), (5000, 60), (4990, 58)]), (900, 5000));
    }

    #[test]
    fn the_last_is_of_the_last_boot_and_the_first_of_the_first() {
        assert_eq!(range(&[(900, 0), (901, 1), (3, 60), (2, 60), (5, 61)]), (900, 5));
        assert_eq!(range(&[(2000, 600), (3, 0), (7, 1)]), (2000, 7), "with the clock set back");
        assert_eq!(range(&[(900, 0), (400, 3600), (401, 3601)]), (900, 401), "its beginning is missing");
        assert_eq!(range(&[(900, 0), (3, 60), (2000, 120), (4, 200)]), (900, 4));
        assert_eq!(range(&[(2, 0), (1, 0), (3, 1)]), (1, 3));
        assert_eq!(range(&[(u32::MAX, 0), (2, 60)]), (u32::MAX, 2));
    }
}
