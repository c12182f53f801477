//! A guest's device on a bridge, and another one behind it.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use taptrail_guest::spec::NicSpec;
use taptrail_kernel::device::{
    Admitted, DEV_NET_TUN, MacvtapRequest, OpenFacts, OpenRecorder, Opening, TapName, TapRequest,
    open_macvtap, open_tap,
};
use taptrail_kernel::filter::{Attachment, InterfaceFilter, Nft};
use taptrail_kernel::link::{Change, Links, MacvtapMode, MacvtapName, NewMacvtap};

use crate::frames::GUEST;

/// How long frames that should pass may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long frames that should not pass are waited for, after those that should.
const GRACE: Duration = Duration::from_millis(50);

/// Where frames are known by: Ethernet's header, and IP's beginning.
const MIN_LENGTH: usize = 14 + 8;

/// Runs a test in a new thread with a new network namespace, which ends with it.
pub(crate) fn in_own_network(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("root and network namespaces are needed");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    Tap,
    Macvtap,
}

pub(crate) struct Lab {
    device: Device,
    name: &'static str,
    guest: Admitted,
    peer: Admitted,
}

impl Lab {
    pub(crate) fn new(device: Device) -> Self {
        for link in ["br0 type bridge mcast_snooping 0", "lower type veth peer name port"] {
            ip(&format!("link add {link}"));
        }
        for link in ["br0", "lower", "port"] {
            ip(&format!("link set {link} up"));
        }
        ip("link set port master br0");
        let peer = tap("peer0");
        let (name, guest) = match device {
            Device::Tap => ("vnet0", tap("vnet0")),
            Device::Macvtap => ("macvtap0", macvtap()),
        };
        Self { device, name, guest, peer }
    }

    /// Sets the filters that stand in a SPEC in place of those that are there.
    pub(crate) fn set(&self, filter: &str) {
        Nft::discover().unwrap().apply(&self.filter(filter)).unwrap();
    }

    /// The same, with addresses that were learnt.
    pub(crate) fn set_with(&self, filter: &str, learnt: &[Ipv4Addr]) {
        Nft::discover().unwrap().apply(&self.filter_with(filter, learnt)).unwrap();
    }

    pub(crate) fn ifindex(&self) -> u32 {
        index(self.name)
    }

    pub(crate) fn attachment(&self) -> Attachment {
        match self.device {
            Device::Tap => Attachment::Tap,
            Device::Macvtap => Attachment::Macvtap,
        }
    }

    /// Sends a frame as it is.
    pub(crate) fn send_as_guest(&self, frame: &[u8]) {
        rustix::io::write(&self.guest, frame).unwrap();
    }

    /// Sends a frame as it is from the other side of the bridge.
    pub(crate) fn send_to_guest(&self, frame: &[u8]) {
        rustix::io::write(&self.peer, frame).unwrap();
    }

    /// Sends a frame of the guest's again and again while these filters are set one after another,
    /// in place of one that is there; returns how many were sent, and how many got through.
    pub(crate) fn while_changing(&self, frame: &[u8], filters: &[&str]) -> (usize, usize) {
        let nft = Nft::discover().unwrap();
        let filters: Vec<InterfaceFilter> = filters.iter().map(|filter| self.filter(filter)).collect();
        let is_done = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut sent = 0;
                while !is_done.load(Ordering::Relaxed) {
                    rustix::io::write(&self.guest, frame).unwrap();
                    sent += 1;
                }
                sent
            });
            for filter in filters.iter().cycle().take(30) {
                nft.replace(filter).unwrap();
            }
            is_done.store(true, Ordering::Relaxed);
            sender.join().unwrap()
        });
        let mut passed = 0;
        let wait = Timespec::try_from(GRACE).unwrap();
        while poll(&mut [PollFd::new(&self.peer, PollFlags::IN)], Some(&wait)).unwrap() > 0 {
            let mut buffer = vec![0; 2048];
            let length = rustix::io::read(&self.peer, &mut buffer).unwrap();
            passed += usize::from(buffer[..length] == *frame);
        }
        (sent, passed)
    }

    fn filter(&self, filter: &str) -> InterfaceFilter {
        self.filter_with(filter, &[])
    }

    fn filter_with(&self, filter: &str, learnt: &[Ipv4Addr]) -> InterfaceFilter {
        let spec: NicSpec = format!("bridge=br0,{filter}").parse().unwrap();
        let attachment = self.attachment();
        let rules = spec.filter.unwrap().load_rules(GUEST, attachment, learnt).unwrap();
        InterfaceFilter {
            ifindex: index(self.name),
            ifname: self.name.parse().unwrap(),
            attachment,
            rules: rules.into(),
        }
    }

    pub(crate) fn unset(&self) {
        Nft::discover().unwrap().remove(index(self.name)).unwrap();
    }

    /// Which of these frames of the guest get through.
    pub(crate) fn sent_by_guest(&self, frames: &[Vec<u8>]) -> Vec<bool> {
        exchange(&self.guest, &self.peer, frames)
    }

    /// Which of these frames get to the guest.
    pub(crate) fn sent_to_guest(&self, frames: &[Vec<u8>]) -> Vec<bool> {
        exchange(&self.peer, &self.guest, frames)
    }
}

