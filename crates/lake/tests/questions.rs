//! Questions to a lake, answered natively: each planted case is found, and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fleet;

use std::collections::BTreeSet;
use std::sync::Arc;

use fleet::{Options, write_lake};
use object_store::memory::InMemory;
use serde_json::Value as Json;
use taptrail_lake::sql::{Answer, DeviceIs, Moment, Parameters, Question, Value, answer};
use taptrail_lake::{
    BatchWriter, Checks, Conditions, CoverageRow, FindingRow, GenerationManifest, HeldRow, LakeError,
    LakeReader, Limits, ObjectEntry, ObjectReader, ObjectWriter, Problem, ProblemKind,
    Question as LakeQuestion, Retention, Row, Snapshot, Store, Table, Test, When, check, compact, prune,
    sha256,
};
use taptrail_record::{Device, GuestId};
use taptrail_trail::{Certainty, Coverage, Holding, Input, Proof, Span, State};

struct Lake {
    store: Arc<Store>,
    objects: Vec<ObjectEntry>,
    truth: Json,
    _directory: tempfile::TempDir,
}

impl Lake {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&format!("file://{}", directory.path().display())).unwrap());
        let options =
            Options { hosts: 9, days: 4, guests: 2, first_day: "2026-10-01".parse().unwrap(), seed: 7 };
        let truth = write_lake(&store, &options).unwrap();
        let objects = Snapshot::existing(&store).unwrap().generation.unwrap().objects;
        Self { store, objects, truth, _directory: directory }
    }

    fn ask(&self, question: Question, parameters: &Parameters) -> Answer {
        assert_eq!(question.lacks(parameters), None);
        let answer = answer(&self.store, &self.objects, question, parameters).unwrap();
        let columns = question.columns().len();
        assert!(answer.iter().all(|row| row.len() == columns), "{question}");
        answer
    }

    fn time(&self, name: &str) -> i64 {
        micros(self.truth[name].as_str().unwrap())
    }

    fn at(&self) -> Moment {
        Moment { first: self.time("at"), last: self.time("at") }
    }
}

fn micros(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

/// The values of a column.
fn column<'a>(question: Question, answer: &'a Answer, name: &str) -> Vec<&'a Value> {
    let at = question.columns().iter().position(|column| column.name == name).unwrap();
    answer.iter().map(|row| &row[at]).collect()
}

fn texts(question: Question, answer: &Answer, name: &str) -> BTreeSet<String> {
    let text = |value: &Value| match value {
        Value::Text(text) => text.clone(),
        other => format!("{other:?}"),
    };
    column(question, answer, name).into_iter().map(text).collect()
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Whether QEMU may have held a device at a time.
fn may_be_held(holding: &Holding, at: jiff::Timestamp) -> bool {
    let certainly = holding.certainly_held().map(|(from, until)| (Some(from), Some(until)));
    let possibly = holding.possibly_held.iter().map(|possibly| (possibly.from, possibly.until));
    certainly
        .into_iter()
        .chain(possibly)
        .any(|(from, until)| from.is_none_or(|from| from <= at) && until.is_none_or(|until| at < until))
}

// Shows 15.13.
#[test]
fn a_question_about_one_time_finds_what_all_rows_have() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&format!("file://{}", directory.path().display())).unwrap());
    let options =
        Options { hosts: 8, days: 12, guests: 3, first_day: "2026-10-01".parse().unwrap(), seed: 3 };
    write_lake(&store, &options).unwrap();
    assert!(compare_with_all_rows(&store) > 300);
    // What went on over the first days is known, though rows of them are gone.
    let retention = Retention {
        first_day: Some("2026-10-05".parse().unwrap()),
        grace: jiff::SignedDuration::from_hours(24),
        key: None,
    };
    assert!(prune(&store, &retention, jiff::Timestamp::now()).unwrap().root.is_some());
    assert!(compare_with_all_rows(&store) > 200);
    // A summary that was lost is made again.
    let lost = Snapshot::existing(&store).unwrap().summary()[1].path.clone();
    store.delete(&lost).unwrap();
    assert!(LakeReader::open(Arc::clone(&store)).is_ok());
    assert_eq!(compact(&store, None).unwrap().unwrap().batches, 0);
    assert!(compare_with_all_rows(&store) > 200);
    assert_eq!(compact(&store, None).unwrap(), None);
}

