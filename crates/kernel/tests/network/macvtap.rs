use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{major, minor, stat};
use rustix::io::Errno;
use taptrail_kernel::device::{DeviceError, MacvtapRequest, OpenFacts, open_macvtap};
use taptrail_kernel::link::{Link, LinkError, Links, MacvtapMode, MacvtapName, NewMacvtap};
use taptrail_record::{DeviceKind, IfName, MacAddr, Rdev};

use crate::lab::{details, failed, find, in_own_network, index, ip, name, node_at, opened, queues};

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);

fn lower() -> u32 {
    ip("link add v0 type veth peer name v1");
    index("v0")
}

fn new(lower_index: u32) -> NewMacvtap {
    let name = MacvtapName::Pattern("macvtap%d".into());
    NewMacvtap { name, lower_index, mode: MacvtapMode::Bridge, mac: MAC, mtu: None }
}

fn create(new: &NewMacvtap) -> Link {
    Links::open().unwrap().create_macvtap(new).unwrap()
}

fn request<'a>(ifname: &'a IfName, link: &Link, number: u16) -> MacvtapRequest<'a> {
    let wait = Duration::from_secs(2);
    let rdev = Links::open().unwrap().macvtap_rdev(ifname, link.index);
    MacvtapRequest { ifname, ifindex: link.index, rdev, queues: queues(number), vnet_hdr: true, wait }
}

/// A macvtap with an ifindex that no other test has, so that its node may be removed.
fn create_apart() -> (Link, Node) {
    let number = 1_000_000 + rustix::thread::gettid().as_raw_nonzero().get();
    lower();
    ip(&format!("link add link v0 name macvtap0 index {number} type macvtap mode bridge"));
    (find("macvtap0").unwrap(), Node(format!("/dev/tap{number}").into()))
}

/// A node that was created with mknod(2), which devtmpfs does not remove.
struct Node(PathBuf);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn number_of(path: &PathBuf) -> Rdev {
    let rdev = stat(path).unwrap().st_rdev;
    Rdev { major: major(rdev), minor: minor(rdev) }
}

// Shows 1.7.
#[test]
fn each_mode_is_created_as_asked_for() {
    in_own_network(|| {
        let lower = lower();
        let modes = [MacvtapMode::Bridge, MacvtapMode::Vepa, MacvtapMode::Private, MacvtapMode::Passthru];
        for mode in modes {
            let link = create(&NewMacvtap { mode, mtu: Some(1400), ..new(lower) });
            assert_eq!(link.name, "macvtap0");
            assert_eq!(link.kind.as_deref(), Some("macvtap"));
            assert_eq!((link.mac, link.mtu, link.lower, link.up), (Some(MAC), 1400, Some(lower), false));
            assert_eq!(details("macvtap0")["linkinfo"]["info_data"]["mode"], mode.as_str());

            let ifname = name("macvtap0");
            assert_eq!(opened(open_macvtap(&request(&ifname, &link, 1))).len(), 1);
            Links::open().unwrap().delete(link.index).unwrap();
            assert_eq!(find("macvtap0"), None);
        }
    });
}

#[test]
fn a_passthru_macvtap_lends_its_mac_to_the_lower_link() {
    in_own_network(|| {
        let lower = lower();
        let before = find("v0").unwrap().mac;
        let link = create(&NewMacvtap { mode: MacvtapMode::Passthru, ..new(lower) });
        assert_eq!((find("macvtap0").unwrap().mac, find("v0").unwrap().mac), (Some(MAC), Some(MAC)));
        Links::open().unwrap().delete(link.index).unwrap();
        assert_eq!(find("v0").unwrap().mac, before);
    });
}

#[test]
fn a_pattern_gives_the_first_free_name_and_a_name_in_use_is_refused() {
    in_own_network(|| {
        let lower = lower();
        ip("link add macvtap0 type bridge");
        let second = create(&new(lower));
        let third = create(&new(lower));
        assert_eq!((second.name.as_str(), third.name.as_str()), ("macvtap1", "macvtap2"));

        let named = |text| NewMacvtap { name: MacvtapName::New(name(text)), ..new(lower) };
        assert_eq!(create(&named("web1")).name, "web1");
        let error = Links::open().unwrap().create_macvtap(&named("web1")).unwrap_err();
        assert!(matches!(error, LinkError::Exists { ref name } if name == "web1"), "{error:?}");
    });
}

