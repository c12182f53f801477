//! There is a last close event exactly when the kernel drops the last reference to a file,
//! whichever process has it and in which way. Needs a kernel that may be traced, as in
//! `scripts/test-vm`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod devices;
mod event_log;
mod other;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;

use nix::sched::{CloneFlags, unshare};
use rustix::io::dup;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use rustix::time::{ClockId, clock_gettime};
use taptrail_bpf::{Kernel, KernelEventKind};
use taptrail_kernel::proc::ProcessId;
use taptrail_record::DeviceKind;

use crate::devices::Devices;
use crate::event_log::EventLog;
use crate::other::{Other, send};

fn now() -> u64 {
    let up = clock_gettime(ClockId::Boottime);
    u64::try_from(up.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(up.tv_nsec).unwrap()
}

fn own() -> ProcessId {
    ProcessId::of(std::process::id()).unwrap()
}

#[test]
fn an_open_and_a_last_close_have_their_process_and_their_nanosecond() {
    let devices = Devices::new();
    let mut log = EventLog::new();
    for kind in Devices::KINDS {
        let before = now();
        let device = devices.open(kind);
        let opened = log.opened(kind);
        let between = now();
        assert!(before < opened.since_boot && opened.since_boot < between, "{kind}: {opened:?}");
        assert_eq!(opened.by.process, Some(own()));
        let KernelEventKind::Opened(file) = opened.what else { unreachable!() };
        assert_eq!(file.rdev, devices.rdev(kind));

        let copy = dup(&device).unwrap();
        drop(device);
        assert_eq!(log.closed(file), None, "{kind}: a copy is left");
        let between = now();
        drop(copy);
        let closed = log.closed(file).expect("the last copy is gone");
        let KernelEventKind::Closed { dropped, .. } = closed.what else { unreachable!() };
        assert!(between < dropped && dropped < closed.since_boot && closed.since_boot < now(), "{closed:?}");
        assert_eq!(closed.by.process, Some(own()));
    }
    log.assert_nothing_lost();
}

#[test]
fn a_file_that_was_passed_to_another_process_is_held_until_that_one_closes_it() {
    let devices = Devices::new();
    let mut log = EventLog::new();
    for kind in Devices::KINDS {
        let mut child = Other::start();
        let device = devices.open(kind);
        let file = log.opened_file(kind);
        child.pass(device.as_fd());
        let (received, fd) = log.received(file);
        assert_eq!(received.by.process, Some(child.process()), "{kind}");
        drop(device);
        assert_eq!(log.closed(file), None, "{kind}: the child has it");

        // And back, by pidfd_getfd(2): no socket, no message.
        let pid = Pid::from_raw(child.process().pid.try_into().unwrap()).unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let fetched = pidfd_getfd(&pidfd, fd.try_into().unwrap(), PidfdGetfdFlags::empty()).unwrap();
        let (received, fd) = log.received(file);
        assert_eq!((received.by.process, fd), (Some(own()), fetched.as_raw_fd().try_into().unwrap()));
        drop(fetched);
        assert_eq!(log.closed(file), None, "{kind}: the child has it still");

        let child_process = child.process();
        child.end();
        let closed = log.closed(file).expect("the child has ended, and was waited for");
        assert_eq!(closed.by.process, Some(child_process), "{kind}");
        let exited = log.of(child_process, |what| matches!(what, KernelEventKind::Exited));
        assert!(exited.is_some_and(|exited| exited.since_boot < closed.since_boot));
    }
    log.assert_nothing_lost();
}

// Shows 13.18.
#[test]
fn a_file_in_flight_is_held_by_nobody_and_is_not_closed() {
    let devices = Devices::new();
    let mut log = EventLog::new();
    for kind in Devices::KINDS {
        let device = devices.open(kind);
        let file = log.opened_file(kind);
        let (here, there) = UnixStream::pair().unwrap();
        send(&here, device.as_fd());
        drop(device);
        assert_eq!(log.closed(file), None, "{kind}: in flight");
        assert_eq!(log.holders(file), [], "{kind}: in flight");
        drop(here);
        assert_eq!(log.closed(file), None, "{kind}: the other end has it");
        drop(there);
        assert!(log.closed(file).is_some(), "{kind}: nobody can get it any more");
    }
    log.assert_nothing_lost();
}

// Shows 13.18.
#[test]
fn a_file_that_io_uring_has_is_held_until_the_ring_ends() {
    let devices = Devices::new();
    let mut log = EventLog::new();
    for kind in Devices::KINDS {
        let ring = io_uring::IoUring::new(2).unwrap();
        let device = devices.open(kind);
        let file = log.opened_file(kind);
        ring.submitter().register_files(&[device.as_raw_fd()]).unwrap();
        drop(device);
        assert_eq!(log.closed(file), None, "{kind}: the ring has it");
        assert_eq!(log.holders(file), [], "{kind}: the ring is no descriptor");
        drop(ring);
        // The kernel takes a ring down when it has time.
        log.wait_for_close(file);
    }
    log.assert_nothing_lost();
}

#[test]
fn a_child_that_inherits_a_file_has_events_of_its_program_and_its_end() {
    let devices = Devices::new();
    let mut log = EventLog::new();
    for kind in Devices::KINDS {
        let device = devices.open(kind);
        let file = log.opened_file(kind);
        let child = Other::inherits(device);
        let process = child.process();
        let forked = log.of(own(), |what| *what == KernelEventKind::Forked { child: process.pid });
        let executed = log.of(process, |what| *what == KernelEventKind::Executed);
        let (forked, executed) = (forked.unwrap(), executed.unwrap());
        assert!(forked.since_boot < executed.since_boot, "{kind}");
        assert_eq!(log.closed(file), None, "{kind}: the child has it");
        let holders: Vec<_> = log.holders(file).into_iter().map(|held| (held.process, held.fd)).collect();
        assert_eq!(holders, [(process, 2)], "{kind}: as its standard error");
        child.end();
        assert_eq!(log.closed(file).unwrap().by.process, Some(process), "{kind}");
    }
    log.assert_nothing_lost();
}

#[test]
fn a_thread_with_a_table_of_its_own_holds_a_file() {
    let devices = Devices::new();
    let mut log = EventLog::new();
    for kind in Devices::KINDS {
        let device = devices.open(kind);
        let file = log.opened_file(kind);
        let (has, is_apart) = channel();
        let (ends, end) = channel::<()>();
        let fd = device.as_raw_fd();
        let apart = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_FILES).unwrap();
            has.send(rustix::thread::gettid()).unwrap();
            // Until the other side is gone.
            let _ = end.recv();
        });
        let thread = u32::try_from(is_apart.recv().unwrap().as_raw_nonzero().get()).unwrap();
        drop(device);
        assert_eq!(log.closed(file), None, "{kind}: the thread has it");
        let holders: Vec<_> =
            log.holders(file).into_iter().map(|held| (held.process, held.thread, held.fd)).collect();
        assert_eq!(holders, [(own(), thread, u32::try_from(fd).unwrap())], "{kind}");
        drop(ends);
        apart.join().unwrap();
        // A thread may be joined before the kernel has put its table.
        log.wait_for_close(file);
    }
    log.assert_nothing_lost();
}