/// Compares what is found at some times with what all rows have. Returns how much was found.
fn compare_with_all_rows(store: &Arc<Store>) -> usize {
    let lake = LakeReader::open(Arc::clone(store)).unwrap();
    let ask = |conditions: Conditions, when: When| {
        let mut all: Vec<Holding> = Vec::new();
        let question = LakeQuestion { conditions, host: None, when };
        lake.holdings(&question, &mut |holding| {
            all.push(holding);
            Ok::<_, LakeError>(())
        })
        .unwrap();
        all
    };
    let all = ask(Conditions::default(), When::Any);
    let macs: BTreeSet<String> = all.iter().map(|holding| holding.mac.to_string()).collect();
    let begin: jiff::Timestamp = "2026-09-29T12:00:00Z".parse().unwrap();
    let mut found = 0;
    for number in 0..15 {
        let at = begin + jiff::SignedDuration::from_mins(number * 1327);
        let when = When::At(Span { from: at, until: at });
        let key = |holding: &Holding| serde_json::to_string(holding).unwrap();
        let expected = |mac: Option<&str>| -> Vec<String> {
            let of_mac = all.iter().filter(|holding| mac.is_none_or(|mac| holding.mac.to_string() == mac));
            let mut all: Vec<String> = of_mac.filter(|holding| may_be_held(holding, at)).map(key).collect();
            all.sort();
            all
        };
        let held = |conditions: Conditions| -> Vec<String> {
            let mut all: Vec<String> =
                ask(conditions, when).iter().filter(|holding| may_be_held(holding, at)).map(key).collect();
            all.sort();
            all
        };
        assert_eq!(held(Conditions::default()), expected(None), "{at}");
        for mac in macs.iter().skip(usize::try_from(number).unwrap() % 3).step_by(3) {
            let of_mac = Conditions(vec![vec![Test::Is("mac", mac.clone())]]);
            let held = held(of_mac);
            assert_eq!(held, expected(Some(mac)), "{mac} at {at}");
            found += held.len();
        }
    }
    found
}

#[test]
fn a_mac_in_two_guests_is_held_by_both() {
    let lake = Lake::new();
    let mac = lake.truth["mac"].as_str().unwrap().parse().unwrap();
    let asked = Parameters { mac: Some(mac), at: Some(lake.at()), ..Parameters::default() };
    let held = lake.ask(Question::Who, &asked);
    // Two hosts, a tap and a vhost-net each.
    assert_eq!(held.len(), 4);
    assert_eq!(texts(Question::Who, &held, "host"), set(&["kvm0002", "kvm0003.example.org"]));
    assert_eq!(texts(Question::Who, &held, "holds"), set(&["yes"]));
    let released = column(Question::Who, &held, "released");
    assert!(
        released.iter().all(|time| matches!(time, Value::Time(_))),
        "later days' rows say when: {held:?}"
    );

    let at = micros("2026-10-02T12:00:00Z");
    let later = Parameters { at: Some(Moment { first: at, last: at }), ..asked };
    let alone = lake.ask(Question::Who, &later);
    assert_eq!(texts(Question::Who, &alone, "host"), set(&["kvm0002"]));
}

#[test]
fn hosts_without_records_are_unknown_then() {
    let lake = Lake::new();
    let question = Question::UnknownHosts;
    let unknown = |at: &str| {
        let at = micros(at);
        let asked = Parameters { at: Some(Moment { first: at, last: at }), ..Parameters::default() };
        let answer = lake.ask(question, &asked);
        let why = column(question, &answer, "why").into_iter().cloned();
        let hosts = column(question, &answer, "host").into_iter().cloned();
        hosts.zip(why).collect::<Vec<_>>()
    };
    let pair = |host: &str, why: &str| (Value::Text(host.into()), Value::Text(why.into()));
    // Host 6 has no start; records of host 1 are missing for ten minutes on the second day, and
    // host 4 is silent for three hours, and host 5 from the third day on.
    let no_start = pair("kvm0006.example.org", "no-start");
    assert_eq!(unknown("2026-10-01T12:00:00Z"), std::slice::from_ref(&no_start));
    assert_eq!(unknown("2026-10-02T06:05:00Z"), [pair("kvm0001", "not-covered"), no_start.clone()]);
    assert_eq!(
        unknown("2026-10-02T11:00:00Z"),
        [pair("kvm0001", "no-start"), pair("kvm0004", "not-covered"), no_start.clone()]
    );
    assert_eq!(unknown("2026-10-04T11:00:00Z")[2], pair("kvm0005", "not-covered"));
    assert_eq!(unknown("2026-09-30T11:00:00Z").len(), 9, "before all records");
}

