//! Shared code of this crate's benchmarks: a network, a ledger on a real disk, and the measurement.

// Each program uses its own part of it.
#![allow(dead_code)]

use std::convert::Infallible;
use std::hint::black_box;
use std::num::NonZeroU16;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, SamplingMode};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use taptrail_kernel::device::{
    Admitted, DEV_NET_TUN, OpenFacts, OpenRecorder, Opening, TapName, TapRequest, open_tap,
};
use taptrail_ledger::{GuestKey, Ledger, NewGuest, Process, Step};
use taptrail_record::{GuestId, MacAddr};

/// `TMPFS_MAGIC` (linux/magic.h).
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// More commits than pages in the write-ahead log (`wal_autocheckpoint`, 1000 as SQLite sets it).
const CHECKPOINTED: usize = 1200;

/// The guest of all operations.
pub(crate) fn guest() -> GuestId {
    let uuid = "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e";
    GuestId { name: "bench".into(), uuid: uuid.parse().expect("a uuid") }
}

/// Its interface.
pub(crate) const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);

/// Moves this program into a new network namespace, which ends with it.
pub(crate) fn own_network() {
    // SAFETY: called by the only thread; no file table is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("root and network namespaces are needed");
}

/// Runs `ip`.
pub(crate) fn ip(args: &str) {
    let status =
        Command::new("/usr/sbin/ip").args(args.split_whitespace()).status().expect("ip(8) is needed");
    assert!(status.success(), "ip {args}: {status}");
}

/// The pause before each measurement. Real interfaces are attached one at a time, to a host that is
/// idle before; in a tight loop, processor and disk never sleep, and everything is twice as fast.
const REST: Duration = Duration::from_millis(20);

/// Accounts for pauses, and for cleanups that are not timed: the kernel deletes a tap in 16 to 30
/// ms.
pub(crate) fn with_rests(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.sampling_mode(SamplingMode::Flat).sample_size(50);
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(8));
}

/// Times only `subject`, with the result of `setup`; dropping its result is not timed.
pub(crate) fn timed<I, T>(
    rounds: u64,
    mut setup: impl FnMut() -> I,
    mut subject: impl FnMut(&I) -> T,
) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        let input = setup();
        std::thread::sleep(REST);
        let begun = Instant::now();
        let made = black_box(subject(black_box(&input)));
        total += begun.elapsed();
        drop(made);
    }
    total
}

/// The request of a new tap for one interface, as the guest's supervisor makes it.
pub(crate) fn new_tap() -> Opening {
    open_tap(&TapRequest {
        path: Path::new(DEV_NET_TUN),
        name: TapName::Pattern("vnet%d"),
        queues: NonZeroU16::MIN,
        vnet_hdr: true,
    })
}

/// The device of an opening that must succeed.
pub(crate) fn one<B: OpenRecorder<Error: std::fmt::Debug>>(opening: Opening, recorder: &mut B) -> Admitted {
    let (mut devices, error) = opening.admit(recorder).expect("the recorder accepts it");
    assert!(error.is_none(), "{error:?}");
    devices.pop().expect("one device")
}

/// A recorder that does nothing.
pub(crate) struct Nothing;

impl OpenRecorder for Nothing {
    type Error = Infallible;

    fn record(&mut self, _: &[OpenFacts]) -> Result<(), Infallible> {
        Ok(())
    }
}

/// A ledger beside the build, where a commit reaches a disk, with one guest in it.
pub(crate) fn ledger() -> (Ledger, GuestKey, tempfile::TempDir) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let filesystem = rustix::fs::statfs(dir.path()).expect("statfs");
    assert_ne!(
        u64::try_from(filesystem.f_type).ok(),
        Some(TMPFS_MAGIC),
        "the build directory is a tmpfs, where a commit costs nothing: set CARGO_TARGET_DIR to a disk"
    );
    let mut ledger = Ledger::open(dir.path()).expect("a ledger");
    let tx = ledger.begin().expect("a transaction");
    let supervisor = Process { pid: std::process::id(), start: 1 };
    let new = NewGuest { id: &guest(), boot_id: "bench", supervisor, netns: 0, paused: false };
    let key = tx.guest_begins(&new).expect("a guest");
    tx.commit().expect("a commit");
    // A new write-ahead log grows with each commit; after its first checkpoint it is reused.
    for _ in 0..CHECKPOINTED {
        let tx = ledger.begin().expect("a transaction");
        tx.intend(key, Step::Open, Some(MAC), "").expect("an intent");
        tx.commit().expect("a commit");
    }
    (ledger, key, dir)
}
