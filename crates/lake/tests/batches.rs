//! Batches of made-up readings, on stores that fail and lie.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use jiff::{SignedDuration, Timestamp};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};
use taptrail_record::{Device, Event, GuestId, MacAddr, Rdev, Reason, Record};
use taptrail_trail::{Content, Coverage, Entry, GuestRun, Holding, HostSpan, Input, InputFile, Span, Trail};

use taptrail_lake::{
    Archived, BatchWriter, CoverageRow, Day, HeldRow, LakeError, LakeReader, Limits, ObjectReader, Question,
    RecordRow, Row, RunRow, SentDays, Snapshot, Store, When, compact,
};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn day(text: &str) -> Day {
    text.parse().unwrap()
}

fn guest(number: u8) -> GuestId {
    GuestId { name: format!("web{number}").into(), uuid: uuid::Uuid::from_u128(number.into()) }
}

fn mac(number: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, number])
}

fn tun(number: u8) -> Device {
    Device::new("/dev/net/tun", Some(Rdev::TUN), Some(format!("vnet{number}").into()))
}

/// Entries of hosts, each with the next line of `source`.
struct Log {
    source: &'static str,
    entries: Vec<Entry>,
}

impl Log {
    fn new(source: &'static str) -> Self {
        Self { source, entries: Vec::new() }
    }

    fn add(&mut self, host: &str, time: Timestamp, content: Content) {
        let line = self.entries.len() as u64 + 1;
        self.entries.push(Entry {
            host: host.into(),
            time,
            serial: u32::try_from(line).ok(),
            writer: Some(1),
            credentials: None,
            source: self.source.into(),
            line,
            text: Some(format!("line {line}").into_bytes().into()),
            copies: Vec::new(),
            unauthenticated: false,
            content,
        });
    }

    fn record(&mut self, host: &str, time: Timestamp, number: u8, event: Event) {
        self.add(host, time, Content::Record(Record::success(guest(number), event)));
    }

    /// A guest boots with one interface.
    fn boot(&mut self, host: &str, time: Timestamp, number: u8) {
        let pid = Some(1000 + u32::from(number));
        let later = |ms| time + SignedDuration::from_millis(ms);
        self.record(
            host,
            time,
            number,
            Event::Open { mac: mac(number), device: tun(number), queue: Some(0) },
        );
        self.record(host, later(1), number, Event::Start { mac: mac(number), vm_pid: pid, fds: Some(1) });
        self.record(host, later(2), number, Event::GuestStart { reason: Reason::BOOTED, vm_pid: pid });
    }

    fn stop(&mut self, host: &str, time: Timestamp, number: u8) {
        let close = Event::Close { mac: mac(number), device: tun(number), queue: Some(0) };
        self.record(host, time, number, close);
        let later = time + SignedDuration::from_millis(1);
        let pid = Some(1000 + u32::from(number));
        self.record(host, later, number, Event::GuestStop { reason: Reason::SHUTDOWN, vm_pid: pid });
    }
}

/// Some days of two hosts, of which one is silent for long.
fn two_hosts(source: &'static str) -> Log {
    let mut log = Log::new(source);
    log.boot("a", at("2026-03-01T10:00:00Z"), 1);
    log.boot("b", at("2026-03-01T11:00:00Z"), 2);
    log.boot("a", at("2026-03-02T23:59:59.999Z"), 3);
    log.stop("a", at("2026-03-03T00:00:05Z"), 3);
    log.boot("a", at("2026-03-04T08:00:00Z"), 4);
    log.stop("b", at("2026-03-05T09:00:00Z"), 2);
    log.stop("a", at("2026-03-05T12:00:00Z"), 1);
    log
}

/// What a trail says, and what was archived of it.
struct Reading {
    holdings: Vec<Holding>,
    runs: Vec<GuestRun>,
    archived: Option<Archived>,
}

fn archive(store: &Store, sent: &mut SentDays, entries: &[Entry]) -> Result<Reading, LakeError> {
    archive_with_gaps(store, sent, entries, &[])
}