#[test]
fn a_migration_and_a_copied_address_are_distinguished() {
    let lake = Lake::new();
    let question = Question::MacOnTwoHosts;
    let met = lake.ask(question, &Parameters::default());
    assert_eq!(texts(question, &met, "what"), set(&["migration", "two-guests"]));
    let migrations: Vec<_> = met.iter().filter(|row| row[7] == Value::Text("migration".into())).collect();
    let [migration] = migrations[..] else { panic!("{met:?}") };
    assert_eq!(migration[0], Value::Text(lake.truth["migration"]["mac"].as_str().unwrap().into()));
    // The guest arrives at noon, and has left two seconds later.
    let arrived = micros("2026-10-02T12:00:00.03Z");
    assert_eq!(migration[8..], [Value::Time(arrived), Value::Time(micros("2026-10-02T12:00:02Z"))]);
    // Two short holdings within the long one, each of its own guest; the third comes after its end.
    let copied: Vec<_> = met.iter().filter(|row| row[7] == Value::Text("two-guests".into())).collect();
    let mac = Value::Text(lake.truth["copied"]["mac"].as_str().unwrap().into());
    assert!(copied.len() == 2 && copied.iter().all(|row| row[0] == mac), "{copied:?}");
}

#[test]
fn silent_hosts_and_clocks_ahead_are_found() {
    let lake = Lake::new();
    let asked = Parameters {
        end: Some(lake.time("end")),
        at: Some(Moment { first: lake.time("end"), last: lake.time("end") }),
        longer_than: Some(3600),
        ..Parameters::default()
    };
    let mut silent = lake.ask(Question::SilentHosts, &asked);
    silent.sort();
    let time = |text: &str| Value::Time(micros(text));
    let expected = [
        vec![Value::Text("kvm0004".into()), time("2026-10-02T10:00:00Z"), time("2026-10-02T13:00:00Z")],
        vec![Value::Text("kvm0005".into()), time("2026-10-03T12:00:00Z"), Value::Null],
    ];
    assert_eq!(silent, expected);
    let longer = Parameters { longer_than: Some(4 * 3600), ..asked.clone() };
    assert_eq!(lake.ask(Question::SilentHosts, &longer).len(), 1);
    let ahead = lake.ask(Question::ClockSkew, &asked);
    assert_eq!(texts(Question::ClockSkew, &ahead, "host"), set(&["kvm0007"]));
}

#[test]
fn a_guests_name_is_compared_and_never_read() {
    let lake = Lake::new();
    for name in lake.truth["hostile"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        let asked = Parameters { guest: Some(name.to_owned()), ..Parameters::default() };
        let held = lake.ask(Question::Trail, &asked);
        assert_eq!(held.len(), 2, "{name}: a tap and a vhost-net");
        assert_eq!(texts(Question::Trail, &held, "guest"), set(&[name]));
    }
}

#[test]
fn each_holding_is_there_once_with_all_that_is_known() {
    let lake = Lake::new();
    let all = lake.ask(Question::Trail, &Parameters::default());
    let counts = lake.ask(Question::Count, &Parameters::default());
    let sum = |name| {
        let values = column(Question::Count, &counts, name).into_iter();
        values.map(|value| if let Value::Int(number) = value { *number } else { 0 }).sum::<i64>()
    };
    // Each holding began on one day.
    assert_eq!(sum("began"), i64::try_from(all.len()).unwrap());
    assert_eq!(sum("lived"), lake.truth["rows"].as_i64().unwrap());
    assert!(!texts(Question::Trail, &all, "host").contains("superseded"));
    let never = lake.ask(Question::NeverGranted, &Parameters::default());
    // One of them was given up on the day after its open.
    assert!(
        texts(Question::NeverGranted, &never, "host").is_superset(&set(&["kvm0005", "kvm0006.example.org"]))
    );
    let device = Some(DeviceIs::Kind("vhost-net".into()));
    let asked = Parameters { device, at: Some(lake.at()), ..Parameters::default() };
    let vhosts = lake.ask(Question::Device, &asked);
    assert_eq!(texts(Question::Device, &vhosts, "path"), set(&["/dev/vhost-net"]));
}

#[test]
fn an_interface_without_a_recorded_open_begins_with_its_grant() {
    let lake = Lake::new();
    let mac = lake.truth["unrecorded"].as_str().unwrap().parse().unwrap();
    let within = |start: &str, end: &str| {
        let (start, end) = (Some(micros(start)), Some(micros(end)));
        let asked = Parameters { mac: Some(mac), start, end, ..Parameters::default() };
        lake.ask(Question::Trail, &asked).len()
    };
    // From 20:00 on the second day to 6:00 on the third.
    assert_eq!(within("2026-10-01T00:00:00Z", "2026-10-02T20:00:00Z"), 0, "it ends before");
    assert_eq!(within("2026-10-01T00:00:00Z", "2026-10-02T20:00:00.000001Z"), 1);
    assert_eq!(within("2026-10-03T06:00:00Z", "2026-10-04T00:00:00Z"), 1);
    assert_eq!(within("2026-10-03T06:00:00.000001Z", "2026-10-04T00:00:00Z"), 0, "it begins after");
    let held = |at: &str| {
        let at = Some(Moment { first: micros(at), last: micros(at) });
        let asked = Parameters { mac: Some(mac), at, ..Parameters::default() };
        texts(Question::Who, &lake.ask(Question::Who, &asked), "holds")
    };
    assert_eq!(held("2026-10-02T19:59:59Z"), set(&[]));
    assert_eq!(held("2026-10-02T21:00:00Z"), set(&["possibly"]));
}

