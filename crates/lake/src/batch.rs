//! What one reading adds to a lake.

use std::collections::{BTreeSet, HashMap};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use taptrail_trail::{Coverage, Entry, Finding, GuestRun, Holding, Input, RunState, State};
use tempfile::TempDir;

use crate::day_tables::DayTables;
use crate::layout::{BatchId, Day};
use crate::manifest::{BatchManifest, ObjectEntry, VERSION};
use crate::object::Encoded;
use crate::sent::{RowsSum, SentDays};
use crate::spool::Spool;
use crate::store::Put;
use crate::tables::columns::{Micros, micros};
use crate::{CoverageRow, LakeError, RecordRow, Row, Store};

/// Collects what one reading gives, on disk, and adds it to a lake in one piece.
///
/// Objects are named by their content, and the manifest is written last. A batch that is sent again
/// changes nothing; one that was interrupted does not count, and sending it again completes it.
pub struct BatchWriter {
    /// Where rows are sorted. It is removed on drop.
    _scratch: TempDir,
    tables: DayTables,
    /// What lives until its host's records end: when that is, is known at the end.
    live: Vec<Holding>,
    running: Vec<GuestRun>,
}

/// What a batch added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Archived {
    /// The batch.
    pub batch: BatchId,
    /// Whether the lake had it already: then nothing has changed.
    pub existed: bool,
    /// Its hosts.
    pub hosts: u64,
    /// Its days.
    pub days: u64,
    /// Its objects.
    pub objects: u64,
    /// Those of them that the lake did not have.
    pub objects_written: u64,
    /// The bytes of all its objects.
    pub bytes: u64,
    /// The rows of all its objects.
    pub rows: u64,
}

/// What a reading read, and what it did not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchInput {
    /// Bytes, as stored.
    pub bytes: u64,
    /// Lines or rows.
    pub lines: u64,
    /// Records of guests and their network devices.
    pub records: u64,
    /// Lines that should have been records and could not be parsed or trusted.
    pub unreadable: u64,
    /// Lines that look like records and are in no shape that is read.
    pub unread: u64,
    /// Records that were read before, from a copy of their log.
    pub duplicates: u64,
    /// Each input.
    pub files: Vec<BatchFile>,
    /// The assumptions that were made, and what is not known.
    pub notes: Vec<String>,
}

/// One input of a reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchFile {
    /// Its path.
    pub path: String,
    /// Its lines or rows.
    pub lines: u64,
    /// Lines that should have been records and could not be parsed or trusted.
    pub unreadable: u64,
    /// Lines that look like records and are in no shape that is read.
    pub unread: u64,
    /// Lines that were accepted though only their own text names their writer.
    pub unauthenticated: u64,
    /// The hosts that it has lines of.
    pub hosts: Vec<BatchHost>,
}

/// The lines of one host in one input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchHost {
    /// The host.
    pub host: String,
    /// The time of its first line, in microseconds since 1970.
    pub from: Micros,
    /// The time of its last line.
    pub until: Micros,
    /// Records of guests and their network devices.
    pub records: u64,
}

impl BatchInput {
    /// The summary of an input.
    pub fn of(input: &Input) -> Self {
        let files = input.files.iter().map(|file| BatchFile {
            path: file.path.to_string(),
            lines: file.lines,
            unreadable: file.unreadable,
            unread: file.unread,
            unauthenticated: file.unauthenticated,
            hosts: file
                .hosts
                .iter()
                .map(|span| BatchHost {
                    host: span.host.to_string(),
                    from: micros(span.from),
                    until: micros(span.until),
                    records: span.records,
                })
                .collect(),
        });
        Self {
            bytes: input.bytes,
            lines: input.lines,
            records: input.records,
            unreadable: input.unreadable,
            unread: input.unread,
            duplicates: input.duplicates,
            files: files.collect(),
            notes: input.notes.clone(),
        }
    }
}