#[test]
fn the_kernels_own_words_are_in_a_refusal() {
    in_own_network(|| {
        let lower = lower();
        let mtu = Some(9000);
        let error = Links::open().unwrap().create_macvtap(&NewMacvtap { mtu, ..new(lower) }).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::INVAL), "{error:?}");
        let error = Links::open().unwrap().create_macvtap(&new(4711)).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NODEV), "{error:?}");
        assert!(error.to_string().contains("'macvtap0'"), "{error}");
        assert_eq!(find("macvtap0"), None);
    });
}

#[test]
fn each_queue_is_an_open_of_its_own_with_the_nodes_true_number() {
    in_own_network(|| {
        let link = create(&new(lower()));
        let ifname = name("macvtap0");
        let path = PathBuf::from(format!("/dev/tap{}", link.index));
        for vnet_hdr in [true, false] {
            let devices = opened(open_macvtap(&MacvtapRequest { vnet_hdr, ..request(&ifname, &link, 3) }));
            for (device, queue) in devices.iter().zip(0..) {
                let facts = OpenFacts {
                    socket: None,
                    kind: DeviceKind::Macvtap,
                    path: path.clone(),
                    rdev: Some(number_of(&path)),
                    dev: Some(ifname.clone()),
                    queue,
                    outcome: Ok(()),
                };
                assert_eq!(*device.facts(), facts);
            }
            assert_eq!(devices.len(), 3);
        }
        // Unlike a tap, a macvtap outlives its descriptors.
        assert!(find("macvtap0").is_some());
    });
}

// Shows 1.8.
#[test]
fn a_late_node_is_awaited() {
    in_own_network(|| {
        let (link, node) = create_apart();
        let path = node.0.clone();
        let number = number_of(&path);
        std::fs::remove_file(&path).unwrap();
        let udev = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            node_at(&path, number.major, number.minor);
        });
        let start = Instant::now();
        let devices = opened(open_macvtap(&request(&name("macvtap0"), &link, 1)));
        assert_eq!(devices[0].facts().rdev, Some(number));
        assert!(start.elapsed() >= Duration::from_millis(100));
        udev.join().unwrap();
    });
}

// Shows 1.8.
#[test]
fn a_node_that_never_comes_is_one_failed_open() {
    in_own_network(|| {
        let (link, node) = create_apart();
        std::fs::remove_file(&node.0).unwrap();
        let ifname = name("macvtap0");
        let wait = Duration::from_millis(50);
        let (opens, error) = failed(open_macvtap(&MacvtapRequest { wait, ..request(&ifname, &link, 2) }));
        assert_eq!(opens.len(), 1);
        assert_eq!((opens[0].rdev, opens[0].outcome), (None, Err(Errno::NOENT)));
        assert_eq!(opens[0].dev, Some(ifname));
        let text =
            format!("/dev/tap{}, the node of macvtap 'macvtap0', did not appear within 50 ms", link.index);
        assert_eq!(error.to_string(), text);
        assert!(error.is_missing());
    });
}

// Shows 1.8.
#[test]
fn another_device_at_the_node_is_not_even_opened() {
    in_own_network(|| {
        let (link, node) = create_apart();
        std::fs::remove_file(&node.0).unwrap();
        node_at(&node.0, 1, 3);
        let wait = Duration::from_millis(20);
        let ifname = name("macvtap0");
        let (opens, error) = failed(open_macvtap(&MacvtapRequest { wait, ..request(&ifname, &link, 1) }));
        assert_eq!(opens, []);
        assert!(matches!(error, DeviceError::NotMacvtap { wanted: Some(_), .. }), "{error:?}");
    });
}

#[test]
fn macvtaps_of_two_network_namespaces_never_share_a_node() {
    let one = || {
        let link = create(&new(lower()));
        (link.clone(), opened(open_macvtap(&request(&name("macvtap0"), &link, 1))))
    };
    // Both assign ifindexes from 1, so both would have the same node.
    let (send, keep) = std::sync::mpsc::channel::<()>();
    let (sender, receiver) = std::sync::mpsc::channel();
    let first = std::thread::spawn(move || {
        in_own_network(move || {
            let (link, devices) = one();
            sender.send((link.index, devices[0].facts().clone())).unwrap();
            // Kept until the second is done.
            let _ = keep.recv();
        });
    });
    let (first_index, first_facts) = receiver.recv().unwrap();
    let (second_link, second_devices) = in_own_network(one);
    drop(send);
    first.join().unwrap();
    assert_ne!(second_link.index, first_index);
    assert_ne!(second_devices[0].facts().rdev, first_facts.rdev);
    assert_ne!(second_devices[0].facts().path, first_facts.path);
}
