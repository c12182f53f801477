//! Benchmarks: logs read from the page cache into entries, and into a trail.

#![allow(missing_docs, clippy::unwrap_used)]

mod host;

use std::hint::black_box;
use std::io::Write;
use std::ops::ControlFlow;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use host::{Host, ReadOptions};
use taptrail_source::{Input, read};
use taptrail_trail::Trail;

const LOG_BYTES: usize = 64 * 1024 * 1024;

fn log(options: ReadOptions) -> tempfile::NamedTempFile {
    let (mut host, mut text) = (Host::new(options), String::with_capacity(LOG_BYTES + 4096));
    while text.len() < LOG_BYTES {
        host.line(&mut text);
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn entries(
    group: &mut BenchmarkGroup<'_, criterion::measurement::WallTime>,
    name: &str,
    options: ReadOptions,
) {
    let log = log(options);
    let inputs = || vec![Input::File(log.path().to_owned())];
    group.bench_function(format!("{name}/entries"), |bencher| {
        bencher.iter(|| {
            read(inputs(), taptrail_source::ReadOptions::default(), &mut |entry| {
                black_box(entry);
                ControlFlow::Continue(())
            })
        });
    });
    group.bench_function(format!("{name}/trail"), |bencher| {
        bencher.iter(|| {
            let mut trail = Trail::new();
            let outcome = read(inputs(), taptrail_source::ReadOptions::default(), &mut |entry| {
                trail.feed(entry);
                trail.drain_ended().for_each(|holding| drop(black_box(holding)));
                trail.drain_findings().for_each(|finding| drop(black_box(finding)));
                ControlFlow::Continue(())
            });
            (outcome, trail.finish())
        });
    });
}

fn logs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Bytes(LOG_BYTES as u64)).sample_size(20);
    entries(&mut group, "mixed", ReadOptions::default());
    entries(&mut group, "virt", ReadOptions { mix: 1, ..ReadOptions::default() });
    entries(
        &mut group,
        "8000-guests",
        ReadOptions { mix: 1, guests: 8000, in_order: true, ..ReadOptions::default() },
    );
    group.finish();
}

criterion_group!(benches, logs);
criterion_main!(benches);
