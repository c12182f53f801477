use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::{Errno, FdFlags};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use taptrail_kernel::device::{
    DEV_NET_TUN, DeviceError, NodeType, OpenFacts, Opening, TapName, TapRequest, open_tap,
};
use taptrail_record::{DeviceKind, Rdev};

use crate::lab::{details, failed, find, gone, in_own_network, index, ip, name, node, opened, queues};

fn request(name: TapName<'_>, number: u16) -> TapRequest<'_> {
    TapRequest { path: Path::new(DEV_NET_TUN), name, queues: queues(number), vnet_hdr: true }
}

fn open(name: TapName<'_>, number: u16) -> Opening {
    open_tap(&request(name, number))
}

fn facts(queue: u32, dev: &str) -> OpenFacts {
    OpenFacts {
        socket: None,
        kind: DeviceKind::Tun,
        path: DEV_NET_TUN.into(),
        rdev: Some(Rdev::TUN),
        dev: Some(name(dev)),
        queue,
        outcome: Ok(()),
    }
}

// Shows 1.4.
#[test]
fn a_pattern_gives_the_first_free_name_and_the_tap_ends_with_its_descriptor() {
    in_own_network(|| {
        ip("link add vnet0 type bridge");
        let devices = opened(open(TapName::Pattern("vnet%d"), 1));
        assert_eq!(*devices[0].facts(), facts(0, "vnet1"));
        let link = find("vnet1").unwrap();
        assert_eq!(link.kind.as_deref(), Some("tun"));
        assert!(link.tun.is_some_and(|tun| tun.tap && !tun.multi_queue && !tun.persistent));
        drop(devices);
        assert!(gone("vnet1"));
    });
}

// Shows 1.2.
#[test]
fn each_queue_is_an_open_of_its_own() {
    in_own_network(|| {
        let devices = opened(open(TapName::New(&name("web1")), 3));
        let seen: Vec<_> = devices.iter().map(|device| device.facts().clone()).collect();
        assert_eq!(seen, [facts(0, "web1"), facts(1, "web1"), facts(2, "web1")]);
        let data = &details("web1")["linkinfo"]["info_data"];
        assert_eq!(data["multi_queue"], true);
        assert_eq!(data["numqueues"], 3);
    });
}

// Shows 5.28.
#[test]
fn a_new_tap_takes_no_queue_of_a_program_without_capabilities() {
    in_own_network(|| {
        let _devices = opened(open(TapName::New(&name("web1")), 2));
        let data = &details("web1")["linkinfo"]["info_data"];
        assert_eq!((&data["user"], &data["group"]), (&"root".into(), &"nogroup".into()));
        // A thread's capabilities are its own.
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
            .unwrap();
        let error = failed(open(TapName::Existing(&name("web1")), 2)).1;
        assert!(matches!(error, DeviceError::Attach { source: Errno::PERM, .. }), "{error:?}");
    });
}

// Shows 1.5.
#[test]
fn vnet_hdr_is_as_asked_for() {
    in_own_network(|| {
        for vnet_hdr in [true, false] {
            let devices = opened(open_tap(&TapRequest { vnet_hdr, ..request(TapName::Pattern("t%d"), 1) }));
            assert_eq!(details("t0")["linkinfo"]["info_data"]["vnet_hdr"], vnet_hdr);
            drop(devices);
            assert!(gone("t0"));
        }
    });
}

#[test]
fn descriptors_do_not_block_and_are_not_inherited() {
    in_own_network(|| {
        let devices = opened(open(TapName::Pattern("t%d"), 1));
        let fd = devices[0].as_fd();
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
        assert!(rustix::fs::fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK | OFlags::RDWR));
    });
}

// Shows 1.4.
#[test]
fn a_name_in_use_is_refused_and_the_open_is_on_record_all_the_same() {
    in_own_network(|| {
        ip("link add br0 type bridge");
        ip("tuntap add dev tap0 mode tap");
        for taken in ["br0", "tap0"] {
            let (opens, error) = failed(open(TapName::New(&name(taken)), 1));
            assert_eq!(opens, [OpenFacts { dev: None, ..facts(0, "x") }]);
            assert!(matches!(error, DeviceError::NameTaken { .. }), "{error:?}");
        }
    });
}

#[test]
fn an_existing_tap_is_taken_and_stays() {
    in_own_network(|| {
        ip("tuntap add dev tap0 mode tap");
        ip("tuntap add dev tap1 mode tap multi_queue");
        for (tap, number) in [("tap0", 1), ("tap1", 2)] {
            let before = index(tap);
            let devices = opened(open(TapName::Existing(&name(tap)), number));
            assert_eq!(devices[0].facts().dev, Some(name(tap)));
            drop(devices);
            let after = find(tap).unwrap();
            assert_eq!(after.index, before);
            assert!(after.tun.is_some_and(|tun| tun.persistent));
        }
    });
}