fn archive_with_gaps(
    store: &Store,
    sent: &mut SentDays,
    entries: &[Entry],
    gaps: &[Span],
) -> Result<Reading, LakeError> {
    let (mut trail, mut batch) = (Trail::with_runs(), BatchWriter::new()?);
    let mut spans: BTreeMap<Arc<str>, Span> = BTreeMap::new();
    for entry in entries {
        let span = Span { from: entry.time, until: entry.time };
        spans.entry(Arc::clone(&entry.host)).or_insert(span).until = entry.time;
        batch.entry(entry)?;
        trail.feed(entry);
    }
    spans.iter().for_each(|(host, span)| trail.cover(host, span.until));
    let hosts = || spans.iter().map(|(host, span)| (Arc::clone(host), *span));
    let span_of =
        |(host, span): (Arc<str>, Span)| HostSpan { host, from: span.from, until: span.until, records: 1 };
    let lines = entries.len() as u64;
    let file = InputFile {
        path: "log".into(),
        hosts: hosts().map(span_of).collect(),
        lines,
        ..InputFile::default()
    };
    let coverage_of = |(host, span): (Arc<str>, Span)| Coverage {
        host,
        spans: vec![span],
        gaps: gaps.to_vec(),
        starts: Vec::new(),
    };
    let coverage: Vec<Coverage> = hosts().map(coverage_of).collect();
    let rows = coverage.iter().flat_map(CoverageRow::all_of).collect();
    let input = Input { files: vec![file], coverage, unreadable: 3, ..Input::default() };
    let (report, runs) = trail.finish_with_runs();
    report.holdings.iter().try_for_each(|holding| batch.holding(holding.clone()))?;
    runs.iter().try_for_each(|run| batch.run(run.clone()))?;
    report.findings.iter().try_for_each(|finding| batch.finding(finding))?;
    let archived = batch.finish_after(store, &input, rows, sent)?;
    Ok(Reading { holdings: report.holdings, runs, archived })
}

/// The same, without a checkpoint.
fn archive_all(store: &Store, log: &Log) -> Result<Reading, LakeError> {
    archive(store, &mut SentDays::unknown(), &log.entries)
}

/// The rows of a table, by day.
fn rows<R: Row>(store: &Arc<Store>) -> Vec<(Day, R)> {
    let snapshot = Snapshot::load(store).unwrap();
    let mut all = Vec::new();
    for object in snapshot.objects().filter(|object| object.table == R::TABLE) {
        let reader = ObjectReader::<R>::open(store, &object.path, object.bytes, Limits::default()).unwrap();
        all.extend(reader.rows().unwrap().map(|row| (object.day, row.unwrap())));
    }
    all
}

/// The paths and bytes of all objects.
fn objects(store: &Store) -> BTreeMap<String, Bytes> {
    let listed = store.list("").unwrap();
    listed.into_iter().map(|about| (about.path.clone(), store.get(&about.path, u64::MAX).unwrap())).collect()
}

fn in_memory() -> Arc<Store> {
    Arc::new(Store::of(Arc::new(InMemory::new()), "memory:".into()).unwrap())
}