#[test]
fn findings_are_counted_by_kind_and_severity() {
    let lake = Lake::new();
    let all = lake.ask(Question::Findings, &Parameters::default());
    let counted = lake.ask(Question::FindingsByKind, &Parameters::default());
    let total: i64 = counted.iter().map(|row| if let Value::Int(total) = row[2] { total } else { 0 }).sum();
    assert_eq!(total, i64::try_from(all.len()).unwrap());
    let grave = Parameters { severities: vec!["grave"], ..Parameters::default() };
    let grave = lake.ask(Question::Findings, &grave);
    assert!(!grave.is_empty() && grave.len() < all.len());
    assert_eq!(texts(Question::Findings, &grave, "severity"), set(&["grave"]));
    let one = Parameters { host: Some("kvm0003".into()), ..Parameters::default() };
    let one = lake.ask(Question::Findings, &one);
    assert!(!one.is_empty());
    assert_eq!(texts(Question::Findings, &one, "host"), set(&["kvm0003.example.org"]));
}

#[test]
fn what_is_learned_on_a_later_day_makes_no_second_holding() {
    let time = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
    let (opened, granted) = (time("2026-10-01T23:59:59.99Z"), time("2026-10-02T00:00:00.2Z"));
    let end = time("2026-10-03T12:00:00Z");
    let proof = |time| Proof {
        serial: None,
        time,
        source: "audit.log".into(),
        line: 1,
        copies: Vec::new(),
        unauthenticated: false,
    };
    let holding = Holding {
        host: "kvm1".into(),
        guest: GuestId { name: "web".into(), uuid: uuid::Uuid::nil() },
        mac: "52:54:00:00:00:01".parse().unwrap(),
        device: Device::new("/dev/net/tun", None, None),
        queues: None,
        opened: Some(opened),
        granted: Some(granted),
        released: None,
        last_seen: None,
        end_doubt: None,
        uncertain_since: None,
        possibly_held: Vec::new(),
        state: State::Held,
        ended_by: None,
        certainty: Certainty::Definitive,
        pid: None,
        proof: vec![proof(opened), proof(granted)],
    };
    let spans = vec![Span { from: opened, until: end }];
    let coverage = Coverage { host: "kvm1".into(), spans, gaps: Vec::new(), starts: Vec::new() };
    let rows = CoverageRow::all_of(&coverage);
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&format!("file://{}", directory.path().display())).unwrap());
    let mut batch = BatchWriter::new().unwrap();
    batch.holding(holding).unwrap();
    batch.finish(&store, &Input { coverage: vec![coverage], ..Input::default() }, rows).unwrap();
    compact(&store, None).unwrap();
    let objects = Snapshot::existing(&store).unwrap().generation.unwrap().objects;
    let whole = answer(&store, &objects, Question::Trail, &Parameters::default()).unwrap();
    assert_eq!(whole.len(), 1, "not another one that was opened on the first day: {whole:?}");
    assert_eq!(texts(Question::Trail, &whole, "state"), set(&["held"]));
}

/// The objects of months of the last generation: tables and first days.
fn months(store: &Arc<Store>) -> Vec<ObjectEntry> {
    Snapshot::existing(store).unwrap().generation.unwrap().months
}

/// What is asked of a lake, as sorted JSON.
fn asked(lake: &LakeReader, conditions: &Conditions, when: When) -> Vec<String> {
    let question = LakeQuestion { conditions: conditions.clone(), host: None, when };
    let mut all = Vec::new();
    lake.holdings(&question, &mut |holding| {
        all.push(serde_json::to_string(&holding).unwrap());
        Ok::<_, LakeError>(())
    })
    .unwrap();
    lake.findings(&question, None, None, &mut |finding| {
        all.push(serde_json::to_string(&finding).unwrap());
        Ok::<_, LakeError>(())
    })
    .unwrap();
    all.sort();
    all
}

