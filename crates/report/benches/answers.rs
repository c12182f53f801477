//! Answers of a size that a year's log gives.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Device, GuestId, MacAddr, Rdev};
use taptrail_report::{Style, trail_table};
use taptrail_trail::{Certainty, EndedBy, Holding, Proof, Report, State};
use uuid::Uuid;

fn holding(number: u32) -> Holding {
    let begin: Timestamp = "2026-11-23T20:31:05.017Z".parse().unwrap();
    let opened = begin + SignedDuration::from_millis(i64::from(number) * 1733);
    let proof =
        |line| Proof { serial: Some(number), time: opened, source: "/var/log/audit/audit.log".into(), line };
    let [_, a, b, c] = number.to_be_bytes();
    Holding {
        host: "h1".into(),
        guest: GuestId {
            name: format!("guest-{}", number % 400).into(),
            uuid: Uuid::from_u128(u128::from(number % 400)),
        },
        mac: MacAddr::kvm([a, b, c]),
        device: Device::new("/dev/net/tun", Some(Rdev::TUN), Some(format!("vnet{number}").into())),
        queues: 1,
        opened: Some(opened),
        granted: Some(opened + SignedDuration::from_millis(210)),
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
    for count in [10_000, 100_000] {
        group.throughput(Throughput::Elements(u64::from(count)));
        let report = Report { holdings: (0..count).map(holding).collect(), ..Report::default() };
        let style = Style { utc: true, ..Style::default() };
        group.bench_with_input(BenchmarkId::new("table", count), &report, |bencher, report| {
            bencher.iter(|| trail_table(report, &style));
        });
        let narrow = Style { width: Some(80), ..style };
        group.bench_with_input(BenchmarkId::new("table_80", count), &report, |bencher, report| {
            bencher.iter(|| trail_table(report, &narrow));
        });
    }
}

criterion_group!(benches, answers);
criterion_main!(benches);