// Shows 1.6.
#[test]
fn an_existing_tap_that_does_not_fit_is_refused_before_any_open() {
    in_own_network(|| {
        ip("link add br0 type bridge");
        ip("tuntap add dev tun0 mode tun");
        ip("tuntap add dev tap0 mode tap");
        ip("tuntap add dev tap1 mode tap multi_queue");
        let cases = [
            ("none", 1, "There is no tap 'none'"),
            ("lo", 1, "Link 'lo' is not a tap but hardware"),
            ("br0", 1, "Link 'br0' is not a tap but a bridge"),
            ("tun0", 1, "Link 'tun0' is not a tap but a tun, which carries IP packets"),
            ("tap0", 2, "Tap 'tap0' was made for one queue, and 2 asked for need it otherwise"),
            ("tap1", 1, "Tap 'tap1' was made for several queues, and 1 asked for needs it otherwise"),
        ];
        for (tap, number, text) in cases {
            let (opens, error) = failed(open(TapName::Existing(&name(tap)), number));
            assert_eq!(error.to_string(), text);
            assert_eq!(opens, []);
        }
        assert_eq!(find("none"), None);
    });
}

#[test]
fn a_tap_in_use_is_refused_after_the_open() {
    in_own_network(|| {
        ip("tuntap add dev tap0 mode tap");
        let tap = name("tap0");
        let _holder = opened(open(TapName::Existing(&tap), 1));
        let (opens, error) = failed(open(TapName::Existing(&tap), 1));
        assert_eq!(opens, [OpenFacts { dev: None, ..facts(0, "x") }]);
        assert!(matches!(error, DeviceError::Attach { source: Errno::BUSY, .. }), "{error:?}");
    });
}

// Shows 1.2.
#[test]
fn a_queue_too_many_leaves_all_the_opens_on_record() {
    in_own_network(|| {
        let (opens, error) = failed(open(TapName::New(&name("wide")), 257));
        assert_eq!(opens.len(), 257);
        assert!(opens.iter().all(|open| open.outcome.is_ok()));
        let DeviceError::Attach { queue, source, .. } = error else { panic!("{error:?}") };
        assert_eq!((queue, source), (256, Errno::TOOBIG));
        assert!(gone("wide"));
    });
}

#[test]
fn a_pattern_that_is_none_is_refused_before_any_open() {
    for pattern in ["vnet", "vnet%d%d", "vnet%s%d", "a/%d", "fifteen-bytes-%d", ""] {
        let (opens, error) = failed(open(TapName::Pattern(pattern), 1));
        assert!(matches!(error, DeviceError::Pattern { .. }), "{pattern}: {error:?}");
        assert_eq!(opens, []);
    }
}

// Shows 1.13.
#[test]
fn a_node_of_the_same_number_elsewhere_is_as_good() {
    in_own_network(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = node(directory.path(), "mytun", 10, 200);
        let devices = opened(open_tap(&TapRequest { path: &path, ..request(TapName::Pattern("t%d"), 1) }));
        assert_eq!(devices[0].facts().path, path);
        assert_eq!(devices[0].facts().rdev, Some(Rdev::TUN));
    });
}

#[test]
fn another_device_at_the_path_is_refused_and_on_record_with_its_own_number() {
    in_own_network(|| {
        let directory = tempfile::tempdir().unwrap();
        let null = node(directory.path(), "tun", 1, 3);
        let text = directory.path().join("text");
        std::fs::write(&text, "not a device").unwrap();
        let number = Rdev { major: 1, minor: 3 };
        let cases = [
            (
                null,
                Some(number),
                NodeType::Character(number),
                "is the character device 1:3, not the tun device",
            ),
            (text, None, NodeType::Other("a regular file"), "is a regular file, not the tun device"),
        ];
        for (path, rdev, what, text) in cases {
            let (opens, error) =
                failed(open_tap(&TapRequest { path: &path, ..request(TapName::Pattern("t%d"), 1) }));
            assert_eq!(opens, [OpenFacts { path: path.clone(), rdev, dev: None, ..facts(0, "x") }]);
            assert!(matches!(error, DeviceError::NotTun { found, .. } if found == what), "{error:?}");
            assert!(error.to_string().contains(text), "{error}");
        }
        assert!(gone("t0"));
    });
}

#[test]
fn a_failed_open_is_on_record_with_what_stands_at_the_path() {
    in_own_network(|| {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        // Local and experimental use (Documentation/admin-guide/devices.txt): no driver has it.
        let orphan = node(directory.path(), "orphan", 60, 77);
        let folder = directory.path().to_owned();
        let cases = [
            (missing, None, Errno::NOENT),
            (orphan, Some(Rdev { major: 60, minor: 77 }), Errno::NXIO),
            (folder, None, Errno::ISDIR),
        ];
        for (path, rdev, errno) in cases {
            let (opens, error) =
                failed(open_tap(&TapRequest { path: &path, ..request(TapName::Pattern("t%d"), 2) }));
            let outcome = Err(errno);
            assert_eq!(opens, [OpenFacts { path: path.clone(), rdev, dev: None, outcome, ..facts(0, "x") }]);
            assert!(
                matches!(error, DeviceError::Open { queue: 0, source, .. } if source == errno),
                "{error:?}"
            );
            assert_eq!(error.is_missing(), errno != Errno::ISDIR);
        }
    });
}