fn sorted<T: fmt::Debug>(mut all: Vec<T>) -> Vec<String> {
    all.drain(..)
        .map(|one| format!("{one:?}"))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// What the rows say is what the trail said.
fn assert_same(store: &Arc<Store>, reading: &Reading) {
    let last = rows::<HeldRow>(store).into_iter().map(|(_, row)| row).filter(|row| row.last);
    let whole: Vec<_> = last.map(|row| row.holding().unwrap()).collect();
    assert_eq!(sorted(whole), sorted(reading.holdings.clone()));
    let last = rows::<RunRow>(store).into_iter().map(|(_, row)| row).filter(|row| row.last);
    let whole: Vec<_> = last.map(|row| row.run().unwrap()).collect();
    assert_eq!(sorted(whole), sorted(reading.runs.clone()));
}

// Shows 15.1.
#[test]
fn a_holding_has_a_row_for_each_day() {
    let store = in_memory();
    let log = two_hosts("audit.log");
    let reading = archive_all(&store, &log).unwrap();
    assert_same(&store, &reading);
    let held: Vec<(Day, HeldRow)> = rows(&store);
    let of = |number: u8| {
        let mut of: Vec<_> = held
            .iter()
            .filter(|(_, row)| row.mac == mac(number).to_string())
            .map(|(day, row)| (day.to_string(), row.state.as_str(), row.first, row.last))
            .collect();
        of.sort();
        of
    };
    let row = |day: &str, state, first, last| (format!("2026-03-0{day}"), state, first, last);
    assert_eq!(
        of(1),
        [
            row("1", "held", true, false),
            row("2", "held", false, false),
            row("3", "held", false, false),
            row("4", "held", false, false),
            row("5", "released", false, true),
        ]
    );
    // Its host was silent for three days.
    assert_eq!(of(2).len(), 5);
    // Opened just before a midnight, granted after it.
    assert_eq!(of(3), [row("2", "opening", true, false), row("3", "released", false, true)]);
    // It has not ended: its last day is that of its host.
    assert_eq!(of(4), [row("4", "held", true, false), row("5", "held", false, true)]);
    let earlier = held.iter().filter(|(_, row)| !row.last);
    assert!(earlier.clone().count() > 5);
    for (day, row) in earlier {
        assert_eq!((row.released, row.ended_by.as_ref()), (None, None), "{day} {row:?}");
    }
    let records: Vec<(Day, RecordRow)> = rows(&store);
    assert_eq!(records.len(), log.entries.len());
    let mut entries: Vec<Entry> = records.into_iter().map(|(_, row)| row.entry().unwrap()).collect();
    entries.sort_by_key(|entry| entry.line);
    assert_eq!(entries, log.entries);
    let batch = &Snapshot::load(&store).unwrap().batches[0];
    assert_eq!((batch.hosts.as_slice(), batch.input.unreadable), (&["a".to_owned(), "b".to_owned()][..], 3));
}

// Shows 15.3.
#[test]
fn the_same_input_adds_nothing_and_nothing_is_nothing() {
    let store = in_memory();
    let log = two_hosts("audit.log");
    let first = archive_all(&store, &log).unwrap().archived.unwrap();
    let before = objects(&store);
    let again = archive_all(&store, &log).unwrap().archived.unwrap();
    assert_eq!(objects(&store), before);
    assert_eq!(again, Archived { existed: true, objects_written: 0, ..first });
    let empty = in_memory();
    let nothing = archive_all(&empty, &Log::new("audit.log")).unwrap().archived;
    assert_eq!((nothing, objects(&empty).len()), (None, 0));
}

// Shows 15.5.
#[test]
fn a_checkpoint_leaves_out_the_days_that_were_sent() {
    let store = in_memory();
    let mut log = two_hosts("audit.log");
    let mut sent = SentDays::default();
    archive(&store, &mut sent, &log.entries).unwrap().archived.unwrap();
    let kept = serde_json::to_string(&sent).unwrap();
    let mut sent: SentDays = serde_json::from_str(&kept).unwrap();
    // The log was rotated, and nothing is new.
    let before = objects(&store);
    let same = archive(&store, &mut sent, &two_hosts("audit.log.1").entries).unwrap().archived;
    assert_eq!(same, None);
    assert_eq!(objects(&store), before);
    // A day more: the last day is not what it was, as one holding goes on, and the others are.
    log.boot("a", at("2026-03-06T12:00:00Z"), 5);
    let reading = archive(&store, &mut sent, &log.entries).unwrap();
    assert_eq!(reading.archived.as_ref().unwrap().days, 2);
    let snapshot = Snapshot::load(&store).unwrap();
    let newer: Vec<_> = snapshot
        .batches
        .iter()
        .filter(|batch| batch.objects.iter().any(|object| object.day == day("2026-03-06")))
        .collect();
    let days: std::collections::BTreeSet<_> = newer[0].objects.iter().map(|object| object.day).collect();
    assert_eq!(
        (newer.len(), days.into_iter().collect::<Vec<_>>()),
        (1, vec![day("2026-03-05"), day("2026-03-06")])
    );
    // A batch that was interrupted leaves the checkpoint as it was.
    let (bad, _) = faulty(Fault::Dies(1));
    let mut unsent = SentDays::default();
    archive(&bad, &mut unsent, &log.entries).map(|_| ()).unwrap_err();
    assert_eq!(unsent, SentDays::default());
}

/// What a store does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// From its n-th write on it fails: as if the archiver had been killed there.
    Dies(usize),
    /// It does the n-th write, and says that it failed.
    DoneAndFails(usize),
    /// It says of the n-th write that the object is there, and it is not.
    ClaimsToHave(usize),
    /// It says that it has written the n-th, and has not.
    Forgets(usize),
}

#[derive(Debug)]
struct Faulty {
    objects: Arc<InMemory>,
    fault: Fault,
    writes: AtomicUsize,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a faulty store")
    }
}