impl BatchWriter {
    /// A batch without rows.
    ///
    /// # Errors
    ///
    /// Temporary files can't be written.
    pub fn new() -> Result<Self, LakeError> {
        let scratch = tempfile::tempdir().map_err(LakeError::Scratch)?;
        let tables = DayTables::new(scratch.path());
        Ok(Self { tables, live: Vec::new(), running: Vec::new(), _scratch: scratch })
    }

    /// Adds an entry, in the order in which the trail is fed.
    ///
    /// # Errors
    ///
    /// It can't be kept on disk.
    pub fn entry(&mut self, entry: &Entry) -> Result<(), LakeError> {
        self.tables.add_record(&entry.host, Day::of(entry.time), RecordRow::of(entry, 0))
    }

    /// Adds a holding.
    ///
    /// # Errors
    ///
    /// It can't be kept on disk.
    pub fn holding(&mut self, holding: Holding) -> Result<(), LakeError> {
        if matches!(holding.state, State::Held | State::Opening | State::Unknown) {
            self.live.push(holding);
            return Ok(());
        }
        self.tables.add_holding(&holding, Timestamp::MIN, |_| true)
    }

    /// Adds a run of a guest.
    ///
    /// # Errors
    ///
    /// It can't be kept on disk.
    pub fn run(&mut self, run: GuestRun) -> Result<(), LakeError> {
        if run.state == RunState::Running {
            self.running.push(run);
            return Ok(());
        }
        self.tables.add_run(&run, Timestamp::MIN, |_| true)
    }

    /// Adds a finding.
    ///
    /// # Errors
    ///
    /// It can't be kept on disk.
    pub fn finding(&mut self, finding: &Finding) -> Result<(), LakeError> {
        self.tables.add_finding(finding, |_| true)
    }

    /// Writes the batch to a lake. None if it has nothing: no host's time is covered.
    ///
    /// `coverage`: the rows of what the reading covers, with their days.
    ///
    /// # Errors
    ///
    /// The store fails, or has another object of the same name.
    pub fn finish(
        self,
        store: &Store,
        input: &Input,
        coverage: Vec<(Day, CoverageRow)>,
    ) -> Result<Option<Archived>, LakeError> {
        self.finish_after(store, input, coverage, &mut SentDays::unknown())
    }

