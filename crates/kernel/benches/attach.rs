//! The parts of an attach that taptrail performs, one by one; QEMU's part is in the qmp crate's
//! benchmark.
//!
//! - `links`: find the bridge and the tap, make the tap a port, set it up: four requests.
//! - `commit`: one small transaction of the ledger on the disk; an attach makes three.
//! - `proof`: look through a process's descriptors and compare by kcmp(2).
//! - `audit`: one record logged and read back; an attach logs two. It turns auditing on, so it
//!   needs `CI=true` or `TAPTRAIL_TEST_AUDIT=1`.
//!
//! Needs root.

#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod lab;
#[allow(dead_code)]
#[path = "../tests/audit/machine.rs"]
mod machine;

use std::os::fd::{AsFd, AsRawFd};

use criterion::Criterion;
use taptrail_kernel::audit::{Audit, LogProof, VIRT_RESOURCE};
use taptrail_kernel::device::Admitted;
use taptrail_kernel::link::{Change, Links};
use taptrail_kernel::proc::{raw_devices, same_file};
use taptrail_ledger::{GuestKey, Ledger, Step};
use taptrail_record::{Event, IfName, Record};

fn main() {
    // First, because criterion runs cargo to find its directory, and cargo may need the network.
    let mut criterion = Criterion::default().configure_from_args();
    lab::own_network();
    lab::ip("link add br0 type bridge");
    lab::ip("link set br0 up");
    let mut group = criterion.benchmark_group("attach");
    lab::with_rests(&mut group);

    let mut links = Links::open().unwrap();
    let bridge: IfName = "br0".parse().unwrap();
    group.bench_function("links", |bencher| {
        bencher.iter_custom(|rounds| {
            let tap = || lab::one(lab::new_tap(), &mut lab::Nothing);
            lab::timed(rounds, tap, |tap| plug(&mut links, &bridge, tap.facts().dev.as_ref().unwrap()))
        });
    });
    let (mut ledger, guest, _dir) = lab::ledger();
    group.bench_function("commit", |bencher| {
        bencher.iter_custom(|rounds| lab::timed(rounds, || (), |()| commit(&mut ledger, guest)));
    });
    let tap = lab::one(lab::new_tap(), &mut lab::Nothing);
    group.bench_function("proof", |bencher| {
        bencher.iter_custom(|rounds| lab::timed(rounds, || (), |()| assert!(holds(&tap))));
    });
    if machine::may_enable() {
        let _machine = machine::Machine::with_auditing(true);
        let mut audit = Audit::open().unwrap();
        let event = Event::Attach { mac: lab::MAC, vm_pid: Some(4711), fds: Some(1) };
        let text = Record::success(lab::guest(), event).text(&std::env::current_exe().unwrap()).unwrap();
        group.bench_function("audit", |bencher| {
            bencher.iter_custom(|rounds| {
                let mut log =
                    || assert_eq!(audit.log(VIRT_RESOURCE, &text).unwrap().proof, LogProof::ReadBack);
                lab::timed(rounds, || (), |()| log())
            });
        });
    }
    group.finish();
    criterion.final_summary();
}

/// The netlink requests for a tap on a bridge.
fn plug(links: &mut Links, bridge: &IfName, tap: &IfName) {
    let bridge = links.find(bridge).unwrap().unwrap();
    let index = links.find(tap).unwrap().unwrap().index;
    let port = Change {
        mac: Some(lab::MAC.host_side()),
        mtu: Some(bridge.mtu),
        master: Some(bridge.index),
        up: None,
    };
    links.configure(index, &port).unwrap();
    links.configure(index, &Change { up: Some(true), ..Change::default() }).unwrap();
}

/// One small transaction.
fn commit(ledger: &mut Ledger, guest: GuestKey) {
    let tx = ledger.begin().unwrap();
    tx.intend(guest, Step::Open, Some(lab::MAC), "bridge=br0").unwrap();
    tx.commit().unwrap();
}

/// Whether a process holds the device; it is this process, for which the comparison costs the same.
fn holds(device: &Admitted) -> bool {
    let own = std::process::id();
    let ours = device.as_fd().as_raw_fd();
    raw_devices(own).unwrap().iter().any(|held| same_file(own, ours, own, held.fd).unwrap())
}
