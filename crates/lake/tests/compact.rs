//! Batches of real logs, in pieces, late and twice: compacted, they give what the whole logs give.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_lake::{
    BatchWriter, Checks, CoverageRow, FindingRow, HeldRow, LakeError, Limits, ObjectEntry, ObjectReader, Row,
    RunRow, Snapshot, SpanLogs, Store, Table, compact, write_summary,
};
use taptrail_source::{Hosts, Input, ReadOptions, ReadOutcome, read};
use taptrail_trail::{Coverage, Finding, GuestRun, Holding, Proof, Span, Trail};

/// The runs of the lab that are used, each as a host.
fn logs() -> Vec<(String, PathBuf)> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt");
    let mut all = Vec::new();
    for version in ["libvirt-9.0", "libvirt-9.0-vhost", "libvirt-12.9"] {
        for run in std::fs::read_dir(data.join(version)).unwrap().map(|run| run.unwrap().path()) {
            let log = run.join("audit.log");
            // Of a log that begins with system calls, the reader says that it covers the time from the
            // first other event: pieces of it do not show that they continue each other.
            if std::fs::read(&log).is_ok_and(|text| !text.starts_with(b"type=SYSCALL")) {
                all.push((format!("{version}-{}", run.file_name().unwrap().to_str().unwrap()), log));
            }
        }
    }
    assert!(all.len() >= 20, "{}", all.len());
    all.sort();
    all
}

/// What a log gives.
#[derive(Default)]
struct Whole {
    holdings: Vec<Holding>,
    runs: Vec<GuestRun>,
    findings: Vec<Finding>,
}

/// Reads a log of a host, adds it to a lake as a batch, and returns what it gives.
fn archive(store: &Store, host: &str, log: &Path) -> Whole {
    let mut batch = BatchWriter::new().unwrap();
    let mut trail = Trail::with_runs();
    let options = ReadOptions { hosts: Hosts::one(host), keep_text: true, ..ReadOptions::default() };
    let ReadOutcome { input, serials, .. } = read(vec![Input::File(log.to_owned())], options, &mut |entry| {
        batch.entry(entry).unwrap();
        trail.feed(entry);
        ControlFlow::Continue(())
    });
    for coverage in &input.coverage {
        let until = coverage.spans.iter().map(|span| span.until).max();
        trail.cover(&coverage.host, until.unwrap_or(Timestamp::MIN));
    }
    let (rest, runs) = trail.finish_with_runs();
    rest.holdings.iter().cloned().for_each(|holding| batch.holding(holding).unwrap());
    runs.iter().cloned().for_each(|run| batch.run(run).unwrap());
    rest.findings.iter().for_each(|finding| batch.finding(finding).unwrap());
    let range = serials.first().filter(|range| range.all_events);
    let logs = |of: &Coverage, span: &Span| SpanLogs {
        records: 0,
        first_serial: range.filter(|_| of.spans.first() == Some(span)).map(|range| range.first),
        last_serial: range.filter(|_| of.spans.last() == Some(span)).map(|range| range.last),
    };
    let rows =
        input.coverage.iter().flat_map(|of| CoverageRow::all_with(of, |span| logs(of, span))).collect();
    batch.finish(store, &input, rows).unwrap();
    Whole { holdings: rest.holdings, runs, findings: rest.findings }
}

/// The rows of a table in the last generation.
fn rows<R: Row + 'static>(store: &Arc<Store>) -> Vec<R> {
    let snapshot = Snapshot::existing(store).unwrap();
    assert!(snapshot.batches.is_empty());
    let objects = snapshot.generation.unwrap().objects;
    let of_table = objects.iter().filter(|object| object.table == R::TABLE);
    let read = |object: &taptrail_lake::ObjectEntry| {
        let reader = ObjectReader::<R>::open(store, &object.path, object.bytes, Limits::default()).unwrap();
        reader.rows().unwrap().collect::<Result<Vec<_>, LakeError>>().unwrap()
    };
    of_table.flat_map(read).collect()
}

/// A holding's or run's proofs without the places where they were read: pieces have other names.
fn anonymous(proof: &mut [Proof]) {
    for proof in proof {
        (proof.source, proof.line, proof.copies) = ("log".into(), 1, Vec::new());
    }
}

fn held(store: &Arc<Store>) -> BTreeMap<String, Vec<Holding>> {
    let rows = rows::<HeldRow>(store).into_iter().filter(|row| row.last);
    sorted(rows.map(|row| row.holding().unwrap()))
}

fn sorted(holdings: impl Iterator<Item = Holding>) -> BTreeMap<String, Vec<Holding>> {
    let mut all: BTreeMap<String, Vec<Holding>> = BTreeMap::new();
    for mut holding in holdings {
        anonymous(&mut holding.proof);
        all.entry(holding.host.to_string()).or_default().push(holding);
    }
    for of_host in all.values_mut() {
        of_host.sort_by_key(|holding| format!("{holding:?}"));
    }
    all
}

fn runs(of: impl Iterator<Item = GuestRun>) -> Vec<String> {
    let mut all: Vec<String> = of
        .map(|mut run| {
            anonymous(&mut run.proof);
            format!("{run:?}")
        })
        .collect();
    all.sort();
    all
}

fn store(directory: &Path) -> Arc<Store> {
    Arc::new(Store::open(&format!("file://{}", directory.display())).unwrap())
}