#[test]
fn a_file_that_was_open_before_is_known_from_the_first_look_on() {
    let devices = Devices::new();
    let seen: Vec<(DeviceKind, OwnedFd)> =
        Devices::KINDS.into_iter().map(|kind| (kind, devices.open(kind))).collect();
    let unseen = devices.open(DeviceKind::VhostNet);
    let (here, there) = UnixStream::pair().unwrap();
    send(&here, unseen.as_fd());
    drop(unseen);

    let mut log = EventLog::new();
    for (kind, device) in seen {
        let fd = u32::try_from(device.as_raw_fd()).unwrap();
        let all = log.descriptors();
        let own = all.iter().find(|held| held.process == own() && held.fd == fd).expect("a look finds it");
        assert_eq!((own.file.kind, own.file.rdev), (kind, devices.rdev(kind)));
        let again = log.descriptors();
        assert!(again.contains(own), "an id lasts");
        drop(device);
        assert!(log.closed(own.file).is_some(), "{kind}");
    }
    // A file in flight has no descriptor to be found; its close is reported nevertheless.
    drop((here, there));
    let closed = log.own_closes_without_an_id();
    assert_eq!(closed, [DeviceKind::VhostNet]);
    log.assert_nothing_lost();
}

#[test]
fn what_does_not_fit_is_counted() {
    let mut kernel = Kernel::load().unwrap();
    assert!(kernel.lost().unwrap().is_none());
    const OPENS: u64 = 10_000;
    for _ in 0..OPENS {
        drop(File::open("/dev/net/tun").unwrap());
    }
    // Events of other processes may take space in the ring buffer meanwhile.
    let (mut events_read, mut files) = (0, Vec::new());
    loop {
        let events = kernel.poll();
        if events.is_empty() {
            break;
        }
        files.extend(events.iter().filter_map(|event| match event.what {
            KernelEventKind::Opened(file) if event.by.process == Some(own()) => file.id,
            _ => None,
        }));
        events_read += events.iter().filter(|event| event.by.process == Some(own())).count() as u64;
    }
    let lost = kernel.lost().unwrap();
    assert!(events_read > 0 && events_read < 2 * OPENS, "{events_read}");
    assert!(events_read + lost.events >= 2 * OPENS, "{events_read} {lost:?}");
    assert_eq!((lost.files, lost.processes, lost.stale, lost.unreadable), (0, 0, 0, 0));
    // The state of files whose events were lost can still be queried.
    assert!(files.iter().all(|file| !kernel.is_open(*file).unwrap()));
    // Later events are reported again.
    let device = File::open("/dev/net/tun").unwrap();
    let opened = kernel.poll().into_iter().find_map(|event| match event.what {
        KernelEventKind::Opened(file) if event.by.process == Some(own()) => file.id,
        _ => None,
    });
    let opened = opened.expect("there is an open event again");
    assert!(kernel.is_open(opened).unwrap());
    drop(device);
    assert!(!kernel.is_open(opened).unwrap());
}