/// The same lake, as an earlier version of this program leaves it: without objects of months.
fn without_months(store: &Arc<Store>) -> Arc<Store> {
    with_generation(store, |last| last.months.clear())
}

/// The same lake, with another last generation.
fn with_generation(store: &Arc<Store>, change: impl FnOnce(&mut GenerationManifest)) -> Arc<Store> {
    let copy = Arc::new(Store::of(Arc::new(InMemory::new()), "memory:".to_owned()).unwrap());
    let mut last = Snapshot::existing(store).unwrap().generation.unwrap();
    let snapshot = Snapshot::existing(store).unwrap();
    for object in snapshot.objects().chain(&last.summary) {
        let content = store.get(&object.path, object.bytes).unwrap();
        copy.put_new(&object.path, content).unwrap();
    }
    for batch in &snapshot.batches {
        let manifest = serde_json::to_vec(batch).unwrap();
        copy.put_new(&batch.batch.manifest(), manifest.into()).unwrap();
    }
    change(&mut last);
    copy.put_new(&last.generation.manifest(), serde_json::to_vec(&last).unwrap().into()).unwrap();
    copy
}

/// Whether all of some texts are among others, each as often at least. Both are sorted.
fn are_among(some: &[String], others: &[String]) -> bool {
    let mut others = others.iter();
    some.iter().all(|of| others.any(|other| other == of))
}

/// Compares what the objects of months give with what those of days give. Returns how much was
/// compared.
fn compare_with_days(store: &Arc<Store>) -> usize {
    let lake = LakeReader::open(Arc::clone(store)).unwrap();
    let by_days = LakeReader::open(without_months(store)).unwrap();
    let mut all: Vec<Holding> = Vec::new();
    lake.holdings(&LakeQuestion::default(), &mut |holding| {
        all.push(holding);
        Ok::<_, LakeError>(())
    })
    .unwrap();
    let mut compared = 0;
    let mut compare = |test: Test| {
        let conditions = Conditions(vec![vec![test]]);
        let (mine, theirs) = (asked(&lake, &conditions, When::Any), asked(&by_days, &conditions, When::Any));
        assert_eq!(mine, theirs, "{conditions:?}");
        // Of these times, more may be passed on, but nothing less, and nothing twice.
        let [at, since] = ["2026-10-29T12:00:00Z", "2026-11-20T12:00:00Z"].map(|of| of.parse().unwrap());
        for when in [When::Since(since), When::At(Span { from: at, until: at })] {
            let (more, least) = (asked(&lake, &conditions, when), asked(&by_days, &conditions, when));
            assert!(are_among(&least, &more) && are_among(&more, &mine), "{conditions:?}, {when:?}");
        }
        compared += mine.len();
    };
    let macs: BTreeSet<String> = all.iter().map(|holding| holding.mac.to_string()).collect();
    let guests: BTreeSet<_> = all.iter().map(|holding| holding.guest.clone()).collect();
    // Each takes a while.
    macs.into_iter().step_by(6).for_each(|mac| compare(Test::Is("mac", mac)));
    for guest in guests.into_iter().step_by(8) {
        compare(Test::Is("guest", guest.name.to_string()));
        compare(Test::Is("uuid", guest.uuid.to_string()));
    }
    compared
}