fn broken() -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: "503 Slow Down".into() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> StoreResult<PutResult> {
        let write = self.writes.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::Dies(from) if write >= from => return Err(broken()),
            Fault::DoneAndFails(at) if write == at => {
                self.objects.put_opts(location, payload, options).await?;
                return Err(broken());
            }
            Fault::ClaimsToHave(at) if write == at => {
                let path = location.to_string();
                return Err(object_store::Error::AlreadyExists { path, source: "a lie".into() });
            }
            Fault::Forgets(at) if write == at => {
                return InMemory::new().put_opts(location, payload, options).await;
            }
            _ => {}
        }
        self.objects.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.objects.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        self.objects.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, StoreResult<Path>>,
    ) -> BoxStream<'static, StoreResult<Path>> {
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

/// A store with a fault, and the same without it.
fn faulty(fault: Fault) -> (Arc<Store>, Arc<Store>) {
    let objects = Arc::new(InMemory::new());
    let faulty = Faulty { objects: Arc::clone(&objects), fault, writes: AtomicUsize::new(0) };
    let url = || "memory:".to_owned();
    (Arc::new(Store::of(Arc::new(faulty), url()).unwrap()), Arc::new(Store::of(objects, url()).unwrap()))
}

// Shows 15.2.
#[test]
fn whatever_write_an_archiver_ends_at_the_next_completes_the_batch() {
    let log = two_hosts("audit.log");
    let good = in_memory();
    archive_all(&good, &log).unwrap();
    let expected = objects(&good);
    for write in 0..expected.len() {
        for fault in [Fault::Dies(write), Fault::DoneAndFails(write)] {
            let (bad, store) = faulty(fault);
            let error = archive_all(&bad, &log).map(|_| ()).unwrap_err();
            assert!(matches!(error, LakeError::Store { what: "written", .. }), "{fault:?}: {error}");
            let is_whole = fault == Fault::DoneAndFails(expected.len() - 1);
            let batches = Snapshot::load(&store).unwrap().batches.len();
            assert_eq!(batches, usize::from(is_whole), "{fault:?}: a batch without its manifest is none");
            archive_all(&store, &log).unwrap();
            assert_eq!(objects(&store), expected, "{fault:?}");
        }
    }
}

// Shows 15.4.
#[test]
fn a_store_that_lies_about_an_object_is_not_believed() {
    let log = two_hosts("audit.log");
    let good = in_memory();
    archive_all(&good, &log).unwrap();
    let expected = objects(&good);
    for write in 0..expected.len() {
        for fault in [Fault::ClaimsToHave(write), Fault::Forgets(write)] {
            let (bad, store) = faulty(fault);
            // The object is written once more; a manifest that is not there is an error.
            let done = archive_all(&bad, &log);
            assert_eq!(done.is_err(), write == expected.len() - 1, "{fault:?}");
            if let Err(error) = done.map(|_| ()) {
                assert!(error.to_string().contains("inbox/batches/"), "{error}");
                archive_all(&store, &log).unwrap();
            }
            assert_eq!(objects(&store), expected, "{fault:?}");
        }
    }
}

// Shows 15.4.
#[test]
fn another_object_of_that_name_is_an_error() {
    let log = two_hosts("audit.log");
    let good = in_memory();
    archive_all(&good, &log).unwrap();
    for path in objects(&good).keys() {
        let store = in_memory();
        store.put_new(path, Bytes::from_static(b"{}")).unwrap();
        let error = archive_all(&store, &log).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(path.as_str()), "{error}");
    }
}

// Shows 15.3.
#[test]
fn two_archivers_at_once_add_one_batch() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file://{}", directory.path().display());
    let log = two_hosts("audit.log");
    let good = in_memory();
    let expected = archive_all(&good, &log).unwrap().archived.unwrap().batch;
    std::thread::scope(|scope| {
        let one = || {
            let store = Store::open(&url).unwrap();
            archive_all(&store, &log).unwrap().archived.unwrap().batch
        };
        let both = [scope.spawn(one), scope.spawn(one)];
        for thread in both {
            assert_eq!(thread.join().unwrap(), expected);
        }
    });
    assert_eq!(objects(&Store::open(&url).unwrap()), objects(&good));
}

