//! `taptrail trail`: the ledger's records read back as a trail.

use std::sync::Arc;

use taptrail_guest::Dirs;
use taptrail_ledger::{Ledger, LedgerError};
use taptrail_record::{RecordType, parse_text};
use taptrail_report::trail_table;
use taptrail_trail::{Content, Entry, Report, Trail};
use tracing::warn;

use crate::Done;
use crate::cli::{Format, Trail as Arguments};
use crate::output::{Failure, print, print_json, style};

pub(crate) fn trail(arguments: &Arguments, dirs: &Dirs) -> Done {
    let report = read(dirs).map_err(Failure::input)?;
    match arguments.format {
        Format::Json => print_json(&report),
        Format::Table => print(&trail_table(&report, &style(arguments.utc))),
    }
}

fn read(dirs: &Dirs) -> Result<Report, LedgerError> {
    let ledger = Ledger::open_to_read(&dirs.state)?;
    let host: Arc<str> = rustix::system::uname().nodename().to_string_lossy().into();
    let source: Arc<str> = Ledger::file(&dirs.state).display().to_string().into();
    let mut trail = Trail::new();
    let mut lines = 0;
    let mut records = 0;
    let mut unreadable = 0;
    ledger.records(|stored| {
        lines += 1;
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => {
                unreadable += 1;
                warn!("{source}: {}", taptrail_guest::chain(&error));
                return;
            }
        };
        let line = u64::try_from(stored.id).unwrap_or_default();
        match parse_text(RecordType(stored.kind), stored.text.as_bytes()) {
            Ok(Some(record)) => {
                records += 1;
                trail.feed(&Entry {
                    host: Arc::clone(&host),
                    time: stored.time,
                    serial: stored.serial,
                    source: Arc::clone(&source),
                    line,
                    writer: None,
                    content: Content::Record(record),
                });
            }
            Ok(None) => {}
            Err(error) => {
                unreadable += 1;
                warn!("{source}: record {line}: {error}");
            }
        }
    })?;
    let mut report = trail.finish();
    report.input.files = 1;
    report.input.bytes = ledger.bytes();
    report.input.lines = lines;
    report.input.records = records;
    report.input.unreadable = unreadable;
    Ok(report)
}
