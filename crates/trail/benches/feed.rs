//! What one record costs, with few or many guests running at once.
//!
//! Each guest starts with a tap and a vhost-net, has a second interface plugged in and out, and
//! stops; as many start before the first stops as the benchmark's name says. The time is for all
//! records of all guests: the throughput, in records a second, must not fall with the number that
//! run.
//!
//! - `libvirt`: libvirt's records, which name no device at the end.
//! - `macvtap`: the same with a macvtap, whose unknown number is a finding for each.
//! - `own`: this project's records, with a close for each device.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Device, Event, GuestId, MacAddr, Rdev, Reason, Record};
use taptrail_trail::{Content, Entry, Trail};
use uuid::Uuid;

/// How many guests there are in all.
const GUESTS: usize = 40_000;

fn feed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("feed");
    group.sample_size(10);
    for (name, records) in [("libvirt", libvirt as fn(u32) -> Vec<Event>), ("macvtap", macvtap), ("own", own)]
    {
        for alive in [100, 8_000, 32_000] {
            let entries = entries(alive, records);
            group.throughput(Throughput::Elements(entries.len() as u64));
            group.bench_with_input(BenchmarkId::new(name, alive), &entries, |bencher, entries| {
                bencher.iter(|| feed_all(black_box(entries)));
            });
        }
    }
    group.finish();
}

fn feed_all(entries: &[Entry]) -> usize {
    let mut trail = Trail::new();
    let mut emitted = 0;
    for chunk in entries.chunks(1_000) {
        chunk.iter().for_each(|entry| trail.feed(entry));
        emitted += trail.drain_ended().count() + trail.drain_findings().count();
    }
    emitted + trail.finish().holdings.len()
}

/// The records of all guests, mixed so that `alive` of them run at once.
fn entries(alive: usize, records: fn(u32) -> Vec<Event>) -> Vec<Entry> {
    let (host, source) = (std::sync::Arc::<str>::from("h1"), std::sync::Arc::<str>::from("audit.log"));
    let guests: Vec<Vec<Event>> = (0..GUESTS).map(|number| records(number as u32)).collect();
    let mut time: Timestamp = "2026-11-23T20:31:00.017Z".parse().unwrap();
    let mut entries = Vec::new();
    let mut record = |number: usize, events: &[Event]| {
        for event in events {
            time += SignedDuration::from_millis(1);
            let guest = GuestId {
                name: format!("guest-{number}").into(),
                uuid: Uuid::from_u128(number as u128 * 0x9E37_79B9_7F4A_7C15),
            };
            let line = entries.len() as u64 + 1;
            entries.push(Entry {
                host: host.clone(),
                time,
                serial: Some(line as u32),
                writer: Some(812),
                credentials: None,
                source: source.clone(),
                line,
                content: Content::Record(Record::success(guest, event.clone())),
                text: None,
                copies: Vec::new(),
                unauthenticated: false,
            });
        }
    };
    for number in 0..GUESTS + alive {
        if let Some(starting) = guests.get(number) {
            record(number, &starting[..starting.len() / 2]);
        }
        if let Some(stopping) = number.checked_sub(alive) {
            record(stopping, &guests[stopping][guests[stopping].len() / 2..]);
        }
    }
    entries
}

fn mac(number: u32, interface: u8) -> MacAddr {
    let [_, a, b, c] = number.to_be_bytes();
    MacAddr([0x52, 0x54, interface, a, b, c])
}

fn libvirt(number: u32) -> Vec<Event> {
    like_libvirt(number, &Device::new("/dev/net/tun", Some(Rdev::TUN), None))
}

fn macvtap(number: u32) -> Vec<Event> {
    like_libvirt(number, &Device::new(format!("macvtap{number}"), None, None))
}

fn like_libvirt(number: u32, tap: &Device) -> Vec<Event> {
    let vhost = Device::new("/dev/vhost-net", Some(Rdev::VHOST_NET), None);
    let open = |interface, device: &Device| Event::Open {
        mac: mac(number, interface),
        device: device.clone(),
        queue: None,
    };
    let other = mac(number, 1);
    vec![
        open(0, tap),
        open(0, &vhost),
        Event::Start { mac: mac(number, 0), vm_pid: None, fds: None },
        Event::GuestStart { reason: Reason::BOOTED, vm_pid: Some(1_000 + number) },
        open(1, tap),
        open(1, &vhost),
        Event::Attach { mac: other, vm_pid: None, fds: None },
        Event::Detach { mac: other, vm_pid: None, fds: None, forced: false },
        Event::GuestStop { reason: Reason::SHUTDOWN, vm_pid: None },
    ]
}

fn own(number: u32) -> Vec<Event> {
    let pid = Some(1_000 + number);
    let devices = [
        Device::new("/dev/net/tun", Some(Rdev::TUN), Some(format!("vnet{number}").into())),
        Device::new("/dev/vhost-net", Some(Rdev::VHOST_NET), None),
    ];
    let opens = |interface| {
        let mac = mac(number, interface);
        devices.clone().map(|device| Event::Open { mac, device, queue: Some(0) })
    };
    let closes = |interface| {
        let mac = mac(number, interface);
        devices.clone().map(|device| Event::Close { mac, device, queue: Some(0) })
    };
    let other = mac(number, 1);
    let mut records = opens(0).to_vec();
    records.push(Event::Start { mac: mac(number, 0), vm_pid: pid, fds: Some(2) });
    records.push(Event::GuestStart { reason: Reason::BOOTED, vm_pid: pid });
    records.extend(opens(1));
    records.push(Event::Attach { mac: other, vm_pid: pid, fds: Some(2) });
    records.extend(closes(1));
    records.push(Event::Detach { mac: other, vm_pid: pid, fds: Some(2), forced: false });
    records.extend(closes(0));
    records.push(Event::GuestStop { reason: Reason::SHUTDOWN, vm_pid: pid });
    records
}

criterion_group!(benches, feed);
criterion_main!(benches);
