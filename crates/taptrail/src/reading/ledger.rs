use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use taptrail_kernel::proc::{ProcessId, boot_id};
use taptrail_ledger::{Ledger, OpenStep, Records, StoredRecord};
use taptrail_record::{RecordType, parse_text};
use taptrail_source::Input;
use taptrail_trail::{Content, Entry, StepsInProgress};

/// What ledgers say besides their records, once they have been read.
pub(super) type LedgerEnds = Arc<Mutex<Vec<LedgerEnd>>>;

/// What a ledger says besides its records.
#[derive(Debug)]
pub(crate) struct LedgerEnd {
    /// The unfinished steps of running supervisors.
    pub(crate) steps: StepsInProgress,
    /// Up to when guests that had ended were deleted from it.
    pub(crate) pruned_until: Option<Timestamp>,
}

/// A ledger as an input; with `keep_text`, each entry has its row's text.
pub(super) fn input(
    ledger: Ledger,
    path: &Path,
    host: &Arc<str>,
    keep_text: bool,
    ends: &LedgerEnds,
) -> Input {
    let name: Arc<str> = path.display().to_string().into();
    let bytes = ledger.bytes();
    let records = ledger.into_records();
    let rows = Rows {
        records,
        host: Arc::clone(host),
        source: Arc::clone(&name),
        keep_text,
        boot: None,
        past: HashSet::new(),
        next: None,
        ends: Arc::clone(ends),
    };
    Input::Rows { name, bytes, rows: Box::new(rows) }
}

/// A ledger's rows as entries.
struct Rows {
    records: Records,
    host: Arc<str>,
    source: Arc<str>,
    keep_text: bool,
    /// The boot of the latest row that began one.
    boot: Option<String>,
    /// The boots before it.
    past: HashSet<String>,
    /// The entry that follows the boot that was returned before it.
    next: Option<Entry>,
    ends: LedgerEnds,
}

/// Whether a step's supervisor runs on this host; false for a ledger of another host.
fn is_in_hand(step: &OpenStep, boot: &str) -> bool {
    let supervisor = ProcessId { pid: step.supervisor.pid, start_time: step.supervisor.start };
    step.boot_id == boot && supervisor.is_alive()
}

impl Rows {
    /// Stores what else the ledger says, when all records have been read.
    fn end(&self) {
        let boot = boot_id().map(|boot| boot.to_string()).unwrap_or_default();
        let steps = self.records.open_steps().iter().filter(|step| is_in_hand(step, &boot));
        let steps = steps.map(|step| (step.guest, step.mac)).collect();
        let (host, ledger) = (Arc::clone(&self.host), Arc::clone(&self.source));
        let steps = StepsInProgress { host, ledger, steps };
        let end = LedgerEnd { steps, pruned_until: self.records.pruned_until() };
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).push(end);
    }

    fn entry(&mut self, stored: StoredRecord) -> Result<Option<Entry>, String> {
        let read = parse_text(RecordType(stored.kind), stored.text.as_bytes());
        let content = match read.map_err(|error| error.to_string())? {
            Some(record) => Some(Content::Record(record)),
            None => Content::of_bridge_tap(RecordType(stored.kind), stored.text.as_bytes())
                .map_err(|error| error.to_string())?,
        };
        let Some(content) = content else { return Ok(None) };
        let entry = Entry {
            host: Arc::clone(&self.host),
            time: stored.time,
            serial: stored.serial,
            writer: stored.writer,
            credentials: None,
            source: Arc::clone(&self.source),
            line: u64::try_from(stored.id).unwrap_or_default(),
            text: self.keep_text.then(|| stored.text.as_bytes().into()),
            content,
            copies: Vec::new(),
            unauthenticated: false,
        };
        // The ledger has the boot of each guest. A close that was recorded later may belong to an
        // earlier boot.
        if self.past.contains(&stored.boot_id) || self.boot.as_ref() == Some(&stored.boot_id) {
            return Ok(Some(entry));
        }
        if let Some(before) = self.boot.replace(stored.boot_id) {
            // The host has rebooted between the two.
            self.past.insert(before);
            let boot = Entry { content: Content::Boot, serial: None, writer: None, ..entry.clone() };
            self.next = Some(entry);
            return Ok(Some(boot));
        }
        Ok(Some(entry))
    }
}

impl Iterator for Rows {
    type Item = Result<Entry, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(entry) = self.next.take() {
            return Some(Ok(entry));
        }
        loop {
            let stored = match self.records.next() {
                Some(Ok(stored)) => stored,
                Some(Err(error)) => return Some(Err(taptrail_guest::chain(&error))),
                None => {
                    self.end();
                    return None;
                }
            };
            match self.entry(stored) {
                Ok(Some(entry)) => return Some(Ok(entry)),
                Ok(None) => {}
                Err(reason) => return Some(Err(reason)),
            }
        }
    }
}
