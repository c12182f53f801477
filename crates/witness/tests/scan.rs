//! Scans of real processes with real taps and macvtaps. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::num::NonZeroU16;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use taptrail_kernel::device::{
    Admitted, DEV_NET_TUN, MacvtapRequest, OpenFacts, OpenRecorder, Opening, TapName, TapRequest,
    open_macvtap, open_tap,
};
use taptrail_kernel::link::{Links, MacvtapMode, MacvtapName, NewMacvtap};
use taptrail_kernel::netns::NetNs;
use taptrail_kernel::proc::ProcessId;
use taptrail_record::{IfName, MacAddr};
use taptrail_witness::scan::{Holder, IdentitySource, Program, Scan, ScannedDevice, Scanner, Sources};

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);

/// Runs a test on a thread that has a network namespace of its own, with a bridge and a veth pair.
fn in_own_network(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root and network namespaces are needed");
            ip("link add br0 type bridge");
            ip("link add lower type veth peer name upper");
            test();
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn ip(arguments: &str) {
    assert!(
        Command::new("/sbin/ip").args(arguments.split(' ')).status().unwrap().success(),
        "ip {arguments}"
    );
}

/// A recorder that accepts everything.
struct FakeRecorder;

impl OpenRecorder for FakeRecorder {
    type Error = Infallible;

    fn record(&mut self, _: &[OpenFacts]) -> Result<(), Infallible> {
        Ok(())
    }
}

fn opened(opening: Opening) -> Vec<Admitted> {
    let Ok((devices, error)) = opening.admit(&mut FakeRecorder);
    assert!(error.is_none(), "{error:?}");
    devices
}

fn tap(name: &str, queues: u16) -> Vec<Admitted> {
    let name: IfName = name.parse().unwrap();
    let queues = NonZeroU16::new(queues).unwrap();
    let (path, name) = (Path::new(DEV_NET_TUN), TapName::New(&name));
    opened(open_tap(&TapRequest { path, name, queues, vnet_hdr: true }))
}

/// A stopped process with copies of devices as its standard input and output. Dropped, it ends.
struct Sleeper(Child);

impl Sleeper {
    fn with(first: &Admitted, second: &Admitted) -> Self {
        let copy = |device: &Admitted| Stdio::from(device.as_fd().try_clone_to_owned().unwrap());
        let mut command = Command::new("/bin/sh");
        let script = "kill -STOP $$";
        let guest = ["-c", script, "-name", "guest=web1", "-uuid", "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e"];
        let child = Self(command.args(guest).stdin(copy(first)).stdout(copy(second)).spawn().unwrap());
        // Before it has stopped, its arguments may not be there yet.
        while !std::fs::read_to_string(format!("/proc/{}/stat", child.0.id())).unwrap().contains(") T ") {
            std::thread::yield_now();
        }
        child
    }

    fn id(&self) -> ProcessId {
        ProcessId::of(self.0.id()).unwrap()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn scan(pids: &[u32]) -> Scan {
    Scanner::new(Sources::default()).scan_of(pids.iter().copied()).unwrap()
}

fn files(holder: &Holder) -> Vec<u32> {
    holder.devices[0].descriptors.iter().map(|of| of.file.unwrap()).collect()
}

#[test]
fn a_taps_queues_are_one_interface_with_its_bridge_and_namespace() {
    in_own_network(|| {
        let queues = tap("vnet0", 2);
        ip("link set vnet0 master br0 address fe:54:00:00:00:01 up");
        let sleeper = Sleeper::with(&queues[0], &queues[1]);
        let scan = scan(&[sleeper.0.id()]);
        assert_eq!((scan.processes, scan.holders.len(), scan.unseen), (1, 1, Default::default()));

        let holder = &scan.holders[0];
        assert_eq!((holder.process, holder.parent), (sleeper.id(), Some(std::process::id())));
        assert_eq!((holder.uid, holder.program), (Some(0), Program::Other));
        assert_eq!(holder.exe, std::fs::canonicalize("/bin/sh").ok());
        let guest = holder.guest.as_ref().unwrap();
        assert_eq!((guest.name.as_deref(), guest.by), (Some("web1"), IdentitySource::CommandLine));
        let here = Some(NetNs::own().unwrap().inode());
        assert_eq!(holder.netns, here);

        let [held] = holder.devices.as_slice() else { panic!("{holder:?}") };
        assert_eq!(held.ifname.as_ref().map(IfName::as_str), Some("vnet0"));
        assert_eq!((held.kind.as_str(), held.queues(), held.netns), ("tun", 2, here));
        assert_eq!(held.path, Path::new(DEV_NET_TUN));
        let behind = held.behind.as_ref().unwrap();
        assert_eq!((behind.mac, behind.master.as_deref()), (Some(MAC.host_side()), Some("br0")));
        assert_eq!((behind.up, behind.ethernet, behind.lower.as_deref()), (true, true, None));
    });
}

// Shows 14.8.
#[test]
fn a_tap_is_where_its_link_is_and_not_where_its_process_is() {
    in_own_network(|| {
        // The process of this test is still in the namespace that it was started in.
        let _tap = tap("ttelsewhere0", 1);
        let scan = scan(&[std::process::id()]);
        let devices = scan.holders.iter().flat_map(|holder| &holder.devices);
        let mut taps =
            devices.filter(|held| held.ifname.as_ref().is_some_and(|name| name.as_str() == "ttelsewhere0"));
        let held = taps.next().unwrap();
        assert_eq!(held.netns, Some(NetNs::own().unwrap().inode()));
        assert_ne!(held.netns, scan.holders[0].netns);
        assert!(held.behind.is_some());
    });
}

// Shows 14.8.
#[test]
fn a_macvtap_is_known_by_its_number_with_the_link_it_stands_on() {
    in_own_network(|| {
        let mut links = Links::open().unwrap();
        let lower_index = links.find(&"lower".parse().unwrap()).unwrap().unwrap().index;
        let name = MacvtapName::Pattern("macvtap%d".into());
        let new = NewMacvtap { name, lower_index, mode: MacvtapMode::Bridge, mac: MAC, mtu: None };
        let link = links.create_macvtap(&new).unwrap();
        let (ifname, queues) = (link.name.parse().unwrap(), NonZeroU16::MIN);
        let wait = Duration::from_secs(5);
        let rdev = links.macvtap_rdev(&ifname, link.index);
        let request =
            MacvtapRequest { ifname: &ifname, ifindex: link.index, rdev, queues, vnet_hdr: true, wait };
        let device = opened(open_macvtap(&request)).remove(0);
        let sleeper = Sleeper::with(&device, &device);
        drop(device);

        let holder = Scanner::new(Sources::default()).look(sleeper.id()).unwrap().unwrap();
        let [held] = holder.devices.as_slice() else { panic!("{holder:?}") };
        assert_eq!((held.kind.as_str(), &held.ifname), ("macvtap", &Some(ifname.clone())));
        assert_eq!(held.path, request.path());
        // Two descriptors of one open file are one queue.
        assert_eq!((held.descriptors.len(), held.queues()), (2, 1));
        let behind = held.behind.as_ref().unwrap();
        assert_eq!(
            (behind.index, behind.mac, behind.lower.as_deref()),
            (link.index, Some(MAC), Some("lower"))
        );

        // A link may be deleted while its device is open.
        links.delete(link.index).unwrap();
        let scan = scan(&[sleeper.0.id()]);
        let held = &scan.holders[0].devices[0];
        assert_eq!((&held.ifname, &held.behind, scan.unseen.places), (&None, &None, 0));

        // The next macvtap has its device number, unless another test took that.
        let next = links.create_macvtap(&new).unwrap();
        let is_same = links.macvtap_rdev(&next.name.parse().unwrap(), next.index) == rdev;
        let holder = Scanner::new(Sources::default()).look(sleeper.id()).unwrap().unwrap();
        assert_eq!(holder.devices[0].behind, None, "the same number again: {is_same}");
    });
}

// Shows 14.2.
#[test]
fn copies_in_other_processes_are_the_same_open_files() {
    in_own_network(|| {
        let queues = tap("vnet0", 2);
        let first = Sleeper::with(&queues[0], &queues[1]);
        let second = Sleeper::with(&queues[1], &queues[1]);
        let scan = scan(&[first.0.id(), second.0.id()]);
        let [first, second] = scan.holders.as_slice() else { panic!("{scan:?}") };
        assert_eq!(files(first), [0, 1]);
        assert_eq!(files(second), [1, 1]);
    });
}

// Shows 14.10.
#[test]
fn a_process_that_is_gone_or_another_by_now_holds_nothing() {
    in_own_network(|| {
        let queues = tap("vnet0", 1);
        let sleeper = Sleeper::with(&queues[0], &queues[0]);
        let former = ProcessId { start_time: sleeper.id().start_time - 1, ..sleeper.id() };
        let mut scanner = Scanner::new(Sources::default());
        assert_eq!(scanner.look(former).unwrap(), None);
        let id = sleeper.id();
        drop(sleeper);
        assert_eq!(scanner.look(id).unwrap(), None);
        assert_eq!(scan(&[id.pid]).holders, []);
    });
}

// Shows 14.11.
#[test]
fn a_thread_with_descriptors_of_its_own_hides_nothing() {
    in_own_network(|| {
        let (ready, wait) = std::sync::mpsc::channel();
        let (done, end) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                unshare(CloneFlags::CLONE_FILES).unwrap();
                let tap = tap("tthidden0", 1);
                ready.send(()).unwrap();
                let _ = end.recv();
                drop(tap);
            });
            wait.recv().unwrap();
            let scan = scan(&[std::process::id()]);
            let mut devices = scan.holders.iter().flat_map(|holder| &holder.devices);
            let hidden =
                |held: &&ScannedDevice| held.ifname.as_ref().is_some_and(|name| name.as_str() == "tthidden0");
            let descriptor = devices.find(hidden).unwrap().descriptors[0];
            assert_ne!(descriptor.thread, std::process::id());
            assert!(descriptor.file.is_some());
            drop(done);
        });
    });
}

