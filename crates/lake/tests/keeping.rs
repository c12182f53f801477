//! Checks of a lake name what is missing, altered or out of order; retention removes what it may.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use taptrail_lake::{
    BatchWriter, Checks, CoverageRow, Day, Generation, GenerationManifest, Limits, ObjectReader, Problem,
    ProblemKind, Retention, Root, RunRow, SigningKey, Snapshot, Store, Table, VerifyingKey, check, compact,
    prune,
};
use taptrail_source::{Hosts, Input, ReadOptions, ReadOutcome, read};
use taptrail_trail::Trail;

const DAY: i64 = 86_400;

/// 2026-11-01.
const FIRST: i64 = 1_793_491_200;

/// A guest's start or stop, as libvirt records it.
fn record(at: i64, serial: u32, op: &str) -> String {
    format!(
        "type=VIRT_CONTROL msg=audit({at}.000:{serial}): pid=1 uid=0 auid=4294967295 ses=4294967295 \
         msg='virt=kvm op={op} reason=booted vm=\"web\" uuid=f3607ac8-f517-4952-b61c-b19b40f99661 vm-pid=7 \
         exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=success'\n"
    )
}

/// The boot of a host.
fn boot(at: i64, serial: u32) -> String {
    format!(
        "type=SYSTEM_BOOT msg=audit({at}.000:{serial}): pid=1 uid=0 auid=4294967295 ses=4294967295 msg=' \
         comm=\"systemd-update-utmp\" exe=\"/lib/systemd/systemd-update-utmp\" hostname=? addr=? terminal=? \
         res=success'\n"
    )
}

/// Adds a log to a lake.
fn archive(store: &Store, host: &str, log: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    std::fs::write(&path, log).unwrap();
    let mut batch = BatchWriter::new().unwrap();
    let mut trail = Trail::with_runs();
    let options = ReadOptions { hosts: Hosts::one(host), keep_text: true, ..ReadOptions::default() };
    let ReadOutcome { input, .. } = read(vec![Input::File(path)], options, &mut |entry| {
        batch.entry(entry).unwrap();
        trail.feed(entry);
        ControlFlow::Continue(())
    });
    for coverage in &input.coverage {
        trail.cover(&coverage.host, coverage.spans.last().unwrap().until);
    }
    let (rest, runs) = trail.finish_with_runs();
    rest.holdings.into_iter().for_each(|holding| batch.holding(holding).unwrap());
    runs.into_iter().for_each(|run| batch.run(run).unwrap());
    rest.findings.iter().for_each(|finding| batch.finding(finding).unwrap());
    let rows = input.coverage.iter().flat_map(CoverageRow::all_of).collect();
    batch.finish(store, &input, rows).unwrap();
}

fn store(directory: &Path) -> Arc<Store> {
    Arc::new(Store::open(&format!("file://{}", directory.display())).unwrap())
}