// Shows 15.14.
#[test]
fn months_that_are_over_give_what_their_days_give() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&format!("file://{}", directory.path().display())).unwrap());
    let options =
        Options { hosts: 8, days: 40, guests: 2, first_day: "2026-10-24".parse().unwrap(), seed: 5 };
    write_lake(&store, &options).unwrap();
    let first_days = |table: Table| {
        let of_table = months(&store).into_iter().filter(move |of| of.table == table);
        of_table.map(|of| of.day.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(first_days(Table::Held), ["2026-10-01", "2026-11-01"], "December is not over");
    assert_eq!(first_days(Table::Findings), ["2026-10-01", "2026-11-01"]);
    assert!(compare_with_days(&store) > 300);

    // The month of a day that is removed is made again, and the other one stays.
    let before = months(&store);
    let retention = Retention {
        first_day: Some("2026-10-28".parse().unwrap()),
        grace: jiff::SignedDuration::from_hours(24),
        key: None,
    };
    assert!(prune(&store, &retention, jiff::Timestamp::now()).unwrap().root.is_some());
    let after = months(&store);
    assert_eq!(before.len(), after.len());
    assert!(before.iter().zip(&after).all(|(a, b)| (a == b) == (a.day.to_string() == "2026-11-01")));
    assert!(compare_with_days(&store) > 300);

    // One that is lost is made again, as it was.
    store.delete(&after[0].path).unwrap();
    assert_eq!(compact(&store, None).unwrap().unwrap().batches, 0);
    assert_eq!(months(&store)[0].sha256, after[0].sha256);
    assert!(compare_with_days(&store) > 300);
    assert_eq!(compact(&store, None).unwrap(), None);

    // A lake that has none gets them.
    let earlier = without_months(&store);
    compact(&earlier, None).unwrap().unwrap();
    let sums = |of: Vec<ObjectEntry>| of.into_iter().map(|of| of.sha256).collect::<Vec<_>>();
    assert_eq!(sums(months(&earlier)), sums(months(&store)));
    assert_eq!(compact(&earlier, None).unwrap(), None);

    // A batch that waits concerns its own month and host; those of others are as they were.
    add_batch(&store, "kvm0001", "2026-12-01T06:00:00Z", "2026-12-05T00:00:00Z");
    assert!(compare_with_days(&store) > 300);
    add_batch(&store, "kvm0002", "2026-11-10T00:00:00Z", "2026-11-12T00:00:00Z");
    assert!(compare_with_days(&store) > 300);

    // The days of a month are not read for one MAC.
    let lake = LakeReader::open(Arc::clone(&earlier)).unwrap();
    let of_month = |of: &&ObjectEntry| of.table == Table::Held && of.day.to_string().starts_with("2026-11");
    let snapshot = Snapshot::existing(&earlier).unwrap();
    snapshot.objects().filter(of_month).for_each(|of| earlier.delete(&of.path).unwrap());
    let mac = Conditions(vec![vec![Test::Is("mac", "52:54:00:00:00:00".into())]]);
    asked(&lake, &mac, When::Any);
}

#[test]
fn a_month_passes_nothing_on_twice() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&format!("file://{}", directory.path().display())).unwrap());
    let options =
        Options { hosts: 8, days: 10, guests: 1, first_day: "2026-10-24".parse().unwrap(), seed: 5 };
    write_lake(&store, &options).unwrap();
    add_batch(&store, "kvm0001", "2026-11-02T06:00:00Z", "2026-11-05T00:00:00Z");
    assert!(compare_with_days(&store) > 100);
}

/// What a lake knows of a time, as sorted JSON: who may have had a device at that time, or since.
fn known(lake: &LakeReader, conditions: &Conditions, when: When) -> Vec<String> {
    let of_time = |holding: &Holding| match when {
        When::Any => true,
        When::At(at) => may_be_held(holding, at.from) || may_be_held(holding, at.until),
        When::Since(since) => {
            let ends = holding.possibly_held.iter().map(|possibly| possibly.until);
            let certainly = holding.certainly_held().map(|(_, until)| Some(until));
            ends.chain(certainly).any(|end| end.is_none_or(|end| since < end))
        }
    };
    let question = LakeQuestion { conditions: conditions.clone(), host: None, when };
    let mut all = Vec::new();
    lake.holdings(&question, &mut |holding| {
        if of_time(&holding) {
            all.push(serde_json::to_string(&holding).unwrap());
        }
        Ok::<_, LakeError>(())
    })
    .unwrap();
    // They have no MACs.
    let of_guests = conditions.0.is_empty();
    let runs = |at: Span, run: &taptrail_trail::GuestRun| {
        run.started.is_none_or(|started| started <= at.until) && run.ended.is_none_or(|ended| at.from < ended)
    };
    let mut take = |run: taptrail_trail::GuestRun| {
        let is_then = match when {
            When::Any => true,
            When::At(at) => runs(at, &run),
            When::Since(since) => runs(Span { from: since, until: jiff::Timestamp::MAX }, &run),
        };
        if is_then {
            all.push(serde_json::to_string(&run).unwrap());
        }
        Ok::<_, LakeError>(())
    };
    if of_guests {
        lake.runs(&question, &mut take).unwrap();
    }
    all.sort();
    all
}

