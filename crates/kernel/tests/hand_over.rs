//! Devices from their opening to another process, and their descriptors in /proc there.

#![allow(unsafe_code, clippy::unwrap_used)]

use std::convert::Infallible;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use taptrail_kernel::device::{
    Admitted, DEV_NET_TUN, MacvtapRequest, OpenFacts, OpenRecorder, Opening, TapName, TapRequest,
    open_macvtap, open_tap,
};
use taptrail_kernel::link::Links;
use taptrail_kernel::proc::{HeldDevice, raw_devices, same_file};
use taptrail_kernel::process::{Credentials, SpawnRequest, spawn};
use taptrail_record::{DeviceKind, Rdev};

const TWO: NonZeroU16 = NonZeroU16::new(2).unwrap();

/// A recorder that accepts every open.
struct FakeRecorder;

impl OpenRecorder for FakeRecorder {
    type Error = Infallible;

    fn record(&mut self, _: &[OpenFacts]) -> Result<(), Infallible> {
        Ok(())
    }
}

fn admitted(opening: Opening) -> Vec<Admitted> {
    let Ok((devices, error)) = opening.admit(&mut FakeRecorder);
    assert!(error.is_none(), "{error:?}");
    devices
}

/// Runs `body` in a new thread with a new network namespace.
fn in_netns<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        // SAFETY: no file table is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        body()
    };
    thread::scope(|scope| scope.spawn(enter).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

fn ip(args: &str) {
    let status = Command::new("ip").args(args.split(' ')).status().unwrap();
    assert!(status.success(), "ip {args}");
}

/// A child that inherits `devices` and sleeps, until dropped.
struct Sleeper(Child);

impl Sleeper {
    fn with(devices: &[&Admitted], credentials: Option<&Credentials>) -> Self {
        let args = ["60".into()];
        let request = SpawnRequest {
            devices,
            credentials,
            stdin: Stdio::null(),
            stdout: Stdio::null(),
            stderr: Stdio::null(),
            ..SpawnRequest::new(Path::new("/bin/sleep"), &args)
        };
        Self(spawn(request).unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The descriptors that the child must have: each device with the number that it has here.
fn expected(devices: &[Admitted]) -> Vec<HeldDevice> {
    let mut held: Vec<_> = devices
        .iter()
        .map(|device| HeldDevice {
            fd: device.as_fd().as_raw_fd(),
            kind: device.facts().kind,
            path: device.facts().path.clone(),
            rdev: device.facts().rdev.unwrap(),
            ifname: device.facts().dev.clone().filter(|_| device.facts().kind == DeviceKind::Tun),
        })
        .collect();
    held.sort_by_key(|device| device.fd);
    held
}

/// The child's descriptors, once they are as expected or after a timeout: spawn() returns during
/// the exec, while the kernel closes descriptors that are not inherited.
fn settled(child: &Sleeper, devices: &[Admitted]) -> Vec<HeldDevice> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let held = raw_devices(child.0.id()).unwrap();
        if held == expected(devices) || Instant::now() > deadline {
            return held;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

// Shows 5.1.
#[test]
fn the_queues_of_a_tap_arrive_under_their_numbers_and_live_on_there() {
    in_netns(|| {
        let path = Path::new(DEV_NET_TUN);
        let request = TapRequest { path, name: TapName::Pattern("vnet%d"), queues: TWO, vnet_hdr: true };
        let devices = admitted(open_tap(&request));
        let nobody = Credentials::of_user("nobody").unwrap();
        let child = Sleeper::with(&devices.iter().collect::<Vec<_>>(), Some(&nobody));
        let held = settled(&child, &devices);
        assert_eq!(held, expected(&devices));
        assert_eq!(held[0].ifname.as_ref().unwrap().as_str(), "vnet0");
        for device in &devices {
            let fd = device.as_fd().as_raw_fd();
            assert!(same_file(std::process::id(), fd, child.0.id(), fd).unwrap());
        }

        // The supervisor closes its own copies; only the child keeps the link alive.
        drop(devices);
        let vnet0 = "vnet0".parse().unwrap();
        let mut links = Links::open().unwrap();
        assert!(links.find(&vnet0).unwrap().is_some());
        drop(child);
        // Another test's child may have a copy, until it execs.
        let deadline = Instant::now() + Duration::from_secs(10);
        while links.find(&vnet0).unwrap().is_some() {
            assert!(Instant::now() < deadline, "the tap outlives its last holder");
            thread::sleep(Duration::from_millis(1));
        }
    });
}

#[test]
fn one_device_of_two_is_inherited_when_only_one_is_meant() {
    in_netns(|| {
        let path = Path::new(DEV_NET_TUN);
        let request = TapRequest { path, name: TapName::Pattern("vnet%d"), queues: TWO, vnet_hdr: true };
        let devices = admitted(open_tap(&request));
        let child = Sleeper::with(&[&devices[1]], None);
        assert_eq!(settled(&child, &devices[1..]), expected(&devices[1..]));
    });
}

#[test]
fn a_macvtap_is_known_by_the_number_of_its_driver() {
    in_netns(|| {
        // Its node is the host's: a number that no other test has.
        let index = 1_000_000 + std::process::id();
        ip("link add lower type veth peer name other");
        ip(&format!("link add link lower name macvtap0 index {index} type macvtap mode bridge"));
        let ifname = "macvtap0".parse().unwrap();
        let request = MacvtapRequest {
            ifname: &ifname,
            ifindex: index,
            rdev: Links::open().unwrap().macvtap_rdev(&ifname, index),
            queues: TWO,
            vnet_hdr: true,
            wait: Duration::from_secs(5),
        };
        let devices = admitted(open_macvtap(&request));
        let child = Sleeper::with(&devices.iter().collect::<Vec<_>>(), None);
        let held = settled(&child, &devices);
        assert_eq!(held, expected(&devices));
        assert_eq!(held[0].kind, DeviceKind::Macvtap);
        assert_eq!(held[0].path, Path::new(&format!("/dev/tap{index}")));
    });
}

#[test]
fn a_device_behind_a_node_of_any_name_is_found_even_when_the_node_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let node = directory.path().join("mytun");
    let device = rustix::fs::makedev(Rdev::TUN.major, Rdev::TUN.minor);
    rustix::fs::mknodat(CWD, &node, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, device).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&node).unwrap();
    let mine = |held: Vec<HeldDevice>| held.into_iter().find(|device| device.fd == file.as_raw_fd()).unwrap();

    let held = mine(raw_devices(std::process::id()).unwrap());
    let (kind, rdev) = (DeviceKind::Tun, Rdev::TUN);
    assert_eq!(held, HeldDevice { fd: file.as_raw_fd(), kind, path: node.clone(), rdev, ifname: None });

    std::fs::remove_file(&node).unwrap();
    let held = mine(raw_devices(std::process::id()).unwrap());
    assert_eq!(held.path, Path::new(&format!("{} (deleted)", node.display())));
}