/// A key that signs, and the one that verifies.
fn keys(directory: &Path) -> (SigningKey, VerifyingKey) {
    let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let path = directory.join("key");
    std::fs::write(&path, pair.sk.to_box(None).unwrap().into_string()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    (SigningKey::read(&path).unwrap(), VerifyingKey::read(&pair.pk.to_base64()).unwrap())
}

/// A lake of two hosts and two generations, signed.
fn lake(directory: &Path, key: &SigningKey) -> (Arc<Store>, Root) {
    let store = store(directory);
    let log = |from: i64| [record(from, 10, "start"), record(from + 2 * DAY, 20, "stop")].concat();
    archive(&store, "one", &log(FIRST));
    compact(&store, Some(key)).unwrap().unwrap();
    archive(&store, "two", &log(FIRST + 5 * DAY));
    let root = compact(&store, Some(key)).unwrap().unwrap().root;
    (store, root)
}

fn problems(store: &Arc<Store>, checks: &Checks<'_>) -> Vec<(ProblemKind, String)> {
    let checked = check(store, checks).unwrap();
    checked.problems.into_iter().map(|Problem { kind, object, .. }| (kind, object)).collect()
}

/// The first object of a table in the last generation.
fn object(store: &Arc<Store>, table: Table) -> String {
    let objects = Snapshot::existing(store).unwrap().generation.unwrap().objects;
    objects.into_iter().find(|object| object.table == table).unwrap().path
}

// Shows 15.10.
#[test]
fn what_is_missing_or_altered_is_named() {
    let keep = tempfile::tempdir().unwrap();
    let (key, public) = keys(keep.path());
    for table in Table::ALL {
        let directory = tempfile::tempdir().unwrap();
        let (store, root) = lake(directory.path(), &key);
        let checks = Checks { key: Some(&public), root: Some(&root), quick: false };
        if !Snapshot::existing(&store).unwrap().generation.unwrap().objects.iter().any(|of| of.table == table)
        {
            continue;
        }
        assert_eq!(problems(&store, &checks), []);
        let path = object(&store, table);
        let file = directory.path().join(&path);
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(problems(&store, &checks), [(ProblemKind::Altered, path.clone())]);
        assert_eq!(problems(&store, &Checks { quick: true, ..Checks::default() }), [], "sizes are the same");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(
            problems(&store, &Checks { quick: true, ..Checks::default() }),
            [(ProblemKind::Missing, path)]
        );
    }
}

// Shows 15.10.
#[test]
fn a_manifest_that_was_altered_shows_by_its_signature_and_by_the_chain() {
    let keep = tempfile::tempdir().unwrap();
    let (key, public) = keys(keep.path());
    let directory = tempfile::tempdir().unwrap();
    let (store, root) = lake(directory.path(), &key);
    // Somebody who can write to the lake leaves out an object, in a manifest that is whole.
    let path = |generation: u32| directory.path().join(Generation(generation).manifest());
    let (mut first, _) = GenerationManifest::read(&store, Generation(1)).unwrap();
    first.objects.pop();
    std::fs::write(path(1), serde_json::to_vec(&first).unwrap()).unwrap();
    let one = Generation(1).manifest();
    assert_eq!(problems(&store, &Checks::default()), [(ProblemKind::BrokenChain, one.clone())]);
    let keyed = Checks { key: Some(&public), ..Checks::default() };
    let found = problems(&store, &keyed);
    assert!(found.contains(&(ProblemKind::Unsigned, one.clone())), "{found:?}");
    // And makes the next one fit.
    let (mut second, _) = GenerationManifest::read(&store, Generation(2)).unwrap();
    second.previous = Some(GenerationManifest::read(&store, Generation(1)).unwrap().1);
    std::fs::write(path(2), serde_json::to_vec(&second).unwrap()).unwrap();
    assert_eq!(problems(&store, &Checks::default()), [], "without a key or root it can't be seen");
    let two = Generation(2).manifest();
    assert_eq!(
        problems(&store, &keyed),
        [(ProblemKind::Unsigned, one), (ProblemKind::Unsigned, two.clone())]
    );
    let rooted = Checks { root: Some(&root), ..Checks::default() };
    assert_eq!(problems(&store, &rooted), [(ProblemKind::OtherRoot, two.clone())]);
    // Or takes the last generation away.
    std::fs::remove_file(path(2)).unwrap();
    assert_eq!(problems(&store, &rooted), [(ProblemKind::OtherRoot, two)]);
}

// Shows 15.10.
#[test]
fn a_signature_of_another_manifest_or_key_is_none() {
    let (keep, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (key, public) = keys(keep.path());
    let (_, other) = keys(other.path());
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = lake(directory.path(), &key);
    let found = problems(&store, &Checks { key: Some(&other), ..Checks::default() });
    assert!(
        found.iter().all(|(kind, _)| *kind == ProblemKind::BadSignature) && found.len() == 2,
        "{found:?}"
    );
    let mut signatures: Vec<PathBuf> = std::fs::read_dir(directory.path().join("generations"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "minisig"))
        .collect();
    signatures.sort();
    std::fs::copy(&signatures[0], &signatures[1]).unwrap();
    let found = problems(&store, &Checks { key: Some(&public), ..Checks::default() });
    assert_eq!(found, [(ProblemKind::BadSignature, Generation(2).manifest())]);
}

// Shows 15.11.
#[test]
fn days_that_may_go_are_left_out_and_their_objects_deleted_after_the_grace_time() {
    let keep = tempfile::tempdir().unwrap();
    let (key, public) = keys(keep.path());
    let directory = tempfile::tempdir().unwrap();
    let (store, root) = lake(directory.path(), &key);
    let first_day = Day::of(Timestamp::from_second(FIRST + 4 * DAY).unwrap());
    let grace = SignedDuration::from_hours(24);
    let retention = Retention { first_day: Some(first_day), grace, key: Some(&key) };
    let now = Timestamp::now();
    let pruned = prune(&store, &retention, now).unwrap();
    assert_eq!((pruned.days, pruned.objects_deleted), (3, 0), "a reader may still read them");
    let days = |store: &Arc<Store>| {
        let objects = Snapshot::existing(store).unwrap().generation.unwrap().objects;
        objects.iter().map(|object| object.day).min().unwrap()
    };
    assert_eq!(days(&store), Day::of(Timestamp::from_second(FIRST + 5 * DAY).unwrap()));
    let later = now + SignedDuration::from_hours(25);
    let pruned = prune(&store, &retention, later).unwrap();
    assert_eq!((pruned.days, &pruned.root), (0, &None));
    assert!(pruned.objects_deleted > 0, "{pruned:?}");
    let checks = Checks { key: Some(&public), root: Some(&root), quick: false };
    let checked = check(&store, &checks).unwrap();
    assert_eq!((checked.problems, checked.leftovers, checked.generations), (Vec::new(), 0, 3));
    assert_eq!(prune(&store, &retention, later).unwrap().objects_deleted, 0);
    assert_eq!(compact(&store, None).unwrap(), None, "its batches are not taken for new ones");
}

// Shows 15.8.
#[test]
fn what_lies_before_a_boot_is_not_derived_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let day = |number: i64| FIRST + number * DAY;
    let before = [
        record(day(0), 10, "start"),
        boot(day(3), 5),
        record(day(3) + 60, 10, "start"),
        boot(day(5), 5),
        record(day(5) + 60, 10, "start"),
        record(day(7), 20, "stop"),
    ];
    archive(&store, "one", &before.concat());
    compact(&store, None).unwrap();
    let objects = |store: &Arc<Store>| Snapshot::existing(store).unwrap().generation.unwrap().objects;
    let first = objects(&store);
    // The log goes on, and its beginning has been rotated away.
    let after = [&before[4..], &[record(day(8), 30, "start"), record(day(9), 40, "stop")]].concat();
    archive(&store, "one", &after.concat());
    let compacted = compact(&store, None).unwrap().unwrap();
    assert_eq!(compacted.derived_hosts, 1);
    let kept = |until: i64| {
        let until = Day::of(Timestamp::from_second(until).unwrap());
        let of = |objects: Vec<taptrail_lake::ObjectEntry>| {
            objects.into_iter().filter(|object| object.day < until).collect::<Vec<_>>()
        };
        of(first.clone()) == of(objects(&store))
    };
    assert!(kept(day(4)), "the last boot before the last known day is of the fifth day");
    let mut ends = Vec::new();
    for object in objects(&store).iter().filter(|object| object.table == Table::Runs) {
        let reader =
            ObjectReader::<RunRow>::open(&store, &object.path, object.bytes, Limits::default()).unwrap();
        let rows = reader.rows().unwrap().map(Result::unwrap).filter(|row| row.last);
        ends.extend(rows.map(|row| (row.started.unwrap(), row.ended_by.unwrap())));
    }
    ends.sort();
    let of = |at: i64, ended_by: &str| (at * 1_000_000, taptrail_lake::Text::from(ended_by));
    assert_eq!(
        ends,
        [of(day(0), "reboot"), of(day(3) + 60, "reboot"), of(day(5) + 60, "stop"), of(day(8), "stop")]
    );
}

// Shows 15.9.
#[test]
fn several_that_compact_at_once_make_one_generation() {
    let directory = tempfile::tempdir().unwrap();
    for host in ["one", "two", "three"] {
        archive(&store(directory.path()), host, &record(FIRST, 10, "start"));
    }
    let done: Vec<_> = std::thread::scope(|scope| {
        let compacting: Vec<_> =
            (0..4).map(|_| scope.spawn(|| compact(&store(directory.path()), None).unwrap())).collect();
        compacting.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // Those that make the same are all told its root: the one that was first can't be known where
    // the store's answer was lost.
    let roots: HashSet<String> = done.iter().flatten().map(|done| done.root.to_string()).collect();
    assert_eq!(roots.len(), 1, "{done:?}");
    let store = store(directory.path());
    assert_eq!(problems(&store, &Checks::default()), []);
    assert_eq!(Snapshot::existing(&store).unwrap().generation.unwrap().generation, Generation(1));
}