#[test]
fn a_device_that_is_given_up_meanwhile_is_not_held_and_nothing_unseen() {
    in_own_network(|| {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let taps = scope.spawn(|| {
                let (path, name, queues) =
                    (Path::new(DEV_NET_TUN), TapName::Pattern("vnet%d"), NonZeroU16::MIN);
                while !done.load(Ordering::Relaxed) {
                    let tap = opened(open_tap(&TapRequest { path, name, queues, vnet_hdr: true }));
                    std::thread::sleep(Duration::from_micros(300));
                    drop(tap);
                }
            });
            // Some scans meet a device that is just being closed.
            let mut met = Vec::new();
            while met.len() < 30 {
                let scan = scan(&[std::process::id()]);
                if !scan.holders.is_empty() || scan.unseen.places > 0 {
                    met.push(scan.unseen.places);
                }
            }
            done.store(true, Ordering::Relaxed);
            taps.join().unwrap();
            assert_eq!(met, [0; 30]);
        });
    });
}

// Shows 14.14.
#[test]
fn whoever_opens_tun_thousands_of_times_holds_nothing_up() {
    // Any user may, up to a limit of descriptors.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let open = || std::fs::OpenOptions::new().read(true).write(true).open(DEV_NET_TUN).unwrap();
    let opened: Vec<_> = (0..8300).map(|_| open()).collect();
    let own = std::process::id();
    let crowded = scan(&[own]);
    let pids: Vec<u32> = crowded.unseen.crowded.iter().map(|of| of.pid).collect();
    assert_eq!((pids, crowded.unseen.copies), (vec![own], 0));
    let devices = &crowded.holders[0].devices;
    assert_eq!(devices.iter().map(|held| held.descriptors.len()).sum::<usize>(), 8192);
    assert_eq!(devices.iter().filter(|held| held.ifname.is_none()).count(), 1);
    drop(opened);
    assert_eq!(scan(&[own]).unseen, Default::default());
}