    /// As [`finish`](Self::finish), without the days that were sent before. Then `sent` has those that
    /// are sent now. None if all were sent before, too.
    ///
    /// # Errors
    ///
    /// As those of [`finish`](Self::finish).
    pub fn finish_after(
        mut self,
        store: &Store,
        input: &Input,
        coverage: Vec<(Day, CoverageRow)>,
        sent: &mut SentDays,
    ) -> Result<Option<Archived>, LakeError> {
        if coverage.is_empty() {
            return Ok(None);
        }
        let end = |coverage: &Coverage| coverage.spans.iter().map(|span| span.until).max();
        let ends: HashMap<Arc<str>, Timestamp> =
            input.coverage.iter().filter_map(|of| Some((Arc::clone(&of.host), end(of)?))).collect();
        let end = |host: &Arc<str>| ends.get(host).copied().unwrap_or(Timestamp::MIN);
        for holding in std::mem::take(&mut self.live) {
            self.tables.add_holding(&holding, end(&holding.host), |_| true)?;
        }
        for run in std::mem::take(&mut self.running) {
            self.tables.add_run(&run, end(&run.host), |_| true)?;
        }
        coverage.into_iter().try_for_each(|(day, row)| self.tables.coverage.push(day, row))?;
        let mut objects = Objects { store, all: Vec::new(), written: 0 };
        let mut sent_now = sent.begin();
        for day in self.tables.days() {
            let content = self.take_day(day, sent.is_kept())?;
            let sums = content.iter().map(|one| (one.object.table, one.rows_sha256.clone())).collect();
            if sent_now.add(day, sums, sent) {
                continue;
            }
            content.into_iter().try_for_each(|one| objects.write(day, one.object))?;
        }
        let Objects { mut all, written, .. } = objects;
        if all.is_empty() {
            *sent = sent_now;
            return Ok(None);
        }
        all.sort_by(|a, b| a.path.cmp(&b.path));
        let batch = BatchId::of(all.iter().map(|object| object.sha256.as_str()));
        let hosts: BTreeSet<String> = input.coverage.iter().map(|of| of.host.to_string()).collect();
        let archived = Archived {
            batch: batch.clone(),
            existed: false,
            hosts: hosts.len() as u64,
            days: all.iter().map(|object| object.day).collect::<BTreeSet<_>>().len() as u64,
            objects: all.len() as u64,
            objects_written: written,
            bytes: all.iter().map(|object| object.bytes).sum(),
            rows: all.iter().map(|object| object.rows).sum(),
        };
        let path = batch.manifest();
        let input = BatchInput::of(input);
        let manifest = BatchManifest {
            version: VERSION,
            batch,
            hosts: hosts.into_iter().collect(),
            input,
            objects: all,
        };
        let text = serde_json::to_vec(&manifest)
            .map_err(|error| LakeError::Rows { table: "batches", reason: error.to_string() })?;
        let put = store.put_new(&path, Bytes::from(text))?;
        // A store that says that it has it may be wrong, and the input may be named otherwise there.
        if BatchManifest::read(store, &manifest.batch)?.objects != manifest.objects {
            return Err(LakeError::damaged(&path.into(), "it names other objects than its batch has"));
        }
        *sent = sent_now;
        Ok(Some(Archived { existed: put == Put::Existed, ..archived }))
    }

    /// Takes the objects of a day: those of one day are in memory.
    fn take_day(&mut self, day: Day, has_sums: bool) -> Result<Vec<DayObject>, LakeError> {
        let DayTables { held, runs, findings, coverage, records, .. } = &mut self.tables;
        // Records take about as long as all that is derived from them.
        let (derived, records) = thread::scope(|scope| {
            let records = scope.spawn(|| DayObject::take(records, day, has_sums));
            let derived = [
                DayObject::take(held, day, has_sums),
                DayObject::take(runs, day, has_sums),
                DayObject::take(findings, day, has_sums),
                DayObject::take(coverage, day, has_sums),
            ];
            (derived, records.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        let all: Vec<_> = derived.into_iter().chain([records]).collect::<Result<_, _>>()?;
        Ok(all.into_iter().flatten().collect())
    }
}

/// A table's object of a day.
struct DayObject {
    object: Encoded,
    /// The SHA-256 of its rows without the places that they were read from; empty if nobody asks.
    rows_sha256: String,
}

impl DayObject {
    fn take<R: Row + 'static>(
        spool: &mut Spool<R>,
        day: Day,
        has_sum: bool,
    ) -> Result<Option<Self>, LakeError> {
        let mut sum = has_sum.then(RowsSum::default);
        let rows = spool.take(day)?;
        let rows = rows.map(|row| row.map(|row| if let Some(sum) = &mut sum { sum.add(row) } else { row }));
        let object = Encoded::of(rows)?;
        let rows_sha256 = sum.map(RowsSum::finish).unwrap_or_default();
        Ok(object.map(|object| Self { object, rows_sha256 }))
    }
}

/// The objects of a batch.
struct Objects<'a> {
    store: &'a Store,
    all: Vec<ObjectEntry>,
    written: u64,
}

impl Objects<'_> {
    fn write(&mut self, day: Day, object: Encoded) -> Result<(), LakeError> {
        let path = BatchId::object(object.table, day, &object.sha256);
        let (put, entry) = object.put(self.store, day, path)?;
        self.written += u64::from(put == Put::Written);
        self.all.push(entry);
        Ok(())
    }
}
