//! Output of the size that a year's log gives, in each format.

#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Device, GuestId, MacAddr, Rdev};
use taptrail_report::{Filter, Format, Sink, Style, TrailConsumer, View};
use taptrail_trail::{Certainty, EndedBy, Holding, Input, Proof, State};
use uuid::Uuid;

fn holding(number: u32) -> Holding {
    let begin: Timestamp = "2026-11-23T20:31:05.017Z".parse().unwrap();
    let opened = begin + SignedDuration::from_millis(i64::from(number) * 1733);
    let proof = |line| Proof {
        serial: Some(number),
        time: opened,
        source: "/var/log/audit/audit.log".into(),
        line,
        copies: Vec::new(),
        unauthenticated: false,
    };
    let [_, a, b, c] = number.to_be_bytes();
    Holding {
        host: "h1".into(),
        guest: GuestId {
            name: format!("guest-{}", number % 400).into(),
            uuid: Uuid::from_u128(u128::from(number % 400)),
        },
        mac: MacAddr::kvm([a, b, c]),
        device: Device::new("/dev/net/tun", Some(Rdev::TUN), Some(format!("vnet{number}").into())),
        queues: Some(1),
        opened: Some(opened),
        granted: Some(opened + SignedDuration::from_millis(210)),
        last_seen: None,
        end_doubt: None,
        uncertain_since: None,
        possibly_held: Vec::new(),
        released: Some(opened + SignedDuration::from_hours(31)),
        state: State::Released,
        ended_by: Some(EndedBy::Stop),
        certainty: Certainty::Inferred,
        pid: Some(number),
        proof: (1..4).map(|line| proof(u64::from(number) * 300 + line)).collect(),
    }
}

fn answers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("answers");
    group.sample_size(10);
    let style = Style { utc: true, ..Style::default() };
    let formats = [
        ("table", Format::Table(style)),
        ("table_80", Format::Table(Style { width: Some(80), ..style })),
        ("json", Format::Json),
        ("jsonl", Format::Jsonl),
        ("csv", Format::Csv),
        ("ecs", Format::Ecs),
    ];
    for count in [10_000, 100_000] {
        group.throughput(Throughput::Elements(u64::from(count)));
        let holdings: Vec<Holding> = (0..count).map(holding).collect();
        for (name, format) in formats {
            group.bench_with_input(BenchmarkId::new(name, count), &holdings, |bencher, holdings| {
                bencher.iter_batched(
                    || holdings.clone(),
                    |holdings| answer(holdings, format),
                    BatchSize::PerIteration,
                );
            });
        }
    }
}

fn answer(holdings: Vec<Holding>, format: Format) -> Vec<u8> {
    let mut out = Vec::new();
    let mut sink = Sink::new(View::Trail, Filter::default(), format, &mut out).unwrap();
    holdings.into_iter().for_each(|holding| sink.holding(holding).unwrap());
    sink.finish(Input::default()).unwrap();
    drop(sink);
    out
}

criterion_group!(benches, answers);
criterion_main!(benches);