/// A FUSE server that completes INIT (linux/fuse.h, 7.31), and then answers ENOSYS to all requests
/// until it is unmounted.
fn answer_enosys(mut server: std::fs::File) {
    const FORGET: u32 = 2;
    const INIT: u32 = 26;
    const BEGUN: [u32; 16] = [7, 31, 0, 0, 0, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut request = [0; 8192];
    while server.read(&mut request).is_ok() {
        let opcode = u32::from_ne_bytes(request[4..8].try_into().unwrap());
        let (error, answer) = match opcode {
            FORGET => continue,
            INIT => (0, BEGUN.map(u32::to_ne_bytes).concat()),
            _ => (-Errno::NOSYS.raw_os_error(), Vec::new()),
        };
        let length = u32::try_from(16 + answer.len()).unwrap().to_ne_bytes();
        let header = [&length[..], &error.to_ne_bytes(), &request[8..16]].concat();
        server.write_all(&[header, answer].concat()).unwrap();
    }
}

#[test]
fn a_users_file_system_that_refuses_root_hides_no_device() {
    in_own_network(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
            .unwrap();
        let place = tempfile::tempdir().unwrap();
        // The file system of user 1. Opening it may send a request to the server, if the kernel's
        // audit has rules.
        let server = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=1,group_id=1", server.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        rustix::mount::mount("none", place.path(), "fuse", flags, Some(options.as_c_str())).unwrap();
        std::thread::spawn(|| answer_enosys(server));
        let theirs = rustix::fs::open(place.path(), OFlags::PATH, Mode::empty()).unwrap();
        let refused = rustix::fs::statx(&theirs, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE);
        assert_eq!(refused.unwrap_err(), Errno::ACCESS);

        // The scan reads devices before and after it, in the order of their numbers.
        let queues = tap("vnet0", 2);
        let last = fcntl_dupfd_cloexec(&queues[1], theirs.as_raw_fd() + 100).unwrap();
        let own = scan(&[std::process::id()]);
        assert_eq!((own.holders[0].devices[0].descriptors.len(), own.unseen), (3, Default::default()));
        drop((last, theirs));
        rustix::mount::unmount(place.path(), UnmountFlags::DETACH).unwrap();
    });
}