/// Compares what is answered by the summary with what the objects of all days give. Returns how much
/// was compared.
fn compare_with_no_summary(store: &Arc<Store>) -> usize {
    let lake = LakeReader::open(Arc::clone(store)).unwrap();
    let by_days =
        LakeReader::open(with_generation(store, |last| (last.summary, last.months) = Default::default()))
            .unwrap();
    assert_eq!(lake.coverage(), by_days.coverage());
    for host in lake.coverage().iter().map(|of| &*of.host) {
        assert_eq!(lake.records_of(host), by_days.records_of(host), "{host}");
    }
    assert_eq!(lake.divided_hosts(), by_days.divided_hosts());
    let all = known(&lake, &Conditions::default(), When::Any);
    assert_eq!(all, known(&by_days, &Conditions::default(), When::Any));
    let mac = |of: &String| Some(serde_json::from_str::<Json>(of).unwrap()["mac"].as_str()?.to_owned());
    let macs: BTreeSet<String> = all.iter().filter_map(mac).collect();
    let begin: jiff::Timestamp = "2026-10-23T12:00:00Z".parse().unwrap();
    let mut compared = 0;
    // Other times for each lake.
    let first = usize::try_from(lake.bytes() % 7).unwrap();
    for number in (first..24).step_by(7) {
        let at = begin + jiff::SignedDuration::from_mins(i64::try_from(number).unwrap() * 887);
        let later = at + jiff::SignedDuration::from_hours(30);
        for when in [
            When::At(Span { from: at, until: at }),
            When::At(Span { from: at, until: later }),
            When::Since(at),
        ] {
            let mac = macs.iter().nth(number * 7 % macs.len()).unwrap();
            for conditions in [Conditions::default(), Conditions(vec![vec![Test::Is("mac", mac.clone())]])] {
                let mine = known(&lake, &conditions, when);
                assert_eq!(mine, known(&by_days, &conditions, when), "{conditions:?}, {when:?}");
                // Nothing else is known of it than is known without a time.
                assert!(are_among(&mine, &all), "{conditions:?}, {when:?}");
                compared += mine.len();
            }
        }
    }
    compared
}

// Shows 15.13.
#[test]
fn a_summary_answers_while_batches_wait() {
    let options =
        |seed| Options { hosts: 8, days: 12, guests: 2, first_day: "2026-10-24".parse().unwrap(), seed };
    for seed in 0..2_u64 {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&format!("file://{}", directory.path().display())).unwrap());
        write_lake(&store, &options(seed)).unwrap();
        assert!(compare_with_no_summary(&store) > 100);
        // What comes after; what overlaps it, on one day and on several; what comes after a gap, or
        // is of a host that is new; of one host after the other, and several of one.
        let batches = [
            ("kvm0001", "2026-11-04T18:00:00Z", "2026-11-06T03:00:00Z"),
            ("kvm0002", "2026-11-01T10:00:00Z", "2026-11-05T00:00:00Z"),
            ("kvm0001", "2026-11-06T02:00:00Z", "2026-11-07T02:00:00Z"),
            ("kvm0006.example.org", "2026-11-07T02:00:00Z", "2026-11-08T02:00:00Z"),
            ("kvm0007", "2026-10-20T02:00:00Z", "2026-11-08T02:00:00Z"),
            ("new", "2026-11-07T02:00:00Z", "2026-11-08T02:00:00Z"),
            ("kvm0000.example.org", "2026-11-04T23:59:59Z", "2026-11-05T10:00:00Z"),
        ];
        let rotation = usize::try_from(seed).unwrap() * 3;
        for number in 0..batches.len() {
            let (host, from, until) = batches[(number + rotation) % batches.len()];
            add_batch(&store, host, from, until);
            assert!(compare_with_no_summary(&store) > 100);
        }
        // In the middle: the generation has a hole there, and counts again after it.
        let lake = LakeReader::open(Arc::clone(&store)).unwrap();
        add_batch(&store, "kvm0004", "2026-10-25T00:00:00Z", "2026-10-26T00:30:00Z");
        assert!(compare_with_no_summary(&store) > 100);
        assert_eq!(LakeReader::open(Arc::clone(&store)).unwrap().divided_hosts(), lake.divided_hosts() + 1);
        let retention = Retention {
            first_day: Some("2026-10-27".parse().unwrap()),
            grace: jiff::SignedDuration::from_hours(24),
            key: None,
        };
        assert!(prune(&store, &retention, jiff::Timestamp::now()).unwrap().root.is_some());
        assert!(compare_with_no_summary(&store) > 100);
    }
}

// Shows 15.13.
#[test]
fn few_days_are_read_while_batches_wait() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&format!("file://{}", directory.path().display())).unwrap());
    let options =
        Options { hosts: 8, days: 12, guests: 2, first_day: "2026-10-24".parse().unwrap(), seed: 1 };
    write_lake(&store, &options).unwrap();
    add_batch(&store, "kvm0001", "2026-11-04T18:00:00Z", "2026-11-06T03:00:00Z");
    let lake = LakeReader::open(Arc::clone(&store)).unwrap();
    let at: jiff::Timestamp = "2026-10-28T12:00:00Z".parse().unwrap();
    let when = When::At(Span { from: at, until: at });
    let before = known(&lake, &Conditions::default(), when);
    // Holdings of the generator last for less than three days.
    let snapshot = Snapshot::existing(&store).unwrap();
    let far = |of: &&ObjectEntry| {
        let day = of.day.to_string();
        of.table == Table::Held && (day.as_str() < "2026-10-28" || "2026-11-01" < day.as_str())
            // What the batch has in place of the generation, and goes on with.
            && day.as_str() < "2026-11-04"
    };
    let compacted = snapshot.generation.iter().flat_map(|of| &of.objects);
    let far: Vec<&ObjectEntry> = compacted.filter(far).collect();
    assert_eq!(far.len(), 6);
    far.into_iter().for_each(|of| store.delete(&of.path).unwrap());
    assert_eq!(known(&lake, &Conditions::default(), when), before);
    assert!(before.len() > 20);
}

