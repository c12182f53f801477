//! The cost of an audited open, compared with a bare one.
//!
//! - `bare`: open(2) and `TUNSETIFF`, by plain code.
//! - `gated`: the same by [`open_tap`](taptrail_kernel::device::open_tap) and
//!   [`admit`](taptrail_kernel::device::admit), with a recorder that does nothing: what the types
//!   and the checks cost.
//! - `ledger`: with a recorder like a guest's account, which commits the record and the device to
//!   the disk.
//! - `audited`: the same, with the record logged by the kernel's audit and read back. It turns
//!   auditing on, so it needs `CI=true` or `TAPTRAIL_TEST_AUDIT=1`.
//!
//! Needs root. Each device is closed before the next is opened; that is not timed.

#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod lab;
#[allow(dead_code)]
#[path = "../tests/audit/machine.rs"]
mod machine;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use criterion::Criterion;
use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};
use taptrail_kernel::audit::{Audit, LogProof};
use taptrail_kernel::device::{OpenFacts, OpenRecorder};
use taptrail_ledger::{AuditOutcome, GuestKey, Ledger, LedgerError, Logged, NewDevice, NewRecord, Step};
use taptrail_record::{Device, Event, Record};

fn main() {
    // First, because criterion runs cargo to find its directory, and cargo may need the network.
    let mut criterion = Criterion::default().configure_from_args();
    lab::own_network();
    let mut group = criterion.benchmark_group("open");
    lab::with_rests(&mut group);

    group.bench_function("bare", |bencher| {
        bencher.iter_custom(|rounds| lab::timed(rounds, || (), |()| bare()));
    });
    group.bench_function("gated", |bencher| {
        bencher.iter_custom(|rounds| {
            lab::timed(rounds, || (), |()| lab::one(lab::new_tap(), &mut lab::Nothing))
        });
    });
    let (ledger, guest, _dir) = lab::ledger();
    let mut account = Account { ledger, guest, audit: None, exe: std::env::current_exe().unwrap() };
    group.bench_function("ledger", |bencher| {
        bencher.iter_custom(|rounds| lab::timed(rounds, || (), |()| lab::one(lab::new_tap(), &mut account)));
    });
    if machine::may_enable() {
        let _machine = machine::Machine::with_auditing(true);
        account.audit = Some(Audit::open().unwrap());
        group.bench_function("audited", |bencher| {
            bencher
                .iter_custom(|rounds| lab::timed(rounds, || (), |()| lab::one(lab::new_tap(), &mut account)));
        });
    }
    group.finish();
    criterion.final_summary();
}

/// A tap as any program opens it.
fn bare() -> OwnedFd {
    /// `struct ifreq` (linux/if.h): a name, and a union of 24 bytes that begins with the flags.
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        flags: libc::c_int,
        rest: [u8; 20],
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).unwrap();
    let mut request = Request {
        name: *b"vnet%d\0\0\0\0\0\0\0\0\0\0",
        flags: libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR,
        rest: [0; 20],
    };
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, of which `request` has the size.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
    fd
}

/// A recorder like a guest's account.
struct Account {
    ledger: Ledger,
    guest: GuestKey,
    audit: Option<Audit>,
    exe: PathBuf,
}

impl OpenRecorder for Account {
    type Error = LedgerError;

    fn record(&mut self, opens: &[OpenFacts]) -> Result<(), LedgerError> {
        let mac = lab::MAC;
        let devices: Vec<_> = opens
            .iter()
            .map(|facts| Device {
                kind: facts.kind,
                path: facts.path.to_string_lossy().into(),
                rdev: facts.rdev,
                dev: facts.dev.as_ref().map(|dev| dev.as_str().into()),
            })
            .collect();
        let records: Vec<_> = devices
            .iter()
            .zip(opens)
            .map(|(device, facts)| {
                let event = Event::Open { mac, device: device.clone(), queue: Some(facts.queue) };
                let record = Record::success(lab::guest(), event);
                (record.record_type().number(), record.text(&self.exe).unwrap())
            })
            .collect();
        let serials: Vec<_> = match &mut self.audit {
            None => vec![None; records.len()],
            Some(audit) => audit
                .log_all(&records)
                .into_iter()
                .map(|outcome| {
                    let logged = outcome.unwrap();
                    assert_eq!(logged.proof, LogProof::ReadBack);
                    logged.serial
                })
                .collect(),
        };
        let tx = self.ledger.begin()?;
        for (((kind, text), serial), (device, facts)) in
            records.iter().zip(serials).zip(devices.iter().zip(opens))
        {
            let outcome = if serial.is_some() { AuditOutcome::ReadBack } else { AuditOutcome::Off };
            let logged = Logged { outcome, serial };
            let key =
                tx.record(self.guest, &NewRecord { time: Timestamp::now(), kind: *kind, text, logged })?;
            let new = NewDevice {
                mac,
                kind: device.kind,
                path: &device.path,
                rdev: device.rdev,
                dev: device.dev.as_deref(),
                queue: facts.queue,
            };
            tx.device_opened(self.guest, &new, key)?;
        }
        tx.intend(self.guest, Step::HandOver, Some(mac), "")?;
        tx.commit()
    }
}
