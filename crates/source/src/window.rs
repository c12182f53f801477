//! The events of the last moments, which other inputs may still tell, and better.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use jiff::{SignedDuration, Timestamp};
use taptrail_trail::{Entry, LineRef};

use crate::Take;
use crate::duplicates::is_logged;
use crate::track::Placed;

/// Events that were told by one input, in their order, until no other can tell them any more.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Each with its number among all events that are compared.
    waiting: VecDeque<(u64, Waiting)>,
}

#[derive(Debug)]
struct Waiting {
    placed: Placed,
    is_rows: bool,
}

/// How far apart two inputs may see one event: syslog tells whole seconds, and late.
pub(crate) const APART: SignedDuration = SignedDuration::from_secs(2);

impl Window {
    /// Keeps an event until others had their time to tell it.
    pub(crate) fn push(&mut self, number: u64, placed: Placed, is_rows: bool) {
        self.waiting.push_back((number, Waiting { placed, is_rows }));
    }

    /// The same event, told by another input: the line of an audit log is the one that is cited, and what it says is
    /// what is told.
    pub(crate) fn copy(&mut self, number: u64, copy: &Entry, is_rows: bool) {
        let Some((_, first)) = self.waiting.iter_mut().rev().find(|(of, _)| *of == number) else { return };
        let entry = &mut first.placed.entry;
        let own = |entry: &Entry| LineRef { source: entry.source.clone(), line: entry.line };
        // What anybody can write is not told in the place of what nobody else can.
        let is_better = match (copy.unauthenticated, entry.unauthenticated) {
            (false, true) => true,
            (true, false) => false,
            _ => is_logged(is_rows, copy) && !is_logged(first.is_rows, entry),
        };
        if is_better {
            let mut copies = std::mem::take(&mut entry.copies);
            copies.truncate(MAX_COPIES - 1);
            copies.push(own(entry));
            let (serial, writer) = (copy.serial.or(entry.serial), copy.writer.or(entry.writer));
            *entry = Entry { copies, serial, writer, ..copy.clone() };
            first.is_rows = is_rows;
        } else {
            entry.serial = entry.serial.or(copy.serial);
            entry.writer = entry.writer.or(copy.writer);
            if entry.copies.len() < MAX_COPIES {
                entry.copies.push(own(copy));
            }
        }
    }

    /// Tells what nothing told from `now` on can be the same as.
    pub(crate) fn release(&mut self, now: Timestamp, take: &mut Take<'_>) -> ControlFlow<()> {
        while let Some((_, done)) =
            self.waiting.pop_front_if(|(_, oldest)| now.duration_since(oldest.placed.order) > APART)
        {
            take(&done.placed.entry)?;
        }
        ControlFlow::Continue(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// How many other lines are named.
const MAX_COPIES: usize = 8;
