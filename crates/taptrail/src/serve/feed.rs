//! Makes a page of the trail whenever it has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use axum::body::Bytes;
use jiff::Timestamp;
use taptrail_guest::Dirs;
use taptrail_report::{Evidence, FileEvidence, Filter, Hash, MAX_PAGE_LINES, Style, page_proofs};
use taptrail_trail::Proof;
use tokio::sync::watch;
use tracing::warn;

use crate::cli::Serve;
use crate::live::{CHECK_INTERVAL, LiveTrail, Snapshot};
use crate::output::Failure;
use crate::reading::fetch_lines;

/// A page, which clients share.
#[derive(Debug, Clone)]
pub(super) struct Page {
    /// Which page it is: from 1.
    pub(super) generation: u64,
    pub(super) html: Bytes,
}

pub(super) struct Feed<'a> {
    trail: LiveTrail<'a>,
    style: Style,
    generation: u64,
}

impl<'a> Feed<'a> {
    pub(super) fn new(arguments: &'a Serve, dirs: &'a Dirs, filter: Filter) -> Self {
        let style = Style { utc: arguments.utc, ..Style::default() };
        Self { trail: LiveTrail::new(&arguments.sources, dirs, filter), style, generation: 0 }
    }

    /// The next page, if the trail has changed.
    ///
    /// # Errors
    ///
    /// The trail can't be read.
    pub(super) fn next(&mut self) -> Result<Option<Page>, Failure> {
        let Some(snapshot) = self.trail.refresh()? else { return Ok(None) };
        self.generation += 1;
        self.page(&snapshot).map(Some)
    }

    /// Sends pages until `ended` is set.
    pub(super) fn run(mut self, pages: &watch::Sender<Page>, ended: &AtomicBool) {
        while !ended.load(Ordering::Relaxed) {
            match self.next() {
                Ok(Some(page)) => _ = pages.send_replace(page),
                Ok(None) => {}
                // A log that is being rotated can be read again in a moment.
                Err(failure) => warn!("The trail could not be read: {}", failure.line()),
            }
            thread::sleep(CHECK_INTERVAL);
        }
    }

    fn page(&self, snapshot: &Snapshot) -> Result<Page, Failure> {
        let report = &snapshot.report;
        let file = |path: &Arc<str>| FileEvidence {
            path: path.to_string(),
            hash: Hash::None("it may still grow".to_owned()),
        };
        let evidence = Evidence {
            program: format!("taptrail {}", env!("CARGO_PKG_VERSION")),
            command: std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect(),
            generated: Timestamp::now(),
            files: report.input.files.iter().map(|of| file(&of.path)).collect(),
            warnings: report.input.notes.clone(),
        };
        let lines = fetch_lines(page_proofs(report), &snapshot.identities, MAX_PAGE_LINES);
        let line = |proof: &Proof| lines.get(proof);
        let mut html = Vec::new();
        taptrail_report::write_live_html(report, &evidence, &self.style, &line, self.generation, &mut html)?;
        Ok(Page { generation: self.generation, html: html.into() })
    }
}