// Shows 15.16.
#[test]
fn what_a_batch_goes_on_with_is_there_once_and_what_it_lacks_may_be_held() {
    let mut log = Log::new("audit.log");
    log.boot("a", at("2026-03-01T06:00:00Z"), 1);
    // QEMU never got this one, and has ended.
    let open = Event::Open { mac: mac(6), device: tun(6), queue: Some(0) };
    log.record("a", at("2026-03-01T06:30:00Z"), 6, open);
    log.stop("a", at("2026-03-01T06:31:00Z"), 6);
    let first = log.entries.len();
    log.boot("a", at("2026-03-01T12:00:00Z"), 2);
    log.boot("a", at("2026-03-01T20:00:00Z"), 3);
    let early = log.entries.len();
    log.boot("a", at("2026-03-02T00:30:00Z"), 4);
    let late = log.entries.len();
    log.boot("a", at("2026-03-04T08:00:00Z"), 5);
    // The first reading ends on the day of which it has most, or has a little of the next one. The
    // second one overlaps it, or begins two days later.
    for (until, from) in [(early, first), (late, first), (late, late)] {
        for compacted in [false, true] {
            let store = in_memory();
            archive(&store, &mut SentDays::unknown(), &log.entries[..until]).unwrap();
            if compacted {
                compact(&store, None).unwrap().unwrap();
            }
            archive(&store, &mut SentDays::unknown(), &log.entries[from..]).unwrap();
            let lake = LakeReader::open(Arc::clone(&store)).unwrap();
            assert_eq!(lake.divided_hosts(), 1);
            let moment = |text| Span { from: at(text), until: at(text) };
            for when in [
                When::Any,
                When::Since(at("2026-03-01T23:00:00Z")),
                When::Since(at("2026-03-02T12:00:00Z")),
                When::Since(at("2026-03-04T12:00:00Z")),
                When::At(moment("2026-03-01T23:00:00Z")),
                When::At(moment("2026-03-02T12:00:00Z")),
                When::At(moment("2026-03-04T12:00:00Z")),
            ] {
                let mut held: BTreeMap<String, Vec<bool>> = BTreeMap::new();
                lake.holdings(&Question { when, ..Question::default() }, &mut |holding| {
                    let is_certain = holding.uncertain_since.is_none();
                    held.entry(holding.guest.name.to_string()).or_default().push(is_certain);
                    Ok::<_, LakeError>(())
                })
                .unwrap();
                assert_eq!(held["web1"], [false], "{until}, {from}, {compacted}, {when:?}");
                for later in ["web2", "web3"] {
                    assert_eq!(held[later], [from == first], "{until}, {from}, {compacted}, {when:?}");
                }
                let ended = held.get("web6").map(Vec::as_slice);
                assert!(ended == Some(&[true]) || ended.is_none() && !matches!(when, When::Any), "{when:?}");
            }
        }
    }
}

// Shows 15.16.
#[test]
fn what_a_batch_in_between_lacks_is_there_once() {
    let mut log = Log::new("audit.log");
    log.boot("a", at("2026-03-01T06:00:00Z"), 1);
    log.boot("a", at("2026-03-03T12:00:00Z"), 2);
    // Of another log, which begins on that day: it covers more of it than the first one.
    let mut other = Log::new("other.log");
    other.boot("a", at("2026-03-02T00:00:00Z"), 3);
    other.boot("a", at("2026-03-02T23:00:00Z"), 4);
    for compacted in [false, true] {
        let store = in_memory();
        // The first one has a gap on the day.
        let gap = Span { from: at("2026-03-02T01:00:00Z"), until: at("2026-03-02T20:00:00Z") };
        archive_with_gaps(&store, &mut SentDays::unknown(), &log.entries, &[gap]).unwrap();
        if compacted {
            compact(&store, None).unwrap().unwrap();
        }
        archive_all(&store, &other).unwrap();
        let lake = LakeReader::open(Arc::clone(&store)).unwrap();
        assert_eq!(lake.divided_hosts(), 1);
        for when in [When::Any, When::Since(at("2026-03-03T13:00:00Z"))] {
            let mut guests = Vec::new();
            lake.holdings(&Question { when, ..Question::default() }, &mut |holding| {
                guests.push(holding.guest.name.to_string());
                Ok::<_, LakeError>(())
            })
            .unwrap();
            assert_eq!(guests.iter().filter(|name| *name == "web1").count(), 1, "{compacted}, {when:?}");
        }
    }
}
