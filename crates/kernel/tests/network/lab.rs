//! Network namespaces, links and nodes for the tests.

use std::convert::Infallible;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use taptrail_kernel::device::{Admitted, DeviceError, OpenFacts, OpenRecorder, Opening};
use taptrail_kernel::link::{Link, Links};
use taptrail_record::IfName;

/// Runs a test in a new thread with a new network namespace, which ends with it.
pub(crate) fn in_own_network<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        // SAFETY: only this thread's network namespace changes; its descriptors stay shared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("root and network namespaces are needed");
        test()
    });
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs `ip` and returns what it prints.
pub(crate) fn ip(args: &str) -> String {
    let output = Command::new("/usr/sbin/ip").args(args.split_whitespace()).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// The output of `ip -details` for a link.
pub(crate) fn details(name: &str) -> serde_json::Value {
    serde_json::from_str::<serde_json::Value>(&ip(&format!("-json -details link show dev {name}"))).unwrap()
        [0]
    .take()
}

pub(crate) fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

pub(crate) fn queues(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

pub(crate) fn find(text: &str) -> Option<Link> {
    Links::open().unwrap().find(&name(text)).unwrap()
}

pub(crate) fn index(text: &str) -> u32 {
    find(text).unwrap().index
}

/// Waits for a link's end. A process that another test is starting holds every descriptor until it
/// execs.
pub(crate) fn gone(text: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(2);
    while find(text).is_some() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// A recorder that accepts every open.
#[derive(Default)]
pub(crate) struct FakeRecorder(pub(crate) Vec<OpenFacts>);

impl OpenRecorder for FakeRecorder {
    type Error = Infallible;

    fn record(&mut self, opens: &[OpenFacts]) -> Result<(), Infallible> {
        self.0.extend_from_slice(opens);
        Ok(())
    }
}

/// Admits an opening that must have succeeded.
pub(crate) fn opened(opening: Opening) -> Vec<Admitted> {
    let mut paper = FakeRecorder::default();
    let (devices, error) = opening.admit(&mut paper).unwrap();
    assert!(error.is_none(), "{error:?}");
    assert_eq!(devices.len(), paper.0.len());
    devices
}

/// Admits an opening that must have failed, and closes the devices that it opened.
pub(crate) fn failed(opening: Opening) -> (Vec<OpenFacts>, DeviceError) {
    let mut paper = FakeRecorder::default();
    let (_, error) = opening.admit(&mut paper).unwrap();
    (paper.0, error.expect("it failed"))
}

/// Creates a character device node.
pub(crate) fn node(directory: &Path, name: &str, major: u32, minor: u32) -> PathBuf {
    let path = directory.join(name);
    node_at(&path, major, minor);
    path
}

pub(crate) fn node_at(path: &Path, major: u32, minor: u32) {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(major, minor)).unwrap();
}
