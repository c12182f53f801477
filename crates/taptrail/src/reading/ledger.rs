use std::ops::ControlFlow;
use std::sync::Arc;

use taptrail_guest::Dirs;
use taptrail_ledger::{Ledger, LedgerError};
use taptrail_record::{RecordType, parse_text};
use taptrail_trail::{Content, Entry};

use super::{Read, Taker};

/// Reads this host's ledger.
pub(super) fn read(
    dirs: &Dirs,
    host: &Arc<str>,
    read: &mut Read,
    take: &mut Taker<'_>,
) -> Result<(), LedgerError> {
    let ledger = Ledger::open_to_read(&dirs.state)?;
    let source: Arc<str> = Ledger::file(&dirs.state).display().to_string().into();
    read.input.files += 1;
    read.input.bytes += ledger.bytes();
    let mut going = ControlFlow::Continue(());
    ledger.records(|stored| {
        if going.is_break() {
            return;
        }
        read.input.lines += 1;
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => {
                read.unreadable(&source, read.input.lines, taptrail_guest::chain(&error));
                return;
            }
        };
        let line = u64::try_from(stored.id).unwrap_or_default();
        match parse_text(RecordType(stored.kind), stored.text.as_bytes()) {
            Ok(Some(record)) => {
                read.input.records += 1;
                going = take(&Entry {
                    host: Arc::clone(host),
                    time: stored.time,
                    serial: stored.serial,
                    source: Arc::clone(&source),
                    line,
                    writer: None,
                    content: Content::Record(record),
                });
            }
            Ok(None) => {}
            Err(error) => read.unreadable(&source, line, error),
        }
    })
}
