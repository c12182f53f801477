//! The cost of parsing one line, for each kind that is frequent in the audit log of a host with
//! guests.
//!
//! `cargo bench -p taptrail-record`

#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use taptrail_record::Line;

const UUID: &str = "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e";

/// A line in auditd's ENRICHED format.
fn line(record_type: &str, pairs: &str) -> String {
    format!(
        "type={record_type} msg=audit(1795460022.944:2588): pid=26265 uid=0 auid=4294967295 ses=4294967295 \
         subj=unconfined msg='virt=kvm {pairs} exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? \
         res=success'\u{1d}UID=\"root\" AUID=\"unset\""
    )
}

fn net(reason: &str, pairs: &str) -> String {
    line("VIRT_RESOURCE", &format!("resrc=net reason={reason} vm=\"web-server-1\" uuid={UUID} {pairs}"))
}

fn lines(criterion: &mut Criterion) {
    let open = "net=52:54:00:12:34:56 path=\"/dev/net/tun\" rdev=0A:C8";
    let mac = "\"52:54:00:12:34:56\"";
    let mem = format!("resrc=mem reason=start vm=\"web-server-1\" uuid={UUID} old-mem=0 new-mem=163840");
    let label = format!("vm=\"web-server-1\" uuid={UUID} vm-ctx=+0:+0 img-ctx=+0:+0 model=dac");
    let control = format!("op=start reason=booted vm=\"web-server-1\" uuid={UUID} vm-pid=30215");
    let syscall = "type=SYSCALL msg=audit(1795459763.120:1918): arch=c000003e syscall=257 success=yes exit=30 \
                   a0=ffffff9c a1=7f3374079930 a2=2 a3=0 items=1 ppid=1 pid=23941 auid=4294967295 uid=0 gid=0 \
                   euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=4294967295 comm=\"rpc-libvirtd\" \
                   exe=\"/usr/sbin/libvirtd\" key=\"dev\"\u{1d}ARCH=x86_64 SYSCALL=openat AUID=\"unset\"";
    let samples = [
        ("net-open", net("open", open)),
        ("net-start", net("start", &format!("old-net=\"?\" new-net={mac}"))),
        ("control-start", line("VIRT_CONTROL", &control)),
        ("mem", line("VIRT_RESOURCE", &mem)),
        ("machine-id", line("VIRT_MACHINE_ID", &label)),
        ("syscall", syscall.to_owned()),
    ];
    let mut group = criterion.benchmark_group("line");
    group.throughput(Throughput::Elements(1));
    for (name, line) in &samples {
        group.bench_function(*name, |bencher| {
            bencher.iter(|| Line::parse(black_box(line.as_bytes())).and_then(|line| line.record()));
        });
    }
    group.finish();
}

criterion_group!(benches, lines);
criterion_main!(benches);