/// Adds a batch of a host, as of a log of this time: with its coverage, and what begins within.
fn add_batch(store: &Arc<Store>, host: &str, from: &str, until: &str) {
    let span = Span { from: from.parse().unwrap(), until: until.parse().unwrap() };
    let coverage = Coverage { host: host.into(), spans: vec![span], gaps: Vec::new(), starts: Vec::new() };
    let lake = LakeReader::open(Arc::clone(store)).unwrap();
    let mut batch = BatchWriter::new().unwrap();
    lake.holdings(&LakeQuestion::default(), &mut |mut holding| {
        let is_within = |time: jiff::Timestamp| span.from < time && time < span.until;
        if *holding.host == *host && holding.granted.is_some_and(is_within) {
            if holding.released.is_some_and(|released| released >= span.until) {
                (holding.released, holding.ended_by, holding.state) = (None, None, State::Held);
                holding.proof.retain(|proof| is_within(proof.time));
            }
            batch.holding(holding)?;
        }
        Ok::<_, LakeError>(())
    })
    .unwrap();
    let rows = CoverageRow::all_of(&coverage);
    let input = Input { coverage: vec![coverage], ..Input::default() };
    assert!(batch.finish(store, &input, rows).unwrap().is_some());
}

/// Replaces an object of the last generation by one without its first row, as by somebody who can
/// write everything and adapts the manifest.
fn without_first_row<R: Row>(
    store: &Arc<Store>,
    which: impl Fn(&mut GenerationManifest) -> &mut ObjectEntry,
) {
    let mut last = Snapshot::existing(store).unwrap().generation.unwrap();
    let object = which(&mut last);
    let reader = ObjectReader::<R>::open(store, &object.path, object.bytes, Limits::default()).unwrap();
    let mut writer = ObjectWriter::new().unwrap();
    reader.rows().unwrap().skip(1).for_each(|row| writer.push(row.unwrap()).unwrap());
    object.rows = writer.rows();
    let content = writer.finish().unwrap();
    (object.bytes, object.sha256) = (content.len() as u64, sha256(&content));
    store.delete(&object.path).unwrap();
    store.put_new(&object.path, content).unwrap();
    store.delete(&last.generation.manifest()).unwrap();
    store.put_new(&last.generation.manifest(), serde_json::to_vec(&last).unwrap().into()).unwrap();
}

// Shows 15.10.
#[test]
fn a_check_compares_what_is_derived_with_what_it_is_derived_from() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&format!("file://{}", directory.path().display())).unwrap());
    let options = Options { hosts: 8, days: 6, guests: 1, first_day: "2026-10-29".parse().unwrap(), seed: 5 };
    write_lake(&store, &options).unwrap();
    let problems = || check(&store, &Checks::default()).unwrap().problems;
    let inconsistent = || {
        let of = |problem: Problem| (problem.kind == ProblemKind::Inconsistent).then_some(problem.object);
        problems().into_iter().filter_map(of).collect::<Vec<_>>()
    };
    assert_eq!(problems(), []);
    without_first_row::<HeldRow>(&store, |last| &mut last.summary[1]);
    without_first_row::<CoverageRow>(&store, |last| &mut last.summary[0]);
    let findings = |of: &&mut ObjectEntry| of.table == Table::Findings;
    without_first_row::<FindingRow>(&store, |last| last.months.iter_mut().find(findings).unwrap());
    without_first_row::<HeldRow>(&store, |last| &mut last.months[0]);
    let last = Snapshot::existing(&store).unwrap().generation.unwrap();
    let mut expected: Vec<String> =
        last.summary.iter().chain(&last.months).map(|of| of.path.clone()).collect();
    expected.sort();
    assert_eq!(expected.len(), 4);
    assert_eq!(inconsistent(), expected);
    // Nothing is said of what is derived from an object that is bad itself.
    store.delete(&last.objects.iter().find(|of| of.table == Table::Held).unwrap().path).unwrap();
    assert!(inconsistent().is_empty());
}