fn exchange(sender: &Admitted, receiver: &Admitted, frames: &[Vec<u8>]) -> Vec<bool> {
    let mut passed = vec![false; frames.len()];
    let deadline = Instant::now() + PATIENCE;
    for frame in frames {
        assert_eq!(rustix::io::write(sender, frame), Ok(frame.len()));
        // One by one, so that no queue is too short.
        collect(receiver, frames, &mut passed, Duration::ZERO);
    }
    while passed.contains(&false) && Instant::now() < deadline {
        if !collect(receiver, frames, &mut passed, GRACE) {
            break;
        }
    }
    passed
}

/// Takes what has arrived; whether there was anything.
fn collect(receiver: &Admitted, frames: &[Vec<u8>], passed: &mut [bool], wait: Duration) -> bool {
    let mut any = false;
    loop {
        let wait = Timespec::try_from(if any { Duration::ZERO } else { wait }).unwrap();
        if poll(&mut [PollFd::new(receiver, PollFlags::IN)], Some(&wait)).unwrap() == 0 {
            return any;
        }
        any = true;
        let mut buffer = vec![0; 2048];
        let length = rustix::io::read(receiver, &mut buffer).unwrap();
        let is_received = |frame: &Vec<u8>| length >= MIN_LENGTH && frame.starts_with(&buffer[..length]);
        if let Some(at) = frames.iter().position(is_received) {
            passed[at] = true;
        }
    }
}

struct NoRecord;

impl OpenRecorder for NoRecord {
    type Error = Infallible;

    fn record(&mut self, _opens: &[OpenFacts]) -> Result<(), Infallible> {
        Ok(())
    }
}

fn opened(opening: Opening) -> Admitted {
    let (mut devices, error) = opening.admit(&mut NoRecord).unwrap();
    assert!(error.is_none(), "{error:?}");
    devices.remove(0)
}

/// A tap on the bridge.
fn tap(name: &'static str) -> Admitted {
    let path = Path::new(DEV_NET_TUN);
    let ifname = name.parse().unwrap();
    let request = TapRequest { path, name: TapName::New(&ifname), queues: NonZeroU16::MIN, vnet_hdr: false };
    let device = opened(open_tap(&request));
    let change = Change { master: Some(index("br0")), up: Some(true), ..Change::default() };
    Links::open().unwrap().configure(index(name), &change).unwrap();
    device
}

/// A macvtap on a veth, whose other end is on the bridge.
fn macvtap() -> Admitted {
    let mut links = Links::open().unwrap();
    let new = NewMacvtap {
        name: MacvtapName::New("macvtap0".parse().unwrap()),
        lower_index: index("lower"),
        mode: MacvtapMode::Bridge,
        mac: GUEST,
        mtu: None,
    };
    let link = links.create_macvtap(&new).unwrap();
    links.set_up(link.index, true).unwrap();
    let ifname = "macvtap0".parse().unwrap();
    let rdev = links.macvtap_rdev(&ifname, link.index);
    let wait = Duration::from_secs(20);
    let queues = NonZeroU16::MIN;
    opened(open_macvtap(&MacvtapRequest {
        ifname: &ifname,
        ifindex: link.index,
        rdev,
        queues,
        vnet_hdr: false,
        wait,
    }))
}

fn index(name: &str) -> u32 {
    Links::open().unwrap().find(&name.parse().unwrap()).unwrap().unwrap().index
}

fn ip(args: &str) {
    let output = Command::new("/usr/sbin/ip").args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}
