//! Parses journal entries of several lines: an export, JSON over several lines, and
//! `journalctl -o verbose`.

use bstr::ByteSlice as _;

use super::export::Export;
use super::pretty::Pretty;
use super::verbose::{self, Verbose};
use crate::parsed_line::ParsedLine;
use crate::shape::Unreadable;

/// A parser of multi-line entries, from pieces of any size.
#[derive(Debug)]
pub(crate) enum Entries {
    /// `journalctl -o export`
    Export(Export),
    /// `journalctl -o json-pretty`, and any tool's objects after `jq .`
    Pretty(Pretty),
    /// `journalctl -o verbose`
    Verbose(Verbose),
}

impl Entries {
    /// The parser for a stream that begins with `head`; `None` if the stream has one line per
    /// entry.
    pub(crate) fn begun_by(head: &[u8]) -> Option<Self> {
        if Export::is_begun_by(head) {
            return Some(Self::Export(Export::default()));
        }
        let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
        // Skip journalctl's own messages.
        let first = head.lines().find(|line| !line.trim_ascii().is_empty() && !line.starts_with(b"-- "))?;
        if first.trim_ascii_end() == b"{" {
            return Some(Self::Pretty(Pretty::default()));
        }
        verbose::is_head(first).then(|| Self::Verbose(Verbose::default()))
    }

    /// Keeps the text of each relevant entry.
    pub(crate) fn keep_text(&mut self) {
        match self {
            Self::Export(export) => export.keep_text(),
            Self::Pretty(pretty) => pretty.keep_text(),
            Self::Verbose(verbose) => verbose.keep_text(),
        }
    }

    /// Number of lines so far.
    pub(crate) fn lines(&self) -> u64 {
        match self {
            Self::Export(export) => export.lines(),
            Self::Pretty(pretty) => pretty.lines(),
            Self::Verbose(verbose) => verbose.lines(),
        }
    }

    /// Takes the next bytes. Passes each relevant or unreadable entry to `emit`, with its first
    /// line, from 1.
    pub(crate) fn push(&mut self, bytes: &[u8], emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>)) {
        match self {
            Self::Export(export) => export.push(bytes, emit),
            Self::Pretty(pretty) => pretty.push(bytes, emit),
            Self::Verbose(verbose) => verbose.push(bytes, emit),
        }
    }

    /// Ends the stream.
    pub(crate) fn finish(self, emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>)) {
        match self {
            Self::Export(export) => export.finish(emit),
            Self::Pretty(pretty) => pretty.finish(emit),
            Self::Verbose(verbose) => verbose.finish(emit),
        }
    }
}
