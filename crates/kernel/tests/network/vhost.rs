use std::path::Path;

use rustix::io::Errno;
use taptrail_kernel::device::{DEV_VHOST_NET, DeviceError, OpenFacts, open_vhost_net, open_vhost_user};
use taptrail_record::{DeviceKind, Rdev};

use crate::lab::{failed, node, opened, queues};

#[test]
fn a_missing_node_is_a_failed_open_that_auto_goes_on_without() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vhost-net");
    let (opens, error) = failed(open_vhost_net(&path, queues(2)));
    let facts = OpenFacts {
        socket: None,
        kind: DeviceKind::VhostNet,
        path,
        rdev: None,
        dev: None,
        queue: 0,
        outcome: Err(Errno::NOENT),
    };
    assert_eq!(opens, [facts]);
    assert!(error.is_missing());
}

#[test]
fn another_device_is_refused_and_on_record_with_its_own_number() {
    let directory = tempfile::tempdir().unwrap();
    let path = node(directory.path(), "vhost-net", 1, 3);
    let (opens, error) = failed(open_vhost_net(&path, queues(2)));
    assert_eq!(opens.len(), 1);
    assert_eq!((opens[0].rdev, opens[0].outcome), (Some(Rdev { major: 1, minor: 3 }), Ok(())));
    assert!(matches!(error, DeviceError::NotVhostNet { .. }), "{error:?}");
    assert!(!error.is_missing());
}

#[test]
fn a_device_in_the_place_of_a_socket_is_refused_and_no_device_that_was_opened() {
    let directory = tempfile::tempdir().unwrap();
    let path = node(directory.path(), "tun", 10, 200);
    let (opens, error) = failed(open_vhost_user(&path));
    let kinds: Vec<_> = opens.iter().map(|facts| (facts.kind, facts.rdev, facts.outcome)).collect();
    assert_eq!(kinds, [(DeviceKind::VhostUser, None, Ok(()))]);
    assert!(matches!(error, DeviceError::NotSocket { .. }), "{error:?}");
}

/// Whichever of the two this machine is.
#[test]
fn vhost_net_is_open_once_for_each_queue_or_missing() {
    if Path::new(DEV_VHOST_NET).exists() {
        let devices = opened(open_vhost_net(Path::new(DEV_VHOST_NET), queues(2)));
        let seen: Vec<_> = devices.iter().map(|device| (device.facts().rdev, device.facts().queue)).collect();
        assert_eq!(seen, [(Some(Rdev::VHOST_NET), 0), (Some(Rdev::VHOST_NET), 1)]);
        return;
    }
    // A node without its driver.
    let directory = tempfile::tempdir().unwrap();
    let path = node(directory.path(), "vhost-net", 10, 238);
    let (opens, error) = failed(open_vhost_net(&path, queues(2)));
    assert_eq!((opens[0].rdev, opens[0].outcome), (Some(Rdev::VHOST_NET), Err(Errno::NODEV)));
    assert!(error.is_missing());
}
