//! Entries that are no lines: of an export, of JSON over several lines, of `journalctl -o verbose`.

use bstr::ByteSlice as _;

use super::export::Export;
use super::pretty::Pretty;
use super::verbose::{self, Verbose};
use crate::found::Found;
use crate::shape::Unreadable;

/// A reader of entries of which each has several lines, from pieces of any size.
#[derive(Debug)]
pub(crate) enum Entries {
    /// `journalctl -o export`
    Export(Export),
    /// `journalctl -o json-pretty`, and what `jq .` makes of any tool's objects.
    Pretty(Pretty),
    /// `journalctl -o verbose`
    Verbose(Verbose),
}

impl Entries {
    /// The reader of a stream that begins like this; none where that has a line for each entry.
    pub(crate) fn begun_by(head: &[u8]) -> Option<Self> {
        if Export::is_begun_by(head) {
            return Some(Self::Export(Export::default()));
        }
        let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
        // journalctl's own remarks.
        let first = head.lines().find(|line| !line.trim_ascii().is_empty() && !line.starts_with(b"-- "))?;
        if first.trim_ascii_end() == b"{" {
            return Some(Self::Pretty(Pretty::default()));
        }
        verbose::is_head(first).then(|| Self::Verbose(Verbose::default()))
    }

    /// How many lines have passed.
    pub(crate) fn lines(&self) -> u64 {
        match self {
            Self::Export(export) => export.lines(),
            Self::Pretty(pretty) => pretty.lines(),
            Self::Verbose(verbose) => verbose.lines(),
        }
    }

    /// Takes the next bytes, and tells `tell` of each entry that tells something, or should, with its first line,
    /// from 1.
    pub(crate) fn push(&mut self, bytes: &[u8], tell: &mut dyn FnMut(u64, Result<Found, Unreadable>)) {
        match self {
            Self::Export(export) => export.push(bytes, tell),
            Self::Pretty(pretty) => pretty.push(bytes, tell),
            Self::Verbose(verbose) => verbose.push(bytes, tell),
        }
    }

    /// The stream ends here.
    pub(crate) fn finish(self, tell: &mut dyn FnMut(u64, Result<Found, Unreadable>)) {
        match self {
            Self::Export(export) => export.finish(tell),
            Self::Pretty(pretty) => pretty.finish(tell),
            Self::Verbose(verbose) => verbose.finish(tell),
        }
    }
}