/// A piece of a log: the lines from one part of it to another, in thousandths.
fn piece(log: &Path, from: usize, to: usize, directory: &Path, name: &str) -> PathBuf {
    let text = std::fs::read(log).unwrap();
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let part = |thousandths: usize| lines.len() * thousandths / 1000;
    let path = directory.join(name);
    let mut file = std::fs::File::create(&path).unwrap();
    lines[part(from)..part(to)].iter().for_each(|line| file.write_all(line).unwrap());
    path
}

// Shows 15.7.
#[test]
fn whole_logs_give_what_they_give_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut whole = Whole::default();
    for (host, log) in logs() {
        let Whole { holdings, runs, mut findings } = archive(&store, &host, &log);
        whole.holdings.extend(holdings);
        whole.runs.extend(runs);
        // Of one time, in the order in which they were made.
        findings.sort_by_key(|finding| finding.time);
        whole.findings.extend(findings);
        // Sent twice.
        archive(&store, &host, &log);
    }
    assert_eq!(Snapshot::existing(&store).unwrap().batches.len(), logs().len());
    let compacted = compact(&store, None).unwrap().unwrap();
    assert_eq!((compacted.batches, compacted.derived_hosts), (logs().len(), 0));
    assert_eq!(held(&store), sorted(whole.holdings.into_iter()));
    let last = rows::<RunRow>(&store).into_iter().filter(|row| row.last);
    assert_eq!(runs(last.map(|row| row.run().unwrap())), runs(whole.runs.into_iter()));
    let mut findings: Vec<Finding> =
        rows::<FindingRow>(&store).into_iter().map(|row| row.finding().unwrap()).collect();
    findings.sort_by(|a, b| a.host.cmp(&b.host));
    whole.findings.sort_by(|a, b| a.host.cmp(&b.host));
    assert_eq!(findings, whole.findings);
    assert_eq!(compact(&store, None).unwrap(), None, "all is in the generation");
    let checked = taptrail_lake::check(&store, &Checks::default()).unwrap();
    assert_eq!((checked.problems, checked.root), (Vec::new(), Some(compacted.root)));
}

/// The rows of holdings and runs in the last generation's summary, which was made from the one
/// before: it is what its objects give.
fn summary(store: &Arc<Store>) -> u64 {
    let last = Snapshot::existing(store).unwrap().generation.unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let anew = write_summary(store, None, &last.objects, last.generation, scratch.path()).unwrap();
    let sums = |of: &[ObjectEntry]| of.iter().map(|object| object.sha256.clone()).collect::<Vec<_>>();
    assert_eq!(sums(&last.summary), sums(&anew));
    anew.iter().filter(|object| object.table != Table::Coverage).map(|object| object.rows).sum()
}

/// Pieces of each log, as (from, to) in thousandths of its lines, in the order in which they come.
/// The compaction is after each of these, or only at the end.
fn pieces_give_the_whole(pieces: &[(usize, usize)], compact_each: bool) {
    let lake = tempfile::tempdir().unwrap();
    let alone = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let (store, alone) = (store(lake.path()), store(alone.path()));
    let (mut whole, mut summaries) = (Vec::new(), Vec::new());
    // All at once are more batches than are merged at a time. Of each by itself every second log:
    // a test of all takes twice as long, and shows the same.
    let step = if compact_each { 2 } else { 1 };
    for (number, (from, to)) in pieces.iter().enumerate() {
        for (host, log) in logs().into_iter().step_by(step) {
            if number == 0 {
                whole.extend(archive(&alone, &host, &log).holdings);
            }
            let piece = piece(&log, *from, *to, scratch.path(), &format!("{host}-{number}.log"));
            archive(&store, &host, &piece);
        }
        if compact_each {
            compact(&store, None).unwrap();
            summaries.push(summary(&store));
        }
    }
    let last = compact(&store, None).unwrap();
    assert!(compact_each || last.is_some_and(|last| last.batches > 32));
    summaries.push(summary(&store));
    assert!(!compact_each || summaries.iter().any(|rows| *rows > 0), "nothing was open at a cut");
    let (mine, logs) = (held(&store), sorted(whole.into_iter()));
    let different: HashMap<_, _> = logs.iter().filter(|(host, of)| mine.get(*host) != Some(of)).collect();
    for (host, of) in different.iter().take(1) {
        assert_eq!(mine.get(*host), Some(*of), "{host}, and {} other hosts", different.len() - 1);
    }
    let checked = taptrail_lake::check(&store, &Checks::default()).unwrap();
    assert_eq!(checked.problems, Vec::new());
}

// Shows 15.7.
#[test]
fn pieces_that_overlap_give_the_whole() {
    pieces_give_the_whole(&[(0, 500), (250, 1000)], false);
}

// Shows 15.7, 15.13.
#[test]
fn a_log_that_grows_gives_the_whole() {
    pieces_give_the_whole(&[(0, 300), (0, 600), (0, 1000)], true);
}

// Shows 15.7.
#[test]
fn late_pieces_give_the_whole() {
    pieces_give_the_whole(&[(600, 1000), (0, 700)], true);
}

// Shows 15.7.
#[test]
fn a_log_that_was_rotated_between_readings_gives_the_whole() {
    pieces_give_the_whole(&[(0, 400), (300, 700), (600, 1000)], true);
}

// Shows 15.7, 15.13.
#[test]
fn a_piece_that_fills_a_hole_gives_the_whole() {
    pieces_give_the_whole(&[(0, 300), (700, 1000), (200, 800)], true);
}

// Shows 15.7.
#[test]
fn a_log_that_was_cut_in_two_gives_the_whole() {
    pieces_give_the_whole(&[(0, 500), (500, 1000)], false);
}
