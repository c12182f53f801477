//! Objects that somebody made to harm their reader: no panic, and an error that names the object.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use taptrail_lake::{BatchWriter, CoverageRow, LakeError, Snapshot, Store, Table, fuzzing};
use taptrail_source::{Hosts, Input, ReadOptions, ReadOutcome, read};
use taptrail_trail::Trail;

/// Objects of each table, of a real log.
fn objects() -> Vec<(Table, Vec<u8>)> {
    let log = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data/libvirt/libvirt-9.0/06-hotplug/audit.log");
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&format!("file://{}", directory.path().display())).unwrap());
    let (mut batch, mut trail) = (BatchWriter::new().unwrap(), Trail::with_runs());
    let options = ReadOptions { hosts: Hosts::one("host"), keep_text: true, ..ReadOptions::default() };
    let ReadOutcome { input, .. } = read(vec![Input::File(log)], options, &mut |entry| {
        batch.entry(entry).unwrap();
        trail.feed(entry);
        ControlFlow::Continue(())
    });
    let (rest, runs) = trail.finish_with_runs();
    rest.holdings.into_iter().for_each(|holding| batch.holding(holding).unwrap());
    runs.into_iter().for_each(|run| batch.run(run).unwrap());
    rest.findings.iter().for_each(|finding| batch.finding(finding).unwrap());
    let rows = input.coverage.iter().flat_map(CoverageRow::all_of).collect();
    batch.finish(&store, &input, rows).unwrap();
    let snapshot = Snapshot::existing(&store).unwrap();
    let object = |table| {
        let object = snapshot.objects().find(|object| object.table == table).unwrap();
        (table, store.get(&object.path, object.bytes).unwrap().to_vec())
    };
    Table::ALL.into_iter().map(object).collect()
}

/// What is done to an object.
#[derive(Debug, Clone)]
enum Harm {
    Set(usize, u8),
    Cut(usize),
    Repeat(usize, usize),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        6 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Harm::Set(at, byte)),
        // The footer is what says how much there is.
        6 => (0_usize..4096, any::<u8>()).prop_map(|(back, byte)| Harm::Set(usize::MAX - back, byte)),
        1 => any::<usize>().prop_map(Harm::Cut),
        1 => (any::<usize>(), 0_usize..4096).prop_map(|(at, length)| Harm::Repeat(at, length)),
    ]
}

fn done(mut object: Vec<u8>, harms: &[Harm]) -> Vec<u8> {
    for harm in harms {
        let length = object.len().max(1);
        let place = |at: usize| {
            if at > usize::MAX / 2 { length - 1 - (usize::MAX - at) % length } else { at % length }
        };
        match *harm {
            Harm::Set(at, byte) => {
                if let Some(old) = object.get_mut(place(at)) {
                    *old = byte;
                }
            }
            Harm::Cut(at) => object.truncate(place(at)),
            Harm::Repeat(at, length) => {
                let from = place(at);
                let part = object[from..object.len().min(from + length)].to_vec();
                object.splice(from..from, part);
            }
        }
    }
    object
}

#[test]
fn an_object_is_read_as_its_table_and_as_no_other() {
    for (table, object) in objects() {
        for other in Table::ALL {
            let read = fuzzing::object(other, &object);
            assert_eq!(read.is_ok_and(|rows| rows > 0), other == table, "{table} as {other}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn a_harmed_object_harms_nobody(harms in prop::collection::vec(harm(), 1..6), table in 0_usize..5) {
        thread_local!(static OBJECTS: Vec<(Table, Vec<u8>)> = objects());
        let (table, object) = OBJECTS.with(|all| all[table].clone());
        let harmed = done(object, &harms);
        match fuzzing::object(table, &harmed) {
            Ok(_) => {}
            Err(LakeError::Damaged { object, .. }) => prop_assert_eq!(&*object, "object.parquet"),
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }
}
